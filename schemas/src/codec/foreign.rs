//! Records that another schema than ours wrote: an older or newer version of a record, or a record
//! that is not in the catalogue.
//!
//! Reads through `apache-avro`'s serde path with the writer's schema. Fields that we do not have are
//! passed over, fields that the writer did not have get their defaults. It resolves nothing: there
//! is no promotion from one type to another, which the compatibility rules rule out.

use std::collections::BTreeMap;
use std::fmt;

use apache_avro::Schema;
use apache_avro::error::Details;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{Name, RecordSchema, ResolvedSchema};
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, EnumAccess, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::datum::Fault;
use super::{Kind, SchemaError, published};
use crate::event::{EventHeader, Extension};
use crate::limits::EVENT_BYTES_MAX;
use crate::text::{CLEAN_ON_RAW, RAW_ON_CLEAN, Text};

/// Deepest nesting of a foreign schema, names resolved: no record can exhaust the stack.
const SCHEMA_DEPTH_MAX: usize = 32;
/// Most types of a foreign schema, names resolved: no record can take long without having bytes.
const SCHEMA_TYPES_MAX: usize = 10_000;

/// A schema that is not ours, ready to read with.
pub(super) struct Foreign {
    /// What its records become.
    pub(super) kind: Kind,
    reader: GenericDatumReader<'static>,
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Foreign({:?})", self.kind)
    }
}

impl Foreign {
    /// Parses a writer's schema. The schema lives as long as the process: there are few of them, and
    /// the reader borrows it.
    pub(super) fn parse(text: &str) -> Result<Self, SchemaError> {
        apache_avro::util::max_allocation_bytes(EVENT_BYTES_MAX);
        let refuse = |reason: String| SchemaError { schema: published::summary(text), reason };
        let schema = Schema::parse_str(text).map_err(|e| refuse(e.to_string()))?;
        let Schema::Record(record) = &schema else {
            return Err(refuse("it is not a record".to_owned()));
        };
        let kind = Kind::of_record(&record.name).unwrap_or(Kind::Unknown);
        let has_header = record.fields.first().is_some_and(|field| field.name == "h" && is_header(&field.schema));
        if kind == Kind::Unknown && !has_header {
            return Err(refuse("its first field is not h, an EventHeader".to_owned()));
        }
        check(&schema, kind).map_err(|reason| refuse(reason.to_owned()))?;
        let schema: &'static Schema = Box::leak(Box::new(schema));
        let reader = GenericDatumReader::builder(schema).human_readable(false).build();
        Ok(Self { kind, reader: reader.map_err(|e| refuse(e.to_string()))? })
    }

    /// Reads a record whole.
    pub(super) fn read<R: DeserializeOwned>(&self, mut body: &[u8]) -> Result<R, Fault> {
        let record = self.reader.read_deser(&mut body).map_err(|e| fault(&e))?;
        match body.is_empty() {
            true => Ok(record),
            false => Err(Fault::Truncated),
        }
    }

    /// Reads a record that is not in the catalogue: its header as it is, its fields as attributes.
    pub(super) fn read_unknown<T: Text>(&self, body: &[u8]) -> Result<Extension<T>, Fault> {
        // Nothing redacted it: where clean text is wanted it has no place.
        T::from_wire(String::new(), "").map_err(Fault::WrongTopic)?;
        let UnknownRecord { h, attributes } = self.read(body)?;
        Ok(Extension { h, attributes, body: None })
    }
}

fn is_header(schema: &Schema) -> bool {
    matches!(schema, Schema::Record(RecordSchema { name, .. }) if name.name() == "EventHeader")
}

fn fault(error: &apache_avro::Error) -> Fault {
    match error.details() {
        // A slice has no other error than its end; a length above the limit is above the value's too.
        Details::ReadBytes(_) | Details::ReadVariableIntegerBytes(_) | Details::MemoryAllocation { .. } => {
            Fault::Truncated
        }
        Details::ConvertToUtf8(_) => Fault::InvalidUtf8,
        Details::DeserializeValue(text) if text == RAW_ON_CLEAN => Fault::WrongTopic(RAW_ON_CLEAN),
        Details::DeserializeValue(text) if text == CLEAN_ON_RAW => Fault::WrongTopic(CLEAN_ON_RAW),
        _ => Fault::Malformed("it does not follow its writer's schema"),
    }
}

/// Whether every record of the schema can be read in bounded time and stack.
fn check(schema: &Schema, kind: Kind) -> Result<(), &'static str> {
    let resolved = ResolvedSchema::try_from(schema).map_err(|_| "it uses a name that it does not define")?;
    let mut walk = Walk { names: resolved.get_names(), kind, types: 0 };
    walk.visit(schema, 0).map(|_| ())
}

struct Walk<'a> {
    names: &'a std::collections::HashMap<Name, &'a Schema>,
    kind: Kind,
    types: usize,
}

impl Walk<'_> {
    /// Fewest bytes of a value of `schema`.
    fn visit(&mut self, schema: &Schema, depth: usize) -> Result<usize, &'static str> {
        self.types += 1;
        if depth > SCHEMA_DEPTH_MAX {
            return Err("it nests too deep or without end");
        }
        if self.types > SCHEMA_TYPES_MAX {
            return Err("it has too many types");
        }
        match schema {
            Schema::Ref { name } => {
                let schema = *self.names.get(name).ok_or("it uses a name that it does not define")?;
                self.visit(schema, depth + 1)
            }
            Schema::Record(record) => record
                .fields
                .iter()
                .try_fold(0, |bytes: usize, field| Ok(bytes + self.visit(&field.schema, depth + 1)?)),
            Schema::Array(array) => match self.visit(&array.items, depth + 1)? {
                0 => Err("it has an array whose items take no bytes"),
                _ => Ok(1),
            },
            Schema::Map(map) => self.visit(&map.types, depth + 1).map(|_| 1),
            Schema::Union(union) => {
                union.variants().iter().try_for_each(|variant| self.visit(variant, depth + 1).map(|_| ()))?;
                Ok(1)
            }
            Schema::Enum(_) if self.kind != Kind::Unknown => {
                Err("it has an enum, which cannot be passed over; use a string")
            }
            Schema::Null => Ok(0),
            Schema::Fixed(fixed) => Ok(fixed.size),
            _ => Ok(1),
        }
    }
}

/// A record of any schema that starts with an event header.
struct UnknownRecord {
    h: EventHeader,
    attributes: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for UnknownRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = UnknownRecord;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record that starts with an event header")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<UnknownRecord, A::Error> {
                let mut record = UnknownRecord { h: EventHeader::default(), attributes: BTreeMap::new() };
                while let Some(Key(name)) = fields.next_key()? {
                    if name == "h" {
                        record.h = fields.next_value()?;
                        continue;
                    }
                    match fields.next_value::<Any>()?.0 {
                        Value::Null => {}
                        Value::String(text) => drop(record.attributes.insert(name, text)),
                        value => drop(record.attributes.insert(name, value.to_string())),
                    }
                }
                Ok(record)
            }
        }
        // By map and not by struct: the name of the struct would have to be that of the record.
        deserializer.deserialize_map(Fields)
    }
}

/// A field name or map key.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
                Ok(Key(text.to_owned()))
            }
        }
        deserializer.deserialize_identifier(Text)
    }
}

/// Any Avro value as JSON; bytes as hexadecimal.
struct Any(Value);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an Avro value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Any, E> {
        Ok(Any(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Any, E> {
        Ok(Any(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Any, E> {
        Ok(Any(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Any, E> {
        // Not a number and the infinities have no JSON number.
        Ok(Any(serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Any, E> {
        Ok(Any(value.into()))
    }

    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<Any, E> {
        Ok(Any(crate::id::hex(value).into()))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, value: A) -> Result<Any, A::Error> {
        value.variant::<Key>().map(|(Key(symbol), _)| Any(symbol.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Any, A::Error> {
        let mut all = Vec::new();
        while let Some(Any(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Any(all.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Any, A::Error> {
        let mut all = serde_json::Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            all.insert(key, entries.next_value::<Any>()?.0);
        }
        Ok(Any(all.into()))
    }
}
