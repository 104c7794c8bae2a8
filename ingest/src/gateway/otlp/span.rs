//! Spans: their kind, whether they are valid, and the facts that are not attributes.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::{Event as SpanEvent, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags};
use schemas::id::{TraceId, hex};

use super::attributes::{Attributes, Ext};
use super::record::{Facts, Origin, OtlpRecord, Place, check_time, micros, span_id, trace_id};
use super::source::Source;
use super::table::{Dialect, Field, LOG_PREFIXES, OtlpKind, ROWS, SPANS, SPANS_HINTED, SPANS_WITH};
use super::{Context, build, value};
use crate::gateway::intake::Arrived;

/// What became of a span or log record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It gave events.
    Mapped,
    /// It says nothing about an agent.
    Ignored,
    /// It cannot be an event, and why.
    Refused(&'static str),
}

/// Maps one span.
pub(super) fn map(
    span: Span,
    source: &Source,
    names: &BTreeMap<TraceId, String>,
    context: &Context<'_>,
    out: &mut Vec<Arrived>,
) -> Fate {
    let kind = classify(&span.attributes, &span);
    if kind == OtlpKind::Other && !context.config.keep_other {
        return Fate::Ignored;
    }
    match mapped(span, kind, source, names, context, out) {
        Ok(()) => Fate::Mapped,
        // A span that is kept only on request must not make a request partly fail for its times or ids.
        Err(_) if kind == OtlpKind::Other => Fate::Ignored,
        Err(reason) => Fate::Refused(reason),
    }
}

fn mapped(
    mut span: Span,
    kind: OtlpKind,
    source: &Source,
    names: &BTreeMap<TraceId, String>,
    context: &Context<'_>,
    out: &mut Vec<Arrived>,
) -> Result<(), &'static str> {
    let trace = trace_id(&span.trace_id).ok_or("its trace_id is not 16 bytes, or zero")?;
    let id = span_id(&span.span_id).ok_or("its span_id is not 8 bytes, or zero")?;
    let (start, end) = (micros(span.start_time_unix_nano), micros(span.end_time_unix_nano));
    check_time(start, context)?;
    check_time(end, context)?;
    // A negative duration would be stored as a latency.
    if end < start {
        return Err("it ends before it starts");
    }
    let failed = span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
    let mut attributes = Attributes::new(std::mem::take(&mut span.attributes));
    let mut ext = Ext::default();
    // Before the attributes are assigned: span events can hold the content of a call, which older SDKs put
    // there.
    let evaluations = fold_events(std::mem::take(&mut span.events), failed, &mut attributes, &mut ext);
    attributes.assign(kind, None);
    let facts = Facts {
        source,
        origin: Origin::Span(trace, id),
        trace_id: Some(trace),
        span_id: Some(id),
        parent_id: span_id(&span.parent_span_id),
        place: place(&span),
        name: std::mem::take(&mut span.name),
        vendor: None,
        start,
        end,
        arrived_at: None,
        failed,
    };
    let mut record = OtlpRecord::new(facts, &mut attributes, names)?;
    describe(span, &record.name, &mut ext);
    record.ext = ext;
    // Only agents' own spans are named after the agent; a tool's span name is the tool.
    if kind == OtlpKind::Agent {
        name_agent(&mut record, &attributes);
    }
    let (record, mut events) = build::events(kind, record, attributes, None);
    for (index, event) in evaluations {
        let time = micros(event.time_unix_nano);
        check_time(time, context)?;
        events.push(build::evaluation_event(&record, index, time, Attributes::new(event.attributes)));
    }
    record.finish(events, out)
}

/// What a span stands for. `span` gives its kind and name.
pub(super) fn classify(attributes: &[KeyValue], span: &Span) -> OtlpKind {
    // One pass over the attributes: this runs for every span, most of which are of no agent.
    let (mut best, mut with, mut hinted, mut is_told, mut is_gen_ai) = (usize::MAX, None, None, false, false);
    for pair in attributes {
        let name = pair.key.as_str();
        is_gen_ai |= name.starts_with("gen_ai.");
        if !telling().contains(&name) {
            continue;
        }
        with = with.or_else(|| SPANS_WITH.iter().find(|(_, attribute, _)| *attribute == name));
        hinted = hinted.or_else(|| SPANS_HINTED.iter().find(|(_, attribute, _)| *attribute == name));
        let text = value::as_str(pair.value.as_ref()).unwrap_or_default();
        let found = SPANS.iter().position(|(_, attribute, value, _)| *attribute == name && *value == text);
        best = best.min(found.unwrap_or(usize::MAX));
        is_told |= SPANS.iter().any(|(dialect, attribute, ..)| *attribute == name && *dialect != Dialect::Mcp);
    }
    let is_server = span.kind == SpanKind::Server as i32;
    match (SPANS.get(best), with) {
        // Client and server both export a span of one call. Counting both would double every call, and the
        // caller's knows the session.
        (Some((Dialect::Mcp, ..)), _) | (None, Some((Dialect::A2a, ..))) if is_server => OtlpKind::Other,
        (Some((.., kind)), _) => *kind,
        (None, Some((.., kind))) => *kind,
        // An attribute of the table with a value that it does not have: the span is about an agent, and of
        // what kind is not known.
        (None, None) if is_told => OtlpKind::Extension,
        (None, None) => match hinted {
            Some((.., kind)) => *kind,
            None if is_gen_ai || LOG_PREFIXES.iter().any(|(_, prefix)| span.name.starts_with(prefix)) => {
                OtlpKind::Extension
            }
            None => OtlpKind::Other,
        },
    }
}

/// Names of the attributes that decide what a span stands for.
fn telling() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let with = SPANS_WITH.iter().chain(SPANS_HINTED).map(|(_, name, _)| *name);
        let mut names: Vec<&str> = SPANS.iter().map(|(_, name, ..)| *name).chain(with).collect();
        names.sort_unstable();
        names.dedup();
        names
    })
}

/// The conversation that a span names, if it is about an agent: other instrumentations have sessions
/// of their own.
pub(super) fn conversation(span: &Span) -> Option<String> {
    static ROWS_OF_SESSION: OnceLock<Vec<&'static str>> = OnceLock::new();
    let rows = ROWS_OF_SESSION.get_or_init(|| {
        let rows = ROWS.iter().filter(|row| row.field == Field::Session && !row.dialect.is_vendor());
        rows.map(|row| row.attribute).collect()
    });
    let place = |pair: &KeyValue| rows.iter().position(|name| *name == pair.key);
    let best = span.attributes.iter().filter_map(|pair| Some((place(pair)?, pair))).min_by_key(|(place, _)| *place);
    let name = value::as_str(best?.1.value.as_ref()).filter(|name| !name.is_empty())?;
    // A browser's or a database's session id must not become an agent's conversation.
    (classify(&span.attributes, span) != OtlpKind::Other).then(|| name.to_owned())
}

fn place(span: &Span) -> Place {
    const KNOWN_REMOTE: u32 = SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32;
    if span_id(&span.parent_span_id).is_none() {
        Place::Root
    } else if span.flags & KNOWN_REMOTE == KNOWN_REMOTE {
        Place::Entry
    } else {
        Place::Inner
    }
}

/// An agent that no attribute names may be named by its span, or by OpenLLMetry's entity.
fn name_agent(record: &mut OtlpRecord<'_>, attributes: &Attributes) {
    if record.is_agent_named {
        return;
    }
    let entity = attributes.str("traceloop.entity.name");
    let entity = entity.filter(|_| attributes.str("traceloop.span.kind") == Some("agent"));
    let name = entity.or_else(|| record.name.strip_prefix("invoke_agent ")).map(str::to_owned);
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        record.set_agent(&name);
    }
}

/// Span events that describe their span become its attributes, evaluations are returned to become events, and
/// others are kept as `event.N.*`.
fn fold_events(
    events: Vec<SpanEvent>,
    failed: bool,
    attributes: &mut Attributes,
    ext: &mut Ext,
) -> Vec<(u32, SpanEvent)> {
    let mut evaluations = Vec::new();
    for (index, event) in (0_u32..).zip(events) {
        match event.name.as_str() {
            // An exception that was handled is no error of the span.
            "exception" if failed => attributes.extend(event.attributes),
            "gen_ai.content.prompt" | "gen_ai.content.completion" | "gen_ai.client.inference.operation.details" => {
                attributes.extend(event.attributes);
            }
            "gen_ai.evaluation.result" => evaluations.push((index, event)),
            _ => {
                let key = |name: &str| format!("event.{index}.{name}");
                ext.put(key("name"), event.name);
                ext.put(key("time_unix_nano"), event.time_unix_nano.to_string());
                for pair in event.attributes {
                    ext.put(key(&pair.key), value::into_text(pair.value));
                }
            }
        }
    }
    evaluations
}

/// What a span says besides attributes.
fn describe(span: Span, name: &str, ext: &mut Ext) {
    let mut add = |key: &str, text: String| ext.put(key.to_owned(), text);
    add("otel.span.name", name.to_owned());
    if let Ok(kind) = SpanKind::try_from(span.kind)
        && kind != SpanKind::Unspecified
    {
        add("otel.span.kind", kind.as_str_name().trim_start_matches("SPAN_KIND_").to_ascii_lowercase());
    }
    add("otel.start_time_unix_nano", span.start_time_unix_nano.to_string());
    if !span.parent_span_id.is_empty() {
        add("otel.parent_span_id", hex(&span.parent_span_id));
    }
    if let Some(message) = span.status.map(|status| status.message).filter(|message| !message.is_empty()) {
        add("otel.status.message", message);
    }
    if !span.trace_state.is_empty() {
        add("otel.trace_state", span.trace_state);
    }
    // Counts of what the SDK itself has dropped: the evidence that the span is incomplete.
    let dropped = [
        ("otel.dropped_attributes_count", span.dropped_attributes_count),
        ("otel.dropped_events_count", span.dropped_events_count),
        ("otel.dropped_links_count", span.dropped_links_count),
    ];
    for (key, count) in dropped.into_iter().filter(|(_, count)| *count > 0) {
        add(key, count.to_string());
    }
    for (index, Link { trace_id, span_id, attributes, .. }) in span.links.into_iter().enumerate() {
        add(&format!("link.{index}"), format!("{}/{}", hex(&trace_id), hex(&span_id)));
        for pair in attributes {
            add(&format!("link.{index}.{}", pair.key), value::into_text(pair.value));
        }
    }
}
