//! What a session has revealed about persons, so that it is found again in later free text.
//!
//! Only keyed digests are kept, never a value. Bounded per session and over all sessions; a session
//! is forgotten ten minutes after its end or a day after it last revealed something, by log time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schemas::time::TimestampMicros;

use super::kind::Kind;
use super::token::{TenantKeys, canonical, normalised};
use super::verify::name;
use crate::rekey::{Change, Rekeyed, StateEntry, by_place};
use crate::stage::{PartitionState, StateChange, StateError};

/// Most values of one session; further ones are not remembered.
const VALUES_MAX: usize = 512;
/// Most sessions of one partition; the one that was quiet longest gives way.
pub(super) const SESSIONS_MAX: usize = 16_384;
/// Most words of a remembered phrase.
const WORDS_MAX: usize = 3;
const KEEP_AFTER_END_MS: i64 = 600_000;
const KEEP_IDLE_MS: i64 = 86_400_000;
/// `seen` moves in steps of this, so that not every event changes the state.
const SEEN_STEP_MS: i64 = 3_600_000;
const ENTRY_VERSION: u8 = 1;
const ENTRY_HEAD_BYTES: usize = 26;
const VALUE_BYTES: usize = 9;

/// What one session revealed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Remembered {
    values: BTreeMap<u64, Kind>,
    words_max: u8,
    /// Kinds seen in what came in, as bits.
    pub(super) inputs: u64,
    seen: TimestampMicros,
    ended: Option<TimestampMicros>,
}

/// A session's values with the keys to look them up.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    keys: &'a TenantKeys,
    session: &'a Remembered,
}

impl<'a> Known<'a> {
    pub(super) fn new(keys: &'a TenantKeys, session: &'a Remembered) -> Option<Self> {
        (!session.values.is_empty()).then_some(Self { keys, session })
    }

    /// Kind of a normalised value that the session revealed.
    pub(super) fn lookup(&self, normalised: &str) -> Option<Kind> {
        self.session.values.get(&self.keys.remembered(normalised)).copied()
    }

    /// Most words of any remembered phrase.
    pub(super) fn words_max(&self) -> usize {
        usize::from(self.session.words_max)
    }
}

/// Calls `remember` with every form of a found value that later text may repeat: the words of a
/// name, an account name and the words it is made of, a town, the digits of a number, a date.
pub(super) fn forms(kind: Kind, value: &str, mut remember: impl FnMut(&str, Kind)) {
    // Two letters at least: an initial would be found again all over a text.
    let is_name = |word: &str| word.chars().count() >= 2 && word.chars().all(|c| c.is_alphabetic() || "'-".contains(c));
    match kind {
        Kind::Person => value
            .split_whitespace()
            .filter(|word| is_name(word) && !name::is_stop(word.as_bytes()))
            .for_each(|word| remember(&normalised(word), kind)),
        Kind::Username => {
            remember(&normalised(value), kind);
            let parts = || value.split(['_', '.', '-']).filter(|part| is_name(part));
            // `mia_li_3668` names Mia Li; `build_bot_7` names nobody, as no part of it is a given name.
            if parts().count() >= 2 && parts().any(|part| name::is_given(part.as_bytes())) {
                parts().for_each(|part| remember(&normalised(part), Kind::Person));
            }
        }
        Kind::Address => {
            let words = value.split_whitespace().count();
            // Short towns are words of every language (`Ely`, `Y`): they would be redacted everywhere.
            let is_town = value.len() >= 4
                && words <= WORDS_MAX
                && value.chars().all(|c| c.is_alphabetic() || " '-.".contains(c));
            if is_town && !name::is_stop(value.as_bytes()) {
                remember(&normalised(value), kind);
            }
        }
        Kind::DateOfBirth => {
            let date = canonical(kind, value);
            // Only a date that was understood is remembered: its spellings differ in later text.
            if date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit()) {
                remember(&date, kind);
            }
        }
        Kind::Zip | Kind::Phone | Kind::Ssn | Kind::BankAccount | Kind::CreditCard
            if value.len() >= 5 && value.bytes().all(|b| b.is_ascii_digit()) =>
        {
            remember(value, kind);
        }
        _ => {}
    }
}

/// What every session of a partition revealed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PiiState {
    sessions: BTreeMap<Bytes, Remembered>,
    /// Sessions by when they last revealed something.
    by_seen: BTreeSet<(TimestampMicros, Bytes)>,
    changed: BTreeSet<Bytes>,
}

impl PiiState {
    pub(super) fn session(&self, key: &[u8]) -> Option<&Remembered> {
        self.sessions.get(key)
    }

    /// Remembers `values` (digest, kind, words) and the kinds seen in inputs; whether any value is new.
    pub(super) fn remember(
        &mut self,
        key: &Bytes,
        now: TimestampMicros,
        values: &[(u64, Kind, u8)],
        inputs: u64,
    ) -> bool {
        if values.is_empty() && inputs == 0 {
            return false;
        }
        // A session is opened by its first value, not by its first event: most reveal nothing.
        if !self.sessions.contains_key(key) {
            self.make_room();
            self.sessions.insert(key.clone(), Remembered { seen: now, ..Remembered::default() });
            self.by_seen.insert((now, key.clone()));
            self.changed.insert(key.clone());
        }
        self.touch(key, now);
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let mut new = false;
        for (digest, kind, words) in values {
            // Values beyond 512 are a list of customers, not of the persons of a session.
            if session.values.len() < VALUES_MAX && !session.values.contains_key(digest) {
                session.values.insert(*digest, *kind);
                session.words_max = session.words_max.max(*words);
                new = true;
            }
        }
        if new || session.inputs | inputs != session.inputs {
            session.inputs |= inputs;
            self.changed.insert(key.clone());
        }
        new
    }

    /// Notes that the session was heard of.
    fn touch(&mut self, key: &Bytes, now: TimestampMicros) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        // In steps of an hour: each change writes a state entry of up to 4,634 bytes.
        if now.0 >= session.seen.plus_ms(SEEN_STEP_MS).0 {
            self.by_seen.remove(&(session.seen, key.clone()));
            session.seen = now;
            self.by_seen.insert((now, key.clone()));
            self.changed.insert(key.clone());
        }
    }

    fn make_room(&mut self) {
        // By log time and key, so that a replay forgets the same sessions (invariant I6).
        while self.sessions.len() >= SESSIONS_MAX {
            let Some((_, key)) = self.by_seen.first().cloned() else { return };
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &Bytes) {
        if let Some(session) = self.sessions.remove(key) {
            self.by_seen.remove(&(session.seen, key.clone()));
            self.changed.insert(key.clone());
        }
    }

    /// Notes the end of a session.
    pub(super) fn end(&mut self, key: &Bytes, now: TimestampMicros) {
        if let Some(session) = self.sessions.get_mut(key).filter(|session| session.ended.is_none()) {
            session.ended = Some(now);
            self.changed.insert(key.clone());
        }
    }

    /// Forgets the sessions whose time is over.
    pub(super) fn tick(&mut self, now: TimestampMicros) {
        let over = |session: &Remembered| {
            now.0 >= session.seen.plus_ms(KEEP_IDLE_MS).0
                || session.ended.is_some_and(|ended| now.0 >= ended.plus_ms(KEEP_AFTER_END_MS).0)
        };
        let due: Vec<Bytes> = self.sessions.iter().filter(|(_, s)| over(s)).map(|(key, _)| key.clone()).collect();
        due.iter().for_each(|key| self.forget(key));
    }
}

impl PartitionState for PiiState {
    fn take_changes(&mut self) -> Vec<StateChange> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|key| (key.clone(), self.sessions.get(&key).map(encode))).collect()
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        let reason = "not an entry of version 1: restore it from a backup or start from an empty state topic";
        let error = || StateError { key: String::from_utf8_lossy(key).into_owned(), reason: reason.to_owned() };
        let session = decode(value).ok_or_else(error)?;
        let key = Bytes::copy_from_slice(key);
        self.by_seen.insert((session.seen, key.clone()));
        self.sessions.insert(key, session);
        Ok(())
    }

    /// Keys of entries are keys of records.
    fn rekey(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
        let mut rekeyed = Rekeyed::default();
        for entry in by_place(entries) {
            let what = "values that a session had revealed in a second partition";
            rekeyed.move_to(change.place(&entry.key), entry, what);
        }
        Ok(rekeyed)
    }
}

fn encode(session: &Remembered) -> Bytes {
    let mut out = Vec::with_capacity(ENTRY_HEAD_BYTES + VALUE_BYTES * session.values.len());
    out.extend([ENTRY_VERSION, session.words_max]);
    out.extend(session.inputs.to_be_bytes());
    out.extend(session.seen.0.to_be_bytes());
    out.extend(session.ended.map_or(i64::MIN, |ended| ended.0).to_be_bytes());
    for (digest, kind) in &session.values {
        out.extend(digest.to_be_bytes());
        out.push(*kind as u8);
    }
    Bytes::from(out)
}

fn decode(bytes: &[u8]) -> Option<Remembered> {
    let (head, values) = bytes.split_at_checked(ENTRY_HEAD_BYTES)?;
    let number = |at: usize| head[at..].first_chunk::<8>().map(|b| i64::from_be_bytes(*b));
    let (inputs, seen, ended) = (number(2)? as u64, TimestampMicros(number(10)?), number(18)?);
    let (entries, rest) = values.as_chunks::<VALUE_BYTES>();
    let value = |entry: &[u8; VALUE_BYTES]| {
        let digest = u64::from_be_bytes(*entry.first_chunk::<8>()?);
        Some((digest, Kind::from_number(entry[8])?))
    };
    let values: Option<BTreeMap<u64, Kind>> = entries.iter().map(value).collect();
    let ended = (ended != i64::MIN).then_some(TimestampMicros(ended));
    // An entry of another version is refused, not guessed: forgotten values would pass in clear.
    let known = head[0] == ENTRY_VERSION && rest.is_empty();
    known.then_some(Remembered { values: values?, words_max: head[1], inputs, seen, ended })
}
