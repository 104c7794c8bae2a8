//! The pure half as tables: labels, filters, what is firing, payloads against golden files and against the
//! rules that their receivers publish, and what an answer means.
#![allow(clippy::unwrap_used)]

mod payloads;

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::event::Alert;
use schemas::id::Uuid;
use schemas::record::PartitionId;
use schemas::secret::Secret;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use super::answer::{Answer, answer_of};
use super::board::{Board, Rules, Verdict};
use super::config::{AlertConfig, ReceiverConfig, ReceiverKind};
use super::labels::{label_name, labels};
use super::receiver::Receiver;
use super::route::{Route, Severity};
use super::text::{clipped, number, rfc3339};

/// 2026-11-20T10:42:07.5Z.
const AT: TimestampMicros = TimestampMicros(1_795_171_327_500_000);
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// An alert as the scoring stage writes it.
fn firing() -> Alert {
    let labels = [("alertname", "error_rate"), ("tenant", "acme"), ("environment", "prod"), ("agent", "billing <1>")];
    Alert {
        fingerprint: "9f86d081884c7d659a2feaa0c55ad015".to_owned(),
        status: "firing".to_owned(),
        severity: "critical".to_owned(),
        alert_class: "error_rate".to_owned(),
        tenant_id: "acme".to_owned(),
        subject_kind: "agent".to_owned(),
        subject: "billing <1>".to_owned(),
        environment: "prod".to_owned(),
        metric: "tool_error_rate/db.query".to_owned(),
        observed: Some(0.5),
        expected: Some(0.0125),
        p_value: Some(1e-12),
        score: Some(3.25),
        starts_at: AT.plus_ms(-5 * MINUTE_MS),
        ends_at: None,
        updated_at: AT,
        reason: "tool error rate of agent billing <1> is 0.50 (expected 0.01) since 10:37 UTC".to_owned(),
        detector: "score@1".to_owned(),
        contributing: vec!["latency_ms".to_owned()],
        count: 5,
        event_ids: vec![Uuid([7; 16])],
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

/// Its end, `minutes` later.
fn resolved(minutes: i64) -> Alert {
    let at = AT.plus_ms(minutes * MINUTE_MS);
    Alert { status: "resolved".to_owned(), ends_at: Some(at), updated_at: at, ..firing() }
}

fn later(alert: Alert, minutes: i64) -> Alert {
    Alert { updated_at: alert.updated_at.plus_ms(minutes * MINUTE_MS), ..alert }
}

fn partition(partition: u32) -> PartitionId {
    PartitionId { topic: Topic::Alerts, partition }
}

#[test]
fn label_names_follow_the_rules_of_prometheus() {
    let check = |name: &str, expected: &str| assert_eq!(label_name(name), expected, "{name:?}");
    check("team", "team");
    check("cost-center", "cost_center");
    check("k8s.pod/name", "k8s_pod_name");
    check("1st", "_1st");
    check("__name__", "_name__");
    check("___", "_");
    check("", "_");
    check("größe", "gr__e");
    check("_private", "_private");
}

proptest! {
    #[test]
    fn every_label_name_is_one_that_prometheus_takes(name: String) {
        let found = label_name(&name);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        prop_assert!(found.chars().all(plain) && !found.starts_with("__"), "{found:?}");
        prop_assert!(found.chars().next().is_some_and(|c| !c.is_ascii_digit()), "{found:?}");
    }
}

#[test]
fn labels_are_the_fields_then_what_the_alert_brings_and_nothing_that_changes() {
    let brought = [("team.name", "payments"), ("severity", "info"), ("empty", ""), ("team-name", "other")];
    let alert = Alert { labels: brought.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), ..firing() };
    let expected = [
        ("alertname", "error_rate"),
        ("alert_class", "error_rate"),
        ("severity", "critical"),
        ("tenant", "acme"),
        ("environment", "prod"),
        ("subject_kind", "agent"),
        ("subject", "billing <1>"),
        ("metric", "tool_error_rate/db.query"),
        ("team_name", "other"),
    ];
    let expected: BTreeMap<String, String> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(labels(&alert), expected, "of two names that become one, the first in order stays");
    let goes_on = Alert { observed: Some(0.9), count: 99, reason: "more".to_owned(), ..later(alert.clone(), 10) };
    assert_eq!(labels(&goes_on), labels(&alert));
    assert_eq!(labels(&Alert { status: "resolved".to_owned(), ..goes_on }), expected);
}

#[test]
fn a_route_takes_by_severity_tenant_and_class() {
    let route = |severity_min, tenants: &[&str], classes: &[&str]| Route {
        severity_min,
        tenants: tenants.iter().map(|t| (*t).to_owned()).collect(),
        alert_classes: classes.iter().map(|c| (*c).to_owned()).collect(),
    };
    let check = |severity: &str, route: Route, expected| {
        let alert = Alert { severity: severity.to_owned(), ..firing() };
        assert_eq!(route.takes(&alert), expected, "{severity} {route:?}");
    };
    check("info", route(Severity::Info, &[], &[]), true);
    check("info", route(Severity::Warning, &[], &[]), false);
    check("warning", route(Severity::Warning, &["acme"], &["error_rate"]), true);
    check("error", route(Severity::Critical, &[], &[]), false);
    check("critical", route(Severity::Critical, &["other", "acme"], &[]), true);
    check("critical", route(Severity::Info, &["other"], &[]), false);
    check("critical", route(Severity::Info, &[], &["budget"]), false);
    check("catastrophic", route(Severity::Error, &[], &[]), true);
    check("catastrophic", route(Severity::Critical, &[], &[]), false);
}

#[test]
fn the_next_record_is_judged_by_what_came_before() {
    let [everything, by_the_hour, critical_only] = [
        Rules::default(),
        Rules { repeat_interval_ms: Some(60 * MINUTE_MS), ..Rules::default() },
        Rules { route: Route { severity_min: Severity::Critical, ..Route::default() }, repeat_interval_ms: None },
    ];
    let warning = |alert: Alert| Alert { severity: "warning".to_owned(), ..alert };
    let check = |rules: &Rules, before: &[(Alert, u32)], next: (Alert, u32), expected: Verdict| {
        let mut board = Board::new(rules.clone(), DAY_MS);
        before.iter().for_each(|(alert, p)| board.settle(alert.clone(), partition(*p)));
        assert_eq!(board.judge(&next.0, partition(next.1)), expected, "{rules:?} {before:?} {next:?}");
    };
    check(&everything, &[], (firing(), 0), Verdict::Send);
    check(&everything, &[(firing(), 0)], (later(firing(), 10), 0), Verdict::Send);
    check(&everything, &[(firing(), 0)], (firing(), 0), Verdict::Send);
    // An alert's start and end may stand in two partitions, read in any order.
    check(&everything, &[(resolved(10), 1)], (firing(), 0), Verdict::Superseded);
    check(&everything, &[(resolved(10), 0)], (firing(), 0), Verdict::Send);
    check(&everything, &[(resolved(10), 1)], (later(firing(), 20), 0), Verdict::Send);
    check(&everything, &[(firing(), 1)], (resolved(10), 0), Verdict::Send);
    // A person is told of the start, of a turn for the worse, of the end, and once an hour.
    check(&by_the_hour, &[(firing(), 0)], (later(firing(), 10), 0), Verdict::Repeated);
    check(&by_the_hour, &[(firing(), 0)], (later(firing(), 60), 0), Verdict::Send);
    check(&by_the_hour, &[(warning(firing()), 0)], (later(firing(), 10), 0), Verdict::Send);
    check(&by_the_hour, &[(firing(), 0)], (resolved(10), 0), Verdict::Send);
    check(&by_the_hour, &[(firing(), 0), (resolved(10), 0)], (later(firing(), 20), 0), Verdict::Send);
    check(&by_the_hour, &[(resolved(10), 0)], (later(resolved(10), 1), 0), Verdict::Repeated);
    // Who was told of a start is told of its end, whatever its severity has become.
    check(&critical_only, &[], (warning(firing()), 0), Verdict::Unwanted);
    check(&critical_only, &[], (warning(resolved(10)), 0), Verdict::Unwanted);
    check(&critical_only, &[(firing(), 0)], (warning(resolved(10)), 0), Verdict::Send);
}

#[test]
fn what_fires_is_what_started_has_not_ended_is_not_old_and_is_ours() {
    let other = Alert { fingerprint: "other".to_owned(), ..firing() };
    let check = |records: &[(Alert, u32)], now_minutes: i64, own: u32, expected: &[&str]| {
        let mut board = Board::new(Rules::default(), DAY_MS);
        records.iter().for_each(|(alert, p)| board.settle(alert.clone(), partition(*p)));
        let found = board.firing(AT.plus_ms(now_minutes * MINUTE_MS), |p| p == partition(own));
        assert_eq!(found, expected, "{records:?} at {now_minutes} in {own}");
    };
    let own = firing().fingerprint;
    check(&[(firing(), 0), (other.clone(), 0)], 1, 0, &[&own, "other"]);
    check(&[(firing(), 0), (resolved(10), 0)], 11, 0, &[]);
    check(&[(firing(), 0), (resolved(10), 1)], 11, 0, &[]);
    check(&[(resolved(10), 1), (firing(), 0)], 11, 0, &[]);
    check(&[(firing(), 0), (later(firing(), 10), 1)], 11, 0, &[]);
    check(&[(firing(), 0), (later(firing(), 10), 1)], 11, 1, &[&own]);
    check(&[(firing(), 0)], 24 * 60, 0, &[&own]);
    check(&[(firing(), 0)], 24 * 60 + 1, 0, &[]);
}

#[test]
fn the_board_stays_bounded_and_keeps_what_is_newest() {
    let mut board = Board::new(Rules::default(), DAY_MS);
    for number in 0..120_000 {
        let alert = Alert {
            fingerprint: format!("{number:06}"),
            labels: BTreeMap::new(),
            updated_at: AT.plus_ms(number),
            ..Alert::default()
        };
        board.settle(alert, partition(0));
    }
    let held = board.firing(AT.plus_ms(120_000), |_| true);
    assert!(held.len() <= 50_000, "{} alerts", held.len());
    assert_eq!(held.last().unwrap(), "119999");
    assert!(held.len() >= 25_000 && held.windows(2).all(|w| w[0] < w[1]));
}

#[test]
fn an_answer_says_taken_again_or_never() {
    let again = |after_ms, status: u16| Answer::Again { after_ms, why: format!("it answered {status}") };
    let check = |status, header: Option<&str>, expected| assert_eq!(answer_of(status, header, AT), expected);
    check(200, None, Answer::Taken);
    check(202, None, Answer::Taken);
    check(204, Some("9"), Answer::Taken);
    check(429, Some("7"), again(Some(7_000), 429));
    check(429, Some(" 7 "), again(Some(7_000), 429));
    check(503, Some("Fri, 20 Nov 2026 10:42:37 GMT"), again(Some(29_500), 503));
    check(503, Some("Fri, 20 Nov 2026 10:00:00 GMT"), again(Some(0), 503));
    check(503, Some("99999999999999999999"), again(None, 503));
    check(503, Some("9999999999"), again(Some(3_600_000), 503));
    check(429, Some("soon"), again(None, 429));
    for status in [408, 425, 500, 502, 504, 599] {
        check(status, None, again(None, status));
    }
    for status in [401, 403] {
        let why = format!("it answered {status}: renew the receiver's key or password");
        check(status, None, Answer::Again { after_ms: None, why });
    }
    for status in [301, 302, 307, 308, 400, 404, 410, 413, 422, 600] {
        check(status, None, Answer::Refused { status });
    }
}

#[test]
fn texts_are_what_receivers_read() {
    assert_eq!(rfc3339(AT), "2026-11-20T10:42:07.500000Z");
    assert_eq!(rfc3339(TimestampMicros(-1)), "1969-12-31T23:59:59.999999Z");
    assert_eq!(rfc3339(TimestampMicros(i64::MAX)), "9999-12-31T23:59:59.999999Z");
    assert_eq!(rfc3339(TimestampMicros(i64::MIN)), "0000-01-01T00:00:00.000000Z");
    for (value, text) in [(0.0, "0"), (0.5, "0.5"), (1e-12, "1e-12"), (12345.0, "12345"), (-2e20, "-2e20")] {
        assert_eq!(number(value), text);
    }
    assert_eq!(clipped("größe", 5), "größe");
    assert_eq!(clipped("größen", 5), "größ…");
}

fn receiver(kind: ReceiverKind) -> ReceiverConfig {
    ReceiverConfig {
        kind: Some(kind),
        url: Secret::new("http://127.0.0.1:9093"),
        routing_key: Secret::new("R0123456789012345678901234567890"),
        ..ReceiverConfig::default()
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_the_field_that_is_at_fault() {
    type Change = fn(&mut ReceiverConfig);
    let check = |name: &str, kind, change: Change, expected: &str| {
        let mut own = receiver(kind);
        change(&mut own);
        let config = AlertConfig { receivers: BTreeMap::from([(name.to_owned(), own)]), ..AlertConfig::default() };
        let error = Receiver::open_all(&config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not name {expected:?}");
    };
    use ReceiverKind::{Alertmanager, CloudEvents, PagerDuty, Slack};
    check("a b", Slack, |_| {}, "letters, digits and -");
    check("", Slack, |_| {}, "letters, digits and -");
    check("x", Slack, |r| r.kind = None, "type is missing");
    check("x", Slack, |r| r.url = Secret::default(), "url or url_file is missing");
    check("x", Slack, |r| r.url = Secret::new("hooks.slack.com/T"), "alert.receivers.x.url");
    check("x", Slack, |r| r.url = Secret::new("file:///etc/passwd"), "alert.receivers.x.url");
    check("x", PagerDuty, |r| r.routing_key = Secret::default(), "routing_key");
    check("x", Alertmanager, |r| r.hold_ms = 60_000, "hold_ms");
    check("x", Alertmanager, |r| r.resend_interval_ms = 0, "resend_interval_ms");
    check("x", CloudEvents, |r| r.signing_key = Secret::new("whsec_###"), "base64");
    check("x", CloudEvents, |r| r.signing_key_file = Some("/nonexistent/key".into()), "signing_key_file");
    check("x", Slack, |r| r.url_file = Some("/nonexistent/url".into()), "keep one of the two");
    let config = AlertConfig { runbook_url: "wiki/{alert_class}".to_owned(), ..AlertConfig::default() };
    assert!(config.check().unwrap_err().to_string().contains("alert.runbook_url"));
}

#[test]
fn a_secret_comes_from_a_file_and_is_shown_nowhere() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "http://127.0.0.1:1/hunter2\n").unwrap();
    let own = ReceiverConfig {
        url: Secret::default(),
        url_file: Some(file.path().to_owned()),
        authorization: Secret::new("Bearer hunter2"),
        signing_key: Secret::new("whsec_aHVudGVyMg=="),
        ..receiver(ReceiverKind::CloudEvents)
    };
    let config = AlertConfig { receivers: BTreeMap::from([("x".to_owned(), own)]), ..AlertConfig::default() };
    let opened = Receiver::open_all(&config).unwrap();
    let alert = firing();
    let post = opened[0].post(&[super::payload::Item { alert: &alert, id: Uuid([1; 16]) }], AT).unwrap();
    assert_eq!(post.url.expose(), "http://127.0.0.1:1/hunter2");
    let shown = format!("{opened:?} {config:?} {} {:?}", serde_json::to_string(&config).unwrap(), post.headers);
    assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg"), "{shown}");
}
