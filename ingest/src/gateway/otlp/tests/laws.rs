//! Laws that hold for any request: total, lossless, deterministic, idempotent.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::ScopeSpans;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::gateway::otlp::table::{INDEXED, LOGS, ROWS, SPANS};

/// Start of the spans, nanoseconds.
const START: u64 = 1_768_208_400_000_000_000;

fn scalar() -> impl Strategy<Value = Any> {
    prop_oneof![
        "\\PC{0,12}".prop_map(Any::StringValue),
        "[0-9]{1,6}".prop_map(Any::StringValue),
        any::<bool>().prop_map(Any::BoolValue),
        any::<i64>().prop_map(Any::IntValue),
        // Short ones: reading JSON back is not exact to the last bit, and is no part of the mapping.
        any::<i32>().prop_map(|number| Any::DoubleValue(f64::from(number) / 64.0)),
        Just(Any::DoubleValue(f64::NAN)),
        Just(Any::DoubleValue(f64::NEG_INFINITY)),
        vec(any::<u8>(), 0..6).prop_map(Any::BytesValue),
        (0_i32..4).prop_map(Any::StringValueStrindex),
    ]
}

fn some(value: Option<Any>) -> Option<AnyValue> {
    Some(AnyValue { value })
}

fn value() -> impl Strategy<Value = Option<AnyValue>> {
    let nested = scalar().prop_recursive(3, 12, 4, |inner| {
        let pair = ("[a-z]{1,4}", inner.clone());
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| {
                let values = values.into_iter().map(|value| AnyValue { value: Some(value) }).collect();
                Any::ArrayValue(ArrayValue { values })
            }),
            vec(pair, 0..4).prop_map(|pairs| {
                let pair = |(key, value)| KeyValue { key, value: some(Some(value)), ..KeyValue::default() };
                Any::KvlistValue(KeyValueList { values: pairs.into_iter().map(pair).collect() })
            }),
        ]
    });
    prop_oneof![9 => nested.prop_map(|value| some(Some(value))), 1 => Just(some(None)), 1 => Just(None)]
}

/// Names of the table, with and without an index, and any other.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => proptest::sample::select(ROWS).prop_map(|row| row.attribute.to_owned()),
        2 => (proptest::sample::select(INDEXED), 0_u64..3, "(\\.[a-z.]{1,6})?")
            .prop_map(|(row, index, rest)| format!("{}{index}{rest}", row.attribute)),
        2 => "[a-z.]{0,8}",
        1 => "\\PC{0,300}",
    ]
}

fn pairs() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = (key(), value()).prop_map(|(key, value)| KeyValue { key, value, ..KeyValue::default() });
    vec(pair, 0..16)
}

fn told() -> impl Strategy<Value = Vec<KeyValue>> {
    let told = proptest::sample::select(SPANS).prop_map(|(_, key, text, _)| {
        vec![KeyValue {
            key: key.to_owned(),
            value: some(Some(Any::StringValue(text.to_owned()))),
            ..KeyValue::default()
        }]
    });
    prop_oneof![5 => told, 1 => Just(Vec::new())]
}

fn span() -> impl Strategy<Value = Span> {
    (told(), pairs(), 1_u8.., 1_u8.., vec(any::<u8>(), 0..9), 0_i32..6, any::<bool>()).prop_map(
        |(mut attributes, more, trace, span, parent, kind, failed)| {
            attributes.extend(more);
            let code = i32::from(failed) * 2;
            Span {
                trace_id: vec![trace; 16],
                span_id: vec![span; 8],
                parent_span_id: parent,
                name: "span".to_owned(),
                kind,
                start_time_unix_nano: START,
                end_time_unix_nano: START + 5_000_000,
                attributes,
                status: Some(opentelemetry_proto::tonic::trace::v1::Status { code, ..Default::default() }),
                ..Span::default()
            }
        },
    )
}

fn log() -> impl Strategy<Value = LogRecord> {
    let name =
        prop_oneof![5 => proptest::sample::select(LOGS).prop_map(|(_, name, _)| name.to_owned()), 1 => "[a-z_.]{0,20}"];
    (name, pairs(), value(), any::<bool>()).prop_map(|(event_name, attributes, body, timed)| LogRecord {
        time_unix_nano: if timed { START } else { 0 },
        event_name,
        attributes,
        body,
        ..LogRecord::default()
    })
}

fn resource() -> impl Strategy<Value = Resource> {
    pairs().prop_map(|attributes| Resource { attributes, ..Resource::default() })
}

fn traces(resource: Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }
}

fn logs(resource: Resource, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource = ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource] }
}

fn map(request: &Request) -> Mapped {
    request.map(&OtlpConfig { keep_other: true })
}

/// Every text and number in a JSON value; texts that are JSON themselves are opened.
fn leaves(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            found.insert(text.clone());
            if text.starts_with(['{', '['])
                && let Ok(inner) = serde_json::from_str::<Value>(text)
            {
                leaves(&inner, found);
            }
        }
        Value::Number(number) => {
            found.insert(number.to_string());
            found.extend(number.as_f64().map(|number| number.to_string()));
        }
        Value::Bool(bool) => _ = found.insert(bool.to_string()),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| leaves(field, found)),
        Value::Null => {}
    }
}

/// Every leaf of an attribute's value as text.
fn parts(value: Option<&AnyValue>, into: &mut Vec<String>) {
    match value.and_then(|value| value.value.as_ref()) {
        None | Some(Any::StringValueStrindex(_)) => {}
        Some(Any::ArrayValue(array)) => array.values.iter().for_each(|value| parts(Some(value), into)),
        Some(Any::KvlistValue(list)) => list.values.iter().for_each(|pair| parts(pair.value.as_ref(), into)),
        Some(_) => into.push(value::text(value)),
    }
}

fn check_nothing_is_lost(mapped: &Mapped, attributes: &[KeyValue]) -> Result<(), TestCaseError> {
    let mut found = BTreeSet::new();
    for arrived in &mapped.events {
        leaves(&json_of(&arrived.event).0, &mut found);
    }
    for pair in attributes {
        let mut wanted = Vec::new();
        parts(pair.value.as_ref(), &mut wanted);
        for text in wanted.into_iter().filter(|text| !text.is_empty()) {
            // A number may have become one: 007 is 7, 1e3 is 1000.
            let number = text.parse::<f64>().ok().map(|number| number.to_string());
            let kept = found.contains(&text) || number.is_some_and(|number| found.contains(&number));
            prop_assert!(kept, "{:?} of {:?} is lost", text, pair.key);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_attribute_of_a_span_is_lost(resource in resource(), span in span()) {
        let attributes = [resource.attributes.clone(), span.attributes.clone()].concat();
        let mapped = map(&Request::Traces(traces(resource, vec![span])));
        prop_assert_eq!(&mapped.error_message, "");
        check_nothing_is_lost(&mapped, &attributes)?;
    }

    #[test]
    fn no_attribute_of_a_log_record_is_lost(resource in resource(), log in log()) {
        let attributes = [resource.attributes.clone(), log.attributes.clone()].concat();
        let mapped = map(&Request::Logs(logs(resource, vec![log])));
        prop_assert_eq!(&mapped.error_message, "");
        check_nothing_is_lost(&mapped, &attributes)?;
    }

    #[test]
    fn mapping_again_gives_the_same(resource in resource(), spans in vec(span(), 0..4), records in vec(log(), 0..4)) {
        let traces = Request::Traces(traces(resource.clone(), spans));
        let logs = Request::Logs(logs(resource, records));
        prop_assert_eq!(map(&traces), map(&traces));
        prop_assert_eq!(map(&logs), map(&logs));
        prop_assert_eq!(map(&traces.through_protobuf()), map(&traces));
    }

    #[test]
    fn a_span_is_the_same_event_in_any_request(resource in resource(), spans in vec(span(), 2..5)) {
        let whole = map(&Request::Traces(traces(resource.clone(), spans.clone())));
        let mut apart: Vec<Arrived> = Vec::new();
        for span in spans {
            apart.extend(map(&Request::Traces(traces(resource.clone(), vec![span]))).events);
        }
        let key = |arrived: &Arrived| (arrived.event.h().event_id, arrived.content_sha256);
        let whole: BTreeSet<_> = whole.events.iter().map(key).collect();
        prop_assert_eq!(whole, apart.iter().map(key).collect::<BTreeSet<_>>());
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            if let Ok(request) = decode_traces(&bytes, encoding) {
                map(&Request::Traces(request));
            }
            if let Ok(request) = decode_logs(&bytes, encoding) {
                map(&Request::Logs(request));
            }
        }
    }
}
