//! An event without its header as JSON: what the columns do not say.
//!
//! The header has columns of its own. Only clean events have a payload column (invariant I9).

use serde::{Serialize, Serializer};

use crate::event::{CleanEvent, with_record};

/// A record with a header.
pub(crate) trait Payload {
    /// Writes the fields behind the header.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
}

/// Implements [`Payload`] for a record, given its fields without the header.
macro_rules! payload {
    ($name:ident $(<$t:ident>)? { $($field:ident),* $(,)? }) => {
        impl $(<$t: $crate::text::Text>)? $crate::table::payload::Payload for $name $(<$t>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap as _;
                let mut fields = serializer.serialize_map(None)?;
                $(fields.serialize_entry(stringify!($field), &self.$field)?;)*
                fields.end()
            }
        }
    };
}
pub(crate) use payload;

/// The JSON of a clean event's fields.
pub(super) fn json(event: &CleanEvent) -> String {
    with_record!(event, record => {
        struct Fields<'a, P>(&'a P);
        impl<P: Payload> Serialize for Fields<'_, P> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }
        to_json(&Fields(record))
    })
}

/// Keys are texts and writing to memory does not fail, so there is always a document.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
