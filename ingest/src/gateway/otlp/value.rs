//! Attribute values as text, numbers and content.
//!
//! Text follows OpenTelemetry's "AnyValue representation for non-OTLP protocols": scalars as JSON
//! writes them, bytes as base64, arrays and maps as JSON. Nothing here cuts or rejects a value.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use schemas::text::{Content, RawText};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::field::Form;

/// A value as text; strings are moved, not copied.
pub(super) fn into_text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        None | Some(Value::StringValueStrindex(_)) => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(value) => text_of(&value),
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(bool) => bool.to_string(),
        Value::IntValue(int) => int.to_string(),
        Value::DoubleValue(number) => number_text(*number),
        Value::BytesValue(bytes) => STANDARD.encode(bytes),
        // Keys are texts and writing to memory does not fail, so there is always a document.
        Value::ArrayValue(_) | Value::KvlistValue(_) => serde_json::to_string(&Json(value)).unwrap_or_default(),
        Value::StringValueStrindex(_) => String::new(),
    }
}

fn number_text(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        number.to_string()
    }
}

/// A value as text without moving it.
pub(super) fn text(value: Option<&AnyValue>) -> String {
    value.and_then(|value| value.value.as_ref()).map(text_of).unwrap_or_default()
}

/// A string value.
pub(super) fn as_str(value: Option<&AnyValue>) -> Option<&str> {
    match value?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// A finite number, also from text or as the only element of an array.
pub(super) fn as_number(value: Option<&AnyValue>) -> Option<f64> {
    let number = match value?.value.as_ref()? {
        Value::ArrayValue(array) if array.values.len() == 1 => as_number(array.values.first())?,
        Value::IntValue(int) => *int as f64,
        Value::DoubleValue(number) => *number,
        Value::StringValue(text) => text.parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Below this magnitude every whole number has its own `f64`.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A whole number, also from text and from a float without fraction.
pub(super) fn as_int(value: Option<&AnyValue>) -> Option<i64> {
    match value?.value.as_ref()? {
        Value::IntValue(int) => Some(*int),
        // SDKs in JavaScript have only doubles. Above 2^53 neighbouring integers share one, so that the value
        // would be a guess.
        Value::DoubleValue(number) if number.fract() == 0.0 && number.abs() < EXACT_MAX => Some(*number as i64),
        Value::StringValue(text) => text.parse().ok(),
        _ => None,
    }
}

/// Whether a value can fill a field of this form without loss.
pub(super) fn fits(form: Form, value: Option<&AnyValue>) -> bool {
    let Some(inner) = value.and_then(|value| value.value.as_ref()) else { return false };
    match form {
        Form::Text => match inner {
            Value::StringValue(text) => !text.is_empty(),
            Value::BoolValue(_) | Value::IntValue(_) | Value::DoubleValue(_) => true,
            _ => false,
        },
        Form::Count => as_int(value).is_some_and(|int| int >= 0),
        Form::Int => as_int(value).is_some(),
        Form::Number => as_number(value).is_some(),
        Form::Amount => as_number(value).is_some_and(|number| number >= 0.0),
        Form::List => match inner {
            Value::ArrayValue(array) => !array.values.is_empty(),
            Value::StringValue(text) => !text.is_empty(),
            _ => false,
        },
        Form::Content => match inner {
            Value::StringValue(text) => !text.is_empty(),
            Value::StringValueStrindex(_) => false,
            _ => true,
        },
    }
}

/// The elements of an array, of a JSON array of strings, or a scalar as the only one.
pub(super) fn into_list(value: Option<AnyValue>) -> Vec<String> {
    match value.and_then(|value| value.value) {
        Some(Value::ArrayValue(array)) => array.values.into_iter().map(|value| into_text(Some(value))).collect(),
        // Some SDKs cannot send arrays and send their JSON; text that only looks like it is the only element.
        Some(Value::StringValue(text)) if text.starts_with('[') => {
            serde_json::from_str(&text).unwrap_or_else(|_| vec![text])
        }
        other => vec![into_text(Some(AnyValue { value: other }))],
    }
}

/// Text as content, with the media type that it proves to have.
pub(super) fn content(text: String) -> Content<RawText> {
    let looks = matches!(text.as_bytes().first(), Some(b'{' | b'['));
    // SDKs cut long attributes, so that what looks like JSON often is none.
    if looks && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() {
        Content::json(text)
    } else {
        Content::plain(text)
    }
}

/// A value as JSON.
#[derive(Debug)]
pub(super) struct Json<'a>(pub(super) &'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::StringValue(text) => serializer.serialize_str(text),
            Value::BoolValue(bool) => serializer.serialize_bool(*bool),
            Value::IntValue(int) => serializer.serialize_i64(*int),
            Value::DoubleValue(number) if number.is_finite() => serializer.serialize_f64(*number),
            // JSON has no NaN and no infinity; ProtoJSON writes them as these strings.
            Value::DoubleValue(number) => serializer.serialize_str(&number_text(*number)),
            Value::BytesValue(bytes) => serializer.serialize_str(&STANDARD.encode(bytes)),
            Value::ArrayValue(array) => {
                let mut seq = serializer.serialize_seq(Some(array.values.len()))?;
                for value in &array.values {
                    seq.serialize_element(&Nullable(value.value.as_ref()))?;
                }
                seq.end()
            }
            Value::KvlistValue(list) => map(&list.values, serializer),
            Value::StringValueStrindex(_) => serializer.serialize_none(),
        }
    }
}

fn map<S: Serializer>(pairs: &[KeyValue], serializer: S) -> Result<S::Ok, S::Error> {
    let values = pairs.iter().map(|pair| pair.value.as_ref().and_then(|value| value.value.as_ref()));
    object(pairs.iter().map(|pair| pair.key.as_str()).zip(values), serializer)
}

/// A JSON object. Keys should be unique and need not be: a later one of the same name gets `#2`, `#3` ...
pub(super) fn object<'a, S: Serializer>(
    pairs: impl Iterator<Item = (&'a str, Option<&'a Value>)>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut map = serializer.serialize_map(None)?;
    for (key, value) in pairs {
        let count = seen.entry(key).or_default();
        *count += 1;
        match *count {
            // A reader of JSON would keep one of two equal keys; numbered, both can be read.
            1 => map.serialize_entry(key, &Nullable(value))?,
            count => map.serialize_entry(&format!("{key}#{count}"), &Nullable(value))?,
        }
    }
    map.end()
}

/// A value that may be absent.
#[derive(Debug)]
pub(super) struct Nullable<'a>(pub(super) Option<&'a Value>);

impl Serialize for Nullable<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(value) => Json(value).serialize(serializer),
            None => serializer.serialize_none(),
        }
    }
}
