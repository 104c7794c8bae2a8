//! Limits on what an OTLP request becomes in memory, checked before it is decoded: many empty messages, and
//! attributes of a resource that every one of its spans repeats.
//!
//! An empty message takes two bytes on the wire and hundreds in memory, so a limit on the body's bytes does
//! not bound the memory. It does not decode and does not look at what attributes say.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::intake::Problem;
use super::problem::Code;

/// Most spans or log records of one request: each takes about 3 KiB as an event.
pub(super) const ITEMS_MAX: usize = 20_000;
/// Smallest average size of a message, bytes; real attributes have 9 and more.
const MESSAGE_BYTES_MIN: usize = 6;
/// Messages that a request may hold regardless of its size.
const MESSAGES_FREE: usize = 1_000;
/// Most bytes that the attributes of resources and scopes may become in all events together.
const REPEATED_BYTES_MAX: usize = 64 << 20;
/// How deep messages are counted; the decoder stops at 100.
const DEPTH_MAX: usize = 100;

/// Messages that a message of this kind holds, by field number.
struct Shape(&'static [(u64, &'static Shape)]);

static LEAF: Shape = Shape(&[]);
static VALUE: Shape = Shape(&[(5, &ARRAY), (6, &LIST)]);
static ARRAY: Shape = Shape(&[(1, &VALUE)]);
static PAIR: Shape = Shape(&[(2, &VALUE)]);
static LIST: Shape = Shape(&[(1, &PAIR)]);
static RESOURCE: Shape = Shape(&[(1, &PAIR), (3, &LEAF)]);
static SCOPE: Shape = Shape(&[(3, &PAIR)]);
static SPAN_EVENT: Shape = Shape(&[(3, &PAIR)]);
static LINK: Shape = Shape(&[(4, &PAIR)]);
/// A span or a log record: their numbers of repeated messages do not collide (9, 11, 13 and 5, 6).
static ITEM: Shape = Shape(&[(5, &VALUE), (6, &PAIR), (9, &PAIR), (11, &SPAN_EVENT), (13, &LINK), (15, &LEAF)]);
static OF_SCOPE: Shape = Shape(&[(1, &SCOPE), (2, &ITEM)]);
static OF_RESOURCE: Shape = Shape(&[(1, &RESOURCE), (2, &OF_SCOPE)]);
static REQUEST: Shape = Shape(&[(1, &OF_RESOURCE)]);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    items: usize,
    messages: usize,
}

/// Whether a protobuf body may be decoded. A malformed one may: the decoder reports what is wrong.
///
/// # Errors
/// 413.
pub(super) fn check_protobuf(bytes: &[u8]) -> Result<(), Problem> {
    let mut counts = Counts::default();
    count(bytes, &REQUEST, 0, &mut counts);
    judge(counts, bytes.len())
}

/// Whether a JSON body may be decoded: every message begins with a brace.
///
/// # Errors
/// 413.
pub(super) fn check_json(bytes: &[u8]) -> Result<(), Problem> {
    // Counted without a parser, braces in strings included: a real body has far fewer than one brace in
    // six bytes. Items are counted after the decoding, in `repeated`.
    let messages = bytes.iter().filter(|byte| **byte == b'{').count();
    judge(Counts { items: 0, messages }, bytes.len())
}

fn judge(counts: Counts, bytes: usize) -> Result<(), Problem> {
    if counts.items > ITEMS_MAX {
        return Err(too_many_items());
    }
    if counts.messages > MESSAGES_FREE + bytes / MESSAGE_BYTES_MIN {
        Err(Code::TooManyItems.problem("most of the request's messages are empty; leave them out"))
    } else {
        Ok(())
    }
}

fn too_many_items() -> Problem {
    Code::TooManyEvents.problem(format!("send at most {ITEMS_MAX} spans or log records at once"))
}

/// Counts the messages of known fields; ends at the first byte that is not protobuf.
fn count(mut bytes: &[u8], shape: &Shape, depth: usize, counts: &mut Counts) {
    counts.messages += 1;
    counts.items += usize::from(std::ptr::eq(shape, &ITEM));
    while depth < DEPTH_MAX && !bytes.is_empty() {
        let Some(field) = varint(&mut bytes) else { return };
        // Wire types of protobuf: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes. 3 and 4 are
        // groups, which OTLP does not use: the decoder will refuse them.
        match field & 7 {
            0 if varint(&mut bytes).is_some() => {}
            1 if bytes.len() >= 8 => bytes = &bytes[8..],
            5 if bytes.len() >= 4 => bytes = &bytes[4..],
            2 => {
                let len = varint(&mut bytes).and_then(|len| usize::try_from(len).ok());
                let Some((part, rest)) = len.and_then(|len| bytes.split_at_checked(len)) else { return };
                bytes = rest;
                // Only fields that hold messages are entered: a string's bytes may look like anything.
                if let Some((_, inner)) = shape.0.iter().find(|(number, _)| *number == field >> 3) {
                    count(part, inner, depth + 1, counts);
                }
            }
            _ => return,
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

/// Whether the spans may become events.
///
/// # Errors
/// 413.
pub(super) fn check_traces(request: &ExportTraceServiceRequest) -> Result<(), Problem> {
    let scopes = request.resource_spans.iter().flat_map(|of| {
        let resource = of.resource.as_ref().map_or(0, Message::encoded_len);
        of.scope_spans
            .iter()
            .map(move |of| (resource + of.scope.as_ref().map_or(0, Message::encoded_len), of.spans.len()))
    });
    repeated(scopes)
}

/// Whether the log records may become events.
///
/// # Errors
/// 413.
pub(super) fn check_logs(request: &ExportLogsServiceRequest) -> Result<(), Problem> {
    let scopes = request.resource_logs.iter().flat_map(|of| {
        let resource = of.resource.as_ref().map_or(0, Message::encoded_len);
        let scope = |scope: &Option<_>| scope.as_ref().map_or(0, Message::encoded_len);
        of.scope_logs.iter().map(move |of| (resource + scope(&of.scope), of.log_records.len()))
    });
    repeated(scopes)
}

/// Of (bytes that every item repeats, items).
fn repeated(scopes: impl Iterator<Item = (usize, usize)>) -> Result<(), Problem> {
    // Each event gets a copy of the attributes of its resource and scope: a 4 MiB resource above 10 000
    // spans is a small body and 40 GiB of events.
    let (bytes, items) = scopes.fold((0_usize, 0_usize), |(bytes, all), (each, items)| {
        (bytes.saturating_add(each.saturating_mul(items)), all + items)
    });
    if items > ITEMS_MAX {
        return Err(too_many_items());
    }
    if bytes > REPEATED_BYTES_MAX {
        let detail = format!(
            "the attributes of resources and scopes would fill {bytes} bytes in all events together, more than \
                 {REPEATED_BYTES_MAX}; send fewer items at once"
        );
        Err(Code::BodyTooLarge.problem(detail))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use proptest::prelude::*;

    use super::*;

    fn spans(resource_bytes: usize, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let attributes = vec![pair(&"x".repeat(resource_bytes))];
        let resource = Some(Resource { attributes, ..Resource::default() });
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource, scope_spans, ..Default::default() }],
        }
    }

    fn pair(value: &str) -> KeyValue {
        let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
        KeyValue { key: "service.name".to_owned(), value, ..KeyValue::default() }
    }

    fn real_span() -> Span {
        Span { trace_id: vec![1; 16], span_id: vec![1; 8], attributes: vec![pair("v"); 10], ..Span::default() }
    }

    #[test]
    fn messages_are_counted_wherever_they_are() {
        let array = Value::ArrayValue(ArrayValue { values: vec![AnyValue::default(); 3] });
        let span = Span {
            attributes: vec![KeyValue { value: Some(AnyValue { value: Some(array) }), ..KeyValue::default() }],
            events: vec![Event { attributes: vec![KeyValue::default()], ..Event::default() }],
            links: vec![Link::default(); 2],
            ..Span::default()
        };
        let mut counts = Counts::default();
        count(&spans(0, vec![span, Span::default()]).encode_to_vec(), &REQUEST, 0, &mut counts);
        // Request, resource spans, resource and its pair and value, scope spans, two spans; then of the
        // first span: pair, value, array, three values, event and its pair, two links.
        assert_eq!(counts, Counts { items: 2, messages: 8 + 10 });
    }

    #[test]
    fn empty_messages_are_refused_before_they_are_decoded_and_real_ones_are_not() {
        let many = |span: Span, n: usize| spans(10, vec![span; n]).encode_to_vec();
        check_protobuf(&many(real_span(), ITEMS_MAX)).unwrap();
        assert_eq!(check_protobuf(&many(Span::default(), ITEMS_MAX + 1)).unwrap_err().code, "too_many_events");
        let hollow = Span { attributes: vec![KeyValue::default(); 100_000], ..Span::default() };
        assert_eq!(check_protobuf(&many(hollow, 1)).unwrap_err().code, "too_many_items");
        check_json(&serde_json::to_vec(&spans(10, vec![real_span(); 5_000])).unwrap()).unwrap();
        assert_eq!(check_json("{},".repeat(10_000).as_bytes()).unwrap_err().code, "too_many_items");
    }

    #[test]
    fn what_every_span_repeats_is_bounded() {
        check_traces(&spans(10_000, vec![Span::default(); 6_000])).unwrap();
        assert_eq!(check_traces(&spans(10_000, vec![Span::default(); 7_000])).unwrap_err().code, "body_too_large");
        assert_eq!(check_traces(&spans(0, vec![Span::default(); ITEMS_MAX + 1])).unwrap_err().code, "too_many_events");
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = check_protobuf(&bytes);
            let nested = bytes.iter().fold(Vec::new(), |inner: Vec<u8>, byte| {
                let mut outer = vec![(byte % 16) << 3 | 2, u8::try_from(inner.len().min(100)).unwrap_or(0)];
                outer.extend(inner);
                outer
            });
            let _ = check_protobuf(&nested);
        }
    }
}
