//! The body of a request as a blocking reader: bounded, decoded while it is read, and never whole in memory unless it
//! is a statement.

use std::io::{self, Read};

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::Limits;
use super::failure::{Code, Failure};
use super::native_block::Blocks;
use super::request::Request;
use super::sql::{self, Statement};

/// Pieces on their way from the socket to the engine's thread; hyper's pieces are 8 to 400 KiB.
const PIECES_IN_FLIGHT: usize = 8;
/// Bytes that are read and thrown away after a failure, so that a client that sends all before it reads gets the answer.
const DRAIN_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a body that are looked at for the end of an INSERT's head before the rest is streamed.
const HEAD_BYTES: u64 = 256 << 10;

/// Blocking side of a request body.
#[derive(Debug)]
pub(crate) struct BodyReader {
    pieces: mpsc::Receiver<Result<Bytes, Failure>>,
    piece: Bytes,
}

impl BodyReader {
    /// Starts to forward the body; more than `bytes_max` is code 229, a client that leaves is code 210.
    pub(crate) fn spawn(body: Body, bytes_max: u64) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_IN_FLIGHT);
        tokio::spawn(forward(body, sender, bytes_max));
        Self { pieces, piece: Bytes::new() }
    }
}

async fn forward(body: Body, sender: mpsc::Sender<Result<Bytes, Failure>>, bytes_max: u64) {
    let mut frames = body.into_data_stream();
    let (mut total, mut drained) = (0, 0);
    while let Some(frame) = frames.next().await {
        let piece = frame.map_err(|e| Failure::new(Code::NetworkError, format!("the client went away: {e}")));
        let bytes = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        total += bytes;
        let piece = match piece {
            Ok(_) if total > bytes_max => Err(too_large("request body", bytes_max)),
            other => other,
        };
        let failed = piece.is_err();
        if sender.send(piece).await.is_err() {
            drained += bytes;
        }
        if failed || drained > DRAIN_BYTES_MAX {
            return;
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !out.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let count = self.piece.len().min(out.len());
        self.piece.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}

fn too_large(what: &str, bytes_max: u64) -> Failure {
    Failure::new(Code::QueryIsTooLarge, format!("{what} exceeds the limit of {bytes_max} bytes"))
}

/// The body as the request's headers and arguments say it is encoded.
///
/// # Errors
/// A decoder could not be set up.
pub(crate) fn decoded(body: BodyReader, request: &Request) -> Result<Box<dyn Read>, Failure> {
    let outer: Box<dyn Read> = match request.content_encoding {
        None => Box::new(body),
        Some(encoding) => encoding.decoder(body).map_err(Failure::from_body)?,
    };
    Ok(if request.decompress { Box::new(Blocks::new(outer)) } else { outer })
}

/// Reads all of a bounded body.
///
/// # Errors
/// Code 229 above `bytes_max`, and what the body's reader reports.
pub(crate) fn read_all(body: &mut dyn Read, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    body.take(bytes_max + 1).read_to_end(&mut out).map_err(Failure::from_body)?;
    if out.len() as u64 > bytes_max { Err(too_large("statement", bytes_max)) } else { Ok(out) }
}

/// A statement and the bytes of it that were read so far: all, unless it is an INSERT with data.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) text: Vec<u8>,
    pub(crate) statement: Statement,
}

/// Joins the `query` argument, a line end and the body, and reads as much of the body as the statement needs.
///
/// # Errors
/// Code 229 for a statement above the limit, and what the body's reader reports.
pub(crate) fn read_statement(query: &[u8], body: &mut dyn Read, limits: &Limits) -> Result<Received, Failure> {
    let mut text = query.trim_ascii_end().to_vec();
    if !text.is_empty() {
        text.push(b'\n');
    }
    let got = body.take(HEAD_BYTES).read_to_end(&mut text).map_err(Failure::from_body)?;
    let statement = sql::parse(&text);
    if got as u64 == HEAD_BYTES && !matches!(statement, Statement::InsertData { .. }) {
        text.extend(read_all(body, limits.statement_bytes_max)?);
        let statement = sql::parse(&text);
        return Ok(Received { text, statement });
    }
    Ok(Received { text, statement })
}

#[cfg(test)]
#[path = "body/tests.rs"]
mod tests;
