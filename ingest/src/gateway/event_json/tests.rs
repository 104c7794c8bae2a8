//! The native JSON form: what each member becomes, what is refused and where, and that every event
//! comes back as it was written.

use proptest::prelude::*;
use schemas::codec::{codec, validate_header};
use schemas::event::{Event, EventHeader, EventKind, ModelCall, Principal, Scope};
use schemas::id::{Sha256, Uuid};
use schemas::testing::{self, BROKER_TIME};
use schemas::text::Content;

use super::notes::REQUEST_ITEMS_MAX;
use super::*;
use crate::gateway::body::{MediaType, parse};
use crate::gateway::validate::ARRIVED_BYTES_MAX;

const CONTEXT: IntakeContext<'static> = IntakeContext { tenant_id: Some("acme"), arrived_at: BROKER_TIME };
const ANY_TENANT: IntakeContext<'static> = IntakeContext { tenant_id: None, arrived_at: BROKER_TIME };
const SESSION: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn json(body: &str) -> Result<Vec<Arrived>, Refusal> {
    parse(MediaType::Json, &[], body.as_bytes(), &CONTEXT)
}

/// A model call with these members besides the mandatory ones.
fn with(members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!("{{\"event_type\":\"model.call\",\"agent_id\":\"a\",\"session_id\":\"{SESSION}\"{comma}{members}}}")
}

fn one(body: &str) -> Arrived {
    let mut events = json(body).unwrap_or_else(|refusal| panic!("{refusal:?}: {body}"));
    assert_eq!(events.len(), 1);
    events.remove(0)
}

fn model_call(body: &str) -> ModelCall<RawText> {
    match one(body).event {
        Event::ModelCall(call) => call,
        other => panic!("{other:?}"),
    }
}

/// Code, field and index of every problem.
type Seen = Vec<(&'static str, Option<String>, Option<usize>)>;

fn seen(refused: Result<Vec<Arrived>, Refusal>) -> Seen {
    let refusal = refused.expect_err("refused");
    refusal.problems().map(|problem| (problem.code, problem.field.clone(), problem.index)).collect()
}

fn check_refused(body: &str, code: &'static str, field: &str) {
    let field = (!field.is_empty()).then(|| field.to_owned());
    assert_eq!(seen(json(body)), [(code, field, None)], "{body}");
}

#[test]
fn what_is_left_out_has_its_default() {
    let Arrived { event, numbered, content_sha256, .. } = one(&with(""));
    let h = event.h();
    assert!(!numbered);
    assert_eq!((h.tenant_id.as_str(), h.agent_id.as_str(), h.event_time), ("acme", "a", BROKER_TIME));
    assert_eq!(h.session_id.to_string(), SESSION);
    assert_eq!((h.source.as_str(), h.capture.as_str(), h.environment.as_str()), ("native", "best_effort", "prod"));
    assert_eq!(h.event_id, Uuid::derive(&[b"event", b"acme", &content_sha256.0]));
    let h = EventHeader { ..h.clone() };
    assert_eq!(event, Event::ModelCall(ModelCall { h, ..Default::default() }));
}

#[test]
fn members_become_fields() {
    let call = model_call(&with(
        "\"event_id\":\"01890a5d-ac96-774b-bcce-b302099a8058\",\"event_time\":\"2025-12-31T23:00:00.5Z\",\
         \"principal\":{\"type\":\"user\",\"id\":\"u1\"},\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\
         \"subject_refs\":[\"0aff\"],\"clock_error_ms\":7,\
         \"data\":{\"call_id\":\"c\",\"input_tokens\":5,\"temperature\":0.1,\"top_p\":1,\"seed\":null,\
         \"finish_reasons\":[\"stop\"]}",
    ));
    assert_eq!(call.h.event_id.to_string(), "01890a5d-ac96-774b-bcce-b302099a8058");
    assert_eq!(call.h.event_time.0, BROKER_TIME.0 - 3_599_500_000);
    assert_eq!(call.h.principal, Principal { r#type: "user".into(), id: "u1".into(), ..Default::default() });
    assert_eq!(call.h.trace_id.unwrap().to_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((call.h.subject_refs[0].0.as_slice(), call.h.clock_error_ms), ([0x0a, 0xff].as_slice(), 7));
    assert_eq!((call.call_id.as_str(), call.input_tokens, call.output_tokens), ("c", 5, -1));
    assert_eq!((call.temperature, call.top_p, call.seed), (Some(0.1), Some(1.0), None));
    assert_eq!(call.finish_reasons, ["stop"]);
}

#[test]
fn data_may_come_before_the_type() {
    let after = format!(
        "{{\"data\":{{\"call_id\":\"c\",\"x\":1}},\"session_id\":\"{SESSION}\",\"agent_id\":\"a\",\
         \"event_type\":\"model.call\"}}"
    );
    assert_eq!(one(&after), one(&with("\"data\":{\"call_id\":\"c\",\"x\":1}")));
}

#[test]
fn unknown_members_are_kept_as_text() {
    let call = model_call(&with(
        "\"ext\":{\"a\":\"1\",\"b\":2,\"c\":null},\"new\":\"té\\u0041\",\"list\":[1, 2],\
         \"principal\":{\"id\":\"u\",\"mfa\":true},\"on_behalf_of\":[{},{\"x\":1.50}],\
         \"data\":{\"h\":{},\"new\":\"y\",\"input\":null}",
    ));
    let expected = [
        ("a", "1"),
        ("b", "2"),
        ("c", "null"),
        ("data.h", "{}"),
        ("data.new", "y"),
        ("list", "[1, 2]"),
        ("new", "téA"),
        ("on_behalf_of.1.x", "1.50"),
        ("principal.mfa", "true"),
    ];
    assert_eq!(call.h.ext, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
}

#[test]
fn content_is_a_string_a_content_object_or_any_document() {
    let check = |value: &str, expected: Option<Content<RawText>>| {
        let call = model_call(&with(&format!("\"data\":{{\"input\":{value}}}")));
        assert_eq!(call.input, expected, "{value}");
    };
    check("null", None);
    check("\"\"", Some(Content::plain("")));
    check("\"a\\n\\u00e9\\ud83d\\ude00\"", Some(Content::plain("a\né😀")));
    check("{\"text\":\"x\"}", Some(Content::plain("x")));
    check("{\"text\":\"x\\\"\",\"media_type\":\"application/json\"}", Some(Content::json("x\"")));
    check("{\"text\":\"é\",\"raw_bytes\":2,\"redaction\":\"\",\"sealed\":null}", Some(Content::plain("é")));
    check("{\"text\":\"x\",\"raw_bytes\":-1}", Some(Content { raw_bytes: -1, ..Content::plain("x") }));
    check("{\"text\":\"x\",\"role\":\"user\"}", Some(Content::json("{\"text\":\"x\",\"role\":\"user\"}")));
    check("{\"text\":5}", Some(Content::json("{\"text\":5}")));
    check("{ \"b\" : 1.0 , \"a\":{} }", Some(Content::json("{ \"b\" : 1.0 , \"a\":{} }")));
    check("[1e400]", Some(Content::json("[1e400]")));
    check("5", Some(Content::json("5")));
    check("true", Some(Content::json("true")));
    let sealed = model_call(&with(
        "\"data\":{\"input\":{\"text\":\"\",\"sealed\":{\"key_id\":\"k\",\"ct\":\"0a\",\"more\":1}}}",
    ));
    assert_eq!(sealed.input.unwrap().sealed.unwrap().key_id, "k");
    assert_eq!(sealed.h.ext["data.input.sealed.more"], "1");
}

#[test]
fn types_outside_the_catalogue_become_extensions() {
    let check = |data: &str, attributes: &[(&str, &str)], body: Option<Content<RawText>>| {
        let Event::Extension(made) =
            one(&format!("{{\"event_type\":\"acme.x\",\"agent_id\":\"a\",\"data\":{data}}}")).event
        else {
            panic!("no extension: {data}")
        };
        let found: Vec<_> = made.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!((made.h.event_type.as_str(), found.as_slice(), made.body), ("acme.x", attributes, body), "{data}");
        assert!(made.h.ext.is_empty());
    };
    check("null", &[], None);
    check("{}", &[], None);
    check("{\"b\":\"2\",\"a\":{\"x\": 1}}", &[("a", "{\"x\": 1}"), ("b", "2")], None);
    check(
        "{\"attributes\":{\"a\":\"1\",\"b\":2},\"body\":\"t\"}",
        &[("a", "1"), ("b", "2")],
        Some(Content::plain("t")),
    );
    check("{\"attributes\":7,\"body\":null}", &[("attributes", "7")], None);
    check("[1,2]", &[], Some(Content::json("[1,2]")));
    check("\"text\"", &[], Some(Content::plain("text")));
}

#[test]
fn a_session_may_have_a_name() {
    let named = |name: &str| format!("{{\"event_type\":\"model.call\",\"agent_id\":\"a\",\"session_id\":\"{name}\"}}");
    let h = one(&named("chat 7")).event.h().clone();
    assert_eq!(h.session_id, Uuid::derive(&[b"session", b"acme", b"chat 7"]));
    assert_eq!(h.ext["session.name"], "chat 7");
    let h = one(&named("01890A5DAC96774BBCCEB302099A8057")).event.h().clone();
    assert_eq!((h.session_id.to_string().as_str(), h.ext.is_empty()), (SESSION, true));
    let h =
        one(&with("\"parent_session_id\":\"chat 7\",\"ext\":{\"session.parent_name\":\"chat 7\"}")).event.h().clone();
    assert_eq!(h.parent_session_id, Some(Uuid::derive(&[b"session", b"acme", b"chat 7"])));
    assert_eq!(h.ext["session.parent_name"], "chat 7");
}

#[test]
fn numbers_are_kept_together_or_given_later() {
    let numbers = "\"seq\":3,\"producer_id\":\"sdk/1\",\"producer_epoch\":9,\"producer_seq\":4";
    let hash = "11".repeat(32);
    let Arrived { event, numbered, .. } = one(&with(&format!("{numbers},\"prev_hash\":\"{hash}\"")));
    let h = event.h();
    assert!(numbered);
    assert_eq!((h.seq, h.producer_id.as_str(), h.producer_epoch, h.producer_seq), (3, "sdk/1", 9, 4));
    assert_eq!((h.prev_hash, h.capture.as_str()), (Sha256([0x11; 32]), "guaranteed"));
    let kept = one(&with(&format!("{numbers},\"capture\":\"best_effort\",\"source\":\"backfill\""))).event;
    assert_eq!((kept.h().capture.as_str(), kept.h().source.as_str()), ("best_effort", "backfill"));
    let sessionless = "{\"event_type\":\"heartbeat\",\"agent_id\":\"a\",\"seq\":-1,\"producer_id\":\"p\",\
                       \"producer_epoch\":0,\"producer_seq\":0}";
    assert_eq!(one(sessionless).event.h().seq, -1);

    let incomplete = |members: &str, field: &str| check_refused(&with(members), "incomplete_numbering", field);
    incomplete("\"seq\":3", "/producer_id");
    incomplete("\"producer_id\":\"p\",\"producer_epoch\":9,\"producer_seq\":4", "/seq");
    incomplete("\"seq\":3,\"producer_id\":\"p\",\"producer_seq\":4", "/producer_epoch");
    incomplete(&format!("\"prev_hash\":\"{hash}\""), "/seq");
    let invalid = |from: &str, to: &str, code: &'static str, field: &str| {
        check_refused(&with(&numbers.replace(from, to)), code, field);
    };
    invalid("\"seq\":3", "\"seq\":-1", "invalid_value", "/seq");
    invalid("sdk/1", "", "invalid_value", "/producer_id");
    invalid("sdk/1", "gateway/1", "reserved", "/producer_id");
    invalid("sdk/1", "custody/pii@1", "reserved", "/producer_id");
    invalid(":9", ":-9", "invalid_value", "/producer_epoch");
    invalid(":4", ":-1", "invalid_value", "/producer_seq");
    invalid("\"seq\":3", "\"seq\":3,\"capture\":\"certain\"", "invalid_value", "/capture");
    check_refused(&sessionless.replace("-1", "0"), "invalid_value", "/seq");
}

#[test]
fn wrong_members_are_named() {
    let check = |members: &str, code: &'static str, field: &str| check_refused(&with(members), code, field);
    check("\"agent_version\":5", "wrong_type", "/agent_version");
    check("\"agent_version\":null", "wrong_type", "/agent_version");
    check("\"clock_error_ms\":\"5\"", "wrong_type", "/clock_error_ms");
    check("\"clock_error_ms\":2147483648", "invalid_value", "/clock_error_ms");
    check("\"clock_error_ms\":1.5", "wrong_type", "/clock_error_ms");
    check("\"event_id\":\"7\"", "invalid_value", "/event_id");
    check("\"event_id\":7", "wrong_type", "/event_id");
    check("\"event_time\":\"yesterday\"", "invalid_value", "/event_time");
    check("\"event_time\":{}", "wrong_type", "/event_time");
    check("\"event_time\":1.5", "wrong_type", "/event_time");
    check("\"trace_id\":\"0a\"", "invalid_value", "/trace_id");
    check("\"principal\":[]", "wrong_type", "/principal");
    check("\"principal\":{\"id\":1}", "wrong_type", "/principal/id");
    check("\"on_behalf_of\":[{},{\"id\":[]}]", "wrong_type", "/on_behalf_of/1/id");
    check("\"subject_refs\":[\"xy\"]", "invalid_value", "/subject_refs/0");
    check("\"ext\":[]", "wrong_type", "/ext");
    check("\"data\":[]", "wrong_type", "/data");
    check("\"data\":{\"input_tokens\":\"many\"}", "wrong_type", "/data/input_tokens");
    check("\"data\":{\"input_tokens\":9223372036854775808}", "invalid_value", "/data/input_tokens");
    check("\"data\":{\"temperature\":\"hot\"}", "wrong_type", "/data/temperature");
    check("\"data\":{\"finish_reasons\":\"stop\"}", "wrong_type", "/data/finish_reasons");
    check("\"data\":{\"finish_reasons\":[\"a\",1]}", "wrong_type", "/data/finish_reasons/1");
    check("\"data\":{\"prompt_sha256\":\"00\"}", "invalid_value", "/data/prompt_sha256");
    let content = |value: &str, code: &'static str, field: &str| {
        check(&format!("\"data\":{{\"input\":{value}}}"), code, &format!("/data/input{field}"));
    };
    content("{\"text\":\"x\",\"media_type\":1}", "wrong_type", "/media_type");
    content("{\"text\":\"x\",\"redaction\":\"default@1\"}", "invalid_value", "/redaction");
    content("{\"text\":\"x\",\"raw_bytes\":7}", "invalid_value", "/raw_bytes");
    content("{\"text\":\"x\",\"text\":\"y\"}", "duplicate_field", "/text");
    content("{\"text\":\"x\",\"sealed\":{\"len\":\"1\"}}", "wrong_type", "/sealed/len");
    content("\"\\ud800\"", "malformed_json", "");
}

#[test]
fn a_member_twice_is_refused_wherever_it_is_read() {
    let check = |members: &str, field: &str| check_refused(&with(members), "duplicate_field", field);
    check("\"event_type\":\"model.call\"", "/event_type");
    check("\"agent_id\":\"b\"", "/agent_id");
    check("\"new\":1,\"new\":1", "");
    check("\"new\":1,\"ext\":{\"new\":1}", "/ext");
    check("\"ext\":{\"a\":1,\"a\":2}", "/ext");
    check("\"ext\":{},\"ext\":{}", "/ext");
    check("\"data\":{},\"data\":{}", "/data");
    check("\"data\":{\"call_id\":\"1\",\"call_id\":\"1\"}", "/data/call_id");
    check("\"data\":{\"new\":1,\"n\\u0065w\":1}", "/data");
    check("\"data.new\":0,\"data\":{\"new\":1}", "/data");
    check("\"principal\":{\"id\":\"\",\"id\":\"\"}", "/principal/id");
    let extension = |data: &str, field: &str| {
        let body = format!("{{\"event_type\":\"acme.x\",\"agent_id\":\"a\",\"data\":{data}}}");
        check_refused(&body, "duplicate_field", field);
    };
    extension("{\"a\":1,\"a\":1}", "/data");
    extension("{\"body\":1,\"body\":1}", "/data");
    extension("{\"attributes\":{\"a\":1,\"a\":1}}", "/data/attributes");
    extension("{\"attributes\":{\"a\":1},\"a\":1}", "/data");
    let map = "{\"event_type\":\"session.ended\",\"agent_id\":\"a\",\"session_id\":\"s\",\
               \"data\":{\"counts_by_type\":{\"a\":1,\"a\":2}}}";
    check_refused(map, "duplicate_field", "/data/counts_by_type");
    check_refused(&map.replace("\"a\":2", "\"b\":\"2\""), "wrong_type", "/data/counts_by_type");
}

#[test]
fn what_an_event_must_say_is_asked_for() {
    check_refused("{}", "missing_field", "/event_type");
    check_refused("{\"event_type\":\"\",\"agent_id\":\"a\"}", "missing_field", "/event_type");
    check_refused("{\"event_type\":\"budget\"}", "missing_field", "/agent_id");
    check_refused("{\"event_type\":\"model.call\",\"agent_id\":\"a\"}", "missing_field", "/session_id");
    check_refused(
        "{\"event_type\":\"model.call\",\"agent_id\":\"a\",\"session_id\":\"\"}",
        "missing_field",
        "/session_id",
    );
    let zeros = "00000000-0000-0000-0000-000000000000";
    let of_zeros = format!("{{\"event_type\":\"model.call\",\"agent_id\":\"a\",\"session_id\":\"{zeros}\"}}");
    check_refused(&of_zeros, "missing_field", "/session_id");
    assert!(json("{\"event_type\":\"budget\",\"agent_id\":\"a\",\"session_id\":null}").is_ok());
    for kind in EventKind::ALL.iter().copied().filter(|kind| kind.scope() == Scope::Session) {
        let body = format!("{{\"event_type\":\"{}\",\"agent_id\":\"a\"}}", kind.event_type());
        check_refused(&body, "missing_field", "/session_id");
    }
    let long = "x".repeat(257);
    check_refused(&with(&format!("\"environment\":\"{long}\"")), "too_long", "/environment");
    check_refused(&with(&format!("\"principal\":{{\"id\":\"{long}\"}}")), "too_long", "/principal");
    check_refused(&with(&format!("\"on_behalf_of\":[{{\"id\":\"{long}\"}}]")), "too_long", "/on_behalf_of");
    check_refused(&with(&format!("\"parent_session_id\":\"{long}\"")), "too_long", "/parent_session_id");
    check_refused(&with("\"spec_version\":2"), "invalid_value", "/spec_version");
    check_refused(&with("\"event_time\":0.0"), "wrong_type", "/event_time");
    check_refused(&with("\"event_time\":1"), "implausible_time", "/event_time");
    check_refused(&with("\"event_time\":\"2026-01-02T00:00:00Z\""), "implausible_time", "/event_time");
    assert!(json(&with("\"event_time\":\"2026-01-01T23:58:59Z\"")).is_ok());
}

#[test]
fn what_custody_alone_may_write_is_reserved() {
    let system = ["tick", "key.created", "key.revoked", "key.rotated", "log.closed", "log.opened"];
    for event_type in system.into_iter().chain(["schema.registered", "segment.sealed"]) {
        let body = format!("{{\"event_type\":\"{event_type}\",\"agent_id\":\"a\",\"data\":null}}");
        check_refused(&body, "reserved", "/event_type");
    }
    check_refused(&with("\"source\":\"derived\""), "reserved", "/source");
    check_refused(&with("\"capture\":\"derived\""), "reserved", "/capture");
    check_refused(&with("\"ext\":{\"custody.content_sha256\":\"\"}"), "reserved", "/ext");
    let renamed = "{\"event_type\":\"budget\",\"agent_id\":\"a\",\"session_id\":\"n\",\"session.name\":\"m\"}";
    check_refused(renamed, "reserved", "/ext");
}

#[test]
fn the_tenant_is_that_of_the_key() {
    let check = |tenant: &str, context: &IntakeContext<'_>, expected: Result<&str, (u16, &str)>| {
        let body = with(&format!("\"tenant_id\":\"{tenant}\""));
        let found = parse(MediaType::Json, &[], body.as_bytes(), context);
        let found = found.map(|events| events[0].event.h().tenant_id.clone());
        let found = found.map_err(|refusal| (refusal.status(), refusal.first.code));
        assert_eq!(found, expected.map(str::to_owned), "{tenant}");
    };
    check("acme", &CONTEXT, Ok("acme"));
    check("", &CONTEXT, Ok("acme"));
    check("other", &CONTEXT, Err((403, "wrong_tenant")));
    check("other", &ANY_TENANT, Ok("other"));
    check("", &ANY_TENANT, Err((422, "missing_field")));
    check("a/b", &ANY_TENANT, Err((422, "invalid_value")));
    check("_system", &ANY_TENANT, Err((422, "invalid_value")));
}

#[test]
fn bodies_that_hold_no_events_are_refused() {
    let check = |body: &[u8], code: &'static str| {
        let seen = seen(parse(MediaType::Json, &[], body, &CONTEXT));
        assert_eq!(seen, [(code, None, None)], "{}", String::from_utf8_lossy(body));
    };
    check(b"", "empty_body");
    check(b" \n\t", "empty_body");
    check(b"5", "wrong_type");
    check(b"null", "wrong_type");
    check(b"\"{}\"", "wrong_type");
    check(b"{", "malformed_json");
    check(b"{\"event_type\":\"budget\",\"agent_id\":\"a\"}{}", "malformed_json");
    check(b"{'a':1}", "malformed_json");
    check(b"\xef\xbb\xbf{}", "malformed_json");
    check(b"{\"agent_id\":\"\xff\"}", "malformed_json");
    check(b"{\"agent_id\":\"a\nb\"}", "malformed_json");
    check(b"{\"clock_error_ms\":1e999}", "malformed_json");
    check(b"{\"new\":\"\\ud800\"}", "malformed_json");
    assert_eq!(json("[]"), Ok(vec![]));
    assert_eq!(seen(json("[")), [("malformed_json", None, Some(0))]);
    assert_eq!(seen(json("[{},")), [("malformed_json", None, Some(1))]);
    assert_eq!(seen(json("[]]")), [("malformed_json", None, Some(0))]);
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all() {
    let (good, bad) = (with(""), with("\"agent_version\":5"));
    assert_eq!(json(&format!(" [{good}, {good}]\n")).map(|events| events.len()), Ok(2));
    let problem = |index| ("wrong_type", Some("/agent_version".to_owned()), Some(index));
    assert_eq!(seen(json(&format!("[{good},{bad},{good},{bad}]"))), [problem(1), problem(3)]);
    let many = vec![bad.as_str(); 30].join(",");
    assert_eq!(seen(json(&format!("[{many}]"))).len(), 20);
    let mixed = seen(json(&format!("[{good},5,[],{{}}]")));
    let expected = [("wrong_type", None, Some(1)), ("wrong_type", None, Some(2))];
    assert_eq!(mixed[..2], expected);
    assert_eq!(mixed[2], ("missing_field", Some("/event_type".to_owned()), Some(3)));
}

#[test]
fn lines_are_events() {
    let lines = |body: &str| parse(MediaType::Ndjson, &[], body.as_bytes(), &CONTEXT);
    let (good, bad) = (with(""), with("\"agent_version\":5"));
    assert_eq!(lines(&format!("{good}\r\n\n  \n{good}")).map(|events| events.len()), Ok(2));
    let problem = |index| ("wrong_type", Some("/agent_version".to_owned()), Some(index));
    let seen_problems = seen(lines(&format!("{good}\n{bad}\n{{\n{bad}\n")));
    assert_eq!(seen_problems, [problem(1), ("malformed_json", None, Some(2)), problem(3)]);
    assert_eq!(seen(lines("\n\n")), [("empty_body", None, None)]);
    assert_eq!(seen(lines(&format!("[{good}]"))), [("wrong_type", None, Some(0))]);
}

#[test]
fn requests_are_bounded() {
    let tiny = "{\"event_type\":\"budget\",\"agent_id\":\"a\"}";
    let batch = |count: usize| format!("[{}]", vec![tiny; count].join(","));
    assert_eq!(json(&batch(REQUEST_EVENTS_MAX)).map(|events| events.len()), Ok(REQUEST_EVENTS_MAX));
    assert_eq!(seen(json(&batch(REQUEST_EVENTS_MAX + 1))), [("too_many_events", None, None)]);
    let lines = vec![tiny; REQUEST_EVENTS_MAX + 1].join("\n");
    assert_eq!(seen(parse(MediaType::Ndjson, &[], lines.as_bytes(), &CONTEXT)), [("too_many_events", None, None)]);

    let items = |count: usize| with(&format!("\"data\":{{\"finish_reasons\":[{}]}}", vec!["\"\""; count].join(",")));
    assert!(json(&items(REQUEST_ITEMS_MAX)).is_ok());
    check_refused(&items(REQUEST_ITEMS_MAX + 1), "too_many_items", "/data/finish_reasons");
    let half = items(REQUEST_ITEMS_MAX / 2 + 1);
    let both = seen(json(&format!("[{half},{half}]")));
    assert_eq!(both, [("too_many_items", Some("/data/finish_reasons".to_owned()), Some(1))]);

    let sized = |bytes: usize| {
        with(&format!("\"event_time\":{},\"data\":{{\"input\":\"{}\"}}", BROKER_TIME.0, "x".repeat(bytes)))
    };
    let around = codec().encode(&one(&sized(70_000)).event).len() - 70_000;
    let fits = ARRIVED_BYTES_MAX - around;
    assert!(json(&sized(fits)).is_ok());
    check_refused(&sized(fits + 1), "event_too_large", "");
}

#[test]
fn nesting_is_bounded_from_the_event_on() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let check = |member: &str, depth: usize, field: &str| {
        let body = |depth: usize| with(&member.replace('@', &nested(depth)));
        assert!(json(&body(depth)).is_ok(), "{member}");
        check_refused(&body(depth + 1), "too_deep", field);
    };
    check("\"new\":@", 63, "");
    check("\"ext\":{\"new\":@}", 62, "/ext");
    check("\"data\":{\"new\":@}", 62, "/data");
    check("\"data\":{\"input\":@}", 61, "/data/input");
    check_refused(&with(&format!("\"new\":{}", "[".repeat(1_000_000))), "malformed_json", "");
    check_refused(&with(&format!("\"data\":{}", "[".repeat(1_000_000))), "wrong_type", "/data");
}

#[test]
fn no_problem_repeats_what_the_event_says() {
    let secret = "s3cret";
    let members = [
        "\"agent_version\":{\"s3cret\":\"s3cret\"}",
        "\"clock_error_ms\":\"s3cret\"",
        "\"event_id\":\"s3cret\"",
        "\"event_time\":\"s3cret\"",
        "\"trace_id\":\"s3cret\"",
        "\"tenant_id\":\"s3cret\"",
        "\"source\":\"derived\",\"s3cret\":1",
        "\"s3cret\":1,\"s3cret\":1",
        "\"ext\":{\"s3cret\":1,\"s3cret\":1}",
        "\"data\":{\"s3cret\":1,\"s3cret\":1}",
        "\"data\":\"s3cret\"",
        "\"data\":{\"prompt_sha256\":\"s3cret\"}",
        "\"data\":{\"input\":{\"text\":\"s3cret\",\"redaction\":\"s3cret\"}}",
        "\"data\":{\"input\":{\"text\":\"\",\"sealed\":{\"s3cret\":1,\"ct\":\"s3cret\"}}}",
        "\"subject_refs\":[\"s3cret\"]",
        "\"spec_version\":\"s3cret\"",
        "\"s3cret\":s3cret",
        "\"parent_session_id\":\"s3cret\",\"ext\":{\"session.parent_name\":\"other\"}",
    ];
    for members in members {
        let refusal = json(&with(members)).expect_err(members);
        assert!(!refusal.to_json().contains(secret), "{}", refusal.to_json());
    }
}

#[test]
fn the_digest_is_of_what_is_said_and_not_of_how() {
    let digest = |body: &str, at: i64| {
        let context = IntakeContext { arrived_at: BROKER_TIME.plus_ms(at), ..CONTEXT };
        let events = parse(MediaType::Json, &[], body.as_bytes(), &context).expect(body);
        (events[0].content_sha256, events[0].event.h().event_id)
    };
    let first = digest(&with("\"data\":{\"call_id\":\"c\",\"attempt\":2}"), 0);
    assert_eq!(first, digest(&with("\"data\" : {\"attempt\":2, \"call_id\":\"\\u0063\"}"), 5_000));
    assert_ne!(first, digest(&with("\"data\":{\"call_id\":\"d\",\"attempt\":2}"), 0));
    assert_ne!(first, digest(&with("\"event_time\":1767225600000000,\"data\":{\"call_id\":\"c\",\"attempt\":2}"), 0));
}

/// An event that a client may send with its own numbers.
fn sendable(kind: EventKind, seed: u64) -> RawEvent {
    let mut event: RawEvent = testing::event(kind, seed);
    let h = event.h_mut();
    h.producer_id = format!("sdk/{seed}");
    h.producer_epoch = h.producer_epoch.saturating_abs();
    h.capture = "guaranteed".to_owned();
    event
}

fn kind() -> impl Strategy<Value = EventKind> {
    let may_be_sent = |kind: &&EventKind| {
        let body = format!("{{\"event_type\":\"{}\",\"agent_id\":\"a\",\"session_id\":\"s\"}}", kind.event_type());
        json(&body).is_ok()
    };
    let kinds: Vec<EventKind> = EventKind::ALL.iter().filter(may_be_sent).copied().collect();
    assert_eq!(kinds.len(), EventKind::ALL.len() - 8);
    proptest::sample::select(kinds)
}

proptest! {
    #[test]
    fn every_event_comes_back_as_it_was_written(kind in kind(), seed in any::<u64>()) {
        let event = sendable(kind, seed);
        let body = testing::intake_json(&event);
        let arrived = parse(MediaType::Json, &[], body.as_bytes(), &ANY_TENANT);
        prop_assert!(arrived.is_ok(), "{:?}: {}", arrived, body);
        let arrived = arrived.unwrap();
        prop_assert!(arrived[0].numbered);
        prop_assert_eq!(&arrived[0].event, &event);
        // Through `Value` its members are sorted, so that `data` comes before `event_type`.
        let sorted = serde_json::from_str::<serde_json::Value>(&body).unwrap().to_string();
        prop_assert_eq!(&parse(MediaType::Json, &[], sorted.as_bytes(), &ANY_TENANT), &Ok(arrived.clone()));
        let lines = format!("{body}\n{sorted}\n");
        let twice = Ok(vec![arrived[0].clone(), arrived[0].clone()]);
        prop_assert_eq!(parse(MediaType::Ndjson, &[], lines.as_bytes(), &ANY_TENANT), twice);
    }

    #[test]
    fn what_is_taken_is_no_dead_letter(kind in kind(), seed in any::<u64>()) {
        let body = testing::intake_json(&sendable(kind, seed));
        let unnumbered = body.replacen("\"seq\":", "\"was_seq\":", 1).replacen("\"prev_hash\":", "\"was_hash\":", 1);
        let unnumbered = unnumbered.replace("\"producer_", "\"was_of_");
        for body in [body, unnumbered] {
            let arrived = parse(MediaType::Json, &[], body.as_bytes(), &ANY_TENANT).expect("taken").remove(0);
            prop_assert_eq!(validate_header(arrived.event.h(), BROKER_TIME), Ok(()));
            prop_assert_eq!(codec().decode::<RawText>(Some(&codec().encode(&arrived.event))), Ok(arrived.event));
        }
    }

    #[test]
    fn a_bad_event_anywhere_refuses_the_batch(count in 1usize..8, at in 0usize..8, seed in any::<u64>()) {
        let at = at % count;
        let events = (0..count).map(|index| testing::intake_json(&sendable(EventKind::ModelCall, seed ^ index as u64)));
        let mut events: Vec<String> = events.collect();
        events[at] = events[at].replacen("\"spec_version\":1", "\"spec_version\":\"1\"", 1);
        let found = seen(parse(MediaType::Json, &[], format!("[{}]", events.join(",")).as_bytes(), &ANY_TENANT));
        prop_assert_eq!(found, vec![("wrong_type", Some("/spec_version".to_owned()), Some(at))]);
    }

    #[test]
    fn arbitrary_bytes_are_events_or_problems(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for media in [MediaType::Json, MediaType::Ndjson, MediaType::CloudEvent, MediaType::CloudEventBatch] {
            let _ = parse(media, &[], &bytes, &CONTEXT);
        }
    }

    #[test]
    fn damaged_events_are_events_or_problems(kind in kind(), seed in any::<u64>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = testing::intake_json(&sendable(kind, seed)).into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        if let Err(refusal) = parse(MediaType::Json, &[], &body, &ANY_TENANT) {
            prop_assert!((400..500).contains(&refusal.status()));
        }
    }
}
