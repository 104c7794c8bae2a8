//! Connections for requests: a fresh one each, or the one of a named session.
//!
//! Settings of one request never reach the next: a fresh connection is closed, a session's are set back. A connection
//! that saw an error is closed, so a session ends with its first failed statement.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::failure::{Code, Failure};
use super::request::Session;
use crate::embedded::chdb::{Connection, Engine, EngineError};

/// Idle or busy named sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<BTreeMap<String, Slot>>);

#[derive(Debug)]
struct Slot {
    /// `None` while a statement runs.
    idle: Option<Connection>,
    until: Instant,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session's connection, or opens one.
    ///
    /// # Errors
    /// Code 373 while another statement of the session runs, 372 if it must exist and does not.
    pub(crate) fn lease(&self, engine: &Arc<Engine>, session: Option<&Session>) -> Result<Lease<'_>, Failure> {
        let Some(session) = session else {
            return Ok(Lease { sessions: self, connection: Some(engine.connect()?), session: None });
        };
        let mut slots = self.lock();
        let now = Instant::now();
        slots.retain(|_, slot| slot.idle.is_none() || slot.until > now);
        let connection = match slots.get_mut(&session.id) {
            Some(slot) => slot.idle.take().ok_or_else(|| locked(&session.id))?,
            None if session.must_exist => {
                return Err(Failure::new(Code::SessionNotFound, format!("session {} not found", session.id)));
            }
            None => engine.connect()?,
        };
        slots.insert(session.id.clone(), Slot { idle: None, until: now + session.timeout });
        Ok(Lease { sessions: self, connection: Some(connection), session: Some(session.clone()) })
    }
}

fn locked(id: &str) -> Failure {
    Failure::new(Code::SessionIsLocked, format!("session {id} is locked by a concurrent client"))
}

/// A connection for one statement.
#[derive(Debug)]
pub(crate) struct Lease<'s> {
    sessions: &'s Sessions,
    connection: Option<Connection>,
    session: Option<Session>,
}

impl Lease<'_> {
    /// Runs the statement with its database and settings. After a success the connection goes back to its session.
    ///
    /// # Errors
    /// Whatever fails first; the connection is closed then.
    pub(crate) fn run<T>(
        mut self,
        database: Option<&str>,
        settings: &BTreeMap<String, String>,
        statement: impl FnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(connection) = self.connection.as_mut() else { return Err(locked("of this request")) };
        if let Some(name) = database {
            command(connection, &format!("USE {}", quote(name, '`')))?;
        }
        let quoted = settings.iter().map(|(name, value)| format!("{name} = {}", quote(value, '\'')));
        command(connection, &list("SET", quoted))?;
        let outcome = statement(connection)?;
        if self.session.is_some() {
            command(connection, &list("SET", settings.keys().map(|name| format!("{name} = DEFAULT"))))?;
            self.give_back();
        }
        Ok(outcome)
    }

    fn give_back(&mut self) {
        if let Some(session) = self.session.take() {
            let slot = Slot { idle: self.connection.take(), until: Instant::now() + session.timeout };
            self.sessions.lock().insert(session.id, slot);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.sessions.lock().remove(&session.id);
        }
    }
}

fn command(connection: &mut Connection, sql: &str) -> Result<(), EngineError> {
    if sql.is_empty() { Ok(()) } else { connection.query(sql.as_bytes(), "Null", &[]).map(drop) }
}

fn list(verb: &str, items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { String::new() } else { format!("{verb} {}", items.join(", ")) }
}

/// A text or name in quotes, with both special characters escaped.
fn quote(text: &str, mark: char) -> String {
    let escaped: String =
        text.chars().flat_map(|c| (c == mark || c == '\\').then_some('\\').into_iter().chain([c])).collect();
    format!("{mark}{escaped}{mark}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_cannot_end_early() {
        let check = |text, mark, expected| assert_eq!(quote(text, mark), expected);
        check("plain", '\'', "'plain'");
        check("a'b\\c", '\'', r"'a\'b\\c'");
        check("a'b`c", '`', r"`a'b\`c`");
        check("\\", '\'', r"'\\'");
    }

    #[test]
    fn an_empty_list_is_no_statement() {
        assert_eq!(list("SET", std::iter::empty()), "");
        assert_eq!(list("SET", ["a = '1'".to_owned(), "b = '2'".to_owned()].into_iter()), "SET a = '1', b = '2'");
    }
}
