//! The whole chain on the in-memory log, twice: the same input gives the same bytes (invariant I6).
//!
//! ClickHouse is not part of it; `tests/live/demo.rs` runs the chain with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use custody::archive_role::ArchiveRole;
use custody::config::Config;
use custody::fleet::stream::{Stream, StreamConfig};
use custody::fleet::{Run, synth};
use custody::roles;
use custody::runner::control::Control;
use custody::sink_table::{PUBLISHED, Sink};
use custody::stage_table::{self, StageSettings};
use futures::future::try_join_all;
use ingest::log::memory::MemoryBroker;
use ingest::log::{Appender, Broker};
use object_store::memory::InMemory;
use processors::pii::TokenKeys;
use schemas::record::{PartitionId, Record};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use sinks::parquet::archive::ArchiveConfig;
use sinks::parquet::store::Store;

const PARTITIONS: u32 = 2;

/// What a run leaves behind: every record of every derived topic, and every object.
#[derive(Debug, PartialEq)]
struct Outcome {
    records: BTreeMap<PartitionId, Vec<Record>>,
    objects: BTreeMap<String, bytes::Bytes>,
}

fn input(runs: &[Run]) -> Stream<'_> {
    let config = StreamConfig {
        seed: 5,
        scale: 1,
        partitions: PARTITIONS,
        start: TimestampMicros::from_ms(1_768_208_400_000),
        span_ms: 1_800_000,
        tick_interval_ms: 30_000,
        heartbeat_interval_ms: 300_000,
        trail_ms: 3_600_000,
    };
    Stream::new(runs, config)
}

fn done() -> Control {
    let control = Control::default();
    control.upstream_done.raise();
    control
}

async fn run_once(runs: &[Run]) -> Outcome {
    let broker = MemoryBroker::new();
    roles::create_topics(&broker, PARTITIONS).await.expect("topics");
    let records: Vec<_> = input(runs).collect();
    broker.appender().await.expect("appender").append(records).await.expect("appended");

    let b = || broker.clone();
    let settings = StageSettings::of(&Config::default(), PARTITIONS, Some(TokenKeys::new([7; 32])));
    for wave in stage_table::waves() {
        // At the same time, as in production: their interleaving must not show.
        let running = wave.iter().map(|spec| roles::stage(b(), spec.stage, &settings, None, done()));
        try_join_all(running).await.expect("the stages of a wave");
    }

    let store = Store::new(Arc::new(InMemory::new()));
    for topic in PUBLISHED {
        let archive = ArchiveRole::open(store.clone(), ArchiveConfig::default()).await.expect("archive");
        roles::sink(b(), &Sink::Archive.group(topic), topic, archive, done()).await.expect("archive");
    }
    outcome(&broker, &store).await
}

async fn outcome(broker: &MemoryBroker, store: &Store) -> Outcome {
    let mut records = BTreeMap::new();
    for topic in stage_table::written_topics() {
        for partition in 0..stage_table::partitions_of(topic, PARTITIONS) {
            let id = PartitionId { topic, partition };
            records.insert(id, broker.records(id));
        }
    }
    let mut objects = BTreeMap::new();
    for object in store.list("archive", None).await.expect("list") {
        let key = object.location.to_string();
        let bytes = store.get(&key).await.expect("get").expect("listed");
        objects.insert(key, bytes);
    }
    Outcome { records, objects }
}

#[tokio::test]
async fn i6_the_same_log_gives_the_same_records_and_objects() {
    let runs: Vec<Run> = synth::fleet(5).into_iter().step_by(6).collect();
    let first = run_once(&runs).await;
    let clean: usize = first.records.iter().filter(|(id, _)| id.topic == Topic::Clean).map(|(_, r)| r.len()).sum();
    let findings: usize =
        first.records.iter().filter(|(id, _)| id.topic == Topic::Findings).map(|(_, r)| r.len()).sum();
    assert!(clean > 1_000 && findings > 10 && first.objects.len() > 4, "{clean} clean, {findings} findings");
    let second = run_once(&runs).await;
    assert!(first.records == second.records, "records differ");
    assert!(first.objects == second.objects, "objects differ");
}
