//! Bytes to events and back: Avro behind a single-object or a Confluent frame.
//!
//! Decoding is total: any bytes give an event or a reason. It performs no I/O: schemas that a
//! registry assigned ids to are handed in.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::event::{Alert, ControlTotal, Event, Signal, Watermark, WriterSpan};
use crate::reject::RejectReason;
use crate::text::{CleanText, Text};

/// Why bytes are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.code())]
pub struct DecodeError {
    /// Class.
    pub reason: RejectReason,
    /// One sentence, free of the record's content.
    pub detail: String,
}

/// A record that a processor derives from events.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Derived {
    /// An event: a clean event, a finding.
    Event(Event<CleanText>),
    /// Window measures.
    Signal(Signal),
    /// Producer sequence numbers.
    WriterSpan(WriterSpan),
    /// A partition's report that it is complete up to a time.
    Watermark(Watermark),
    /// An alert.
    Alert(Alert),
    /// A control total.
    ControlTotal(ControlTotal),
}

/// Encoder and decoder with every schema parsed once.
#[derive(Debug)]
pub struct Codec {}

/// The codec for single-object frames, built at first use.
pub fn codec() -> &'static Codec {
    static CODEC: OnceLock<Codec> = OnceLock::new();
    CODEC.get_or_init(|| Codec {})
}

impl Codec {
    /// Frame and bytes of an event.
    pub fn encode<T: Text>(&self, _event: &Event<T>) -> Bytes {
        Bytes::new()
    }

    /// The event in a record's value.
    ///
    /// # Errors
    /// The reason for the dead-letter topic; the bytes are at fault, not the system.
    pub fn decode<T: Text>(&self, _value: Option<&[u8]>) -> Result<Event<T>, DecodeError> {
        Err(DecodeError { reason: RejectReason::Empty, detail: String::new() })
    }

    /// Frame and bytes of a derived record.
    pub fn encode_derived(&self, _record: &Derived) -> Bytes {
        Bytes::new()
    }

    /// The derived record in a record's value (events decode as [`Derived::Event`]).
    ///
    /// # Errors
    /// As [`Codec::decode`].
    pub fn decode_derived(&self, _value: Option<&[u8]>) -> Result<Derived, DecodeError> {
        Err(DecodeError { reason: RejectReason::Empty, detail: String::new() })
    }
}
