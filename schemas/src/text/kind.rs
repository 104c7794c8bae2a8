//! Raw and clean text as two types, so that the compiler keeps personal data out of sinks.
//!
//! `processors::pii` alone turns one into the other (invariant I9, checked by `tests/it`).

use std::fmt;

mod private {
    // No third kind of text can be made outside of this file, so that what is not raw is clean (I9).
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
        // Logs and panics print values with `Debug`; personal data must not get there.
        write!(f, "RawText({} bytes)", self.0.len())
    }
}

impl Text for RawText {
    const VALUE_BYTES_MAX: usize = crate::limits::EVENT_BYTES_MAX;

    fn from_wire(text: String, redaction: &str) -> Result<Self, &'static str> {
        // The wire says which it is, whatever topic it came from (I9).
        if redaction.is_empty() { Ok(Self(text)) } else { Err(CLEAN_ON_RAW) }
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
        // Raw bytes do not become clean by being read as such (I9).
        if redaction.is_empty() { Err(RAW_ON_CLEAN) } else { Ok(Self(text)) }
    }
    fn as_wire(&self) -> &str {
        &self.0
    }
}
