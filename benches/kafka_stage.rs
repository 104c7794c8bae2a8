//! A transactional stage on real Kafka: `custody process pii` as a process, its events per CPU second,
//! wall time and peak memory, beside a copy of the same records without decoding or transactions.
//!
//! `CUSTODY_TEST_KAFKA` names the broker. `CUSTODY_BENCH_EVENTS` (default 300000) of about 1 KiB wait in
//! `CUSTODY_BENCH_PARTITIONS` (default 4) partitions before the stage starts, so that its memory under a
//! backlog shows. It counts what came out before it says how fast. Wall time is that of a machine that the
//! broker shares.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

#[path = "common/mod.rs"]
mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ingest::log::kafka::{KafkaBroker, KafkaConfig};
use ingest::log::{Appender as _, Broker as _, ErrorClass, Log as _, LogEvent};
use schemas::codec::codec;
use schemas::record::{OutRecord, PartitionId};
use schemas::topic::{Topic, session_key};

/// Records of one append.
const APPEND: usize = 5_000;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// `count` records of about 1 KiB; the events repeat, and the stage does not mind.
fn records(count: usize) -> impl Iterator<Item = OutRecord> {
    let sized: Vec<OutRecord> = common::events(60_000)
        .iter()
        .filter_map(|event| {
            let (h, value) = (event.h(), codec().encode(event));
            let key = session_key(&h.tenant_id, h.session_id);
            common::ABOUT_A_KIB.contains(&value.len()).then(|| OutRecord {
                topic: Topic::Events,
                partition: None,
                timestamp: h.event_time,
                key: Some(key.into()),
                value: Some(value),
                headers: Vec::new(),
            })
        })
        .collect();
    assert!(sized.len() > 1_000, "{} events of about 1 KiB", sized.len());
    (0..count).map(move |i| sized[i % sized.len()].clone())
}

struct Stage(Child);

impl Drop for Stage {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// CPU seconds and peak memory in MiB of a process.
fn usage(pid: u32) -> (f64, f64) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("a running process");
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: f64 = [fields[11], fields[12]].iter().map(|field| field.parse::<f64>().expect("ticks")).sum();
    let status = read("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse().expect("kB");
    (ticks / rustix::param::clock_ticks_per_second() as f64, kib / 1_024.0)
}

/// Records of a topic, read by a consumer of its own.
async fn count(broker: &KafkaBroker, topic: Topic, group: &str) -> usize {
    let mut log = broker.consumer(group, topic, "bench").await.expect("a consumer");
    let (mut count, mut assigned) = (0, false);
    loop {
        match log.next().await.expect("read") {
            LogEvent::Fetched { records, .. } => count += records.len(),
            LogEvent::Assigned(_) => assigned = true,
            LogEvent::Idle if assigned => break,
            _ => {}
        }
    }
    log.close().await.expect("closed");
    count
}

/// Reads everything and appends it to another topic as it is.
async fn copy(broker: &KafkaBroker) -> (usize, f64) {
    let (before, _) = usage(std::process::id());
    let mut log = broker.consumer("copy", Topic::Events, "bench").await.expect("a consumer");
    let mut appender = broker.appender().await.expect("an appender");
    let (mut copied, mut assigned) = (0, false);
    loop {
        match log.next().await.expect("read") {
            LogEvent::Fetched { records, .. } => {
                copied += records.len();
                let to = |record: schemas::record::Record| OutRecord {
                    topic: Topic::Dlq,
                    partition: Some(0),
                    timestamp: record.timestamp,
                    key: record.key,
                    value: record.value,
                    headers: Vec::new(),
                };
                appender.append(records.into_iter().map(to).collect()).await.expect("appended");
            }
            LogEvent::Assigned(_) => assigned = true,
            LogEvent::Idle if assigned => break,
            _ => {}
        }
    }
    log.close().await.expect("closed");
    (copied, usage(std::process::id()).0 - before)
}

async fn lag(broker: &KafkaBroker, partitions: u32) -> u64 {
    let mut lag = 0;
    for partition in 0..partitions {
        let id = PartitionId { topic: Topic::Events, partition };
        let end = broker.bounds(id).await.expect("bounds").end;
        // Brokers that have just begun have no coordinator for the group yet.
        let committed = match broker.committed("custody-pii", id).await {
            Err(error) if matches!(error.class, ErrorClass::Retry { .. }) => None,
            committed => committed.expect("committed"),
        };
        lag += end - committed.map_or(0, |c| c.next);
    }
    lag
}

fn main() {
    // `cargo bench` passes this; `cargo test --all-targets` does not.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let bootstrap =
        std::env::var("CUSTODY_TEST_KAFKA").expect("CUSTODY_TEST_KAFKA is not set: docker/kafka-local.sh start");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(
        &bootstrap,
        number("CUSTODY_BENCH_EVENTS", 300_000),
        number("CUSTODY_BENCH_PARTITIONS", 4),
    ));
}

async fn measure(bootstrap: &str, events: usize, partitions: usize) {
    let partitions = u32::try_from(partitions).expect("few partitions");
    let namespace = format!("bench{}-", std::process::id());
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("pii.key"), [7; 32]).expect("a key");
    let config = dir.path().join("custody.toml");
    let text = format!(
        "[log]\nurl = \"kafka://{bootstrap}\"\nnamespace = \"{namespace}\"\npartitions = {partitions}\n\
         [pii]\nkeys_file = \"{}\"\n[telemetry]\nlisten = \"127.0.0.1:0\"\n",
        dir.path().join("pii.key").display()
    );
    std::fs::write(&config, text).expect("a configuration");
    let custody = || Command::new(env!("CARGO_BIN_EXE_custody"));
    let made = custody().args(["topics", "create", "--config"]).arg(&config).stdout(Stdio::null()).status();
    assert!(made.expect("custody").success(), "topics");
    let kafka = KafkaConfig { bootstrap: bootstrap.to_owned(), namespace, ..KafkaConfig::default() };
    let broker = KafkaBroker::new(kafka).expect("a broker");
    let mut appender = broker.appender().await.expect("an appender");
    let mut all = records(events);
    loop {
        let batch: Vec<OutRecord> = all.by_ref().take(APPEND).collect();
        if batch.is_empty() {
            break;
        }
        appender.append(batch).await.expect("appended");
    }
    let begun = Instant::now();
    let stage = custody().args(["process", "pii", "--config"]).arg(&config).stderr(Stdio::null()).spawn();
    let stage = Stage(stage.expect("custody process pii"));
    while lag(&broker, partitions).await > 0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (wall, (cpu, peak)) = (begun.elapsed().as_secs_f64(), usage(stage.0.id()));
    drop(stage);
    assert_eq!(count(&broker, Topic::Clean, "count").await, events, "clean events");
    let (copied, copy_cpu) = copy(&broker).await;
    assert_eq!(copied, events, "copied records");
    let (rate, copy_rate) = (events as f64 / cpu, events as f64 / copy_cpu);
    println!(
        "kafka_stage: {events} events of about 1 KiB in {partitions} partitions: {rate:.0} events per CPU second, \
         {:.0} events/s of wall time, peak memory {peak:.0} MiB; copied as they are: {copy_rate:.0} per CPU second ({:.2} times)",
        events as f64 / wall,
        rate / copy_rate
    );
}
