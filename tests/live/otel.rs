//! Agents with the plain OpenTelemetry SDKs send to `custody up`; what they say they sent is found in
//! ClickHouse, field by field.
//!
//! The Python SDK with two GenAI instrumentations over HTTP and gRPC, the JavaScript SDK over HTTP.
//! `CUSTODY_TEST_OTEL_PYTHON` names a Python that has `requirements-otel.txt`, `CUSTODY_TEST_OTEL_JS` a
//! copy of `otel_js` with its packages; their absence is a failure.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::up::{Up, request};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/run says how it is made"))
}

/// Runs a program that sends and prints what it sent.
fn sent(mut program: Command, endpoint: &str) -> Value {
    let output = program.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).output().expect("the program runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.trim().lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e} in {text}"))
}

fn rows(up: &Up, sql: &str) -> Vec<Value> {
    let (status, text) = request(&up.clickhouse, "POST", "/?output_format_json_quote_64bit_integers=0", sql);
    assert_eq!(status, 200, "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

/// Holds what a program says it sent against the rows of its trace.
fn check(up: &Up, report: &Value) {
    let trace = report["trace_id"].as_str().expect("a trace id");
    let calls = report["model_calls"].as_array().expect("calls");
    let tools = report["tools"].as_array().expect("tools");
    let count = |kind: &str| {
        let sql = format!(
            "SELECT count() AS n FROM custody.events WHERE trace_id = '{trace}' AND event_type = '{kind}' FORMAT JSONEachRow"
        );
        rows(up, &sql)[0]["n"].as_u64().expect("a count")
    };
    up.until("loaded", || {
        count("model.call") >= calls.len() as u64 && count("tool.call.completed") >= tools.len() as u64
    });
    let columns = "agent_id, environment, source, capture, JSONExtractString(toString(payload), 'request_model') AS model, \
                   input_tokens, output_tokens, status, error_type, tool_name, tool_call_id";
    let of = |kind: &str| {
        rows(
            up,
            &format!(
                "SELECT {columns} FROM custody.events WHERE trace_id = '{trace}' AND event_type = '{kind}' \
                 ORDER BY event_time FORMAT JSONEachRow"
            ),
        )
    };
    for row in of("model.call").iter().chain(&of("tool.call.completed")) {
        assert_eq!(row["environment"], report["environment"], "{row}");
        assert_eq!((&row["source"], &row["capture"]), (&json!("otlp"), &json!("best_effort")), "{row}");
    }
    let (found_calls, found_tools) = (of("model.call"), of("tool.call.completed"));
    assert_eq!(found_calls.len(), calls.len(), "{found_calls:?}");
    for call in calls {
        let fields = ["model", "input_tokens", "output_tokens", "status", "error_type"];
        let fits = |row: &&Value| fields.iter().all(|f| call.get(*f).is_none_or(|expected| row[*f] == *expected));
        assert!(found_calls.iter().any(|row| fits(&row)), "no row is {call}: {found_calls:#?}");
    }
    for tool in tools {
        let fits = |row: &&Value| {
            row["tool_name"] == tool["name"]
                && row["status"] == tool["status"]
                && tool.get("id").is_none_or(|id| row["tool_call_id"] == *id)
                && tool.get("error_type").is_none_or(|error| row["error_type"] == *error)
        };
        assert!(found_tools.iter().any(|row| fits(&row)), "no row is {tool}: {found_tools:#?}");
    }
}

#[test]
fn the_python_sdk_is_found_field_by_field() {
    let dir = tempfile::tempdir().expect("directory");
    let up = Up::start(dir.path());
    let python = variable("CUSTODY_TEST_OTEL_PYTHON");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/otel_python.py");
    let runs = [
        ("http/protobuf", "openai-v2"),
        ("http/protobuf", "openai-v2-latest"),
        ("http/protobuf", "openinference"),
        ("grpc", "openai-v2"),
    ];
    for (protocol, instrumentation) in runs {
        let endpoint = if protocol == "grpc" { &up.intake_grpc } else { &up.intake };
        let mut program = Command::new(&python);
        program.arg(script).args(["--protocol", protocol, "--instrumentation", instrumentation]);
        check(&up, &sent(program, &format!("http://{endpoint}")));
    }
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.ended().code(), Some(0));
}

#[test]
fn the_javascript_sdk_is_found_field_by_field() {
    let dir = tempfile::tempdir().expect("directory");
    let up = Up::start(dir.path());
    let copy = variable("CUSTODY_TEST_OTEL_JS");
    for protocol in ["http/protobuf", "http/json"] {
        let mut program = Command::new("node");
        program.arg(format!("{copy}/agent.js")).arg(protocol);
        check(&up, &sent(program, &format!("http://{}", up.intake)));
    }
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.ended().code(), Some(0));
}
