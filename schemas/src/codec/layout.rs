//! What a schema says about bytes: the types of its values with every name resolved.
//!
//! Enough to pass over a value, to show it as JSON and to tell two types apart. Logical types are
//! their underlying types here.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, ResolvedSchema, UuidSchema};
use serde_json::Value;

use super::datum::{Datum, Fault, Input};

/// Deepest nesting, names resolved: no record can exhaust the stack.
const DEPTH_MAX: usize = 32;
/// Most types, names resolved: no record can take long without having bytes.
const TYPES_MAX: usize = 10_000;

/// The type of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Layout {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Vec<String>),
    Array(Box<Layout>),
    Map(Box<Layout>),
    Union(Vec<Layout>),
    Record(Vec<Field>),
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) layout: Layout,
    pub(super) default: Option<Value>,
}

impl Layout {
    /// The layout of a parsed schema.
    pub(super) fn of(schema: &Schema) -> Result<Self, &'static str> {
        let resolved = ResolvedSchema::try_from(schema).map_err(|_| UNDEFINED)?;
        Walk { names: resolved.get_names(), types: 0 }.visit(schema, 0)
    }

    /// Reads over a value.
    pub(super) fn skip(&self, input: &mut Input<'_>) -> Result<(), Fault> {
        match self {
            Layout::Null => Ok(()),
            Layout::Boolean => bool::read(input).map(drop),
            Layout::Int | Layout::Long | Layout::Enum(_) => input.long().map(drop),
            Layout::Float => input.bytes(4).map(drop),
            Layout::Double => input.bytes(8).map(drop),
            Layout::Fixed(size) => input.bytes(*size).map(drop),
            Layout::Bytes | Layout::Text => input.prefixed().map(drop),
            Layout::Array(item) => input.items(|input| item.skip(input)),
            Layout::Map(value) => input.items(|input| {
                input.prefixed()?;
                value.skip(input)
            }),
            Layout::Union(branches) => branch(branches, input)?.skip(input),
            Layout::Record(fields) => fields.iter().try_for_each(|field| field.layout.skip(input)),
        }
    }

    /// Reads a value as JSON; bytes as hexadecimal, numbers that JSON does not have as text.
    pub(super) fn json(&self, input: &mut Input<'_>) -> Result<Value, Fault> {
        Ok(match self {
            Layout::Null => Value::Null,
            Layout::Boolean => bool::read(input)?.into(),
            Layout::Int | Layout::Long => input.long()?.into(),
            Layout::Float => number(f64::from(f32::from_le_bytes(input.array()?))),
            Layout::Double => number(f64::read(input)?),
            Layout::Fixed(size) => crate::id::hex(input.bytes(*size)?).into(),
            Layout::Bytes => crate::id::hex(input.prefixed()?).into(),
            Layout::Text => String::read(input)?.into(),
            Layout::Enum(symbols) => branch(symbols, input)?.as_str().into(),
            Layout::Array(item) => {
                let mut items = Vec::new();
                input.items(|input| item.json(input).map(|item| items.push(item)))?;
                items.into()
            }
            Layout::Map(value) => {
                let mut entries = serde_json::Map::new();
                input.items(|input| {
                    let key = String::read(input)?;
                    entries.insert(key, value.json(input)?);
                    Ok(())
                })?;
                entries.into()
            }
            Layout::Union(branches) => branch(branches, input)?.json(input)?,
            Layout::Record(fields) => {
                let entries = fields.iter().map(|field| Ok((field.name.clone(), field.layout.json(input)?)));
                entries.collect::<Result<serde_json::Map<_, _>, Fault>>()?.into()
            }
        })
    }

    /// Appends a field's default, a value of this type in the JSON of a schema. `None` where it is not.
    pub(super) fn write_default(&self, default: &Value, out: &mut Vec<u8>) -> Option<()> {
        match (self, default) {
            (Layout::Null, Value::Null) => {}
            (Layout::Boolean, Value::Bool(value)) => value.write(out),
            (Layout::Int | Layout::Long, value) => value.as_i64()?.write(out),
            (Layout::Double, value) => value.as_f64()?.write(out),
            (Layout::Text, Value::String(text)) => text.write(out),
            // The default of a union is one of its first branch.
            (Layout::Union(branches), value) => {
                0i64.write(out);
                branches.first()?.write_default(value, out)?;
            }
            (Layout::Array(_), Value::Array(items)) if items.is_empty() => out.push(0),
            (Layout::Map(_), Value::Object(entries)) if entries.is_empty() => out.push(0),
            _ => return None,
        }
        Some(())
    }
}

/// The one of `branches` that the next number chooses.
pub(super) fn branch<'a, T>(branches: &'a [T], input: &mut Input<'_>) -> Result<&'a T, Fault> {
    let index = usize::try_from(input.long()?).ok();
    index.and_then(|index| branches.get(index)).ok_or(Fault::Malformed("a union branch or symbol that does not exist"))
}

fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}

const UNDEFINED: &str = "it uses a name that it does not define";

struct Walk<'a> {
    names: &'a HashMap<Name, &'a Schema>,
    types: usize,
}

impl Walk<'_> {
    fn visit(&mut self, schema: &Schema, depth: usize) -> Result<Layout, &'static str> {
        self.types += 1;
        if depth > DEPTH_MAX {
            return Err("it nests too deep or without end");
        }
        if self.types > TYPES_MAX {
            return Err("it has too many types");
        }
        Ok(match schema {
            Schema::Ref { name } => self.visit(self.names.get(name).ok_or(UNDEFINED)?, depth + 1)?,
            Schema::Null => Layout::Null,
            Schema::Boolean => Layout::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Layout::Int,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Layout::Long,
            Schema::Float => Layout::Float,
            Schema::Double => Layout::Double,
            Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => Layout::Bytes,
            Schema::String | Schema::Uuid(UuidSchema::String) => Layout::Text,
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                Layout::Fixed(fixed.size)
            }
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Layout::Bytes,
                InnerDecimalSchema::Fixed(fixed) => Layout::Fixed(fixed.size),
            },
            Schema::Enum(symbols) => Layout::Enum(symbols.symbols.clone()),
            Schema::Array(array) => {
                let item = self.visit(&array.items, depth + 1)?;
                if item.bytes_min() == 0 {
                    return Err("it has an array whose items take no bytes");
                }
                Layout::Array(Box::new(item))
            }
            Schema::Map(map) => Layout::Map(Box::new(self.visit(&map.types, depth + 1)?)),
            Schema::Union(union) => {
                let branches = union.variants().iter().map(|branch| self.visit(branch, depth + 1));
                Layout::Union(branches.collect::<Result<_, &str>>()?)
            }
            Schema::Record(record) => {
                let fields = record.fields.iter().map(|field| {
                    let layout = self.visit(&field.schema, depth + 1)?;
                    Ok(Field { name: field.name.clone(), layout, default: field.default.clone() })
                });
                Layout::Record(fields.collect::<Result<_, &str>>()?)
            }
        })
    }
}

impl Layout {
    /// Fewest bytes of a value.
    fn bytes_min(&self) -> usize {
        match self {
            Layout::Null => 0,
            Layout::Fixed(size) => *size,
            Layout::Record(fields) => fields.iter().map(|field| field.layout.bytes_min()).sum(),
            _ => 1,
        }
    }
}
