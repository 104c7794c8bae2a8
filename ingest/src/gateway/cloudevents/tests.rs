//! CloudEvents: where each attribute goes, the three modes, and what is refused.

use schemas::event::{ModelCall, Principal};
use schemas::testing::BROKER_TIME;
use schemas::text::RawText;

use super::*;
use crate::gateway::body::{MediaType, parse};

const CONTEXT: IntakeContext<'static> = IntakeContext { tenant_id: Some("acme"), arrived_at: BROKER_TIME };
const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A CloudEvent with these members besides the mandatory ones.
fn with(event_type: &str, members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"7\",\"source\":\"/agents/a\",\"type\":\"{event_type}\"{comma}{members}}}"
    )
}

fn structured(body: &str) -> Result<Vec<Arrived>, Refusal> {
    parse(MediaType::CloudEvent, &[], body.as_bytes(), &CONTEXT)
}

fn one(body: &str) -> Arrived {
    structured(body).unwrap_or_else(|refusal| panic!("{refusal:?}: {body}")).remove(0)
}

fn check_refused(found: Result<Vec<Arrived>, Refusal>, code: &str, field: &str) {
    let first = found.expect_err("refused").first;
    assert_eq!((first.code, first.field.as_deref().unwrap_or_default()), (code, field), "{first:?}");
}

fn extension(arrived: Arrived) -> Extension<RawText> {
    match arrived.event {
        Event::Extension(made) => made,
        other => panic!("{other:?}"),
    }
}

#[test]
fn attributes_become_fields_of_the_header() {
    let arrived = one(&with(
        "custody.model.call",
        &format!(
            "\"time\":\"2025-12-31T23:59:59Z\",\"subject\":\"chat 7\",\"agentversion\":\"2\",\"agentinstanceid\":\"pod\",\
             \"tenantid\":\"acme\",\"environment\":\"dev\",\"releasestage\":\"beta\",\"dataclass\":\"public\",\
             \"jurisdiction\":\"CH\",\"parentsessionid\":\"{ID}\",\"causationid\":\"{ID}\",\"principaltype\":\"user\",\
             \"principalid\":\"u\",\"principalauthmethod\":\"oidc\",\"principalauthneventid\":\"e\",\"traceparent\":\"{TRACEPARENT}\",\"mine\":true,\
             \"many\":7,\"none\":null,\"data\":{{\"call_id\":\"c\",\"new\":1}}"
        ),
    ));
    let h = arrived.event.h();
    let id = Uuid::derive(&[b"cloudevent", b"acme", b"/agents/a", b"7"]);
    assert_eq!((h.event_id, h.event_time.0), (id, BROKER_TIME.0 - 1_000_000));
    assert_eq!((h.event_type.as_str(), h.agent_id.as_str(), h.agent_version.as_str()), ("model.call", "a", "2"));
    assert_eq!((h.agent_instance_id.as_str(), h.tenant_id.as_str()), ("pod", "acme"));
    assert_eq!((h.environment.as_str(), h.release_stage.as_str()), ("dev", "beta"));
    assert_eq!((h.data_class.as_str(), h.jurisdiction.as_str()), ("public", "CH"));
    assert_eq!(h.session_id, validate::session_of_name("acme", "chat 7"));
    assert_eq!((h.parent_session_id, h.causation_id), (Uuid::from_hex(ID), Uuid::from_hex(ID)));
    let (r#type, id) = ("user".to_owned(), "u".to_owned());
    let principal = Principal { r#type, id, auth_method: "oidc".into(), authn_event_id: "e".into() };
    assert_eq!(h.principal, principal);
    assert_eq!(h.trace_id, TraceId::from_hex("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(h.span_id, SpanId::from_hex("00f067aa0ba902b7"));
    assert_eq!((h.source.as_str(), h.capture.as_str(), arrived.numbered), ("adapter", "best_effort", false));
    let kept = [
        ("cloudevents.id", "7"),
        ("cloudevents.source", "/agents/a"),
        ("data.new", "1"),
        ("many", "7"),
        ("mine", "true"),
        ("session.name", "chat 7"),
    ];
    assert_eq!(h.ext, kept.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    let expected = ModelCall { h: h.clone(), call_id: "c".into(), ..Default::default() };
    assert_eq!(arrived.event, Event::ModelCall(expected));
}

#[test]
fn ids_agents_and_subjects_go_where_they_fit() {
    let check = |members: &str, read: fn(&EventHeader) -> &str, expected: &str| {
        let body = format!("{{\"specversion\":\"1.0\",\"type\":\"acme.x\",{members}}}");
        assert_eq!(read(one(&body).event.h()), expected, "{members}");
    };
    let agent: fn(&EventHeader) -> &str = |h| &h.agent_id;
    check("\"id\":\"1\",\"source\":\"https://x.example/v1/agents/bot%207\"", agent, "bot%207");
    check("\"id\":\"1\",\"source\":\"urn:crm\"", agent, "urn:crm");
    check("\"id\":\"1\",\"source\":\"/agents/a\",\"agentid\":\"b\"", agent, "b");
    check("\"id\":\"1\",\"source\":\"s\",\"subject\":\"file.png\"", |h| &h.ext["cloudevents.subject"], "file.png");
    check("\"id\":\"1\",\"source\":\"s\",\"dataschema\":\"/s\"", |h| &h.ext["cloudevents.dataschema"], "/s");
    check("\"id\":\"1\",\"source\":\"s\",\"traceparent\":\"00-0-0-0\"", |h| &h.ext["traceparent"], "00-0-0-0");
    check("\"id\":\"1\",\"source\":\"s\",\"tracestate\":\"a=b\"", |h| &h.ext["tracestate"], "a=b");
    let uuid = one(&format!("{{\"specversion\":\"1.0\",\"type\":\"acme.x\",\"id\":\"{ID}\",\"source\":\"s\"}}"));
    assert_eq!(uuid.event.h().event_id, Uuid::from_hex(ID).unwrap());
    assert!(!uuid.event.h().ext.contains_key("cloudevents.id"));
    let both = one(&with("model.call", &format!("\"sessionid\":\"{ID}\",\"subject\":\"x\"")));
    assert_eq!(both.event.h().session_id, Uuid::from_hex(ID).unwrap());
    assert_eq!(both.event.h().ext["cloudevents.subject"], "x");
    // Two sources may use one id.
    let other = one(&with("acme.x", "").replace("/agents/a", "/agents/b"));
    assert_ne!(one(&with("acme.x", "")).event.h().event_id, other.event.h().event_id);
}

#[test]
fn a_traceparent_that_is_not_valid_is_kept_as_it_is() {
    let check = |traceparent: &str, valid: bool| {
        let arrived = one(&with("acme.x", &format!("\"traceparent\":\"{traceparent}\"")));
        let h = arrived.event.h();
        assert_eq!(
            (h.trace_id.is_some(), h.span_id.is_some(), h.ext.contains_key("traceparent")),
            (valid, valid, !valid)
        );
    };
    check(TRACEPARENT, true);
    check(&TRACEPARENT.replacen("00-", "01-", 1), true);
    check(&TRACEPARENT.replacen("00-", "ff-", 1), false);
    check(&TRACEPARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)), false);
    check(&TRACEPARENT.replace("00f067aa0ba902b7", &"0".repeat(16)), false);
    check("00-4bf92f3577b34da6a3ce929d0e0e4736", false);
    check("", false);
}

#[test]
fn data_is_json_text_or_base64() {
    let check = |members: &str, attributes: &[(&str, &str)], body: Option<Content<RawText>>| {
        let made = extension(one(&with("acme.x", members)));
        let found: Vec<_> = made.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!((found.as_slice(), made.body), (attributes, body), "{members}");
    };
    check("\"data\":{\"a\":1}", &[("a", "1")], None);
    check("\"data\":null", &[], None);
    check("\"data\":[1]", &[], Some(Content::json("[1]")));
    check("\"datacontenttype\":\"application/vnd.x+json\",\"data\":\"t\"", &[], Some(Content::plain("t")));
    let xml = Content { media_type: "application/xml".into(), ..Content::plain("<a/>") };
    check("\"datacontenttype\":\"application/xml\",\"data\":\"<a/>\"", &[], Some(xml.clone()));
    check("\"datacontenttype\":\"application/xml\",\"data\":{\"a\":1}", &[("a", "1")], None);
    check("\"data_base64\":\"eyJhIjoxfQ==\"", &[("a", "1")], None);
    check("\"datacontenttype\":\"application/xml\",\"data_base64\":\"PGEvPg==\"", &[], Some(xml));
    check("\"data_base64\":\"\"", &[], None);
}

#[test]
fn what_is_no_cloudevent_is_refused() {
    let check = |body: &str, code: &str, field: &str| check_refused(structured(body), code, field);
    check("[]", "wrong_type", "");
    check("{", "malformed_json", "");
    check("{}", "missing_field", "/specversion");
    check(&with("acme.x", "").replace("1.0", "0.3"), "unsupported_specversion", "/specversion");
    check(&with("acme.x", "").replace("\"7\"", "7"), "wrong_type", "/id");
    check(&with("acme.x", "").replace("\"7\"", "\"\""), "missing_field", "/id");
    check(&with("acme.x", "").replace("\"source\"", "\"sauce\""), "missing_field", "/source");
    check(&with("", ""), "missing_field", "/type");
    check(&with("custody.tick", ""), "reserved", "/type");
    check(&with("model.call", ""), "missing_field", "/sessionid");
    check(&with("acme.x", "\"id\":\"8\""), "duplicate_field", "");
    check(&with("acme.x", "\"mine\":{}"), "wrong_type", "");
    check(&with("acme.x", "\"time\":\"today\""), "invalid_value", "/time");
    check(&with("acme.x", "\"time\":\"1999-01-01T00:00:00Z\""), "implausible_time", "/time");
    check(&with("acme.x", "\"causationid\":\"x\""), "invalid_value", "/causationid");
    check(&with("acme.x", "\"tenantid\":\"other\""), "wrong_tenant", "/tenantid");
    check(&with("acme.x", &format!("\"agentid\":\"{}\"", "x".repeat(257))), "too_long", "/agentid");
    check(&with("acme.x", "\"capture\":\"derived\""), "reserved", "/capture");
    check(&with("acme.x", "\"cloudevents.id\":\"8\""), "duplicate_field", "");
    check(&with("acme.x", "\"custody.x\":\"8\""), "reserved", "/ext");
    check(&with("budget", "\"data\":{\"spent_micros\":\"x\"}"), "wrong_type", "/data/spent_micros");
    check(&with("budget", "\"data\":[]"), "wrong_type", "/data");
    check(&with("budget", "\"datacontenttype\":\"text/plain\",\"data\":\"x\""), "unsupported_media_type", "/data");
    check(&with("acme.x", "\"data\":1,\"data_base64\":\"MQ==\""), "duplicate_field", "/data_base64");
    check(&with("acme.x", "\"data_base64\":\"!\""), "invalid_value", "/data_base64");
    check(&with("acme.x", "\"data_base64\":1"), "invalid_value", "/data_base64");
    check(&with("acme.x", "\"data_base64\":\"e30g\\u00e9\""), "invalid_value", "/data_base64");
    check(&with("acme.x", "\"data_base64\":\"ew==\""), "malformed_json", "/data_base64");
    let binary = "\"datacontenttype\":\"image/png\",\"data_base64\":\"/w==\"";
    check(&with("acme.x", binary), "unsupported_media_type", "/data_base64");
}

#[test]
fn numbers_come_together() {
    let numbers = "\"seq\":3,\"producerid\":\"sdk/1\",\"producerepoch\":\"9\",\"producerseq\":4";
    let arrived = one(&with("acme.x", &format!("\"sessionid\":\"{ID}\",\"capture\":\"guaranteed\",{numbers}")));
    let h = arrived.event.h();
    assert!(arrived.numbered);
    assert_eq!((h.seq, h.producer_id.as_str(), h.producer_epoch, h.producer_seq), (3, "sdk/1", 9, 4));
    assert_eq!((h.source.as_str(), h.capture.as_str()), ("adapter", "guaranteed"));
    check_refused(structured(&with("acme.x", "\"seq\":3")), "incomplete_numbering", "/producerid");
    check_refused(structured(&with("acme.x", "\"seq\":\"x\"")), "invalid_value", "/seq");
    let own = with("acme.x", &numbers.replace("sdk/1", "gateway/1"));
    check_refused(structured(&own), "reserved", "/producerid");
}

#[test]
fn a_batch_is_an_array_taken_whole_or_not_at_all() {
    let batch = |body: &str| parse(MediaType::CloudEventBatch, &[], body.as_bytes(), &CONTEXT);
    let good = with("acme.x", "");
    assert_eq!(batch("[]"), Ok(vec![]));
    assert_eq!(batch(&format!("[{good},{good}]")).map(|events| events.len()), Ok(2));
    let refusal = batch(&format!("[{good},{},{good},5]", with("model.call", ""))).expect_err("refused");
    let seen: Vec<_> = refusal.problems().map(|problem| (problem.code, problem.index)).collect();
    assert_eq!(seen, [("missing_field", Some(1)), ("wrong_type", Some(3))]);
    check_refused(batch(&good), "wrong_type", "");
}

#[test]
fn headers_are_attributes_in_binary_mode() {
    let binary = |extra: &[(&str, &str)], body: &[u8]| {
        let mut headers = vec![("ce-specversion", "1.0"), ("ce-type", "acme.x"), ("ce-id", "1"), ("ce-source", "/s")];
        headers.extend_from_slice(extra);
        parse(MediaType::CloudEventBinary, &headers, body, &CONTEXT)
    };
    let taken = |extra: &[(&str, &str)], body: &[u8]| extension(binary(extra, body).expect("taken").remove(0));
    let made =
        taken(&[("content-type", "application/json; charset=utf-8"), ("ce-agentid", "b%C3%B6t%201")], b"{\"a\":1}");
    assert_eq!((made.h.agent_id.as_str(), made.attributes["a"].as_str()), ("böt 1", "1"));
    assert_eq!(taken(&[("ce-mine", "\"a \\\"b\\\\c\\\"\"")], b"").h.ext["mine"], "a \"b\\c\"");
    assert_eq!(taken(&[], b"[1]").body, Some(Content::json("[1]")));
    let text = Content { media_type: "text/plain".into(), ..Content::plain("naïve") };
    assert_eq!(taken(&[("content-type", "text/plain")], "naïve".as_bytes()).body, Some(text));

    let check = |extra: &[(&str, &str)], body: &[u8], code: &str, field: &str| {
        check_refused(binary(extra, body), code, field);
    };
    check(&[("ce-mine", "%C0%A0")], b"", "invalid_value", "");
    check(&[("ce-type", "acme.y")], b"", "duplicate_field", "");
    check(&[("ce-datacontenttype", "text/plain")], b"", "duplicate_field", "");
    check(&[("ce-time", "now")], b"", "invalid_value", "ce-time");
    check(&[("ce-tenantid", "other")], b"", "wrong_tenant", "ce-tenantid");
    check(&[], b"{", "malformed_json", "");
    check(&[("content-type", "image/png")], b"\xff", "unsupported_media_type", "");
    let missing = parse(MediaType::CloudEventBinary, &[("ce-specversion", "1.0")], b"", &CONTEXT);
    check_refused(missing, "missing_field", "ce-id");
}

#[test]
fn a_content_type_says_how_a_body_is_read() {
    let check = |content_type: Option<&str>, binary: bool, expected: Option<MediaType>| {
        assert_eq!(MediaType::of(content_type, binary).ok(), expected, "{content_type:?}");
    };
    check(None, false, Some(MediaType::Json));
    check(None, true, Some(MediaType::CloudEventBinary));
    check(Some("application/json"), false, Some(MediaType::Json));
    check(Some("Application/JSON ; charset=\"UTF-8\""), false, Some(MediaType::Json));
    check(Some("application/json; charset=latin1"), false, None);
    check(Some("application/x-ndjson"), false, Some(MediaType::Ndjson));
    check(Some("application/jsonl"), false, Some(MediaType::Ndjson));
    check(Some("application/cloudevents+json; charset=utf-8"), true, Some(MediaType::CloudEvent));
    check(Some("application/cloudevents-batch+json"), false, Some(MediaType::CloudEventBatch));
    check(Some("application/cloudevents+avro"), true, None);
    check(Some("application/json"), true, Some(MediaType::CloudEventBinary));
    check(Some("text/plain"), true, Some(MediaType::CloudEventBinary));
    check(Some("text/plain"), false, None);
    check(Some(""), false, None);
}

proptest::proptest! {
    #[test]
    fn arbitrary_headers_and_bodies_are_events_or_problems(
        headers in proptest::collection::vec(("(ce-(type|id|source|time|seq|x)|content-type)", "[ -~é]{0,20}"), 0..6),
        body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
    ) {
        let mut headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        headers.push(("ce-specversion", "1.0"));
        if let Err(refusal) = parse(MediaType::CloudEventBinary, &headers, &body, &CONTEXT) {
            proptest::prop_assert!((400..500).contains(&refusal.status()));
        }
    }
}
