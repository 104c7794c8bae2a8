//! Payloads against golden files (`UPDATE=1` writes them) and against the published rules of their receivers.

use serde_json::Value;

use super::*;
use crate::alerts::payload::{Item, alertmanager, cloudevents, pagerduty, slack};
use crate::alerts::text::Links;

const KEY: &str = "R0123456789012345678901234567890";

fn links() -> Links {
    Links {
        generator: "https://custody.example.com/alerts/{fingerprint}".to_owned(),
        runbook: "https://wiki.example.com/{alert_class}?a=1&b=2".to_owned(),
        dashboard: "https://grafana.example.com/d/agent?var-subject={subject}&var-metric={metric}".to_owned(),
    }
}

/// Every format's body for one alert, sent a minute after its record.
fn bodies(alert: &Alert) -> [(&'static str, Vec<u8>); 4] {
    let item = Item { alert, id: Uuid([9; 16]) };
    let now = AT.plus_ms(MINUTE_MS);
    [
        ("alertmanager", alertmanager::body(&[item], &links(), 300_000, now)),
        ("pagerduty", pagerduty::body(alert, &links(), KEY, &BTreeMap::new())),
        ("cloudevents", cloudevents::body(item, &links())),
        ("slack", slack::body(alert, &links())),
    ]
}

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

/// Alerts at the edges of what a record can hold.
fn extremes() -> Vec<Alert> {
    let long = "ä<&>".repeat(2_000);
    vec![
        firing(),
        resolved(1),
        Alert::default(),
        Alert { status: "firing".to_owned(), ..Alert::default() },
        Alert {
            fingerprint: long.clone(),
            reason: long.clone(),
            subject: long.clone(),
            metric: long.clone(),
            ..firing()
        },
        Alert { severity: "catastrophic".to_owned(), observed: Some(f64::NAN), p_value: Some(0.0), ..firing() },
        Alert { starts_at: TimestampMicros(i64::MAX), updated_at: TimestampMicros(i64::MIN), ..firing() },
        Alert { ends_at: Some(TimestampMicros(0)), ..resolved(1) },
        Alert { contributing: vec![long; 200], ..firing() },
    ]
}

#[test]
fn each_alert_becomes_exactly_this() {
    let quiet = Alert {
        observed: None,
        expected: None,
        p_value: None,
        score: None,
        environment: String::new(),
        contributing: Vec::new(),
        event_ids: Vec::new(),
        ..firing()
    };
    let remedy = "UPDATE=1 cargo test -p sinks --lib alerts rewrites it";
    for (case, alert) in [("firing", firing()), ("resolved", resolved(1)), ("quiet", quiet)] {
        for (format, body) in bodies(&alert) {
            let path = format!("{}/test-data/alerts/{format}-{case}.json", env!("CARGO_MANIFEST_DIR"));
            let found = format!("{}\n", serde_json::to_string_pretty(&json(&body)).unwrap());
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(&path, &found).unwrap();
            }
            assert_eq!(found, std::fs::read_to_string(&path).unwrap(), "{path}: {remedy}");
        }
    }
}

#[test]
fn the_same_record_sent_again_has_the_same_identity() {
    let alert = firing();
    let item = Item { alert: &alert, id: Uuid([9; 16]) };
    let labels = |now| json(&alertmanager::body(&[item], &links(), 300_000, now))[0]["labels"].clone();
    assert_eq!(labels(AT), labels(AT.plus_ms(DAY_MS)));
    let again = Alert { count: 6, observed: Some(0.75), ..later(firing(), 10) };
    let key = |alert: &Alert| json(&pagerduty::body(alert, &links(), KEY, &BTreeMap::new()))["dedup_key"].clone();
    for other in [again, resolved(30)] {
        assert_eq!(key(&other), firing().fingerprint);
    }
    assert_eq!(cloudevents::body(item, &links()), cloudevents::body(item, &links()));
}

#[test]
fn alertmanager_gets_an_end_ahead_while_it_fires_and_never_one_ahead_once_it_is_over() {
    let now = AT.plus_ms(MINUTE_MS);
    let check = |alert: Alert, starts_at: TimestampMicros, ends_at: TimestampMicros| {
        let body = json(&alertmanager::body(&[Item { alert: &alert, id: Uuid::ZERO }], &links(), 300_000, now));
        assert_eq!(body[0]["startsAt"], rfc3339(starts_at));
        assert_eq!(body[0]["endsAt"], rfc3339(ends_at));
    };
    let start = firing().starts_at;
    check(firing(), start, now.plus_ms(300_000));
    check(resolved(0), start, AT);
    // Log time ahead of the wall clock, and ends that are missing or before the start.
    check(resolved(60), start, now);
    check(Alert { starts_at: AT.plus_ms(DAY_MS), ..resolved(60) }, now, now);
    check(Alert { ends_at: None, ..resolved(0) }, start, AT);
    check(Alert { ends_at: Some(TimestampMicros(0)), ..resolved(0) }, start, start);
}

/// `postableAlert` of Alertmanager's OpenAPI description: labels are required and are strings with valid
/// names; times are RFC 3339; the end is not before the start; no label is empty.
#[test]
fn every_post_to_alertmanager_is_one_that_its_description_allows() {
    for alert in extremes() {
        let body = json(&bodies(&alert)[0].1);
        let post = body.as_array().and_then(|list| list.first()).unwrap();
        for (name, value) in post["labels"].as_object().unwrap() {
            assert_eq!(&label_name(name), name);
            assert!(value.as_str().is_some_and(|v| !v.is_empty()), "{name}={value}");
        }
        assert!(post["annotations"].as_object().unwrap().values().all(Value::is_string));
        let [starts, ends] = ["startsAt", "endsAt"].map(|name| post[name].as_str().unwrap().to_owned());
        assert!(starts <= ends, "{starts} {ends}");
        assert!(post["generatorURL"].as_str().unwrap().starts_with("https://"));
    }
}

/// PagerDuty, "Send an Alert Event": required fields, enumerations and lengths.
#[test]
fn every_event_for_pagerduty_is_one_that_its_rules_allow() {
    let chars = |value: &Value| value.as_str().unwrap().chars().count();
    for alert in extremes() {
        let body = &bodies(&alert)[1].1;
        assert!(body.len() <= 512_000, "{} bytes", body.len());
        let event = json(body);
        assert_eq!(chars(&event["routing_key"]), 32);
        assert!((1..=255).contains(&chars(&event["dedup_key"])), "{}", event["dedup_key"]);
        if alert.status == "resolved" {
            assert_eq!(event["event_action"], "resolve");
            continue;
        }
        assert_eq!(event["event_action"], "trigger");
        let payload = &event["payload"];
        assert!((1..=1_024).contains(&chars(&payload["summary"])));
        assert!(chars(&payload["source"]) > 0);
        assert!(["critical", "error", "warning", "info"].map(Value::from).contains(&payload["severity"]));
        assert!(payload["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(payload["custom_details"].is_object());
        for field in ["component", "group", "class"] {
            assert!(payload[field].is_string(), "{field}");
        }
        for link in event["links"].as_array().unwrap() {
            assert!(link["href"].as_str().unwrap().starts_with("https://") && link["text"].is_string());
        }
        let known = ["routing_key", "event_action", "dedup_key", "client", "client_url", "links", "payload"];
        assert!(event.as_object().unwrap().keys().all(|k| known.contains(&k.as_str())), "{event}");
    }
}

#[test]
fn severities_of_pagerduty_are_ours_unless_mapped() {
    let map = BTreeMap::from([(Severity::Error, Severity::Warning)]);
    for (own, theirs) in [("info", "info"), ("warning", "warning"), ("error", "warning"), ("critical", "critical")] {
        let alert = Alert { severity: own.to_owned(), ..firing() };
        assert_eq!(json(&pagerduty::body(&alert, &links(), KEY, &map))["payload"]["severity"], theirs);
    }
}

/// CloudEvents 1.0.2: required attributes are non-empty strings; names hold lower-case letters and digits.
#[test]
fn every_event_is_a_cloud_event() {
    for alert in extremes() {
        let event = json(&bodies(&alert)[2].1);
        for name in ["specversion", "id", "source", "type"] {
            assert!(event[name].as_str().is_some_and(|v| !v.is_empty()), "{name}");
        }
        let plain = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        assert!(event.as_object().unwrap().keys().all(|name| plain(name)));
        assert_eq!(event["specversion"], "1.0");
        assert!(event["data"]["links"].is_object());
    }
}

/// The test vector of the Standard Webhooks libraries.
#[test]
fn the_signature_is_that_of_standard_webhooks() {
    let key = cloudevents::signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let now = TimestampMicros(1_614_265_330_000_000);
    let body = br#"{"test": 2432232314}"#;
    let headers = cloudevents::signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", now, body);
    assert_eq!(headers[0], ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()));
    assert_eq!(headers[1], ("webhook-timestamp", "1614265330".to_owned()));
    assert_eq!(headers[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

/// Slack, "Block Kit": lengths; and nothing from an alert is markup.
#[test]
fn every_message_fits_slack_and_mentions_nobody() {
    let chars = |value: &Value| value.as_str().unwrap().chars().count();
    let mut alerts = extremes();
    alerts.push(Alert { reason: "<!channel> & more".to_owned(), ..firing() });
    for alert in alerts {
        let message = json(&bodies(&alert)[3].1);
        assert!(chars(&message["text"]) <= 4_000 && !message["text"].as_str().unwrap().contains("<!"));
        for block in message["blocks"].as_array().unwrap() {
            match block["type"].as_str().unwrap() {
                "header" => assert!((1..=150).contains(&chars(&block["text"]["text"]))),
                "context" => assert_eq!(block["elements"].as_array().unwrap().len(), 1),
                _ if block["text"].is_object() => assert!((1..=3_000).contains(&chars(&block["text"]["text"]))),
                _ => {
                    let fields = block["fields"].as_array().unwrap();
                    assert!((1..=10).contains(&fields.len()));
                    assert!(fields.iter().all(|f| (1..=2_000).contains(&chars(&f["text"]))));
                }
            }
        }
    }
}
