//! The answer on its way out: status and headers first, then pieces as the engine makes them, and an exception block
//! if the engine fails after that.
//!
//! [`Output`] is the blocking side in the engine's thread, [`Answered`] what the async side waits for.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use bytes::Bytes;
use futures::stream;
use tokio::sync::{mpsc, oneshot};

use super::compress::{Encoder, Encoding};
use super::failure::{Code, Failure};
use super::request::Request;
use crate::embedded::chdb::Stats;

/// Pieces between the engine's thread and the socket; a piece is one block of 65 409 rows or 1 MiB.
const PIECES_IN_FLIGHT: usize = 4;
const PIECE_BYTES: usize = 1 << 20;

/// Status line and headers of a success.
#[derive(Debug)]
pub(crate) struct Head {
    format: String,
    stats: Stats,
    encoding: Option<Encoding>,
}

/// What the handler waits for: a head or a failure, then the pieces.
#[derive(Debug)]
pub(crate) struct Answered {
    head: oneshot::Receiver<Result<Head, Failure>>,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
}

/// The engine's side of one answer.
pub(crate) struct Output {
    head: Option<oneshot::Sender<Result<Head, Failure>>>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    encoder: Encoder,
    encoding: Option<Encoding>,
    exception_tag: String,
}

impl Output {
    /// Both sides of one answer. `exception_tag` is 16 characters that the data will not contain.
    ///
    /// # Errors
    /// Code 1002 if a compressor cannot be set up.
    pub(crate) fn open(request: &Request, exception_tag: String) -> Result<(Self, Answered), Failure> {
        let (head, head_receiver) = oneshot::channel();
        let (pieces, pieces_receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let encoding = request.accept_encoding.filter(|_| !request.compress);
        let encoder = if request.compress { Ok(Encoder::Native) } else { Encoder::new(encoding) };
        let encoder = encoder.map_err(|e| Failure::new(Code::UnknownException, e))?;
        let output = Self { head: Some(head), pieces, encoder, encoding, exception_tag };
        Ok((output, Answered { head: head_receiver, pieces: pieces_receiver }))
    }

    /// Sends status and headers; once.
    pub(crate) fn begin(&mut self, format: &str, stats: Stats) {
        if let Some(head) = self.head.take() {
            let _client_may_be_gone = head.send(Ok(Head { format: format.to_owned(), stats, encoding: self.encoding }));
        }
    }

    /// Sends data.
    ///
    /// # Errors
    /// Code 210 once the client is gone.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), Failure> {
        for piece in data.chunks(PIECE_BYTES) {
            let encoded = self.encoder.push(piece).map_err(|e| Failure::new(Code::UnknownException, e))?;
            self.send(encoded)?;
        }
        Ok(())
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// Code 210 once the client is gone.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let encoder = std::mem::replace(&mut self.encoder, Encoder::Plain);
        let end = encoder.finish().map_err(|e| Failure::new(Code::UnknownException, e))?;
        self.send(end)
    }

    /// Ends the answer with a failure: as its status if nothing was sent yet, else as ClickHouse's exception block and
    /// a broken connection, so that no client takes the part for the whole.
    pub(crate) fn fail(mut self, failure: Failure) {
        if let Some(head) = self.head.take() {
            let _client_may_be_gone = head.send(Err(failure));
            return;
        }
        let block = exception_block(&failure.text, &self.exception_tag);
        let _client_may_be_gone = self.push(block.as_bytes());
        let _client_may_be_gone = self.pieces.blocking_send(Err(io::Error::other(failure)));
    }

    fn send(&self, bytes: Vec<u8>) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        let gone = |_| Failure::new(Code::NetworkError, "the client went away");
        self.pieces.blocking_send(Ok(bytes.into())).map_err(gone)
    }
}

/// Source: ClickHouse `WriteBufferFromHTTPServerResponse`, since 25.11.
fn exception_block(text: &str, tag: &str) -> String {
    let (mark, bytes) = ("__exception__", text.len() + 1);
    format!("\r\n{mark}\r\n{tag}\r\n{text}\n{bytes} {tag}\r\n{mark}\r\n")
}

impl Answered {
    /// Waits for the head and makes the HTTP answer.
    pub(crate) async fn into_response(self, common: HeaderMap, exception_tag: &str) -> Response<Body> {
        match self.head.await {
            Ok(Ok(head)) => success(head, self.pieces, common, exception_tag),
            Ok(Err(failure)) => failed(&failure, common),
            Err(_) => failed(&Failure::new(Code::UnknownException, "the statement's thread ended early"), common),
        }
    }
}

fn success(head: Head, pieces: mpsc::Receiver<io::Result<Bytes>>, common: HeaderMap, tag: &str) -> Response<Body> {
    let body = stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        if piece.is_err() {
            // Lets hyper flush the exception block before the error breaks the connection.
            tokio::task::yield_now().await;
        }
        Some((piece, pieces))
    });
    let mut response = Response::new(Body::from_stream(body));
    *response.headers_mut() = common;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(&head.format)));
    set(headers, "x-clickhouse-format", &head.format);
    set(headers, "x-clickhouse-summary", &summary(&head.stats));
    set(headers, "x-clickhouse-exception-tag", tag);
    if let Some(encoding) = head.encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    }
    response
}

/// An answer that is only a failure.
pub(crate) fn failed(failure: &Failure, common: HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{failure}\n")));
    *response.status_mut() = failure.status();
    *response.headers_mut() = common;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert("x-clickhouse-exception-code", failure.code.into());
    response
}

/// Sets a header unless its value has bytes that a header cannot have.
pub(crate) fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn content_type(format: &str) -> &'static str {
    match format {
        "JSONEachRow" | "JSONLines" | "NDJSON" => "application/x-ndjson; charset=UTF-8",
        name if name.starts_with("JSON") => "application/json; charset=UTF-8",
        name if name.starts_with("CSV") && name.contains("WithNames") => "text/csv; charset=UTF-8; header=present",
        name if name.starts_with("CSV") => "text/csv; charset=UTF-8; header=absent",
        name if name.starts_with("TSV") || name.starts_with("TabSeparated") => {
            "text/tab-separated-values; charset=UTF-8"
        }
        name if name.starts_with("Pretty") || name == "Vertical" || name == "Values" => "text/plain; charset=UTF-8",
        _ => "application/octet-stream",
    }
}

/// Counts are texts in ClickHouse's summary. For a streamed SELECT they are those of the first block.
fn summary(stats: &Stats) -> String {
    let elapsed_ns = Duration::try_from_secs_f64(stats.elapsed_seconds).unwrap_or_default().as_nanos();
    format!(
        r#"{{"read_rows":"{}","read_bytes":"{}","written_rows":"{}","written_bytes":"{}","total_rows_to_read":"0","result_rows":"{}","result_bytes":"{}","elapsed_ns":"{elapsed_ns}"}}"#,
        stats.read_rows,
        stats.read_bytes,
        stats.written_rows,
        stats.written_bytes,
        stats.result_rows,
        stats.result_bytes,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_json_with_texts() {
        let stats = Stats { written_rows: 7, elapsed_seconds: 0.5, ..Stats::default() };
        let value: serde_json::Value = serde_json::from_str(&summary(&stats)).expect("JSON");
        assert_eq!(value["written_rows"], "7");
        assert_eq!(value["elapsed_ns"], "500000000");
        assert!(summary(&Stats { elapsed_seconds: f64::NAN, ..stats }).contains(r#""elapsed_ns":"0""#));
    }

    #[test]
    fn the_exception_block_counts_its_message_with_line_end() {
        let block = exception_block("Code: 1. x", "0123456789abcdef");
        let expected = "\r\n__exception__\r\n0123456789abcdef\r\nCode: 1. x\n11 0123456789abcdef\r\n__exception__\r\n";
        assert_eq!(block, expected);
    }

    #[test]
    fn header_values_that_cannot_be_sent_are_left_out() {
        let mut headers = HeaderMap::new();
        set(&mut headers, "x-clickhouse-query-id", "a\r\nx: y");
        assert!(headers.is_empty());
        set(&mut headers, "x-clickhouse-query-id", "a");
        assert_eq!(headers["x-clickhouse-query-id"], "a");
    }
}
