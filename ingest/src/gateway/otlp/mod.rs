//! OTLP traces and logs as events: a pure mapping by one versioned table.
//!
//! Agents that are instrumented with OpenTelemetry need no other client. The mapping reads no clock,
//! assigns no numbers and writes nothing; its events are marked `source = otlp`, `capture = best_effort`,
//! because spans are exported only after they have ended and SDKs drop spans under load.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use schemas::event::{Event, RawEvent};
use schemas::id::TraceId;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::intake::Arrived;

mod attributes;
mod build;
mod decisions;
mod decode;
mod extension;
mod field;
mod kind;
mod log;
mod lookup;
mod outcome;
mod record;
mod sessions;
mod source;
mod span;
pub mod table;
#[cfg(test)]
mod tests;
mod value;

pub use decode::{Encoding, decode_logs, decode_traces};
pub use sessions::{TRACES_MAX, TraceSessions};
pub use source::RESOURCE_ROWS;
use source::Source;
use span::Fate;

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
    /// What earlier requests said about conversations; one for all requests of a gateway.
    pub sessions: &'a TraceSessions,
}

/// The outcome of mapping a request.
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

/// The events that the spans of a request stand for, in order of their time.
pub fn map_traces(request: ExportTraceServiceRequest, context: &Context<'_>) -> Mapped {
    // A pass over all spans first: the span that names the conversation is usually the agent's, and SDKs
    // export it after its children, which end before it.
    let names = conversations(&request.resource_spans, context);
    let mut tally = Tally::default();
    for ResourceSpans { resource, scope_spans, .. } in request.resource_spans {
        let source = Source::of(resource, context);
        for scope_spans in scope_spans {
            let source = source.with_scope(scope_spans.scope, scope_spans.schema_url);
            tally.mapped.events.reserve(scope_spans.spans.len());
            for span in scope_spans.spans {
                let fate = span::map(span, &source, &names, context, &mut tally.mapped.events);
                tally.count(fate);
            }
        }
    }
    tally.finish("spans")
}

/// The events that the log records of a request stand for, in order of their time.
pub fn map_logs(request: ExportLogsServiceRequest, context: &Context<'_>) -> Mapped {
    let records = request.resource_logs.iter().flat_map(|r| &r.scope_logs).flat_map(|s| &s.log_records);
    let mut traces: Vec<TraceId> = records.filter_map(|log| record::trace_id(&log.trace_id)).collect();
    traces.dedup();
    let mut names = BTreeMap::new();
    context.sessions.recall(context.tenant_id, &traces, &mut names);
    let mut tally = Tally::default();
    for ResourceLogs { resource, scope_logs, .. } in request.resource_logs {
        let source = Source::of(resource, context);
        for scope_logs in scope_logs {
            let source = source.with_scope(scope_logs.scope, scope_logs.schema_url);
            for log in scope_logs.log_records {
                let fate = log::map(log, &source, &names, context, &mut tally.mapped.events);
                tally.count(fate);
            }
        }
    }
    tally.finish("log records")
}

/// The conversations of the request's traces: those that its own spans name, and those remembered.
fn conversations(resources: &[ResourceSpans], context: &Context<'_>) -> BTreeMap<TraceId, String> {
    let spans = || resources.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans);
    let (mut named, mut traces): (BTreeMap<TraceId, String>, Vec<TraceId>) = Default::default();
    for Span { trace_id, .. } in spans() {
        // Spans of a trace mostly stand together, so that this removes nearly all repeats.
        traces.extend(record::trace_id(trace_id).filter(|trace| traces.last() != Some(trace)));
    }
    for span in spans() {
        let Some(trace) = record::trace_id(&span.trace_id).filter(|trace| !named.contains_key(trace)) else { continue };
        if let Some(name) = span::conversation(span) {
            named.insert(trace, name);
        }
    }
    // Learnt before recalled: of two requests at the same time the one that learns first decides for both.
    context.sessions.learn(context.tenant_id, &named);
    // Recalled names replace those of this request: a trace stays in the session that was named first.
    context.sessions.recall(context.tenant_id, &traces, &mut named);
    named
}

/// What became of the spans or records so far.
#[derive(Debug, Default)]
struct Tally {
    mapped: Mapped,
    reasons: BTreeMap<&'static str, i64>,
}

impl Tally {
    fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Mapped => {}
            Fate::Ignored => self.mapped.ignored += 1,
            Fate::Refused(reason) => {
                self.mapped.rejected += 1;
                *self.reasons.entry(reason).or_default() += 1;
            }
        }
    }

    fn finish(mut self, what: &str) -> Mapped {
        // A stable sort: events of one span with the same time keep the order in which they were made, cause
        // before effect.
        self.mapped.events.sort_by_key(|arrived| order(&arrived.event));
        if self.mapped.rejected > 0 {
            // Counts by reason: 20 000 spans with the same fault must not give an answer of megabytes, and a
            // reason holds no content.
            let reasons = self.reasons.iter().map(|(reason, count)| format!("{count} because {reason}"));
            let reasons = reasons.collect::<Vec<_>>().join(", ");
            self.mapped.error_message = format!("{} {what} refused: {reasons}", self.mapped.rejected);
        }
        self.mapped
    }
}

/// Sessions are numbered in this order. A span is exported after it has ended, so the order of arrival is not the
/// order of events, and times decide. A session's start comes before and its end after everything else,
/// although the clocks of one process may differ by a millisecond from span to span (the JavaScript SDK's do).
fn order(event: &RawEvent) -> (u8, TimestampMicros) {
    let phase = match event {
        Event::SessionStarted(_) => 0,
        Event::SessionEnded(_) => 2,
        _ => 1,
    };
    (phase, event.h().event_time)
}
