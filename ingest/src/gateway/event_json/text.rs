//! JSON as text: the value of a string, the name of a member, how deep a document nests.
//!
//! It knows no event and no field.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde_json::value::RawValue;

/// The text of a JSON string, borrowed where it has no escape; `None` where the value is no string or
/// an escape in it is no character.
pub(in crate::gateway) fn string<'de>(value: &'de RawValue) -> Option<Cow<'de, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    // Most strings have no escape and are borrowed. An escaped one is parsed, because only that shows half
    // of a surrogate pair, which stands for no character.
    if inner.contains('\\') {
        serde_json::from_str(value.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// A member's name, borrowed from the body where it has no escape.
pub(super) struct Key<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// How deep valid JSON nests; 0 for a scalar.
pub(super) fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0, 0, false, false);
    // Without recursion: serde_json skips the value of a `RawValue` without its depth limit of 128, so
    // that a document of 1 MiB can nest half a million levels.
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_counts_brackets_outside_of_strings() {
        let check = |json: &str, expected: usize| assert_eq!(nesting(json), expected, "{json}");
        check("5", 0);
        check("\"[[{\"", 0);
        check("[]", 1);
        check("{\"a\":[{}],\"b\":{}}", 3);
        check("[\"\\\"[\",[]]", 2);
        check("[\"\\\\\",[]]", 2);
    }
}
