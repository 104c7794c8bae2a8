//! Single rules, each as a table: sessions, agents, outcomes, numbers, refusals.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, SpanFlags, Status};
use schemas::id::Uuid;

use super::*;

/// Attributes.
type Pairs<'a> = &'a [(&'a str, &'a str)];

fn pair(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn span(trace: u8, id: u8, attributes: &[(&str, &str)]) -> Span {
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        name: "a span".to_owned(),
        start_time_unix_nano: 1_768_208_400_000_000_000,
        end_time_unix_nano: 1_768_208_400_250_000_000,
        attributes: attributes.iter().map(|(key, value)| pair(key, value)).collect(),
        ..Span::default()
    }
}

fn request(resource: &[(&str, &str)], spans: Vec<Span>) -> ExportTraceServiceRequest {
    let attributes = resource.iter().map(|(key, value)| pair(key, value)).collect();
    let resource = Some(Resource { attributes, ..Resource::default() });
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}

fn map_with(sessions: &TraceSessions, request: ExportTraceServiceRequest) -> Mapped {
    let config = OtlpConfig::default();
    map_traces(request, &Context { tenant_id: "acme", arrived_at: ARRIVED, config: &config, sessions })
}

fn events(spans: Vec<Span>) -> Vec<RawEvent> {
    let mapped = map_with(&TraceSessions::default(), request(&[("service.name", "svc")], spans));
    assert_eq!(mapped.error_message, "");
    mapped.events.into_iter().map(|arrived| arrived.event).collect()
}

fn types(spans: Vec<Span>) -> Vec<String> {
    events(spans).iter().map(|event| event.h().event_type.clone()).collect()
}

const CHAT: (&str, &str) = ("gen_ai.operation.name", "chat");
const AGENT: (&str, &str) = ("gen_ai.operation.name", "invoke_agent");
const TOOL: (&str, &str) = ("gen_ai.operation.name", "execute_tool");

#[test]
fn an_agent_ends_the_session_only_where_its_trace_is_the_session() {
    let below = |flags: u32| Span { parent_span_id: vec![9; 8], flags, ..span(1, 1, &[AGENT]) };
    let remote = SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32;
    let named = [AGENT, ("gen_ai.conversation.id", "c")];
    let answer = [AGENT, ("gen_ai.output.messages", "hi")];
    let cases = [
        (span(1, 1, &[AGENT]), vec!["session.started", "session.ended"]),
        (span(1, 1, &answer), vec!["session.started", "output.produced", "session.ended"]),
        (span(1, 1, &named), vec!["output.produced"]),
        (below(0), vec!["delegation"]),
        (below(remote), vec!["output.produced"]),
    ];
    for (span, expected) in cases {
        let shown = format!("{span:?}");
        assert_eq!(types(vec![span]), expected, "{shown}");
    }
}

#[test]
fn two_turns_of_a_conversation_do_not_end_it() {
    let turn = |trace| vec![span(trace, 1, &[CHAT]), span(trace, 2, &[AGENT, ("session.id", "s")])];
    let events = events([turn(1), turn(2)].concat());
    assert!(!events.iter().any(|event| matches!(event, Event::SessionEnded(_) | Event::SessionStarted(_))));
    let id = Uuid::derive(&[b"session", b"acme", b"s"]);
    assert!(events.iter().all(|event| event.h().session_id == id), "one session for both turns");
}

#[test]
fn a_session_is_named_by_a_uuid_by_text_or_by_its_trace() {
    let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let cases: [(Pairs<'_>, Uuid, Option<&str>); 5] = [
        (&[CHAT, ("session.id", uuid)], Uuid::from_hex(uuid).unwrap(), None),
        (&[CHAT, ("session.id", "s-1")], Uuid::derive(&[b"session", b"acme", b"s-1"]), Some("s-1")),
        (
            &[CHAT, ("session.id", "s-1"), ("gen_ai.conversation.id", "c-1")],
            Uuid::derive(&[b"session", b"acme", b"c-1"]),
            Some("c-1"),
        ),
        (&[CHAT, ("session.id", "")], Uuid([7; 16]), None),
        (&[CHAT], Uuid([7; 16]), None),
    ];
    for (attributes, id, name) in cases {
        let events = events(vec![span(7, 1, attributes)]);
        let h = events[0].h();
        assert_eq!((h.session_id, h.ext.get("session.name").map(String::as_str)), (id, name), "{attributes:?}");
    }
}

#[test]
fn a_span_that_names_no_conversation_takes_that_of_its_trace() {
    let sessions = TraceSessions::default();
    let id = Uuid::derive(&[b"session", b"acme", b"c"]);
    let alone = map_with(&TraceSessions::default(), request(&[], vec![span(3, 2, &[TOOL])]));
    // A browser's session is none of the agent's.
    map_with(&sessions, request(&[], vec![span(3, 9, &[("session.id", "browser")])]));
    map_with(&sessions, request(&[], vec![span(3, 1, &[CHAT, ("gen_ai.conversation.id", "c")])]));
    let later = map_with(&sessions, request(&[], vec![span(3, 2, &[TOOL])]));
    assert_eq!(later.events[0].event.h().session_id, id);
    assert_eq!(alone.events[0].event.h().session_id, Uuid([3; 16]));
    let digests = |mapped: &Mapped| mapped.events.iter().map(|arrived| arrived.content_sha256).collect::<Vec<_>>();
    assert_eq!(digests(&alone), digests(&later), "what was remembered is no part of what arrived");
}

#[test]
fn the_nearest_name_of_an_agent_wins() {
    let cases: [(Pairs<'_>, Pairs<'_>, &str); 5] = [
        (&[], &[CHAT], "unknown_service"),
        (&[("service.name", "svc")], &[CHAT], "svc"),
        (&[("service.name", "svc"), ("gen_ai.agent.name", "res")], &[CHAT], "res"),
        (&[("service.name", "svc")], &[CHAT, ("gen_ai.agent.name", "name")], "name"),
        (&[("service.name", "svc")], &[CHAT, ("gen_ai.agent.name", "name"), ("gen_ai.agent.id", "id")], "id"),
    ];
    for (resource, attributes, expected) in cases {
        let mapped = map_with(&TraceSessions::default(), request(resource, vec![span(1, 1, attributes)]));
        assert_eq!(mapped.events[0].event.h().agent_id, expected, "{resource:?} {attributes:?}");
    }
}

#[test]
fn outcomes_are_read_from_status_error_type_and_code() {
    let cases: [(Pairs<'_>, bool, &str, &str, usize); 8] = [
        (&[CHAT], false, "ok", "", 1),
        (&[CHAT], true, "error", "", 1),
        (&[CHAT, ("error.type", "ReadTimeout")], true, "timeout", "ReadTimeout", 1),
        (&[CHAT, ("error.type", "CancelledError")], true, "cancelled", "CancelledError", 1),
        (&[CHAT, ("error.type", "429")], true, "error", "429", 2),
        (&[CHAT, ("http.response.status_code", "503")], false, "error", "http_503", 1),
        (&[CHAT, ("http.response.status_code", "429")], true, "error", "http_429", 2),
        (&[CHAT, ("http.response.status_code", "200")], false, "ok", "", 1),
    ];
    for (attributes, failed, status, error_type, count) in cases {
        let status_of = Status { code: if failed { 2 } else { 0 }, ..Status::default() };
        let events = events(vec![Span { status: Some(status_of), ..span(1, 1, attributes) }]);
        let Event::ModelCall(call) = &events[0] else { panic!("{attributes:?}") };
        let found = (call.status.as_str(), call.error_type.as_str(), events.len());
        assert_eq!(found, (status, error_type, count), "{attributes:?}");
    }
}

#[test]
fn numbers_are_taken_only_where_nothing_is_lost() {
    let cost = |text: &str| {
        let events =
            events(vec![span(1, 1, &[CHAT, ("gen_ai.usage.cost", text), ("gen_ai.usage.input_tokens", text)])]);
        let Event::ModelCall(call) = &events[0] else { panic!("{text}") };
        (call.cost_micros, call.input_tokens, call.h.ext.contains_key("gen_ai.usage.input_tokens"))
    };
    for (text, expected) in [
        ("12", (12_000_000, 12, false)),
        ("0.0000015", (2, -1, true)),
        ("-1", (-1, -1, true)),
        ("NaN", (-1, -1, true)),
        ("1e300", (-1, -1, true)),
        ("many", (-1, -1, true)),
    ] {
        assert_eq!(cost(text), expected, "{text}");
    }
}

#[test]
fn a_long_name_is_cut_and_kept_whole_beside() {
    let long = "ä".repeat(200);
    let events = events(vec![span(1, 1, &[CHAT, ("gen_ai.agent.id", &long)])]);
    let h = events[0].h();
    assert!(h.agent_id.len() <= schemas::limits::ID_BYTES_MAX && h.agent_id.starts_with('ä'));
    assert_eq!(h.ext.get("gen_ai.agent.id"), Some(&long));
}

#[test]
fn a_person_is_no_name_in_a_header() {
    for (user, kept) in [("u-17", true), ("jane@example.com", false), ("Jane Doe", false)] {
        let events = events(vec![span(1, 1, &[CHAT, ("user.id", user)])]);
        let h = events[0].h();
        assert_eq!(h.principal.id == user, kept, "{user}");
        assert_eq!(h.ext.get("user.id").map(String::as_str), Some(user), "ext is scanned");
    }
}

#[test]
fn repeated_keys_are_all_kept_in_time_that_grows_with_their_number() {
    let mut span = span(1, 1, &[CHAT]);
    span.attributes.extend((0..20_000).map(|n| pair("x", &n.to_string())));
    let events = events(vec![span]);
    assert_eq!(events[0].h().ext.keys().filter(|key| *key == "x" || key.starts_with("x#")).count(), 20_000);
}

#[test]
fn what_is_too_large_is_refused_and_the_rest_taken() {
    let large = "x".repeat(schemas::limits::EVENT_BYTES_MAX);
    let spans = vec![span(1, 1, &[CHAT, ("gen_ai.input.messages", &large)]), span(1, 2, &[CHAT])];
    let mapped = map_with(&TraceSessions::default(), request(&[], spans));
    assert_eq!((mapped.events.len(), mapped.rejected), (1, 1));
    assert_eq!(mapped.error_message, "1 spans refused: 1 because an event would be larger than 1 MiB");
}

#[test]
fn what_says_nothing_about_an_agent_is_left_out_or_kept_as_configured() {
    let spans = || request(&[], vec![span(1, 1, &[("http.method", "GET")]), span(2, 2, &[CHAT])]);
    let sessions = TraceSessions::default();
    for (keep_other, ignored, count) in [(false, 1, 1), (true, 0, 2)] {
        let config = OtlpConfig { keep_other };
        let context = Context { tenant_id: "acme", arrived_at: ARRIVED, config: &config, sessions: &sessions };
        let mapped = map_traces(spans(), &context);
        assert_eq!((mapped.ignored, mapped.events.len(), mapped.rejected), (ignored, count, 0));
    }
}

#[test]
fn malformed_bodies_are_refused_without_their_content() {
    let cases: [(&[u8], Encoding); 5] = [
        (b"\xff\xff\xff", Encoding::Protobuf),
        (b"\x0a\x05secret", Encoding::Protobuf),
        (b"{\"resourceSpans\":\"secret\"}", Encoding::Json),
        (b"{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[{\"traceId\":\"secret\"}]}]}]}", Encoding::Json),
        (b"secret", Encoding::Json),
    ];
    for (bytes, encoding) in cases {
        let problem = decode_traces(bytes, encoding).unwrap_err();
        assert_eq!((problem.status, problem.code), (400, "invalid_otlp"));
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }
}
