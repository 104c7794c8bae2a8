//! The events of a request and the problems that it is refused with: the data between protocols and the writer.
//!
//! Pure data and limits. It reads no clock, assigns no numbers and writes nothing.

use bytes::Bytes;
use schemas::event::RawEvent;
use schemas::id::Sha256;
use schemas::time::TimestampMicros;

/// Most events that one request may hold.
pub const REQUEST_EVENTS_MAX: usize = 10_000;

/// What a request says about all of its events.
#[derive(Debug, Clone, Copy)]
pub struct IntakeContext<'a> {
    /// The tenant that the API key is bound to; `None`: any tenant, and each event must name it.
    pub tenant_id: Option<&'a str>,
    /// When the request arrived, by the gateway's clock.
    pub arrived_at: TimestampMicros,
}

/// One event as it was received.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrived {
    /// The event. Where `numbered` is false, `seq`, `prev_hash` and the producer's numbers are still
    /// to be assigned.
    pub event: RawEvent,
    /// The client's own `seq` and producer numbers are kept.
    pub numbered: bool,
    /// Digest of what arrived, independent of any number that is assigned later: the same event sent
    /// twice has the same digest.
    pub content_sha256: Sha256,
    /// The exact record that the client stamped, where it sent one: appended as the value unchanged,
    /// because the next event's `prev_hash` covers it. Only with `numbered`.
    pub raw: Option<Bytes>,
}

/// Why a request, or one event of it, is refused: the members of a problem of RFC 9457. Nothing in
/// it repeats the content of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{title}: {detail}")]
pub struct Problem {
    /// HTTP status, 4xx or 503.
    pub status: u16,
    /// Stable code for metrics and `type`, e.g. `invalid_field`.
    pub code: &'static str,
    /// The same sentence for every problem of this code.
    pub title: &'static str,
    /// What is wrong here, and the remedy where there is one.
    pub detail: String,
    /// JSON pointer (RFC 6901) or attribute name of the field at fault.
    pub field: Option<String>,
    /// 0-based place of the event in its batch.
    pub index: Option<usize>,
}

/// A content type without its parameters, in lower case.
pub(super) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
