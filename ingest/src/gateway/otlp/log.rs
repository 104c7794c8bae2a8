//! Log records: events of agents that write logs, and of instrumentations that put content there.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use schemas::id::{Sha256, TraceId};
use schemas::time::TimestampMicros;

use super::attributes::{Attributes, Ext};
use super::outcome::fails_by_name;
use super::record::{Facts, Origin, OtlpRecord, Place, check_time, micros, span_id, trace_id};
use super::source::Source;
use super::span::Fate;
use super::table::{Dialect, LOG_PREFIXES, LOGS, OtlpKind};
use super::{Context, build, value};
use crate::gateway::intake::Arrived;

/// Bit of `flags` that says that the span is recorded.
const SAMPLED: u32 = 1;

/// Maps one log record.
pub(super) fn map(
    mut log: LogRecord,
    source: &Source,
    names: &BTreeMap<TraceId, String>,
    context: &Context<'_>,
    out: &mut Vec<Arrived>,
) -> Fate {
    let name = name(&log);
    let (kind, dialect) = classify(&name, &log);
    if kind == OtlpKind::Other && !context.config.keep_other {
        return Fate::Ignored;
    }
    // The body repeats the event's name: it is no content and would be kept twice.
    if value::as_str(log.body.as_ref()) == Some(&name) {
        log.body = None;
    }
    match mapped(log, name, kind, dialect, source, names, context, out) {
        Ok(()) => Fate::Mapped,
        Err(_) if kind == OtlpKind::Other => Fate::Ignored,
        Err(reason) => Fate::Refused(reason),
    }
}

#[allow(clippy::too_many_arguments, reason = "what a record is, where it comes from, where it goes")]
fn mapped(
    mut log: LogRecord,
    name: String,
    kind: OtlpKind,
    vendor: Option<Dialect>,
    source: &Source,
    names: &BTreeMap<TraceId, String>,
    context: &Context<'_>,
    out: &mut Vec<Arrived>,
) -> Result<(), &'static str> {
    // `time_unix_nano` is optional for logs; the specification then has the time of observation stand in.
    let nanos = if log.time_unix_nano > 0 { log.time_unix_nano } else { log.observed_time_unix_nano };
    if log.time_unix_nano > 0 {
        // Who observed it, a collector on the way for one, does not change what it is.
        log.observed_time_unix_nano = 0;
    }
    // A log record has no id. By the digest of its bytes the same record gives the same events whenever it
    // is sent, and prost encodes fields in the order of their numbers.
    let origin = Origin::Log(Sha256::of(&log.encode_to_vec()));
    // Without any time the events get offsets from 0 and the arrival time is added after their digest.
    let (end, arrived_at) = match nanos {
        0 => (TimestampMicros(0), Some(context.arrived_at)),
        _ => (micros(nanos), None),
    };
    if arrived_at.is_none() {
        check_time(end, context)?;
    }
    let trace = trace_id(&log.trace_id);
    // Log records have no status: only an event's name, or Codex' own attributes, show a failure.
    let failed = fails_by_name(&name, kind) || is_codex_failure(&log, vendor);
    let mut attributes = Attributes::new(std::mem::take(&mut log.attributes));
    attributes.assign(kind, vendor);
    let facts = Facts {
        source,
        origin,
        trace_id: trace,
        span_id: span_id(&log.span_id),
        parent_id: None,
        place: Place::Root,
        name,
        vendor,
        start: end,
        end,
        arrived_at,
        failed,
    };
    let mut record = OtlpRecord::new(facts, &mut attributes, names)?;
    // A log record says nothing about its duration but in an attribute.
    record.duration_ms = -1;
    let body = log.body.take().map(|body| value::into_text(Some(body)));
    describe(log, &record.name, &mut record.ext);
    let (record, events) = build::events(kind, record, attributes, body);
    record.finish(events, out)
}

/// Event name: its field, its attribute, or a body that is one.
fn name(log: &LogRecord) -> String {
    let attribute = || log.attributes.iter().find(|pair| pair.key == "event.name");
    let named = match log.event_name.as_str() {
        "" => attribute().and_then(|pair| value::as_str(pair.value.as_ref())).unwrap_or_default(),
        name => name,
    };
    let body = value::as_str(log.body.as_ref()).unwrap_or_default();
    let is_known = |name: &str| LOG_PREFIXES.iter().any(|(_, prefix)| name.starts_with(prefix));
    // Claude Code's attribute is the short name, its body the whole one.
    let is_name = is_known(body) && body.len() <= 96 && !body.contains(char::is_whitespace);
    let name = if is_name && !is_known(named) { body } else { named };
    name.to_owned()
}

fn classify(name: &str, log: &LogRecord) -> (OtlpKind, Option<Dialect>) {
    let Some((dialect, _)) = LOG_PREFIXES.iter().find(|(_, prefix)| name.starts_with(prefix)) else {
        return (OtlpKind::Other, None);
    };
    let vendor = Some(*dialect).filter(|dialect| dialect.is_vendor());
    // A name that is not in the table but has a known prefix is still about an agent: it is kept as
    // an extension.
    let kind = LOGS.iter().find(|(_, known, _)| *known == name).map_or(OtlpKind::Extension, |(.., kind)| *kind);
    let attribute = |name: &str| log.attributes.iter().find(|pair| pair.key == name);
    let kind = match name {
        // The span of the call is its record; only if the span was not sampled is this the only record.
        "gen_ai.client.operation.exception" | "gen_ai.client.inference.operation.details"
            if span_id(&log.span_id).is_some() && log.flags & SAMPLED == SAMPLED =>
        {
            OtlpKind::Extension
        }
        // One call is a request and a stream of events: the last of these has the tokens.
        "codex.api_request" if !is_codex_failure(log, vendor) => OtlpKind::Extension,
        "codex.sse_event" if is_codex_failure(log, vendor) => OtlpKind::Model,
        "codex.sse_event" => {
            let kind = attribute("event.kind").and_then(|pair| value::as_str(pair.value.as_ref()));
            if kind == Some("response.completed") { OtlpKind::Model } else { OtlpKind::Other }
        }
        _ => kind,
    };
    (kind, vendor)
}

fn is_codex_failure(log: &LogRecord, vendor: Option<Dialect>) -> bool {
    let attribute = |name: &str| log.attributes.iter().find(|pair| pair.key == name);
    let code = attribute("http.response.status_code").and_then(|pair| value::as_int(pair.value.as_ref()));
    let message = attribute("error.message").and_then(|pair| value::as_str(pair.value.as_ref()));
    vendor == Some(Dialect::Codex) && (code.is_some_and(|code| code >= 400) || message.is_some_and(|m| !m.is_empty()))
}

/// What a log record says besides attributes and body.
fn describe(log: LogRecord, name: &str, ext: &mut Ext) {
    let mut add = |key: &str, text: String| ext.put(key.to_owned(), text);
    if !name.is_empty() {
        add("otel.event.name", name.to_owned());
    }
    if !log.event_name.is_empty() && log.event_name != name {
        add("otel.event.name", log.event_name);
    }
    if !log.severity_text.is_empty() {
        add("otel.severity", log.severity_text);
    }
    if log.dropped_attributes_count > 0 {
        add("otel.dropped_attributes_count", log.dropped_attributes_count.to_string());
    }
}
