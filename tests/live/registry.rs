//! Bad records on real servers: Apache Kafka, and a schema registry that is stopped and started again.
//!
//! `CUSTODY_TEST_KAFKA` names the broker; the registry is the suite's own (`docker/registry-local.sh`).
//! One producer writes what producers write: records of our own schemas by their registry ids, of a
//! version that appears in mid-stream, of an id that nobody registered, poison, records beyond the size
//! limit and out of order. Every good one is one archived row, and files are as large as the settings ask.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use custody::config::RegistrySection;
use custody::registry::RegistryClient;
use ingest::agent::tick::Ticker;
use ingest::log::kafka::{KafkaBroker, KafkaConfig};
use ingest::log::{Appender as _, Broker as _};
use schemas::codec::{codec, published_schemas};
use schemas::event::{CleanEvent, Event, EventHeader, ModelCall, RawEvent};
use schemas::id::Uuid;
use schemas::limits::EVENT_BYTES_MAX;
use schemas::record::{OutRecord, PartitionId, Record, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use serde_json::{Value, json};
use support::installation::{Installation, free_port, free_ports, run};
use support::{custody, up};
use tokio::runtime::Runtime;

const PARTITIONS: u32 = 2;
/// Rows of an archive file.
const ROWS_MAX: usize = 100;
/// Log time of the first record.
const START: TimestampMicros = TimestampMicros::from_ms(1_768_208_400_000);

/// The registry of this suite; it ends with the test.
struct Registry {
    port: u16,
    data: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let registry = Self { port: free_ports(), data: tempfile::tempdir().expect("directory") };
        registry.order("start");
        registry
    }

    fn command(&self, verb: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/registry-local.sh");
        let mut command = Command::new(script);
        command.args([verb, "--port", &self.port.to_string(), "--data"]).arg(self.data.path().join("data"));
        command
    }

    fn order(&self, verb: &str) {
        let (code, text) = run(&mut self.command(verb));
        assert_eq!(code, Some(0), "registry-local.sh {verb}: {text}");
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // One that never started has nothing to stop.
        let _status = self.command("stop").output();
    }
}

/// The producer, and how many records it wrote to each partition.
struct World {
    installation: Installation,
    runtime: Runtime,
    broker: KafkaBroker,
    client: RegistryClient,
    /// Offsets of good records by partition, in order.
    good: BTreeMap<u32, Vec<u64>>,
    written: u64,
    telemetry: String,
}

/// How a value is framed.
#[derive(Clone, Copy)]
enum Frame {
    /// Single object: our own.
    Own,
    /// Registry id of our own schema.
    Ours(u32),
    /// Registry id of a version with one more field.
    Later(u32),
}

impl World {
    /// An event of its own session and time, unless `index` says another.
    fn event(&self, index: u64) -> RawEvent {
        let session = Uuid::derive(&[b"registry", &(index % 7).to_be_bytes()]);
        let h = EventHeader {
            event_id: Uuid::derive(&[b"registry", self.installation.namespace.as_bytes(), &index.to_be_bytes()]),
            event_time: START.plus_ms(index as i64),
            tenant_id: "acme".to_owned(),
            agent_id: "foreign".to_owned(),
            session_id: session,
            producer_id: "foreign".to_owned(),
            seq: index as i64 / 7,
            producer_seq: index as i64,
            ..EventHeader::of_type("model.call")
        };
        Event::ModelCall(ModelCall { h, call_id: format!("call-{index}"), ..ModelCall::default() })
    }

    fn value(&self, index: u64, frame: Frame) -> Vec<u8> {
        let own = codec().encode(&self.event(index));
        // A single-object frame is ten bytes; the later version's field is the long 42.
        let framed = |id: u32, more: &[u8]| [&[0], &id.to_be_bytes()[..], &own[10..], more].concat();
        match frame {
            Frame::Own => own.to_vec(),
            Frame::Ours(id) => framed(id, &[]),
            Frame::Later(id) => framed(id, &[84]),
        }
    }

    /// Writes values to a partition in this order; whether each is good.
    fn write(&mut self, partition: u32, values: Vec<(Vec<u8>, bool)>) {
        let record = |value: &Vec<u8>| OutRecord {
            topic: Topic::Events,
            partition: Some(partition),
            timestamp: START.plus_ms(self.written as i64),
            key: Some("acme/foreign".into()),
            value: Some(value.clone().into()),
            headers: Vec::new(),
        };
        let records = values.iter().map(|(value, _)| record(value)).collect();
        let appended = self.runtime.block_on(async {
            let mut appender = self.broker.appender().await.expect("an appender");
            appender.append(records).await.expect("appended")
        });
        let good = appended.iter().zip(&values).filter(|(_, (_, is_good))| *is_good).map(|(at, _)| at.offset);
        self.good.entry(partition).or_default().extend(good);
        self.written += values.len() as u64;
    }

    /// Events by index and frame.
    fn write_events(&mut self, partition: u32, events: impl IntoIterator<Item = (u64, Frame)>) {
        let values = events.into_iter().map(|(index, frame)| (self.value(index, frame), true)).collect();
        self.write(partition, values);
    }

    fn good_count(&self) -> usize {
        self.good.values().map(Vec::len).sum()
    }

    fn records(&self, topic: Topic, partition: u32) -> Vec<Record> {
        let (mut all, mut at) = (Vec::new(), 0);
        loop {
            let id = PartitionId { topic, partition };
            let (some, next) = self.runtime.block_on(self.broker.read(id, at)).expect("read");
            if some.is_empty() && next == at {
                return all;
            }
            all.extend(some);
            at = next;
        }
    }

    fn clean(&self) -> Vec<Record> {
        let all = (0..PARTITIONS).flat_map(|p| self.records(Topic::Clean, p));
        let is_tick = |r: &Record| codec().decode(r.value.as_deref()).is_ok_and(|event: CleanEvent| event.is_tick());
        all.filter(|r| !is_tick(r)).collect()
    }

    fn until(&self, what: &str, holds: impl FnMut(&Self) -> bool) {
        let mut holds = holds;
        self.installation.until(what, || holds(self));
    }

    fn until_clean(&self, what: &str, expected: usize) {
        self.until(what, |world| world.clean().len() >= expected);
        assert_eq!(self.clean().len(), expected, "{what}");
    }

    fn get(&self, path: &str) -> (u16, String) {
        up::request(&self.telemetry, "GET", path, "")
    }

    /// Lag in records of the stage in a partition.
    fn lag(&self, partition: u32) -> Option<u64> {
        let text = self.get("/metrics").1;
        let wanted = format!("partition=\"{partition}\"");
        let is_wanted = |line: &&str| line.starts_with("kafka_consumergroup_lag{") && line.contains(&wanted);
        let lag: f64 = text.lines().find(is_wanted)?.rsplit(' ').next()?.parse().ok()?;
        Some(lag as u64)
    }

    fn dead_letters(&self) -> BTreeMap<String, usize> {
        let (code, text) = run(custody()
            .args(["dlq", "list", "--json", "--config"])
            .arg(self.installation.dir.path().join("custody.toml")));
        assert_eq!(code, Some(0), "{text}");
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for letter in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            *reasons.entry(letter["reason"].as_str().expect("a reason").to_owned()).or_default() += 1;
        }
        reasons
    }

    /// Log time for every partition.
    fn tick(&self, at: TimestampMicros) {
        let ticks = Ticker::new("foreign", START, 0..PARTITIONS).round(at);
        self.runtime.block_on(async {
            self.broker.appender().await.expect("an appender").append(ticks).await.expect("appended");
        });
    }

    /// Rows of the archive of clean events by partition; none while it is not intact.
    fn rows(&self) -> BTreeMap<u32, usize> {
        let (_, text) = run(custody().args(["verify", "--json"]).arg(self.installation.dir.path().join("data")));
        // Before its first object there is no archive.
        let Ok(report) = serde_json::from_str::<Value>(&text) else { return BTreeMap::new() };
        // What is being published has an object before it has a manifest.
        if report["is_intact"] != json!(true) {
            return BTreeMap::new();
        }
        let number = |value: &Value| usize::try_from(value.as_u64().expect("a number")).expect("few");
        let partitions = report["partitions"].as_array().into_iter().flatten();
        let clean = partitions.filter(|p| p["topic"] == "custody.clean.v1");
        clean.map(|p| (number(&p["partition"]) as u32, number(&p["rows"]))).collect()
    }

    /// Registers our record's schema with one more field of that name; its id.
    fn register(&self, field: &str) -> u32 {
        let published = published_schemas().iter().find(|schema| schema.name == "ModelCall").expect("a record");
        let mut schema: Value = serde_json::from_str(&published.json).expect("json");
        let fields = schema["fields"].as_array_mut().expect("fields");
        fields.push(json!({"name": field, "type": "long", "default": 0}));
        let subject = format!("{}custody.events.v1-value", self.installation.namespace);
        self.runtime.block_on(self.client.register(&subject, &schema.to_string())).expect("registered")
    }
}

fn write_config(installation: &Installation, registry: &str) -> PathBuf {
    let base = installation.dir.path();
    std::fs::write(base.join("pii.key"), [7; 32]).expect("a key");
    let text = format!(
        "data_dir = \"{0}/data\"\n[log]\nurl = \"{1}\"\nnamespace = \"{2}\"\npartitions = {PARTITIONS}\n\
         [schemas.registry]\nurl = \"{registry}\"\n[pii]\nkeys_file = \"{0}/pii.key\"\n\
         [archive]\nrows_max = {ROWS_MAX}\nflush_interval_ms = 600000\n\
         [telemetry]\nlisten = \"127.0.0.1:0\"\nlag_interval_ms = 200\n",
        base.display(),
        installation.log(),
        installation.namespace,
    );
    let config = base.join("custody.toml");
    std::fs::write(&config, text).expect("a configuration");
    config
}

/// Data files of the archive of clean events, by partition.
fn files(dir: &Path) -> BTreeMap<u32, usize> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            } else if let Some(rest) = name.strip_suffix(".parquet").and_then(|n| n.strip_prefix("custody.clean.v1-")) {
                let partition = rest.split('-').next().and_then(|p| p.parse().ok()).expect("a partition");
                *found.entry(partition).or_default() += 1;
            }
        }
    }
    found
}

/// Answers hudi#2589 and vector#7434: schemas evolve in mid-stream and a registry may be away; and
/// kafka-connect-storage-cloud#66: neither cuts a file.
#[test]
fn poison_oversize_unknown_and_disordered_records_and_an_outage_of_the_registry_lose_and_double_nothing() {
    // Fails only if something else has installed it.
    let _present = rustls::crypto::ring::default_provider().install_default();
    let registry = Registry::start();
    let installation = Installation::without_tables("registry");
    let config = write_config(&installation, &registry.url());
    let (code, text) = run(custody().args(["topics", "create", "--config"]).arg(&config));
    assert_eq!(code, Some(0), "{text}");
    let (code, said) = run(custody().args(["schemas", "register", "--config"]).arg(&config));
    assert_eq!(code, Some(0), "{said}");
    let line = said.lines().find(|line| line.ends_with(" custody.v1.ModelCall")).expect("an id");
    let ours: u32 = line.split_whitespace().next().and_then(|id| id.parse().ok()).expect("a number");
    let again = run(custody().args(["schemas", "register", "--config"]).arg(&config));
    assert_eq!(again, (Some(0), said), "registering again changes nothing");
    let (_, report) = run(custody().args(["doctor", "--config"]).arg(&config));
    assert!(report.contains("ok    schema registry: "), "{report}");

    let runtime = Runtime::new().expect("a runtime");
    let kafka = KafkaConfig {
        bootstrap: installation.kafka.clone(),
        namespace: installation.namespace.clone(),
        ..KafkaConfig::default()
    };
    let broker = runtime.block_on(async { KafkaBroker::new(kafka) }).expect("a broker");
    let section = RegistrySection { url: registry.url(), ..RegistrySection::default() };
    let client = RegistryClient::new(&section).expect("a client").expect("a registry");
    let telemetry = format!("127.0.0.1:{}", free_port());
    let (good, written) = (BTreeMap::new(), 0);
    let mut world = World { installation, runtime, broker, client, good, written, telemetry };
    let incompatible = world.runtime.block_on(world.client.register(
        "custody.v1.ModelCall",
        "{\"type\":\"record\",\"name\":\"ModelCall\",\"namespace\":\"custody.v1\",\"fields\":[]}",
    ));
    assert!(incompatible.expect_err("FULL_TRANSITIVE").to_string().contains("409"));

    let start_pii = |world: &World| {
        let listen = [("CUSTODY_TELEMETRY__LISTEN", world.telemetry.as_str())];
        let pii = world.installation.role_with(&["process", "pii"], &config, &listen);
        world.until("ready", |w| std::net::TcpStream::connect(&w.telemetry).is_ok() && w.get("/readyz").0 == 200);
        pii
    };
    let pii = start_pii(&world);
    let archive = world.installation.role(&["archive"], &config);

    // A later version among the old ones, three ways of framing, sessions and times in disorder.
    let later = world.register("vendor_latency_ms");
    let in_turn = |index: u64, first: u64| match index % 3 {
        0 => Frame::Own,
        1 if index >= first => Frame::Later(later),
        _ => Frame::Ours(ours),
    };
    world.write_events(0, (0..150).map(|index| (index, in_turn(index, 80))));
    world.write_events(1, (1_000..1_100).rev().map(|index| (index, in_turn(index, 0))));
    // The id that the next schema will get.
    let next = later + 1;
    let bad = [
        (b"no frame at all".to_vec(), false),
        (vec![0, 0, 0], false),
        (Vec::new(), false),
        (world.value(500, Frame::Ours(next)), false),
        ([world.value(501, Frame::Own), vec![0; EVENT_BYTES_MAX]].concat(), false),
        (world.value(502, Frame::Ours(ours))[..60].to_vec(), false),
    ];
    let mut values: Vec<(Vec<u8>, bool)> = Vec::new();
    for (number, bad) in (0..).zip(bad) {
        values.push((world.value(160 + number, in_turn(number, 0)), true));
        values.push(bad);
    }
    world.write(0, values);
    world.write_events(0, (170..250).map(|index| (index, in_turn(index, 0))));
    world.until_clean("clean", world.good_count());
    let reasons = [("empty", 1), ("too_large", 1), ("truncated", 2), ("unknown_frame", 1), ("unknown_schema", 1)];
    let reasons: BTreeMap<String, usize> = reasons.map(|(reason, n)| (reason.to_owned(), n)).into();
    assert_eq!(world.dead_letters(), reasons);

    // The registry is away: what is known goes on, what is new waits.
    let new = world.register("vendor_region_code");
    assert_eq!(new, next, "ids are given in order");
    let newest = world.register("vendor_trace_level");
    registry.order("stop");
    world.until("not ready", |w| w.get("/readyz").0 == 503);
    assert_eq!(world.get("/livez").0, 200);
    let before = world.good_count();
    world.write_events(0, (300..400).map(|index| (index, in_turn(index, 0))));
    world.write_events(1, [(1_200, Frame::Own), (1_201, Frame::Later(newest))]);
    world.write_events(1, (1_202..1_250).map(|index| (index, in_turn(index, 0))));
    // All of partition 0, and of partition 1 what stands before the new schema.
    world.until_clean("clean while the registry is away", before + 101);
    world.until("waiting", |w| w.lag(1) == Some(49));
    world.write_events(1, (1_250..1_260).map(|index| (index, Frame::Own)));
    world.until("further behind", |w| w.lag(1) == Some(59));
    assert_eq!((world.get("/readyz").0, world.dead_letters()), (503, reasons.clone()), "nothing is refused meanwhile");
    assert_eq!(world.clean().len(), before + 101);
    // Who waits can be drained, and its successor waits again.
    assert_eq!(pii.drained(), Some(0), "{}", world.installation.said(&["process", "pii"]));

    registry.order("start");
    let pii = start_pii(&world);
    world.until_clean("clean after its return", world.good_count());
    assert_eq!(world.lag(1), Some(0));
    assert_eq!(world.dead_letters(), reasons);

    let good = world.good_count();
    assert_archived(&mut world, good);

    // An id that nobody had registered has a schema now. The first record of one is too short for its schema.
    let dlq = |what: &str| run(custody().args(["dlq", what, "--reason", "unknown_schema", "--config"]).arg(&config));
    let (code, text) = dlq("replay");
    assert_eq!(code, Some(1), "{text}");
    world.write(0, vec![(world.value(503, Frame::Later(newest + 1)), false)]);
    world.until("refused", |w| w.dead_letters().get("unknown_schema") == Some(&2));
    assert_eq!(world.register("vendor_cost_class"), newest + 1);
    let (_, text) = dlq("replay");
    assert!(text.contains("1 replayed, 1 left as they are"), "{text}");
    world.until_clean("replayed", good + 1);
    // A replayed record has the time of its replay.
    world.tick(custody::clock::now().plus_ms(1_800_000));
    world.until("archived", |w| w.rows().values().sum::<usize>() == good + 1);
    assert_eq!((pii.drained(), archive.drained()), (Some(0), Some(0)));
}

/// Every good record is one row; no file but the last of a partition is smaller than asked.
fn assert_archived(world: &mut World, good: usize) {
    let clean = world.clean();
    let ids: BTreeSet<Uuid> = clean
        .iter()
        .map(|r| codec().decode(r.value.as_deref()).map(|e: CleanEvent| e.h().event_id).expect("clean"))
        .collect();
    assert_eq!((clean.len(), ids.len()), (good, good), "none lost, none twice");
    for (partition, expected) in &world.good {
        let of_partition = clean.iter().filter(|r| r.at.partition.partition == *partition);
        let sources: Vec<u64> =
            of_partition.map(|r| SourceRef::from_headers(&r.headers).expect("a source").offset).collect();
        assert_eq!(&sources[..expected.len()], expected, "partition {partition}, in the order of the log");
    }
    // So much log time that the last rows are published too.
    world.tick(START.plus_ms(3_600_000));
    world.until("archived, all of it", |w| w.rows().values().sum::<usize>() >= good);
    let expected: BTreeMap<u32, usize> = clean.iter().fold(BTreeMap::new(), |mut counts, record| {
        *counts.entry(record.at.partition.partition).or_default() += 1;
        counts
    });
    assert_eq!(world.rows(), expected);
    let fewest: BTreeMap<u32, usize> = expected.iter().map(|(p, rows)| (*p, rows.div_ceil(ROWS_MAX))).collect();
    assert_eq!(files(&world.installation.dir.path().join("data")), fewest, "a change of schema cuts no file");
}
