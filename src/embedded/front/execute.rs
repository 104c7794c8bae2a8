//! One request in a blocking thread: read the statement, take a connection, run it the one way that is safe for it.
//!
//! Data of an INSERT always goes through the engine's insert stream: after `FORMAT` in a query the engine would cut it
//! at the first empty line *and run the rest as SQL*.

use std::collections::BTreeMap;
use std::io::Read;

use super::Front;
use super::body::{self, BodyReader, Received};
use super::by_block::{self, Joiner, Joining};
use super::failure::{Code, Failure};
use super::multipart;
use super::request::Request;
use super::response::Output;
use super::sql::{self, Statement};
use crate::embedded::chdb::Connection;

/// Bytes given to the engine at once.
const APPEND_BYTES: u64 = 1 << 20;

/// Settings of every statement unless the request sets them.
///
/// * `async_insert`: an acknowledged INSERT is written; the engine's own default is 1.
/// * `max_insert_block_size_bytes` and `min_insert_block_size_bytes`, 128 MiB: with the engine's defaults, 1 048 449 rows
///   and 256 MiB, an INSERT of 1 000 000 rows of 559 B took 1.45 GB of memory, with these 0.85 GB. An INSERT of less
///   data is one block, so one atomic part; a larger one is several, each of which its deduplication token knows.
const DEFAULTS: [(&str, &str); 3] =
    [("async_insert", "0"), ("max_insert_block_size_bytes", "134217728"), ("min_insert_block_size_bytes", "134217728")];

/// Runs the request and answers it, whatever happens.
pub(crate) fn run(front: &Front, mut request: Request, boundary: Option<&str>, body: BodyReader, mut output: Output) {
    match execute(front, &mut request, boundary, body, &mut output) {
        Ok(()) => {
            let _client_may_be_gone = output.finish();
        }
        Err(failure) => output.fail(failure),
    }
}

fn execute(
    front: &Front,
    request: &mut Request,
    boundary: Option<&str>,
    body: BodyReader,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut body = body::decoded(body, request)?;
    if let Some(boundary) = boundary {
        let form = body::read_all(&mut body, front.limits.statement_bytes_max)?;
        request.add_fields(multipart::fields(&form, boundary)?)?;
        body = Box::new(std::io::empty());
    }
    let received = body::read_statement(&request.query, &mut body, &front.limits)?;
    match received.statement {
        Statement::Empty => Err(Failure::new(Code::SyntaxError, "syntax error: empty query")),
        Statement::Garbled => Err(Failure::new(Code::SyntaxError, "syntax error: failed at position 1")),
        Statement::Several => Err(Failure::new(Code::SyntaxError, "syntax error: multi-statements are not allowed")),
        Statement::InsertData { .. } if request.params.is_empty() => insert(front, request, received, body, output),
        Statement::InsertData { .. } => insert_with_params(front, request, received, &mut body, output),
        Statement::Query { .. } => query(front, request, received, output),
    }
}

/// Opens a connection and runs with the defaults, the request's settings and `more`.
fn with_connection<T>(
    front: &Front,
    request: &Request,
    more: &[(&str, String)],
    statement: impl FnOnce(&mut Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let defaults = DEFAULTS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let mut settings: BTreeMap<String, String> = defaults.chain(more).collect();
    settings.extend(request.settings.clone());
    let readonly = settings.get("readonly").is_some_and(|value| value == "1");
    // In a session it could not be set back; there the statement's first word decides.
    if request.readonly && request.session.is_none() && !readonly {
        settings.insert("readonly".into(), "2".into());
    }
    let lease = front.sessions.lease(&front.engine, request.session.as_ref())?;
    lease.run(request.database.as_deref(), &settings, statement)
}

fn default_format(request: &Request) -> String {
    request.default_format.clone().unwrap_or_else(|| "TabSeparated".to_owned())
}

fn refuse_write(request: &Request) -> Result<(), Failure> {
    if request.readonly {
        return Err(Failure::new(Code::Readonly, "cannot execute query in readonly mode; use POST to write"));
    }
    Ok(())
}

fn insert(
    front: &Front,
    request: &Request,
    received: Received,
    body: Box<dyn Read>,
    output: &mut Output,
) -> Result<(), Failure> {
    refuse_write(request)?;
    let Statement::InsertData { head_bytes, format, data_start } = received.statement else { return Ok(()) };
    let (head, data) = (&received.text[..head_bytes], &received.text[data_start..]);
    let mut data = data.chain(body);
    let stats = with_connection(front, request, &[], |connection| {
        let mut insert = connection.insert(head, &format)?;
        let mut piece = Vec::new();
        while data.by_ref().take(APPEND_BYTES).read_to_end(&mut piece).map_err(Failure::from_body)? > 0 {
            insert.append(&piece)?;
            piece.clear();
        }
        Ok(insert.finish()?)
    })?;
    output.begin(&default_format(request), stats);
    Ok(())
}

/// `INSERT … VALUES ({a:String})`: the insert stream takes no parameters, so the whole statement is run, which only
/// VALUES allow.
fn insert_with_params(
    front: &Front,
    request: &Request,
    mut received: Received,
    body: &mut dyn Read,
    output: &mut Output,
) -> Result<(), Failure> {
    refuse_write(request)?;
    if !matches!(&received.statement, Statement::InsertData { format, .. } if format == "Values") {
        let message = "query parameters with INSERT … FORMAT are not supported by the embedded engine; use VALUES";
        return Err(Failure::new(Code::NotImplemented, message));
    }
    received.text.extend(body::read_all(body, front.limits.statement_bytes_max)?);
    if sql::parse_as_query(&received.text) == Statement::Several {
        return Err(Failure::new(Code::SyntaxError, "syntax error: multi-statements are not allowed"));
    }
    let answer = with_connection(front, request, &[], |connection| {
        Ok(connection.query(&received.text, &default_format(request), &request.params)?)
    })?;
    output.begin(&default_format(request), answer.stats());
    output.push(answer.as_ref())
}

fn query(front: &Front, request: &Request, received: Received, output: &mut Output) -> Result<(), Failure> {
    let Statement::Query { format, streamable, reads } = received.statement else { return Ok(()) };
    if !reads && request.session.is_some() {
        refuse_write(request)?;
    }
    let format = format.unwrap_or_else(|| default_format(request));
    let framed =
        ["extremes", "output_format_json_array_of_rows"].iter().any(|name| request.settings.contains_key(*name));
    let by_block = streamable && !framed && !request.wait_end_of_query;
    match by_block::joining(&format).filter(|_| by_block) {
        Some(joining) => stream(front, request, &received.text, &format, joining, output),
        None => buffer(front, request, &received.text, &format, output),
    }
}

/// Sends block by block. The first block decides between an error status and a success.
fn stream(
    front: &Front,
    request: &Request,
    sql: &[u8],
    format: &str,
    joining: Joining,
    output: &mut Output,
) -> Result<(), Failure> {
    with_connection(front, request, &[], |connection| {
        let mut joiner = Joiner::new(joining);
        let mut blocks = connection.stream(sql, format, &request.params)?;
        let mut begun = false;
        while let Some(block) = blocks.next_block()? {
            if !std::mem::replace(&mut begun, true) {
                output.begin(format, block.stats());
            }
            let part =
                joiner.part(block.as_ref()).ok_or_else(|| Failure::new(Code::UnknownException, "blocks differ"))?;
            output.push(part)?;
        }
        if !begun {
            output.begin(format, Default::default());
        }
        Ok(())
    })
}

/// Keeps the whole answer in the engine's memory, up to a limit that the engine enforces while it makes it.
fn buffer(front: &Front, request: &Request, sql: &[u8], format: &str, output: &mut Output) -> Result<(), Failure> {
    let limit =
        [("max_result_bytes", front.limits.result_bytes_max.to_string()), ("result_overflow_mode", "throw".to_owned())];
    let answer =
        with_connection(front, request, &limit, |connection| Ok(connection.query(sql, format, &request.params)?))?;
    output.begin(format, answer.stats());
    output.push(answer.as_ref())
}
