//! Events and derived records: the Avro records of `avro/` as Rust types.
//!
//! `generated.rs` holds the types; this file adds what a schema cannot say. It holds no codec.

mod content;
mod generated;

pub use content::Content;
pub use generated::*;

use serde::{Deserialize, Deserializer};

use crate::text::kind::{CleanText, RawText, Text};

/// An event as its producer wrote it: content fields hold raw text.
pub type RawEvent = Event<RawText>;
/// An event after redaction: the only kind that a sink accepts (invariant I9).
pub type CleanEvent = Event<CleanText>;

/// Key of the `ext` entry in which a gateway keeps the digest of what arrived, 64 hexadecimal
/// digits: the same event sent twice has the same digest, whatever number it is given.
pub const CONTENT_SHA256_EXT: &str = "custody.content_sha256";

impl EventHeader {
    /// A header that says nothing but the event type.
    pub fn of_type(event_type: &str) -> Self {
        Self { event_type: event_type.to_owned(), ..Self::default() }
    }
}

/// What an event belongs to: the attribute `scope` of its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A session; it says nothing without one.
    Session,
    /// A tenant; it may name a session.
    Tenant,
    /// The installation: Custody writes it about itself, and it alone may belong to
    /// [`SYSTEM_TENANT`](crate::limits::SYSTEM_TENANT).
    System,
}

/// Types outside the catalogue that the gateway writes: what a key was used for, and what was denied. Both
/// count requests in `attributes`.
pub const ACCESS_USED: &str = "access.used";
/// See [`ACCESS_USED`].
pub const ACCESS_DENIED: &str = "access.denied";

impl EventKind {
    /// The record that was made for that event type; `None` where the catalogue has none.
    pub fn of_event_type(event_type: &str) -> Option<Self> {
        // `extension` is what stands for a type outside of the catalogue; nobody may send it as one.
        let known = |kind: &&EventKind| **kind != EventKind::Extension && kind.event_type() == event_type;
        Self::ALL.iter().find(known).copied()
    }
}

impl<T: Text> Event<T> {
    /// Reads the record of that kind, by the names of its fields; what is absent has its default.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize_as<'de, D: Deserializer<'de>>(kind: EventKind, deserializer: D) -> Result<Self, D::Error> {
        macro_rules! read {
            ($name:ident) => {
                Deserialize::deserialize(deserializer).map(Event::$name)
            };
        }
        read_record!(kind, read)
    }

    /// Whether the event is a tick: time, not evidence.
    pub fn is_tick(&self) -> bool {
        matches!(self, Event::Tick(_))
    }

    /// Whether the event's type is in the catalogue; others are kept, archived and counted.
    pub fn is_known_type(&self) -> bool {
        // A known record may carry another type in its header; then its type is not in the catalogue.
        self.kind() != EventKind::Extension && self.h().event_type == self.kind().event_type()
    }
}
