//! A bad record as data: what the dead-letter topic carries and why.
//!
//! The original bytes travel with it untouched; it does not decide what happens next.

use crate::record::Position;

/// Why a record was rejected; the text of [`RejectReason::code`] is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// No value, or 0 bytes.
    Empty,
    /// Larger than [`crate::limits::EVENT_BYTES_MAX`].
    TooLarge,
    /// Neither an Avro single-object frame nor a Confluent frame.
    UnknownFrame,
    /// A frame whose fingerprint or schema id is not known.
    UnknownSchema,
    /// The registry holds a schema that records cannot be read with.
    UnusableSchema,
    /// The frame ends before its record does, or has bytes after it.
    Truncated,
    /// The bytes are not a record of the frame's schema.
    Malformed,
    /// A string is not UTF-8.
    InvalidUtf8,
    /// Redacted content on a raw topic or raw content on a clean one.
    WrongTopic,
    /// A mandatory header field is empty or out of range.
    InvalidHeader,
    /// The event's clock is before 2000 or more than a day ahead of the broker's.
    ImplausibleTime,
    /// The privacy policy of the tenant cannot be applied; nothing passes (fail closed).
    PolicyUnavailable,
    /// A receiver of alerts has refused it for good.
    ReceiverRefused,
}

impl RejectReason {
    /// Stable code, used in dead-letter headers, metrics and tables.
    pub const fn code(self) -> &'static str {
        match self {
            // Spelt out and not derived from the names: dashboards, alerts and `dlq replay --reason` use them, and a
            // renamed variant must not change them.
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::UnknownFrame => "unknown_frame",
            Self::UnknownSchema => "unknown_schema",
            Self::UnusableSchema => "unusable_schema",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::WrongTopic => "wrong_topic",
            Self::InvalidHeader => "invalid_header",
            Self::ImplausibleTime => "implausible_time",
            Self::PolicyUnavailable => "policy_unavailable",
            Self::ReceiverRefused => "receiver_refused",
        }
    }
}

/// A rejected record: where it stands and why. The caller adds the original bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Source position.
    pub at: Position,
    /// Why.
    pub reason: RejectReason,
    /// One sentence with the details, free of the record's content.
    pub detail: String,
}
