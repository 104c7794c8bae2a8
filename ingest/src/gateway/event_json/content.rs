//! Content fields in JSON: a string, a `Content` object, or any other document.
//!
//! A document is kept as the text that it came as: what a scanner and an auditor see is what the
//! agent sent. It does not look into it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemas::text::{Content, RawText};
use serde::de::value::CowStrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::notes::{Notes, Path};
use super::track::{Key, Seed, Tracked};
use crate::gateway::problem::Code;

/// The serde name of the record that is read here.
pub(super) const RECORD: &str = "Content";
/// Its fields, by the index that its derived field names take.
const FIELDS: [&str; 5] = ["text", "redaction", "media_type", "raw_bytes", "sealed"];

/// The text of a JSON string, borrowed where it has no escape; `None` where the value is no string or
/// an escape in it stands for no character.
pub(in crate::gateway) fn string<'de>(value: &'de RawValue) -> Option<Cow<'de, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    match inner.contains('\\') {
        false => Some(Cow::Borrowed(inner)),
        true => serde_json::from_str(value.get()).ok().map(Cow::Owned),
    }
}

/// Reads the value of a content field for the record's own visitor.
pub(super) fn read<'de, D, V>(tracked: Tracked<'_, '_, D>, visitor: V) -> Result<V::Value, D::Error>
where
    D: Deserializer<'de>,
    V: Visitor<'de>,
{
    let Tracked { de, notes, path } = tracked;
    let value = <&'de RawValue>::deserialize(de)?;
    let json = value.get();
    let members = match json.as_bytes().first() {
        Some(b'"') => {
            let Some(text) = string(value) else { return Err(notes.bad_string(path)) };
            Members::document(text, "text/plain")
        }
        Some(b'{') => match Parts::of(json) {
            Some(parts) => parts.members(notes, path)?,
            None => json_document(json, notes, path)?,
        },
        _ => json_document(json, notes, path)?,
    };
    visitor.visit_map(Given { members, next: 0, notes, path, error: PhantomData })
}

fn json_document<'de, E: de::Error>(json: &'de str, notes: &mut Notes, path: Path<'_>) -> Result<Members<'de>, E> {
    notes.check_depth(path, json)?;
    Ok(Members::document(Cow::Borrowed(json), "application/json"))
}

/// The content that a JSON value stands for, where no record reads it; `None` for `null`.
pub(super) fn of_value<E: de::Error>(
    value: &RawValue,
    notes: &mut Notes,
    path: Path<'_>,
) -> Result<Option<Content<RawText>>, E> {
    let mut de = serde_json::Deserializer::from_slice(value.get().as_bytes());
    let read = Option::deserialize(Tracked { de: &mut de, notes: &mut *notes, path });
    read.map_err(|_| notes.error(path, Code::InvalidValue, "the field cannot take this value"))
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
        if !redaction.is_empty() {
            let detail = "content is redacted already: send it as it was written";
            return Err(notes.error(Path::Field(&path, FIELDS[1]), Code::InvalidValue, detail));
        }
        let raw_bytes = match self.values[3].map(|value| value.get().parse::<i64>()) {
            None => content.len() as i64,
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
struct Members<'de> {
    text: Cow<'de, str>,
    redaction: Cow<'de, str>,
    media_type: Cow<'de, str>,
    raw_bytes: i64,
    sealed: Option<&'de RawValue>,
}

impl<'de> Members<'de> {
    fn document(text: Cow<'de, str>, media_type: &'static str) -> Self {
        let raw_bytes = text.len() as i64;
        Self { text, redaction: Cow::Borrowed(""), media_type: Cow::Borrowed(media_type), raw_bytes, sealed: None }
    }
}

/// Hands the members to the record's visitor, each by the index of its field.
struct Given<'de, 'c, 'p, E> {
    members: Members<'de>,
    next: usize,
    notes: &'c mut Notes,
    path: Path<'p>,
    error: PhantomData<E>,
}

impl<'de, E: de::Error> MapAccess<'de> for Given<'de, '_, '_, E> {
    type Error = E;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, E> {
        // `sealed` is the last and the only one that may be absent.
        if self.next == FIELDS.len() - usize::from(self.members.sealed.is_none()) {
            return Ok(None);
        }
        self.next += 1;
        seed.deserialize((self.next as u64 - 1).into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, E> {
        let text = |text: &mut Cow<'de, str>| CowStrDeserializer::new(std::mem::take(text));
        match (self.next, self.members.sealed) {
            (1, _) => seed.deserialize(text(&mut self.members.text)),
            (2, _) => seed.deserialize(text(&mut self.members.redaction)),
            (3, _) => seed.deserialize(text(&mut self.members.media_type)),
            (5, Some(value)) => {
                let mut de = serde_json::Deserializer::from_slice(value.get().as_bytes());
                let path = Path::Field(&self.path, FIELDS[4]);
                Seed { seed, notes: &mut *self.notes, path }.deserialize(&mut de).map_err(|_| E::custom("refused"))
            }
            _ => seed.deserialize(self.members.raw_bytes.into_deserializer()),
        }
    }
}
