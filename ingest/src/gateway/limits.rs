//! Limits on what one request may cost: bytes, compression ratio, time.
//!
//! A body is read and decompressed chunk by chunk and refused at the first byte above the limit, so that a
//! decompression bomb costs no more than a legal body. One budget bounds what all requests hold together. It
//! does not look at what a body says.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Version, header};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures::StreamExt as _;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::intake::Problem;
use super::problem::{Code, overloaded};

/// Decompressed bytes below which the ratio is not checked: a short run of zeros is no bomb.
const RATIO_FREE_BYTES: usize = 1 << 20;
/// The unit of the budget: a semaphore counts to 2^29 on 32-bit machines.
const BUDGET_UNIT: usize = 1 << 10;

/// Bounds on a body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Most bytes, after decompression.
    pub bytes_max: usize,
    /// Most bytes that one compressed byte may become.
    pub ratio_max: usize,
    /// From the first to the last byte.
    pub read_timeout: Duration,
}

/// The bytes that all unanswered requests may hold together.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    gauge: Gauge,
}

impl Budget {
    /// A budget of so many bytes; `gauge` shows how many are taken.
    pub fn new(bytes: usize, gauge: Gauge) -> Self {
        Self { units: Arc::new(Semaphore::new(bytes.div_ceil(BUDGET_UNIT).min(Semaphore::MAX_PERMITS))), gauge }
    }

    /// A share for one request, empty at first.
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), permit: None, units: 0 }
    }
}

/// What one request holds of a [`Budget`]; released when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
    units: usize,
}

impl Share {
    /// Makes the share at least so many bytes.
    ///
    /// # Errors
    /// [`Code::Overloaded`]: the budget is used up.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = bytes.div_ceil(BUDGET_UNIT).saturating_sub(self.units);
        // A semaphore takes at most `u32::MAX` permits in one call.
        let Ok(count) = u32::try_from(more) else { return Err(overloaded()) };
        if count == 0 {
            return Ok(());
        }
        // Never waits: a request that waits for more while it holds a part could wait for another one that
        // does the same.
        let taken = Arc::clone(&self.budget.units).try_acquire_many_owned(count).map_err(|_| overloaded())?;
        match &mut self.permit {
            Some(permit) => permit.merge(taken),
            None => self.permit = Some(taken),
        }
        self.units += more;
        self.budget.gauge.inc_by(i64::from(count) * BUDGET_UNIT as i64);
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let bytes = self.units * BUDGET_UNIT;
        self.budget.gauge.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Content coding of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let unsupported =
            || Code::UnsupportedEncoding.problem("send the body as it is, or with Content-Encoding: gzip");
        let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(coding) = codings.next() else { return Ok(Self::Identity) };
        // A second coding multiplies the ratio: 200 times 200.
        if codings.next().is_some() {
            return Err(unsupported());
        }
        match coding.as_bytes().trim_ascii() {
            // RFC 9110 section 8.4.1.3 asks recipients to treat `x-gzip` as `gzip`.
            name if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") => Ok(Self::Gzip),
            name if name.is_empty() || name.eq_ignore_ascii_case(b"identity") => Ok(Self::Identity),
            _ => Err(unsupported()),
        }
    }
}

/// Whether an HTTP/1 request declares its body: without `Content-Length` or `Transfer-Encoding` it has none (RFC 9112
/// section 6.3), and a client that left them out would get `empty_body` for a body that it has sent.
///
/// # Errors
/// [`Code::LengthRequired`].
pub fn check_length(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let framed = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    if version < Version::HTTP_2 && !framed {
        Err(Code::LengthRequired.problem("send Content-Length, or Transfer-Encoding: chunked"))
    } else {
        Ok(())
    }
}

/// Reads a body whole, decompressed.
///
/// # Errors
/// 400 cut off or not what its coding says, 408 too slow, 413 too large or a bomb, 415 another coding,
/// 429 the budget is used up.
pub async fn read_body(
    headers: &HeaderMap,
    body: Body,
    limits: &BodyLimits,
    share: &mut Share,
) -> Result<Bytes, Problem> {
    let coding = Coding::of(headers)?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    // Refused before a byte is read. A client can declare only the compressed length, so that the limit is
    // checked again while the body is decompressed.
    if length.is_some_and(|length| length > limits.bytes_max as u64) {
        return Err(too_large(limits.bytes_max));
    }
    // One deadline for the whole body: a limit per chunk would let a client that sends a byte a second
    // hold its memory for months.
    let deadline = Instant::now() + limits.read_timeout;
    let mut chunks = body.into_data_stream();
    let mut sink = Sink::new(coding, limits);
    loop {
        let chunk = tokio::time::timeout_at(deadline, chunks.next()).await;
        let too_slow = |_| {
            let detail = format!("send the whole body within {} ms", limits.read_timeout.as_millis());
            Code::RequestTimeout.problem(detail)
        };
        match chunk.map_err(too_slow)? {
            None => return sink.finish(),
            Some(Err(_)) => return Err(Code::MalformedRequest.problem("the body was cut off")),
            Some(Ok(chunk)) => {
                sink.take(chunk)?;
                // Charged as it arrives, decompressed: a client that declares much and sends little holds
                // little.
                share.hold(sink.len())?;
            }
        }
    }
}

fn too_large(bytes_max: usize) -> Problem {
    Code::BodyTooLarge.problem(format!("send at most {bytes_max} bytes at once, after decompression"))
}

/// Collects the chunks of a body.
enum Sink {
    /// Most bodies are one chunk, which is not copied.
    Identity {
        chunks: Vec<Bytes>,
        len: usize,
        bytes_max: usize,
    },
    Gzip {
        decoder: Box<MultiGzDecoder<Bounded>>,
        compressed: usize,
        limits: BodyLimits,
    },
}

impl Sink {
    fn new(coding: Coding, limits: &BodyLimits) -> Self {
        match coding {
            Coding::Identity => Self::Identity { chunks: Vec::new(), len: 0, bytes_max: limits.bytes_max },
            Coding::Gzip => {
                let bounded = Bounded { bytes: Vec::new(), bytes_max: limits.bytes_max, over: false };
                Self::Gzip { decoder: Box::new(MultiGzDecoder::new(bounded)), compressed: 0, limits: *limits }
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Identity { len, .. } => *len,
            Self::Gzip { decoder, .. } => decoder.get_ref().bytes.len(),
        }
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), Problem> {
        match self {
            Self::Identity { chunks, len, bytes_max } => {
                *len += chunk.len();
                chunks.push(chunk);
                if *len > *bytes_max { Err(too_large(*bytes_max)) } else { Ok(()) }
            }
            Self::Gzip { decoder, compressed, limits } => {
                *compressed = compressed.saturating_add(chunk.len());
                let ratio_bytes = compressed.saturating_mul(limits.ratio_max).max(RATIO_FREE_BYTES);
                // The allowance grows with the compressed bytes received so far, so that a bomb is stopped
                // within the chunk that would expand it.
                decoder.get_mut().bytes_max = limits.bytes_max.min(ratio_bytes);
                // Flushed after each chunk: bytes that the decoder still buffers would not be counted.
                let written = decoder.write_all(&chunk).and_then(|()| decoder.flush());
                written.map_err(|_| gzip_problem(decoder.get_ref(), limits))
            }
        }
    }

    fn finish(self) -> Result<Bytes, Problem> {
        match self {
            Self::Identity { mut chunks, .. } if chunks.len() < 2 => Ok(chunks.pop().unwrap_or_default()),
            Self::Identity { chunks, .. } => Ok(chunks.concat().into()),
            // Also verifies the checksum: a body that was cut off between two blocks decompresses without an
            // error until here.
            Self::Gzip { mut decoder, limits, .. } => match decoder.try_finish() {
                Ok(()) => Ok(std::mem::take(&mut decoder.get_mut().bytes).into()),
                Err(_) => Err(gzip_problem(decoder.get_ref(), &limits)),
            },
        }
    }
}

fn gzip_problem(bounded: &Bounded, limits: &BodyLimits) -> Problem {
    match (bounded.over, bounded.bytes_max < limits.bytes_max) {
        (false, _) => Code::MalformedEncoding.problem("the body is not gzip, or was cut off"),
        (true, false) => too_large(limits.bytes_max),
        (true, true) => {
            let detail = format!("the body decompresses to more than {} times its size", limits.ratio_max);
            Code::BodyTooLarge.problem(detail)
        }
    }
}

/// A buffer that refuses to grow above its limit.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    over: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            self.over = true;
            return Err(io::Error::other("too large"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
