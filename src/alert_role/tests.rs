//! The role against an HTTP server whose answers are scripted: what it is sent, what is committed, what
//! becomes a dead letter. A lost answer is a connection that closes after the request has been read.
#![allow(clippy::unwrap_used)]

mod server;

use std::collections::{BTreeMap, BTreeSet};

use ingest::log::memory::{Fault, MemoryBroker};
use ingest::log::{ErrorClass as LogErrorClass, LogEvent};
use schemas::codec::{Derived, codec};
use schemas::record::{OutRecord, Position, header_value};
use schemas::secret::Secret;
use schemas::testing::until_async;
use schemas::time::TimestampMicros;
use sinks::alerts::config::{ReceiverConfig, ReceiverKind};

use self::server::{Reply, Request, Server};
use super::*;
use crate::roles;

/// Partitions of the events topic; the topic of alerts has twice as many.
const PARTITIONS: u32 = 2;
const INSTANCE: &str = "a";

/// An alert `minutes` after the start of the hour before now.
fn alert(fingerprint: &str, status: &str, minutes: i64) -> Alert {
    let started = TimestampMicros(clock::now().0 - 3_600_000_000);
    let at = started.plus_ms(minutes * 60_000);
    Alert {
        fingerprint: fingerprint.to_owned(),
        status: status.to_owned(),
        severity: "error".to_owned(),
        alert_class: "latency".to_owned(),
        tenant_id: "acme".to_owned(),
        subject_kind: "agent".to_owned(),
        subject: format!("agent of {fingerprint}"),
        metric: "latency_ms".to_owned(),
        starts_at: started,
        ends_at: (status == "resolved").then_some(at),
        updated_at: at,
        reason: "latency rose".to_owned(),
        ..Alert::default()
    }
}

/// A log with topics and nothing in them.
async fn log() -> MemoryBroker {
    let _: Result<(), _> = rustls::crypto::ring::default_provider().install_default();
    let broker = MemoryBroker::new();
    roles::create_topics(&broker, PARTITIONS).await.unwrap();
    broker
}

fn record(partition: u32, value: Bytes) -> OutRecord {
    OutRecord {
        topic: Topic::Alerts,
        partition: Some(partition),
        timestamp: clock::now(),
        key: Some(Bytes::from_static(b"key")),
        value: Some(value),
        headers: Vec::new(),
    }
}

async fn write(broker: &MemoryBroker, alerts: &[(u32, Alert)]) -> Vec<Position> {
    let records = alerts
        .iter()
        .map(|(partition, alert)| record(*partition, codec().encode_derived(&Derived::Alert(alert.clone()))));
    broker.appender().await.unwrap().append(records.collect()).await.unwrap()
}

fn receiver(kind: ReceiverKind, url: &str) -> ReceiverConfig {
    ReceiverConfig {
        kind: Some(kind),
        url: Secret::new(url),
        routing_key: Secret::new("R0123456789012345678901234567890"),
        ..ReceiverConfig::default()
    }
}

fn config(receivers: &[(&str, ReceiverConfig)]) -> AlertConfig {
    AlertConfig {
        retry_delay_ms: 1,
        retry_delay_ms_max: 50,
        receivers: receivers.iter().map(|(name, receiver)| ((*name).to_owned(), receiver.clone())).collect(),
        ..AlertConfig::default()
    }
}

/// Serves the receivers until everything that is in the log has been dealt with.
async fn serve(broker: &MemoryBroker, config: &AlertConfig) -> Control {
    let control = Control::default();
    control.upstream_done.raise();
    run(broker.clone(), INSTANCE, config, &AlertMetrics::default(), &control).await.unwrap();
    control
}

async fn committed(broker: &MemoryBroker, receiver: &str, partition: u32) -> u64 {
    let id = PartitionId { topic: Topic::Alerts, partition };
    broker.committed(&format!("custody-alert-{receiver}"), id).await.unwrap().map_or(0, |c| c.next)
}

fn letters(broker: &MemoryBroker) -> Vec<Record> {
    let partitions = (0..PARTITIONS).map(|partition| PartitionId { topic: Topic::Dlq, partition });
    partitions.flat_map(|p| broker.records(p)).collect()
}

/// `dedup_key` and `event_action` of what PagerDuty was sent.
fn events(requests: &[Request]) -> Vec<(String, String)> {
    let text = |request: &Request, name: &str| request.json()[name].as_str().unwrap().to_owned();
    requests.iter().map(|r| (text(r, "dedup_key"), text(r, "event_action"))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[tokio::test]
async fn every_alert_is_sent_in_order_and_then_committed() {
    let (broker, server) = (log().await, Server::start([]).await);
    let alerts = [alert("x", "firing", 0), alert("x", "firing", 10), alert("x", "resolved", 20)];
    write(&broker, &alerts.map(|a| (3, a))).await;
    let config = config(&[("pd", receiver(ReceiverKind::PagerDuty, &server.url()))]);
    serve(&broker, &config).await;
    assert_eq!(events(&server.requests()), pairs(&[("x", "trigger"), ("x", "trigger"), ("x", "resolve")]));
    assert_eq!(committed(&broker, "pd", 3).await, 3);
    serve(&broker, &config).await;
    assert_eq!(server.requests().len(), 3, "a restart sends nothing again");
}

#[tokio::test]
async fn after_a_lost_answer_the_same_identity_is_sent_again() {
    let script = [Reply::Lost, Reply::Status(202, None), Reply::Lost, Reply::Status(503, None)];
    let (broker, server) = (log().await, Server::start(script).await);
    write(&broker, &[(0, alert("x", "firing", 0)), (0, alert("x", "resolved", 10))]).await;
    serve(&broker, &config(&[("pd", receiver(ReceiverKind::PagerDuty, &server.url()))])).await;
    let expected = [("x", "trigger"), ("x", "trigger"), ("x", "resolve"), ("x", "resolve"), ("x", "resolve")];
    assert_eq!(events(&server.requests()), pairs(&expected));
    let bodies: BTreeSet<Vec<u8>> = server.requests().into_iter().map(|r| r.body).collect();
    assert_eq!(bodies.len(), 2, "what is sent again is the same byte for byte");
    assert!(letters(&broker).is_empty());
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_asked_again() {
    let (broker, server) = (log().await, Server::start([Reply::Silent]).await);
    write(&broker, &[(0, alert("x", "firing", 0))]).await;
    let config = config(&[("pd", receiver(ReceiverKind::PagerDuty, &server.url()))]);
    serve(&broker, &AlertConfig { request_timeout_ms: 300, ..config }).await;
    let bodies: Vec<Vec<u8>> = server.requests().into_iter().map(|r| r.body).collect();
    assert!(bodies.len() > 1 && bodies.iter().all(|body| *body == bodies[0]), "{} requests", bodies.len());
    assert_eq!(committed(&broker, "pd", 0).await, 1);
}

#[tokio::test]
async fn why_there_was_no_answer_is_said_without_the_address() {
    let (_, server) = (log().await, Server::start([Reply::Lost]).await);
    let own = receiver(ReceiverKind::Slack, &format!("{}/services/hunter2", server.url()));
    let sender = Sender::new(10_000).unwrap();
    let opened = Receiver::open_all(&config(&[("slack", own)])).unwrap();
    let alert = alert("x", "firing", 0);
    let post = opened[0].post(&[Item { alert: &alert, id: Uuid::ZERO }], clock::now()).unwrap();
    let lost = sender.send(&post, clock::now()).await.unwrap();
    server.stop().await;
    let away = sender.send(&post, clock::now()).await.unwrap();
    for (answer, expected) in [(lost, "the answer was lost"), (away, "it cannot be reached")] {
        let Answer::Again { after_ms: None, why } = answer else { panic!("{answer:?}") };
        assert!(why.starts_with(expected) && !why.contains("hunter2"), "{why}");
    }
}

#[tokio::test]
async fn a_cloud_event_keeps_its_id_over_a_lost_answer_and_a_restart() {
    let (broker, server) = (log().await, Server::start([Reply::Lost]).await);
    write(&broker, &[(1, alert("x", "firing", 0)), (1, alert("x", "firing", 10))]).await;
    let own = ReceiverConfig {
        signing_key: Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        authorization: Secret::new("Bearer hunter2"),
        ..receiver(ReceiverKind::CloudEvents, &server.url())
    };
    let fault = Fault::Commit { group: "custody-alert-ce".to_owned(), applied: false, class: LogErrorClass::AbortTxn };
    broker.inject(fault);
    serve(&broker, &config(&[("ce", own)])).await;
    assert_eq!(broker.faults().1, 0, "a commit failed on the way");
    let requests = server.requests();
    let ids: Vec<String> = requests.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.len() > 3, "the lost one and the uncommitted ones again: {ids:?}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 2, "two records, two ids: {ids:?}");
    for (request, id) in requests.iter().zip(&ids) {
        assert_eq!(request.header("webhook-id"), Some(id.as_str()));
        assert_eq!(request.header("content-type"), Some("application/cloudevents+json; charset=utf-8"));
        assert_eq!(request.header("authorization"), Some("Bearer hunter2"));
        assert!(request.header("webhook-signature").is_some_and(|s| s.starts_with("v1,")));
    }
}

#[tokio::test]
async fn a_receiver_is_left_alone_for_as_long_as_it_asked() {
    let (broker, server) = (log().await, Server::start([Reply::Status(429, Some("1"))]).await);
    write(&broker, &[(0, alert("x", "firing", 0))]).await;
    serve(&broker, &config(&[("slack", receiver(ReceiverKind::Slack, &server.url()))])).await;
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].at - requests[0].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn what_is_refused_for_good_becomes_a_dead_letter_and_the_next_goes_on() {
    let (broker, server) = (log().await, Server::start([Reply::Status(400, None)]).await);
    let at = write(&broker, &[(3, alert("bad", "firing", 0)), (3, alert("good", "firing", 0))]).await;
    broker.inject(Fault::Append { applied: false, class: LogErrorClass::Retry { after_ms: 1 } });
    server.then([Reply::Status(400, None)]);
    let control = serve(&broker, &config(&[("pd", receiver(ReceiverKind::PagerDuty, &server.url()))])).await;
    let expected = [("bad", "trigger"), ("bad", "trigger"), ("good", "trigger")];
    assert_eq!(events(&server.requests()), pairs(&expected), "the letter was not written the first time");
    let found = letters(&broker);
    assert_eq!((found.len(), control.rejects.get()), (1, 1));
    let text = |name: &str| String::from_utf8(header_value(&found[0].headers, name).unwrap().to_vec()).unwrap();
    assert_eq!(text(header::DLQ_REASON), "receiver_refused");
    assert_eq!((text(header::DLQ_RECEIVER), text(header::DLQ_STATUS)), ("pd".to_owned(), "400".to_owned()));
    assert_eq!((text(header::DLQ_PARTITION), text(header::DLQ_OFFSET)), ("3".to_owned(), at[0].offset.to_string()));
    assert_eq!(text(header::DLQ_STAGE), "custody-alert-pd");
    assert_eq!(found[0].value, broker.records(at[0].partition)[0].value, "the original bytes");
    let shown = found[0].headers.iter().map(|(_, v)| String::from_utf8_lossy(v)).collect::<String>();
    assert!(!shown.contains("acme") && !shown.contains("latency rose"), "{shown}");
    assert_eq!(committed(&broker, "pd", 3).await, 2);
}

#[tokio::test]
async fn a_record_that_is_no_alert_becomes_a_dead_letter() {
    let (broker, server) = (log().await, Server::start([]).await);
    let bytes = Bytes::from_static(b"no avro");
    broker.appender().await.unwrap().append(vec![record(0, bytes.clone())]).await.unwrap();
    write(&broker, &[(0, alert("x", "firing", 0))]).await;
    serve(&broker, &config(&[("pd", receiver(ReceiverKind::PagerDuty, &server.url()))])).await;
    assert_eq!(events(&server.requests()), pairs(&[("x", "trigger")]));
    let found = letters(&broker);
    assert_eq!((found.len(), found[0].value.clone()), (1, Some(bytes)));
    assert_eq!(header_value(&found[0].headers, header::DLQ_REASON).unwrap().as_ref(), b"unknown_frame");
}

#[tokio::test]
async fn of_alerts_refused_together_only_the_one_at_fault_is_a_dead_letter() {
    let script = [400, 200, 400, 200].map(|status| Reply::Status(status, None));
    let (broker, server) = (log().await, Server::start(script).await);
    let own = ReceiverConfig {
        severity_min: sinks::alerts::route::Severity::Error,
        ..receiver(ReceiverKind::Alertmanager, &server.url())
    };
    let at = write(&broker, &["a", "b", "c"].map(|name| (0, alert(name, "resolved", 0)))).await;
    serve(&broker, &config(&[("am", own)])).await;
    let sizes: Vec<usize> = server.requests().iter().map(|r| r.json().as_array().unwrap().len()).collect();
    assert_eq!(sizes, [3, 1, 1, 1]);
    assert_eq!(server.requests()[0].path, "/api/v2/alerts");
    let found = letters(&broker);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].value, broker.records(at[1].partition)[1].value);
    assert_eq!(committed(&broker, "am", 0).await, 3);
}

#[tokio::test]
async fn a_restart_posts_what_still_fires_and_nothing_that_is_over() {
    let (broker, server) = (log().await, Server::start([]).await);
    let alerts = [
        (0, alert("goes on", "firing", 0)),
        (0, alert("over", "firing", 0)),
        (3, alert("over elsewhere", "firing", 0)),
        (0, alert("over", "resolved", 10)),
        (1, alert("over elsewhere", "resolved", 10)),
        (2, Alert { severity: "info".to_owned(), ..alert("unwanted", "firing", 0) }),
        (2, Alert { updated_at: TimestampMicros(0), ..alert("forgotten", "firing", 0) }),
    ];
    write(&broker, &alerts).await;
    let own = ReceiverConfig {
        severity_min: sinks::alerts::route::Severity::Warning,
        ..receiver(ReceiverKind::Alertmanager, &server.url())
    };
    let config = config(&[("am", own)]);
    serve(&broker, &config).await;
    let before = server.requests().len();
    serve(&broker, &config).await;
    let posted: Vec<serde_json::Value> =
        server.requests()[before..].iter().flat_map(|r| r.json().as_array().unwrap().clone()).collect();
    let names: Vec<&str> = posted.iter().map(|a| a["annotations"]["fingerprint"].as_str().unwrap()).collect();
    assert_eq!(names, ["goes on"]);
    let ends_at = posted[0]["endsAt"].as_str().unwrap();
    assert!(ends_at > posted[0]["startsAt"].as_str().unwrap(), "it ends ahead: {ends_at}");
}

#[tokio::test]
async fn a_person_is_not_told_the_same_twice_nor_after_a_restart() {
    let (broker, server) = (log().await, Server::start([]).await);
    let config = config(&[("slack", receiver(ReceiverKind::Slack, &server.url()))]);
    write(&broker, &[(0, alert("x", "firing", 0)), (0, alert("x", "firing", 10))]).await;
    serve(&broker, &config).await;
    write(&broker, &[(0, alert("x", "firing", 20)), (0, alert("x", "resolved", 30))]).await;
    serve(&broker, &config).await;
    let texts: Vec<String> = server.requests().iter().map(|r| r.json()["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].starts_with("ERROR: latency of agent") && texts[1].starts_with("Resolved: latency of agent"));
}

#[tokio::test]
async fn each_receiver_gets_what_it_wants() {
    let (broker, all, some) = (log().await, Server::start([]).await, Server::start([]).await);
    let wanted =
        Alert { tenant_id: "umbrella".to_owned(), alert_class: "budget".to_owned(), ..alert("b", "firing", 0) };
    write(&broker, &[(0, alert("a", "firing", 0)), (0, wanted)]).await;
    let choosy = ReceiverConfig {
        tenants: vec!["umbrella".to_owned()],
        alert_classes: vec!["budget".to_owned()],
        ..receiver(ReceiverKind::PagerDuty, &some.url())
    };
    serve(&broker, &config(&[("all", receiver(ReceiverKind::PagerDuty, &all.url())), ("some", choosy)])).await;
    assert_eq!(events(&all.requests()), pairs(&[("a", "trigger"), ("b", "trigger")]));
    assert_eq!(events(&some.requests()), pairs(&[("b", "trigger")]));
    assert_eq!(committed(&broker, "some", 0).await, 2, "what is left out is dealt with");
}

#[tokio::test]
async fn a_receiver_that_is_away_holds_back_nobody_and_loses_nothing() {
    let (broker, here) = (log().await, Server::start([]).await);
    let away = Server::start([]).await;
    let address = away.stop().await;
    let configured = |url: &str| {
        config(&[
            ("away", receiver(ReceiverKind::PagerDuty, url)),
            ("here", receiver(ReceiverKind::PagerDuty, &here.url())),
        ])
    };
    write(&broker, &[(0, alert("a", "firing", 0)), (1, alert("b", "firing", 0))]).await;
    let (control, config) = (Control::default(), configured(&address));
    let (task_control, task_broker) = (control.clone(), broker.clone());
    let task =
        tokio::spawn(async move { run(task_broker, INSTANCE, &config, &AlertMetrics::default(), &task_control).await });
    here.wait_for(2).await;
    control.stop.raise();
    task.await.unwrap().unwrap();
    assert_eq!((committed(&broker, "away", 0).await, committed(&broker, "away", 1).await), (0, 0));
    let back = Server::start([]).await;
    serve(&broker, &configured(&back.url())).await;
    let found: BTreeSet<(String, String)> = events(&back.requests()).into_iter().collect();
    assert_eq!(found, pairs(&[("a", "trigger"), ("b", "trigger")]).into_iter().collect());
    assert_eq!((committed(&broker, "away", 0).await, committed(&broker, "away", 1).await), (1, 1));
}

#[tokio::test]
async fn an_alert_that_ended_in_another_members_partition_is_not_fired_here() {
    let (broker, server) = (log().await, Server::start([]).await);
    let group = "custody-alert-am";
    let mut other = broker.consumer(group, Topic::Alerts, "other").await.unwrap();
    let mut alerts: Vec<(u32, Alert)> = Vec::new();
    // Whatever partitions this member gets: each starts an alert that ends in each other one.
    for (start, end) in (0..4).flat_map(|s| (0..4).map(move |e| (s, e))).filter(|(s, e)| s != e) {
        alerts.push((start, alert(&format!("{start} to {end}"), "firing", 0)));
        alerts.push((end, alert(&format!("{start} to {end}"), "resolved", 10)));
    }
    write(&broker, &alerts).await;
    let config = config(&[("am", receiver(ReceiverKind::Alertmanager, &server.url()))]);
    let (control, task_broker) = (Control::default(), broker.clone());
    let task_control = control.clone();
    let task =
        tokio::spawn(async move { run(task_broker, INSTANCE, &config, &AlertMetrics::default(), &task_control).await });
    // The other member holds its partitions and never delivers.
    let mut held = BTreeSet::new();
    until_async("shared and posted", async || {
        match other.next().await.unwrap() {
            LogEvent::Assigned(partitions) => held.extend(partitions.into_iter().map(|(p, _)| p)),
            LogEvent::Revoked(partitions) => held.retain(|p| !partitions.contains(p)),
            _ => {}
        }
        held.len() == 2 && !server.requests().is_empty()
    })
    .await;
    control.upstream_done.raise();
    task.await.unwrap().unwrap();
    for posted in server.requests().iter().flat_map(|r| r.json().as_array().unwrap().clone()) {
        let name = posted["annotations"]["fingerprint"].as_str().unwrap().to_owned();
        let (_, end) = name.split_once(" to ").unwrap();
        let end = PartitionId { topic: Topic::Alerts, partition: end.parse().unwrap() };
        assert!(!held.contains(&end), "{name} was posted here, and only the other member can end it");
    }
}

#[tokio::test]
async fn a_new_receiver_can_begin_at_the_end_and_loses_nothing_from_then_on() {
    let (broker, server) = (log().await, Server::start([Reply::Status(500, None)]).await);
    write(&broker, &[(0, alert("old", "firing", 0))]).await;
    let own = ReceiverConfig { start: Start::Latest, ..receiver(ReceiverKind::PagerDuty, &server.url()) };
    let config = config(&[("pd", own)]);
    serve(&broker, &config).await;
    assert_eq!((server.requests().len(), committed(&broker, "pd", 0).await), (0, 1));
    write(&broker, &[(0, alert("new", "firing", 0))]).await;
    serve(&broker, &config).await;
    assert_eq!(events(&server.requests()), pairs(&[("new", "trigger"), ("new", "trigger")]));
}

#[tokio::test]
async fn without_receivers_or_with_a_wrong_one_nothing_starts() {
    let broker = log().await;
    let wrong = ReceiverConfig { kind: None, ..ReceiverConfig::default() };
    for (config, expected) in [(config(&[]), "no receivers"), (config(&[("x", wrong)]), "alert.receivers.x")] {
        let (metrics, control) = (AlertMetrics::default(), Control::default());
        let error = run(broker.clone(), INSTANCE, &config, &metrics, &control).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn the_metrics_have_their_names_and_count_what_happened() {
    let script = [503, 200, 400].map(|status| Reply::Status(status, None));
    let (broker, server) = (log().await, Server::start(script).await);
    write(&broker, &[(0, alert("a", "firing", 0)), (0, alert("b", "firing", 0))]).await;
    let (metrics, control) = (AlertMetrics::default(), Control::default());
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    control.upstream_done.raise();
    let config = config(&[("pd", receiver(ReceiverKind::PagerDuty, &server.url()))]);
    run(broker.clone(), INSTANCE, &config, &metrics, &control).await.unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.rsplit_once(' ')).collect();
    for (series, value) in [
        ("custody_alerts_sent_total{receiver=\"pd\",outcome=\"accepted\"}", "1"),
        ("custody_alerts_sent_total{receiver=\"pd\",outcome=\"refused\"}", "1"),
        ("custody_alerts_sent_total{receiver=\"pd\",outcome=\"retried\"}", "1"),
        ("custody_alert_send_seconds_count{receiver=\"pd\"}", "3"),
        ("custody_alerts_pending{receiver=\"pd\"}", "0"),
    ] {
        assert_eq!(values.get(series), Some(&value), "{series} in\n{text}");
    }
}
