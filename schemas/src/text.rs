//! Raw and clean text as two types, so that the compiler keeps personal data out of sinks.
//!
//! `processors::pii` alone turns one into the other (invariant I9, checked by `tests/it`).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};

use crate::event::Sealed;

mod private {
    pub trait Sealed {}
    impl Sealed for super::RawText {}
    impl Sealed for super::CleanText {}
}

/// Why redacted content is refused where raw text is wanted.
pub(crate) const CLEAN_ON_RAW: &str = "content is redacted already: a clean event on a raw topic";
/// Why raw content is refused where redacted text is wanted.
pub(crate) const RAW_ON_CLEAN: &str = "content is not redacted: a raw event on a clean topic";

/// Text in a content field: [`RawText`] or [`CleanText`].
pub trait Text: private::Sealed + Clone + PartialEq + fmt::Debug + Default + 'static {
    /// Largest event value with such text that is decoded, bytes.
    const VALUE_BYTES_MAX: usize;

    /// Reads wire text; `redaction` is the content's redaction field.
    #[doc(hidden)]
    fn from_wire(text: String, redaction: &str) -> Result<Self, &'static str>;
    #[doc(hidden)]
    fn as_wire(&self) -> &str;
}

/// Text that may hold personal data. `Debug` prints its length only.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RawText(String);

impl RawText {
    /// Text as an agent wrote it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the scanner and for producers.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RawText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawText({} bytes)", self.0.len())
    }
}

impl Text for RawText {
    const VALUE_BYTES_MAX: usize = crate::limits::EVENT_BYTES_MAX;

    fn from_wire(text: String, redaction: &str) -> Result<Self, &'static str> {
        match redaction.is_empty() {
            true => Ok(Self(text)),
            false => Err(CLEAN_ON_RAW),
        }
    }
    fn as_wire(&self) -> &str {
        &self.0
    }
}

/// Text after redaction.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CleanText(String);

impl CleanText {
    /// Declares that `text` went through redaction. Only `processors::pii` may call it (I9).
    pub fn redacted(text: String) -> Self {
        Self(text)
    }

    /// The redacted text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Text for CleanText {
    const VALUE_BYTES_MAX: usize = crate::limits::DERIVED_BYTES_MAX;

    fn from_wire(text: String, redaction: &str) -> Result<Self, &'static str> {
        match redaction.is_empty() {
            false => Ok(Self(text)),
            true => Err(RAW_ON_CLEAN),
        }
    }
    fn as_wire(&self) -> &str {
        &self.0
    }
}

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
            text: RawText(text),
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
        let text = T::from_wire(text, &redaction).map_err(de::Error::custom)?;
        Ok(Self { text, redaction, media_type, raw_bytes, sealed })
    }
}
