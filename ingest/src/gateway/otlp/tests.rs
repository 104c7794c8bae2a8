//! Golden requests of every dialect, and the laws of the mapping.
//!
//! `test-data/otlp/*.{traces,logs}.json` are requests; `*.expected.json` what they must come to, every
//! field that differs from its default. `UPDATE=1` rewrites the latter; review them before a commit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use prost::Message as _;
use schemas::event::{
    ApprovalDecided, DataAccessed, Delegation, DetectionRaised, EvaluationResult, Extension, ModelCall, OutputProduced,
    PolicyDecision, RateLimit, SessionEnded, SessionStarted, StepPlanned, ToolCallAttempted, ToolCallCompleted,
};
use serde_json::{Map, Value, json};

use super::*;

mod doc;
mod laws;
mod rules;

/// 2026-01-12T09:01Z, a minute after the first span of the golden requests.
const ARRIVED: TimestampMicros = TimestampMicros::from_ms(1_768_208_460_000);

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("test-data/otlp")
}

/// Paths of the golden requests, in order.
fn requests() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data()).unwrap().map(|entry| entry.unwrap().path());
    let is_request = |path: &PathBuf| {
        let name = path.to_string_lossy();
        name.ends_with(".traces.json") || name.ends_with(".logs.json")
    };
    let mut paths: Vec<PathBuf> = entries.filter(is_request).collect();
    paths.sort();
    assert!(paths.len() >= 11, "one request for each dialect");
    paths
}

/// A request of either signal.
enum Request {
    Traces(ExportTraceServiceRequest),
    Logs(ExportLogsServiceRequest),
}

impl Request {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        if path.to_string_lossy().ends_with(".traces.json") {
            Self::Traces(decode_traces(&bytes, Encoding::Json).unwrap())
        } else {
            Self::Logs(decode_logs(&bytes, Encoding::Json).unwrap())
        }
    }

    fn map(&self, config: &OtlpConfig) -> Mapped {
        let sessions = TraceSessions::default();
        let context = Context { tenant_id: "acme", arrived_at: ARRIVED, config, sessions: &sessions };
        match self {
            Self::Traces(request) => map_traces(request.clone(), &context),
            Self::Logs(request) => map_logs(request.clone(), &context),
        }
    }

    /// The same request after a round through protobuf.
    fn through_protobuf(&self) -> Self {
        match self {
            Self::Traces(request) => Self::Traces(decode_traces(&request.encode_to_vec(), Encoding::Protobuf).unwrap()),
            Self::Logs(request) => Self::Logs(decode_logs(&request.encode_to_vec(), Encoding::Protobuf).unwrap()),
        }
    }
}

/// The record and its default as JSON.
fn json_of(event: &RawEvent) -> (Value, Value) {
    macro_rules! pair {
        ($($variant:ident),*) => {
            match event {
                $(Event::$variant(record) => {
                    let mut empty = record.clone();
                    empty.clone_from(&$variant::default());
                    (serde_json::to_value(record).unwrap(), serde_json::to_value(empty).unwrap())
                })*
                other => panic!("the mapping makes no {}", other.h().event_type),
            }
        };
    }
    pair!(
        ApprovalDecided,
        DataAccessed,
        Delegation,
        DetectionRaised,
        EvaluationResult,
        Extension,
        ModelCall,
        OutputProduced,
        PolicyDecision,
        RateLimit,
        SessionEnded,
        SessionStarted,
        StepPlanned,
        ToolCallAttempted,
        ToolCallCompleted
    )
}

/// What differs from the default, with content as its text.
fn readable(value: Value, default: &Value) -> Value {
    match value {
        Value::Object(fields) if fields.contains_key("raw_bytes") => {
            let (text, media_type) = (fields["text"].clone(), fields["media_type"].as_str().unwrap_or_default());
            if media_type == "text/plain" { text } else { json!({ media_type: text }) }
        }
        Value::Object(fields) => {
            let differs = |(key, value): (String, Value)| {
                let default = default.get(&key).cloned().unwrap_or_default();
                (value != default).then(|| (key, readable(value, &default)))
            };
            Value::Object(fields.into_iter().filter_map(differs).collect::<Map<_, _>>())
        }
        other => other,
    }
}

fn readable_mapped(mapped: &Mapped) -> Value {
    let event = |arrived: &Arrived| {
        assert!(!arrived.numbered);
        let (value, default) = json_of(&arrived.event);
        let mut event = readable(value, &default);
        event["event_type"] = json!(arrived.event.h().event_type);
        event["content_sha256"] = json!(arrived.content_sha256.to_hex()[..16]);
        event
    };
    json!({
        "events": mapped.events.iter().map(event).collect::<Vec<_>>(),
        "rejected": mapped.rejected,
        "error_message": mapped.error_message,
        "ignored": mapped.ignored,
    })
}

#[test]
fn golden_requests_come_to_the_events_beside_them() {
    for path in requests() {
        let request = Request::read(&path);
        let mapped = readable_mapped(&request.map(&OtlpConfig::default()));
        let text = serde_json::to_string_pretty(&mapped).unwrap() + "\n";
        let expected = path.with_extension("expected.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&expected, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&expected).unwrap_or_default();
        let remedy = "UPDATE=1 cargo test -p ingest --all-features --lib otlp rewrites it";
        assert!(text == golden, "{}: {remedy}; it is now\n{text}", expected.display());
    }
}

#[test]
fn protobuf_and_json_come_to_the_same_events() {
    for path in requests() {
        let request = Request::read(&path);
        let config = OtlpConfig { keep_other: true };
        assert_eq!(request.map(&config), request.through_protobuf().map(&config), "{}", path.display());
    }
}

#[test]
fn every_event_passes_the_check_of_the_stages() {
    for path in requests() {
        for arrived in Request::read(&path).map(&OtlpConfig { keep_other: true }).events {
            let h = arrived.event.h();
            assert_eq!(schemas::codec::validate_header(h, ARRIVED), Ok(()), "{} {}", path.display(), h.event_type);
            let decoded = schemas::codec::codec().decode(Some(&schemas::codec::codec().encode(&arrived.event)));
            assert_eq!(decoded, Ok(arrived.event), "{}", path.display());
        }
    }
}
