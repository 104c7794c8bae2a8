//! Services in this process, on the embedded log: how they start, share, drain and go on.
//!
//! Signals arrive as a future. `tests/live/services.rs` runs the binary with real signals and ClickHouse.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use custody::config::{Config, Role};
use custody::metrics::{METRICS, MetricKind, MetricName};
use custody::operate::status::Status;
use custody::roles;
use custody::runner::control::Flag;
use custody::services;
use custody::stage_table::partitions_of;
use ingest::agent::tick::Ticker;
use ingest::log::local::LocalBroker;
use ingest::log::{Appender, Broker};
use schemas::codec::codec;
use schemas::event::{Event, ModelCall, RawEvent};
use schemas::id::Uuid;
use schemas::record::{OutRecord, PartitionId, Record};
use schemas::testing::{PATIENCE, typical};
use schemas::text::Content;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(super) use schemas::testing::until_async as wait;

const PARTITIONS: u32 = 4;
/// Log time of the first event.
const START: TimestampMicros = TimestampMicros::from_ms(1_768_208_400_000);

pub(super) fn config(dir: &Path) -> Config {
    let mut config = Config { data_dir: dir.to_owned(), instance: "a".to_owned(), ..Config::default() };
    config.pii.keys_file = dir.join("pii.key");
    config.telemetry.lag_interval_ms = 50;
    config
}

/// A log with topics and a token key, as the roles need them.
pub(super) async fn installed(dir: &Path) -> LocalBroker {
    std::fs::write(dir.join("pii.key"), [7; 32]).expect("key");
    let broker = LocalBroker::open(dir.join("log"), None).expect("log");
    roles::create_topics(&broker, PARTITIONS).await.expect("topics");
    broker
}

/// A service that runs until it is told to stop.
pub(super) struct Service {
    stop: Flag,
    address: std::net::SocketAddr,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    pub(super) async fn start<B: Broker>(broker: &B, config: &Config, role: Role) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let stop = Flag::default();
        let (broker, config, raised) = (broker.clone(), config.clone(), stop.clone());
        let task = tokio::spawn(async move {
            services::serve_on(broker, &config, role, async move { raised.raised().await }, listener).await
        });
        Self { stop, address, task }
    }

    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        request(self.address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    pub(super) async fn until_ready(&self) {
        wait("ready", async || self.get("/readyz").await.0 == 200).await;
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.raise();
        self.task.await.expect("no panic")
    }
}

/// Status and body of the answer to a request that asks for its connection to be closed.
async fn request(address: std::net::SocketAddr, text: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answer");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

pub(super) fn id(topic: Topic, partition: u32) -> PartitionId {
    PartitionId { topic, partition }
}

/// An event as a record of a partition, numbered by `index`.
pub(super) fn event(partition: u32, index: u64) -> OutRecord {
    let mut event: RawEvent = typical(index);
    let header = event.h_mut();
    header.event_id = Uuid::derive(&[b"services", &partition.to_be_bytes(), &index.to_be_bytes()]);
    header.event_time = START.plus_ms(index as i64);
    OutRecord {
        topic: Topic::Events,
        partition: Some(partition),
        timestamp: START.plus_ms(index as i64),
        key: Some("k".into()),
        value: Some(codec().encode(&event)),
        headers: Vec::new(),
    }
}

pub(super) async fn append(broker: &LocalBroker, records: Vec<OutRecord>) {
    broker.appender().await.expect("appender").append(records).await.expect("appended");
}

pub(super) async fn append_events(broker: &LocalBroker, indices: std::ops::Range<u64>) {
    let records = indices.flat_map(|i| (0..PARTITIONS).map(move |p| event(p, i))).collect();
    append(broker, records).await;
}

/// Everything that a partition holds.
pub(super) async fn records(broker: &LocalBroker, partition: PartitionId) -> Vec<Record> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let (some, next) = broker.read(partition, at).await.expect("read");
        if some.is_empty() {
            return all;
        }
        all.extend(some);
        at = next;
    }
}

pub(super) async fn count(broker: &LocalBroker, topic: Topic) -> u64 {
    let mut count = 0;
    for partition in 0..partitions_of(topic, PARTITIONS) {
        count += broker.bounds(id(topic, partition)).await.expect("bounds").end;
    }
    count
}

/// Ids of the clean events of all partitions.
async fn clean_ids(broker: &LocalBroker) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for partition in 0..PARTITIONS {
        for record in records(broker, id(Topic::Clean, partition)).await {
            let event: schemas::event::CleanEvent = codec().decode(record.value.as_deref()).expect("clean");
            ids.push(event.h().event_id);
        }
    }
    ids
}

/// Objects of the archive, data and manifests.
fn objects(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.join("store/archive")];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type().is_ok_and(|t| t.is_dir()) {
                true => waiting.push(entry.path()),
                false => found.push(entry.path().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_role_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    let config = config(dir.path());
    for round in 0..3 {
        append_events(&broker, round * 500..(round + 1) * 500).await;
        let service = Service::start(&broker, &config, Role::Pii).await;
        // Somewhere in the middle, but for the last round.
        let least = if round == 2 { 3 * 500 * u64::from(PARTITIONS) } else { round * 500 * u64::from(PARTITIONS) + 1 };
        wait("processed", async || count(&broker, Topic::Clean).await >= least).await;
        service.stop().await.expect("drained");
    }
    let ids = clean_ids(&broker).await;
    let different: BTreeSet<&Uuid> = ids.iter().collect();
    assert_eq!((ids.len(), different.len()), (6_000, 6_000), "nothing lost, nothing twice");
}

/// Answers VictoriaMetrics#11370: what a rebalance did must show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_partitions_and_drop_the_series_of_what_they_gave_up() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    let (first, second) = (config(dir.path()), Config { instance: "b".to_owned(), ..config(dir.path()) });
    let lag_of = |text: &str| -> BTreeSet<u32> {
        samples(text)
            .into_iter()
            .filter(|s| s.name == "kafka_consumergroup_lag")
            .map(|s| s.labels["partition"].parse().expect("partition"))
            .collect()
    };
    let a = Service::start(&broker, &first, Role::Pii).await;
    wait("all of a", async || lag_of(&a.get("/metrics").await.1) == BTreeSet::from([0, 1, 2, 3])).await;
    append_events(&broker, 0..200).await;
    let b = Service::start(&broker, &second, Role::Pii).await;
    wait("half of b", async || lag_of(&b.get("/metrics").await.1).len() == 2).await;
    wait("half of a", async || lag_of(&a.get("/metrics").await.1).len() == 2).await;
    let (of_a, of_b) = (lag_of(&a.get("/metrics").await.1), lag_of(&b.get("/metrics").await.1));
    assert!(of_a.is_disjoint(&of_b), "{of_a:?} {of_b:?}");
    append_events(&broker, 200..400).await;
    wait("processed", async || count(&broker, Topic::Clean).await == 400 * u64::from(PARTITIONS)).await;
    a.stop().await.expect("drained");
    wait("all of b", async || lag_of(&b.get("/metrics").await.1).len() == 4).await;
    b.stop().await.expect("drained");
    let ids = clean_ids(&broker).await;
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "nothing twice");
}

/// Answers vector#3829 and kafka-connect-storage-cloud#144: neither tiny files nor rows that wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticks_cut_the_files_of_a_quiet_partition_and_a_stop_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    let config = config(dir.path());
    append_events(&broker, 0..50).await;
    let pii = Service::start(&broker, &config, Role::Pii).await;
    wait("clean", async || count(&broker, Topic::Clean).await == 50 * u64::from(PARTITIONS)).await;

    let archive = Service::start(&broker, &config, Role::Archive).await;
    let held = |text: &str| {
        let samples = samples(text);
        samples.iter().filter(|s| s.name == "custody_oldest_unflushed_seconds" && s.value > 0.0).count()
    };
    wait("in hand", async || held(&archive.get("/metrics").await.1) >= PARTITIONS as usize).await;
    archive.stop().await.expect("drained");
    let of_clean = || objects(dir.path()).into_iter().filter(|o| o.contains("custody.clean.v1")).collect::<Vec<_>>();
    assert_eq!(of_clean(), Vec::<String>::new(), "log time has not passed: nothing is cut where a stop happened to be");

    let archive = Service::start(&broker, &config, Role::Archive).await;
    let ticker = Ticker::new("gateway/a", START, 0..PARTITIONS);
    append(&broker, ticker.round(START.plus_ms(config.archive.flush_interval_ms - 1))).await;
    append(&broker, ticker.round(START.plus_ms(config.archive.flush_interval_ms))).await;
    // One data object and one manifest per partition.
    wait("published", async || of_clean().len() == 2 * PARTITIONS as usize).await;
    archive.stop().await.expect("drained");
    pii.stop().await.expect("drained");
    assert_eq!(of_clean().len(), 2 * PARTITIONS as usize, "{:?}", of_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn findings_are_cut_by_the_clock_since_no_tick_reaches_them() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    let mut config = config(dir.path());
    config.archive.flush_interval_ms = 1;
    let input = Some(Content::plain("mail bob@example.com the key AKIAIOSFODNN7EXAMPLE"));
    let event: RawEvent = Event::ModelCall(ModelCall { h: typical(0).h().clone(), input, ..ModelCall::default() });
    let record = OutRecord { value: Some(codec().encode(&event)), ..self::event(0, 0) };
    append(&broker, vec![record]).await;
    let pii = Service::start(&broker, &config, Role::Pii).await;
    wait("found", async || count(&broker, Topic::Findings).await > 0).await;
    let archive = Service::start(&broker, &config, Role::Archive).await;
    wait("published", async || objects(dir.path()).iter().any(|o| o.contains("custody.findings.v1"))).await;
    archive.stop().await.expect("drained");
    pii.stop().await.expect("drained");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_or_wrong_ends_the_start_before_any_role_runs() {
    let dir = tempfile::tempdir().expect("directory");
    let refused = async |broker: &LocalBroker, config: &Config, role: Role| {
        let service = Service::start(broker, config, role).await;
        let ended = tokio::time::timeout(PATIENCE, service.task).await.expect("it ends by itself");
        format!("{:#}", ended.expect("no panic").expect_err("refused"))
    };
    let empty = LocalBroker::open(dir.path().join("empty"), None).expect("log");
    let error = refused(&empty, &config(dir.path()), Role::Pii).await;
    assert!(error.contains("custody topics create"), "{error}");

    let broker = installed(dir.path()).await;
    append_events(&broker, 0..1).await;
    let mut other = config(dir.path());
    other.log.partitions = 8;
    let error = refused(&broker, &other, Role::Completeness).await;
    assert!(error.contains("has 4 partitions and log.partitions = 8"), "{error}");

    std::fs::write(dir.path().join("pii.key"), [7; 31]).expect("key");
    let error = refused(&broker, &config(dir.path()), Role::Pii).await;
    assert!(error.contains("holds 31 bytes, not 32"), "{error}");

    let mut other = config(dir.path());
    other.store.url = "ftp://x".to_owned();
    let error = refused(&broker, &other, Role::Archive).await;
    assert!(error.contains("[store] url"), "{error}");

    let taken = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let mut other = config(dir.path());
    other.telemetry.listen = taken.local_addr().expect("address").to_string();
    let error = services::serve(broker.clone(), &other, Role::Pii, std::future::pending()).await.expect_err("refused");
    assert!(format!("{error:#}").contains("telemetry.listen"), "{error:#}");

    assert_eq!(count(&broker, Topic::Clean).await, 0);
    assert!(broker.committed("custody-pii", id(Topic::Events, 0)).await.expect("asked").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_cannot_go_on_ends_the_process_with_its_name() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    let garbage = OutRecord { topic: Topic::Clean, value: Some("garbage".into()), ..event(2, 0) };
    append(&broker, vec![garbage]).await;
    let service = Service::start(&broker, &config(dir.path()), Role::Archive).await;
    let ended = tokio::time::timeout(PATIENCE, service.task).await.expect("it ends by itself");
    let error = format!("{:#}", ended.expect("no panic").expect_err("failed"));
    assert!(error.starts_with("role archive custody.clean.v1 stopped"), "{error}");
    assert!(error.contains("custody.clean.v1/2 offset 0"), "{error}");
    assert!(broker.committed("custody-archive", id(Topic::Clean, 2)).await.expect("asked").is_none());
}

/// A line of the text that Prometheus reads.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// The samples of an OpenMetrics text; panics where it is none.
fn samples(text: &str) -> Vec<Sample> {
    assert!(text.ends_with("# EOF\n"), "the text is cut: {text}");
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    let inner = rest.strip_suffix('}').expect("a closing brace");
    for pair in inner.split("\",").filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once("=\"").expect("a label");
        let previous = labels.insert(key.to_owned(), value.trim_end_matches('"').to_owned());
        assert!(previous.is_none(), "{key} stands twice in {line}");
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    assert!(!name.is_empty() && name.chars().all(is_name), "{line}");
    Sample { name: name.to_owned(), labels, value: value.parse().expect("a number") }
}

/// The metric that a series belongs to.
fn metric_of(series: &str) -> Option<&'static MetricName> {
    METRICS.iter().find(|m| match m.kind {
        MetricKind::Histogram => {
            ["_bucket", "_sum", "_count"].iter().any(|end| series.strip_suffix(end) == Some(m.name))
        }
        _ => m.name == series,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_series_is_in_the_list_with_its_labels_and_every_metric_is_exposed() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    // Fails only if another test has installed it.
    let _present = rustls::crypto::ring::default_provider().install_default();
    let mut exposed: BTreeSet<&str> = BTreeSet::new();
    let mut config = config(dir.path());
    // A port that was free a moment ago.
    config.gateway.http_listen = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port");
    config.gateway.grpc_listen = "127.0.0.1:0".parse().expect("address");
    let receiver = "type = 'slack'\nurl = 'http://127.0.0.1:9/'";
    let receiver = toml::from_str(receiver).expect("receiver");
    config.alert.receivers.insert("ops".to_owned(), receiver);
    append_events(&broker, 0..50).await;
    append(&broker, vec![OutRecord { value: Some("garbage".into()), ..event(0, 0) }]).await;
    // So much log time that the archive has a file to publish.
    append(&broker, Ticker::new("gateway/a", START, 0..PARTITIONS).round(START.plus_ms(3_600_000))).await;
    for role in [Role::Gateway, Role::Pii, Role::Completeness, Role::Anomaly, Role::Archive, Role::Alert] {
        let service = Service::start(&broker, &config, role).await;
        service.until_ready().await;
        assert_eq!((service.get("/livez").await.0, service.get("/startupz").await.0), (200, 200));
        let (code, status) = service.get("/status").await;
        let status: Status = serde_json::from_str(&status).expect("a status");
        assert_eq!((code, status.readers.last().map(|r| r.group.as_str())), (200, Some("custody-alert-ops")));
        let is_asked = status.archive.error.is_empty();
        assert_eq!(is_asked, role == Role::Archive, "only the archive's role opens the store: {status:?}");
        if role == Role::Gateway {
            for (body, expected) in
                [("{\"event_type\":\"x\",\"agent_id\":\"a\",\"session_id\":\"s\"}", 202), ("{}", 422)]
            {
                let length = body.len();
                let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close";
                let text = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
                let (status, answer) = request(config.gateway.http_listen, &text).await;
                assert_eq!(status, expected, "{answer}");
            }
        }
        // A series comes with the first thing that it counts.
        let counted: &[&str] = match role {
            Role::Pii => &["custody_dlq_total{", "custody_derived_total{"],
            Role::Archive => &["custody_archive_files_total{", "custody_sink_commit_seconds_count{"],
            _ => &[],
        };
        for series in counted {
            wait(series, async || service.get("/metrics").await.1.contains(series)).await;
        }
        let (status, text) = service.get("/metrics").await;
        assert_eq!(status, 200);
        for sample in samples(&text) {
            let metric = metric_of(&sample.name).unwrap_or_else(|| panic!("{} is not in METRICS", sample.name));
            let labels: BTreeSet<&str> = sample.labels.keys().map(String::as_str).filter(|l| *l != "le").collect();
            assert_eq!(labels, metric.labels.iter().copied().collect(), "{}", sample.name);
        }
        for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').expect("a type");
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let metric = METRICS.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("{name} is not in METRICS"));
            exposed.insert(metric.name);
        }
        service.stop().await.expect("drained");
    }
    // They need ClickHouse, or a receiver that was sent to, or a schema registry: other tests see them.
    let elsewhere = [
        "custody_schema_registry_up",
        "custody_schemas_awaited",
        "custody_load_rows_total",
        "custody_alerts_sent_total",
        "custody_alert_send_seconds",
        "custody_alerts_pending",
    ];
    let missing: Vec<&str> = METRICS.iter().map(|m| m.name).filter(|n| !exposed.contains(n)).collect();
    assert!(missing.iter().all(|name| elsewhere.contains(name)), "in METRICS and nowhere exposed: {missing:?}");
}
