//! Spans and log records that have no event type of ours, as extensions.
//!
//! Everything they contain is kept and nothing of it is interpreted.

use schemas::event::{Event, Extension, RawEvent};

use super::attributes::{Attributes, Ext};
use super::kind::OtlpKind;
use super::record::{Origin, OtlpRecord, Part};
use super::table::LOG_PREFIXES;
use super::value;

/// The event of a record that is kept as it is. `body` is a log record's.
pub(super) fn extension(
    kind: OtlpKind,
    record: &mut OtlpRecord<'_>,
    attributes: Attributes,
    body: Option<String>,
    out: &mut Vec<RawEvent>,
) {
    let is_log = matches!(record.origin, Origin::Log(_));
    let event_type = match kind {
        OtlpKind::Extension => own_type(record, &attributes),
        _ => None,
    };
    let event_type = event_type.unwrap_or_else(|| if is_log { "otel.log" } else { "otel.span" }.to_owned());
    let mut h = record.header(Part::Main, &event_type, record.end);
    // An extension keeps its attributes in `attributes`, so that `ext` holds only the resource's and the
    // record's own facts.
    h.ext = record.facts(h.ext).into_map();
    let mut kept = Ext::default();
    attributes.rest(&mut kept);
    let attributes = kept.into_map();
    let body = body.filter(|body| !body.is_empty()).map(value::content);
    out.push(Event::Extension(Extension { h, attributes, body }));
}

/// Longest event type of a record's own naming, bytes.
const TYPE_BYTES_MAX: usize = 96;

/// The record's own name for itself. It starts with a prefix that no type of ours has.
fn own_type(record: &OtlpRecord<'_>, attributes: &Attributes) -> Option<String> {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    let usable = |text: &str| !text.is_empty() && text.len() <= TYPE_BYTES_MAX && plain(text);
    let known = LOG_PREFIXES.iter().any(|(_, prefix)| record.name.starts_with(prefix));
    let kind = attributes.str("openinference.span.kind").map(str::to_ascii_lowercase);
    match (attributes.str("gen_ai.operation.name"), kind) {
        // Only plain names become event types: a span's name may hold an argument or an address, which would
        // give types without end.
        _ if known && usable(&record.name) => Some(record.name.clone()),
        (_, Some(kind)) if usable(&kind) => Some(format!("openinference.{kind}")),
        (Some(operation), _) if usable(operation) => Some(format!("gen_ai.{operation}")),
        _ => None,
    }
}
