//! The schemas as they are published: one self-contained text per record, and its fingerprint.
//!
//! The files in `avro/` name each other; a registry, a header of an Avro file and a fingerprint need
//! one text. Parsing Canonical Form is written here because `apache-avro` 0.22 leaves
//! `{"type":"long"}` where a logical type was, and so differs from the specification and from Java.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::OnceLock;

use apache_avro::rabin::Rabin;
use serde_json::Value;
use sha2::Digest as _;

use super::SchemaError;
use crate::event::{EventKind, SOURCES};

/// Namespace of every schema of ours.
pub const NAMESPACE: &str = "custody.v1";

/// A record's schema as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedSchema {
    /// Record name without namespace, e.g. `ModelCall`.
    pub name: String,
    /// Event type that the record was made for; empty for derived records.
    pub event_type: String,
    /// Self-contained schema: every named type is defined at its first use.
    pub json: String,
    /// CRC-64-AVRO of the Parsing Canonical Form, little-endian as in a single-object frame.
    pub fingerprint: [u8; 8],
}

/// Every record that goes over a topic, events first, in the order of [`EventKind::ALL`].
pub fn published_schemas() -> &'static [PublishedSchema] {
    static PUBLISHED: OnceLock<Vec<PublishedSchema>> = OnceLock::new();
    PUBLISHED.get_or_init(|| {
        let sources = sources();
        let events = EventKind::ALL.iter().map(|kind| (kind.record_name(), kind.event_type()));
        let derived = super::DerivedKind::ALL.iter().map(|kind| (kind.record_name(), ""));
        events.chain(derived).map(|(name, event_type)| publish(&sources, name, event_type)).collect()
    })
}

fn sources() -> BTreeMap<String, Value> {
    let parsed = SOURCES.iter().filter_map(|(_, text)| serde_json::from_str::<Value>(text).ok());
    parsed.filter_map(|schema| Some((schema["name"].as_str()?.to_owned(), schema))).collect()
}

fn publish(sources: &BTreeMap<String, Value>, name: &str, event_type: &str) -> PublishedSchema {
    let schema = inline(&Value::from(name), sources, &mut BTreeSet::new());
    let mut json = String::new();
    put_json(&schema, &mut json);
    PublishedSchema {
        name: name.to_owned(),
        event_type: event_type.to_owned(),
        fingerprint: fingerprint(&schema),
        json,
    }
}

/// Replaces the first use of every name by its definition.
fn inline(schema: &Value, sources: &BTreeMap<String, Value>, defined: &mut BTreeSet<String>) -> Value {
    match schema {
        Value::String(name) => match sources.get(name) {
            Some(definition) if defined.insert(name.clone()) => inline(definition, sources, defined),
            _ => schema.clone(),
        },
        Value::Array(branches) => branches.iter().map(|branch| inline(branch, sources, defined)).collect(),
        Value::Object(object) => {
            let mut object = object.clone();
            for key in ["fields", "items", "values"] {
                if let Some(value) = object.get_mut(key) {
                    *value = inline(value, sources, defined);
                }
            }
            if let (false, Some(ty)) = (is_definition(&object), object.get_mut("type")) {
                *ty = inline(ty, sources, defined);
            }
            Value::Object(object)
        }
        other => other.clone(),
    }
}

/// Whether the object defines a type, so that its `type` is not the name of one.
fn is_definition(object: &serde_json::Map<String, Value>) -> bool {
    object.contains_key("fields") || object.contains_key("size")
}

/// Writes JSON with the keys of a schema in the usual order, whatever order the map type keeps.
fn put_json(value: &Value, out: &mut String) {
    const ORDER: [&str; 12] = [
        "type",
        "name",
        "namespace",
        "doc",
        "event_type",
        "logicalType",
        "size",
        "items",
        "values",
        "default",
        "fields",
        "symbols",
    ];
    match value {
        Value::Array(items) => put_list(out, '[', items.iter(), ']', put_json),
        Value::Object(object) => {
            // A field's name comes before its type, a type's after it.
            let is_field = !is_definition(object);
            // `scope` is for the generator of the Rust types alone: a published schema stays what it was, byte for byte.
            let mut entries: Vec<(&String, &Value)> = object.iter().filter(|(key, _)| *key != "scope").collect();
            entries.sort_by_key(|(key, _)| {
                let rank = ORDER.iter().position(|known| known == key).unwrap_or(ORDER.len());
                (if is_field && *key == "name" { 0 } else { rank + 1 }, *key)
            });
            put_list(out, '{', entries.into_iter(), '}', |(key, value), out| {
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                put_json(value, out);
            });
        }
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

fn put_list<T>(
    out: &mut String,
    open: char,
    items: impl Iterator<Item = T>,
    close: char,
    mut put: impl FnMut(T, &mut String),
) {
    out.push(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        put(item, out);
    }
    out.push(close);
}

/// Fingerprint of a schema that somebody else wrote.
pub(super) fn fingerprint_of_text(text: &str) -> Result<[u8; 8], SchemaError> {
    let schema: Value =
        serde_json::from_str(text).map_err(|e| SchemaError { schema: summary(text), reason: e.to_string() })?;
    Ok(fingerprint(&schema))
}

/// The name in a schema's text, or its start.
pub(super) fn summary(text: &str) -> String {
    let schema: Value = serde_json::from_str(text).unwrap_or_default();
    match schema["name"].as_str() {
        Some(name) => name.to_owned(),
        None => text.chars().take(40).collect(),
    }
}

/// CRC-64-AVRO of a schema's Parsing Canonical Form, little-endian.
pub(super) fn fingerprint(schema: &Value) -> [u8; 8] {
    Rabin::digest(canonical_form(schema).as_bytes()).into()
}

/// Parsing Canonical Form (Avro 1.12 specification, "Parsing Canonical Form for Schemas").
pub(super) fn canonical_form(schema: &Value) -> String {
    let mut out = String::new();
    put_canonical(schema, "", &mut out);
    out
}

fn put_canonical(schema: &Value, namespace: &str, out: &mut String) {
    match schema {
        Value::String(name) => {
            let _ = write!(out, "{}", Value::from(full_name(name, namespace)));
        }
        Value::Array(branches) => {
            put_list(out, '[', branches.iter(), ']', |branch, out| put_canonical(branch, namespace, out));
        }
        Value::Object(object) => put_canonical_object(object, namespace, out),
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

fn put_canonical_object(object: &serde_json::Map<String, Value>, namespace: &str, out: &mut String) {
    let Some(ty) = object.get("type") else { return };
    let named = ["record", "error", "enum", "fixed"].iter().any(|named| ty == named);
    let complex = named || ty == "array" || ty == "map";
    if !complex {
        // A primitive, a name or a definition wrapped in an object: [PRIMITIVE].
        return put_canonical(ty, namespace, out);
    }
    let given = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
    let name = object.get("name").and_then(Value::as_str).map(|name| full_name(name, given)).unwrap_or_default();
    let inner = name.rsplit_once('.').map_or(given, |(namespace, _)| namespace);
    out.push('{');
    if named {
        let _ = write!(out, "\"name\":{},", Value::from(name.as_str()));
    }
    let _ = write!(out, "\"type\":{ty}");
    if let Some(Value::Array(fields)) = object.get("fields") {
        out.push_str(",\"fields\":");
        put_list(out, '[', fields.iter(), ']', |field, out| {
            let _ = write!(out, "{{\"name\":{},\"type\":", field.get("name").unwrap_or(&Value::Null));
            put_canonical(field.get("type").unwrap_or(&Value::Null), inner, out);
            out.push('}');
        });
    }
    if let Some(symbols) = object.get("symbols") {
        let _ = write!(out, ",\"symbols\":{symbols}");
    }
    for key in ["items", "values"] {
        if let Some(part) = object.get(key) {
            let _ = write!(out, ",\"{key}\":");
            put_canonical(part, inner, out);
        }
    }
    if let Some(size) = object.get("size") {
        let _ = write!(out, ",\"size\":{}", size.as_str().unwrap_or(&size.to_string()));
    }
    out.push('}');
}

/// Name with its namespace; primitive types and names that have a dot stand as they are.
fn full_name(name: &str, namespace: &str) -> String {
    const PRIMITIVE: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
    match name.contains('.') || namespace.is_empty() || PRIMITIVE.contains(&name) {
        true => name.to_owned(),
        false => format!("{namespace}.{name}"),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    /// Vectors of the Avro project, `share/test/data/schema-tests.txt`.
    #[test]
    fn fingerprints_are_those_of_the_avro_project() {
        let check = |schema: &str, canonical: &str, wanted: i64| {
            let schema: Value = serde_json::from_str(schema).expect("json");
            assert_eq!(canonical_form(&schema), canonical);
            assert_eq!(i64::from_le_bytes(fingerprint(&schema)), wanted, "{canonical}");
        };
        check(r#""null""#, r#""null""#, 7195948357588979594);
        check(r#"{"type":"null"}"#, r#""null""#, 7195948357588979594);
        check(r#""int""#, r#""int""#, 8247732601305521295);
        check(r#""string""#, r#""string""#, -8142146995180207161);
        check(r#"{"type":"long","logicalType":"timestamp-micros"}"#, r#""long""#, -3434872931120570953);
        check(
            r#"{"fields":[{"type":{"type":"long","logicalType":"x"},"name":"a","default":1}],"type":"record","name":"R","namespace":"x.y","doc":"d"}"#,
            r#"{"name":"x.y.R","type":"record","fields":[{"name":"a","type":"long"}]}"#,
            i64::from_le_bytes(
                Rabin::digest(br#"{"name":"x.y.R","type":"record","fields":[{"name":"a","type":"long"}]}"#).into(),
            ),
        );
    }

    #[test]
    fn every_published_schema_stands_alone_and_has_its_own_fingerprint() {
        let published = published_schemas();
        assert_eq!(published.len(), EventKind::ALL.len() + super::super::DerivedKind::ALL.len());
        let fingerprints: BTreeSet<[u8; 8]> = published.iter().map(|schema| schema.fingerprint).collect();
        assert_eq!(fingerprints.len(), published.len());
        for schema in published {
            let parsed = apache_avro::Schema::parse_str(&schema.json);
            assert!(parsed.is_ok(), "{}: {:?}", schema.name, parsed.err());
        }
    }
}
