//! State keys: a kind byte and parts that sort as they should; and their reader.
//!
//! It knows no entry's meaning, only the kinds that the stage `completeness` keeps beside its totals.

use bytes::Bytes;
use schemas::id::Uuid;

use crate::stage::StateError;

/// Kinds of entries.
pub(super) const NOW: u8 = b'3';
pub(super) const NOTE: u8 = b'4';
pub(super) const PRODUCER: u8 = b'5';
pub(super) const SESSION: u8 = b'6';

/// Builds a key.
#[derive(Debug, Clone)]
pub(super) struct Key(Vec<u8>);

impl Key {
    /// A key of that kind; the kind is not [`crate::watermark::KEY_PREFIX`].
    pub(super) fn of(kind: u8) -> Self {
        Self(vec![kind])
    }

    /// Appends text, length first.
    pub(super) fn text(mut self, text: &str) -> Self {
        // Length first, so that ("ab", "c") and ("a", "bc") are two keys.
        self.0.extend((text.len() as u32).to_be_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    /// Appends an id.
    pub(super) fn id(mut self, id: Uuid) -> Self {
        self.0.extend(id.0);
        self
    }

    /// Appends a number, so that keys sort like it.
    pub(super) fn number(mut self, number: i64) -> Self {
        // With the sign bit flipped, bytes sort like signed numbers.
        self.0.extend((number ^ i64::MIN).to_be_bytes());
        self
    }

    /// Appends one byte.
    pub(super) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    /// The key.
    pub(super) fn bytes(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// Reads a key, part by part; `None` where there is no such part.
#[derive(Debug)]
pub(super) struct Parts<'a>(pub(super) &'a [u8]);

impl<'a> Parts<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(part)
    }

    /// Text.
    pub(super) fn text(&mut self) -> Option<String> {
        // A length beyond the key is no part; nothing is allocated for it.
        let len = u32::from_be_bytes(self.take(4)?.try_into().ok()?) as usize;
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }

    /// An id.
    pub(super) fn id(&mut self) -> Option<Uuid> {
        Some(Uuid(self.take(16)?.try_into().ok()?))
    }

    /// A number.
    pub(super) fn number(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?) ^ i64::MIN)
    }

    /// One byte.
    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }
}

/// A value as JSON: readable, and an older version's entry loads with today's defaults.
#[allow(clippy::expect_used)]
pub(super) fn json<T: serde::Serialize>(value: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("I4: a state entry has only string and integer keys"))
}

/// The value in a JSON entry.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

/// The error for an entry that cannot be read.
pub(super) fn unreadable(key: &[u8], reason: impl ToString) -> StateError {
    StateError { key: schemas::id::hex(key), reason: reason.to_string() }
}
