//! The alert sink on a real Prometheus Alertmanager, started here on a free loopback port: what we post is
//! accepted and shown with our labels, a resolve takes it away, posting again adds nothing, and an
//! Alertmanager that lost its memory gets back what still fires.
//!
//! `CUSTODY_TEST_ALERTMANAGER` names the binary; without it, `prometheus-alertmanager` (Debian) or
//! `alertmanager` on the PATH. Its absence is a failure. Payloads are checked in `sinks`.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use custody::alert_role::{self, AlertMetrics};
use custody::clock;
use custody::roles::create_topics;
use custody::runner::control::Control;
use ingest::log::memory::MemoryBroker;
use ingest::log::{Appender, Broker};
use schemas::codec::{Derived, codec};
use schemas::event::Alert;
use schemas::record::{OutRecord, PartitionId, Record, header, header_value};
use schemas::secret::Secret;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use serde_json::Value;
use sinks::alerts::config::{AlertConfig, ReceiverConfig, ReceiverKind};

const HOW_TO_GET_IT: &str = "no Alertmanager: apt-get install prometheus-alertmanager, \
                             or set CUSTODY_TEST_ALERTMANAGER to the path of its binary";

/// The binary under test.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CUSTODY_TEST_ALERTMANAGER") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["prometheus-alertmanager", "alertmanager"];
    let mut found = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    found.find(|file| file.is_file()).expect(HOW_TO_GET_IT)
}

/// A running server; ends with the test.
struct Alertmanager {
    child: Child,
    url: String,
}

impl Alertmanager {
    /// Starts one with an empty memory and waits until it listens.
    fn start(dir: &Path) -> Self {
        let config = dir.join("alertmanager.yml");
        std::fs::write(&config, "route: {receiver: none}\nreceivers: [{name: none}]\n").expect("configuration");
        let mut child = Command::new(binary())
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.display()))
            .args(["--web.listen-address=127.0.0.1:0", "--cluster.listen-address=", "--log.format=json"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect(HOW_TO_GET_IT);
        let mut lines = BufReader::new(child.stderr.take().expect("standard error")).lines();
        let mut said = String::new();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            said.push_str(&line);
            (entry["msg"] == "Listening on").then(|| entry["address"].as_str().map(str::to_owned)).flatten()
        });
        // Its log must be read to the end, else it stops at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.unwrap_or_else(|| panic!("Alertmanager did not start: {said}"));
        Self { child, url: format!("http://{address}") }
    }

    /// `GET /api/v2/alerts`, by fingerprint of ours.
    async fn alerts(&self) -> Vec<Value> {
        let answer = reqwest::get(format!("{}/api/v2/alerts", self.url)).await.expect("alerts");
        assert_eq!(answer.status(), 200);
        let mut alerts: Vec<Value> = serde_json::from_slice(&answer.bytes().await.expect("body")).expect("json");
        alerts.sort_by_key(|alert| alert["annotations"]["fingerprint"].to_string());
        alerts
    }

    /// Our fingerprints of the active alerts.
    async fn active(&self) -> Vec<String> {
        let text = |alert: &Value| alert["annotations"]["fingerprint"].as_str().expect("fingerprint").to_owned();
        self.alerts().await.iter().map(text).collect()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

/// An alert `minutes` after the start of the hour before now.
fn alert(fingerprint: &str, status: &str, minutes: i64) -> Alert {
    let started = TimestampMicros(clock::now().0 - 3_600_000_000);
    let at = started.plus_ms(minutes * 60_000);
    Alert {
        fingerprint: fingerprint.to_owned(),
        status: status.to_owned(),
        severity: "critical".to_owned(),
        alert_class: "error_rate".to_owned(),
        tenant_id: "acme".to_owned(),
        subject_kind: "agent".to_owned(),
        subject: format!("agent \"{fingerprint}\" ä"),
        environment: "prod".to_owned(),
        metric: "tool_error_rate/db.query".to_owned(),
        starts_at: started,
        ends_at: (status == "resolved").then_some(at),
        updated_at: at,
        reason: "tool error rate is 0.50 (expected 0.01)".to_owned(),
        detector: "score@1".to_owned(),
        labels: [("cost-center".to_owned(), "42".to_owned())].into(),
        ..Alert::default()
    }
}

async fn write(broker: &MemoryBroker, alerts: &[Alert]) {
    let records = alerts.iter().map(|alert| OutRecord {
        topic: Topic::Alerts,
        partition: Some(0),
        timestamp: clock::now(),
        key: Some(alert.fingerprint.clone().into()),
        value: Some(codec().encode_derived(&Derived::Alert(alert.clone()))),
        headers: Vec::new(),
    });
    let mut appender = broker.appender().await.expect("appender");
    appender.append(records.collect()).await.expect("append");
}

/// The alert role, from its start until everything in the log has been dealt with.
async fn serve(broker: &MemoryBroker, server: &Alertmanager) {
    let receiver = ReceiverConfig {
        kind: Some(ReceiverKind::Alertmanager),
        url: Secret::new(server.url.clone()),
        ..ReceiverConfig::default()
    };
    let config = AlertConfig {
        generator_url: "https://custody.example.com/alerts/{fingerprint}".to_owned(),
        receivers: [("am".to_owned(), receiver)].into(),
        ..AlertConfig::default()
    };
    let control = Control::default();
    control.upstream_done.raise();
    let metrics = AlertMetrics::default();
    alert_role::run(broker.clone(), "0", &config, &metrics, &control).await.expect("alert role");
}

async fn log() -> MemoryBroker {
    let _: Result<(), _> = rustls::crypto::ring::default_provider().install_default();
    let broker = MemoryBroker::new();
    create_topics(&broker, 1).await.expect("topics");
    broker
}

fn letters(broker: &MemoryBroker) -> Vec<Record> {
    broker.records(PartitionId { topic: Topic::Dlq, partition: 0 })
}

#[tokio::test]
async fn alerts_are_shown_with_our_labels_are_not_doubled_and_go_when_resolved() {
    let (dir, broker) = (tempfile::tempdir().expect("directory"), log().await);
    let server = Alertmanager::start(dir.path());
    write(&broker, &[alert("a", "firing", 0), alert("b", "firing", 0), alert("a", "firing", 10)]).await;
    serve(&broker, &server).await;
    let shown = server.alerts().await;
    assert_eq!(shown.len(), 2, "{shown:?}");
    let expected = serde_json::json!({
        "alertname": "error_rate",
        "alert_class": "error_rate",
        "severity": "critical",
        "tenant": "acme",
        "environment": "prod",
        "subject_kind": "agent",
        "subject": "agent \"a\" ä",
        "metric": "tool_error_rate/db.query",
        "cost_center": "42",
    });
    assert_eq!(shown[0]["labels"], expected);
    assert_eq!(shown[0]["generatorURL"], "https://custody.example.com/alerts/a");
    assert_eq!(shown[0]["annotations"]["summary"], "tool error rate is 0.50 (expected 0.01)");
    assert_eq!(shown[0]["status"]["state"], "active");

    serve(&broker, &server).await;
    let again = server.alerts().await;
    let identity = |alerts: &[Value]| alerts.iter().map(|a| a["fingerprint"].clone()).collect::<Vec<_>>();
    assert_eq!(identity(&again), identity(&shown), "posted again, it is the same alert");
    assert_eq!(again[0]["startsAt"], shown[0]["startsAt"]);
    assert!(again[0]["endsAt"].as_str() > shown[0]["endsAt"].as_str(), "and lasts longer: {again:?}");

    write(&broker, &[alert("a", "resolved", 20)]).await;
    serve(&broker, &server).await;
    assert_eq!(server.active().await, ["b"]);
    serve(&broker, &server).await;
    assert_eq!(server.active().await, ["b"], "a restart does not bring it back");
    assert!(letters(&broker).is_empty());
}

#[tokio::test]
async fn an_alertmanager_that_lost_its_memory_gets_back_what_still_fires() {
    let broker = log().await;
    let alerts = [alert("a", "firing", 0), alert("b", "firing", 0), alert("b", "resolved", 10)];
    write(&broker, &alerts).await;
    for _ in 0..2 {
        let dir = tempfile::tempdir().expect("directory");
        let server = Alertmanager::start(dir.path());
        assert!(server.active().await.is_empty());
        serve(&broker, &server).await;
        assert_eq!(server.active().await, ["a"]);
    }
}

#[tokio::test]
async fn what_alertmanager_refuses_becomes_a_dead_letter_and_its_neighbours_arrive() {
    let (dir, broker) = (tempfile::tempdir().expect("directory"), log().await);
    let server = Alertmanager::start(dir.path());
    // Without a single label there is nothing to know an alert by.
    write(&broker, &[alert("a", "firing", 0), Alert::default(), alert("b", "firing", 0)]).await;
    serve(&broker, &server).await;
    assert_eq!(server.active().await, ["a", "b"]);
    let found = letters(&broker);
    assert_eq!(found.len(), 1);
    let text = |name| String::from_utf8_lossy(header_value(&found[0].headers, name).expect(name)).into_owned();
    assert_eq!((text(header::DLQ_REASON), text(header::DLQ_STATUS)), ("receiver_refused".to_owned(), "400".to_owned()));
    assert_eq!(text(header::DLQ_OFFSET), "1");
}
