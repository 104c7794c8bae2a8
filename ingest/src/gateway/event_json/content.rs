//! Content fields in JSON: a string, a `Content` object, or any other document.
//!
//! A document is kept as the exact text that was received: a scanner and an auditor see what the agent sent.
//! It is not interpreted.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::notes::{Notes, Path};
use super::text::{Key, string};
use crate::gateway::problem::Code;

/// The serde name of the record that is read here.
pub(super) const RECORD: &str = "Content";
/// Its fields, by the index that its derived field names take.
pub(super) const FIELDS: [&str; 5] = ["text", "redaction", "media_type", "raw_bytes", "sealed"];

/// The members that a value of a content field stands for.
pub(super) fn members<'de, E: de::Error>(
    value: &'de RawValue,
    notes: &mut Notes,
    path: Path<'_>,
) -> Result<Members<'de>, E> {
    let json = value.get();
    match json.as_bytes().first() {
        Some(b'"') => match string(value) {
            Some(text) => Ok(Members::document(text, "text/plain")),
            None => Err(notes.bad_string(path)),
        },
        Some(b'{') => match Parts::of(json) {
            Some(parts) => parts.members(notes, path),
            // An object with other members is a document of the agent's that happens to have a member `text`:
            // it is kept whole.
            None => json_document(json, notes, path),
        },
        _ => json_document(json, notes, path),
    }
}

fn json_document<'de, E: de::Error>(json: &'de str, notes: &mut Notes, path: Path<'_>) -> Result<Members<'de>, E> {
    notes.check_depth(path, json)?;
    Ok(Members::document(Cow::Borrowed(json), "application/json"))
}

/// The members of an object that may be a `Content`.
#[derive(Default)]
struct Parts<'de> {
    values: [Option<&'de RawValue>; 5],
    twice: Option<usize>,
}

impl<'de> Parts<'de> {
    /// The object, if it has a string `text` and no member that a `Content` has not.
    fn of(json: &'de str) -> Option<Self> {
        let parts: Option<Parts<'de>> = serde_json::from_str::<Object<'de>>(json).ok()?.0;
        parts.filter(|parts| parts.values[0].is_some_and(|text| text.get().starts_with('"')))
    }

    fn members<E: de::Error>(self, notes: &mut Notes, path: Path<'_>) -> Result<Members<'de>, E> {
        if let Some(index) = self.twice {
            let path = Path::Field(&path, FIELDS[index]);
            return Err(notes.error(path, Code::DuplicateField, "a member is there twice"));
        }
        let mut text = |index: usize, default: &'static str| match self.values[index] {
            None => Ok(Cow::Borrowed(default)),
            Some(value) if value.get().starts_with('"') => {
                string(value).ok_or_else(|| notes.bad_string(Path::Field(&path, FIELDS[index])))
            }
            Some(_) => Err(notes.error(Path::Field(&path, FIELDS[index]), Code::WrongType, "expected text")),
        };
        let (content, redaction, media_type) = (text(0, "")?, text(1, "")?, text(2, "text/plain")?);
        // `redaction` says what the stage `pii` has replaced. A client that sets it would claim that for raw
        // text.
        if !redaction.is_empty() {
            let detail = "content is redacted already: send it as it was written";
            return Err(notes.error(Path::Field(&path, FIELDS[1]), Code::InvalidValue, detail));
        }
        let raw_bytes = match self.values[3].map(|value| value.get().parse::<i64>()) {
            None => content.len() as i64,
            // -1 is the schema's value for an unknown length. Any other number that is not the length would be
            // false evidence.
            Some(Ok(bytes)) if bytes == -1 || bytes == content.len() as i64 => bytes,
            Some(_) => {
                let detail = "expected the bytes of text, as a whole number: leave it out";
                return Err(notes.error(Path::Field(&path, FIELDS[3]), Code::InvalidValue, detail));
            }
        };
        Ok(Members { text: content, redaction, media_type, raw_bytes, sealed: self.values[4] })
    }
}

/// `None` inside for an object that has other members.
struct Object<'de>(Option<Parts<'de>>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object<'de>, A::Error> {
                let mut parts = Some(Parts::default());
                while let Some(Key(name)) = access.next_key()? {
                    match (&mut parts, FIELDS.iter().position(|field| *field == name)) {
                        (Some(parts), Some(index)) => {
                            let before = parts.values[index].replace(access.next_value()?);
                            // Reported by the caller, which knows the path; which of the two values counts
                            // must not be decided here.
                            parts.twice = parts.twice.or(before.map(|_| index));
                        }
                        _ => {
                            access.next_value::<IgnoredAny>()?;
                            parts = None;
                        }
                    }
                }
                Ok(Object(parts))
            }
        }
        deserializer.deserialize_map(Walk)
    }
}

/// The values of a `Content`'s fields.
pub(super) struct Members<'de> {
    pub(super) text: Cow<'de, str>,
    pub(super) redaction: Cow<'de, str>,
    pub(super) media_type: Cow<'de, str>,
    pub(super) raw_bytes: i64,
    pub(super) sealed: Option<&'de RawValue>,
}

impl<'de> Members<'de> {
    fn document(text: Cow<'de, str>, media_type: &'static str) -> Self {
        let raw_bytes = text.len() as i64;
        Self { text, redaction: Cow::Borrowed(""), media_type: Cow::Borrowed(media_type), raw_bytes, sealed: None }
    }
}
