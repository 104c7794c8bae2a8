//! The record `Content`: the only field of an event that may hold free text.
//!
//! Written by hand and not generated, because its text is raw or clean by type.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};

use super::Sealed;
use crate::text::kind::{RawText, Text};

/// Free text that may hold personal data; the only place for it in an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Content<T: Text> {
    /// Raw text where `redaction` is empty, else redacted text.
    pub text: T,
    /// Empty for raw text; for clean text the policy that produced it, "name@version".
    pub redaction: String,
    /// `text/plain` or `application/json`.
    pub media_type: String,
    /// Length of the raw text in bytes; -1 unknown.
    pub raw_bytes: i64,
    /// The original, sealed under a destroyable key, where the policy keeps it.
    pub sealed: Option<Sealed>,
}

impl Content<RawText> {
    /// Plain text.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::typed(text.into(), "text/plain")
    }

    /// A JSON document.
    pub fn json(text: impl Into<String>) -> Self {
        Self::typed(text.into(), "application/json")
    }

    fn typed(text: String, media_type: &str) -> Self {
        let raw_bytes = i64::try_from(text.len()).unwrap_or(i64::MAX);
        Self {
            text: RawText::new(text),
            redaction: String::new(),
            media_type: media_type.to_owned(),
            raw_bytes,
            sealed: None,
        }
    }
}

impl<T: Text> Serialize for Content<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut record = serializer.serialize_struct("Content", 5)?;
        record.serialize_field("text", self.text.as_wire())?;
        record.serialize_field("redaction", &self.redaction)?;
        record.serialize_field("media_type", &self.media_type)?;
        record.serialize_field("raw_bytes", &self.raw_bytes)?;
        record.serialize_field("sealed", &self.sealed)?;
        record.end()
    }
}

/// The wire form of [`Content`], before it is known whether its text is of the wanted type.
#[derive(Deserialize)]
#[serde(rename = "Content")]
struct Wire {
    text: String,
    #[serde(default)]
    redaction: String,
    #[serde(default = "plain")]
    media_type: String,
    #[serde(default = "unknown")]
    raw_bytes: i64,
    #[serde(default)]
    sealed: Option<Sealed>,
}

fn plain() -> String {
    "text/plain".to_owned()
}

fn unknown() -> i64 {
    -1
}

impl<'de, T: Text> Deserialize<'de> for Content<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Wire { text, redaction, media_type, raw_bytes, sealed } = Wire::deserialize(deserializer)?;
        // After all fields are read: `redaction` decides, and formats with names may give it in any order.
        let text = T::from_wire(text, &redaction).map_err(de::Error::custom)?;
        Ok(Self { text, redaction, media_type, raw_bytes, sealed })
    }
}
