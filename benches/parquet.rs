//! The archive per event: decode, row, Parquet at zstd level 1, SHA-256, manifest; into a store in
//! memory. Beside it, JSON lines through the same zstd level and SHA-256, the usual cheap archive.
//!
//! Target: 60 k events/s per core at about 1 KiB; the events are clean model calls of that size. The
//! peer also decodes, since a sink that does not cannot say what it holds; it keeps no raw bytes, no
//! statistics and no manifest.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use common::cpu_time::{CpuTime, criterion};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use object_store::memory::InMemory;
use processors::stage::Sourced;
use schemas::codec::codec;
use schemas::event::{CleanEvent, Event};
use schemas::id::Sha256;
use schemas::record::{PartitionId, Position, Record};
use schemas::text::CleanText;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use sinks::parquet::archive::{ArchiveConfig, ArchiveSink};
use sinks::parquet::store::Store;
use tokio::runtime::Runtime;

const COUNT: usize = 8_000;
/// Log time between two records, microseconds: all of them fall into one object.
const STEP_MICROS: i64 = 100;
const PARTITION: PartitionId = PartitionId { topic: Topic::Clean, partition: 0 };

/// Model calls as the records of a partition of the clean topic.
fn records() -> Vec<Record> {
    let clean = common::clean(&common::log(24 * COUNT, 1_000));
    let calls = clean.into_iter().filter(|record| matches!(record.value, Event::ModelCall(_)));
    let encoded = calls.map(|record| (codec().encode(&record.value), record));
    let sized = encoded.filter(|(value, _)| common::ABOUT_A_KIB.contains(&value.len()));
    let record = |(offset, (value, of)): (u64, (Bytes, Sourced<CleanEvent>))| Record {
        at: Position { partition: PARTITION, offset },
        timestamp: TimestampMicros(common::START.0 + offset as i64 * STEP_MICROS),
        key: None,
        value: Some(value),
        headers: of.source.to_headers(),
    };
    (0..).zip(sized.take(COUNT)).map(record).collect()
}

/// What an archive holds: rows, and bytes of its objects.
type Held = (u64, u64);

async fn archive(records: &[Record]) -> Held {
    let store = Store::new(Arc::new(InMemory::new()));
    let mut sink = ArchiveSink::open(store, ArchiveConfig::default(), 1).await.expect("store");
    sink.position(PARTITION).await.expect("position");
    sink.assign(PARTITION, 0).expect("assign");
    let mut outcomes = Vec::new();
    for batch in records.chunks(common::BATCH) {
        sink.push(batch).expect("records of our own encoding");
        if sink.sealed() > 0 {
            outcomes.extend(sink.publish().await);
        }
    }
    outcomes.extend(sink.flush().await.expect("flush"));
    outcomes.into_iter().fold((0, 0), |held, (_, receipts, error)| {
        assert!(error.is_none(), "{error:?}");
        receipts.iter().fold(held, |(rows, bytes), r| (rows + r.publication.rows, bytes + r.object.bytes))
    })
}

fn json_lines(records: &[Record]) -> Held {
    let mut writer = zstd::Encoder::new(Vec::new(), 1).expect("zstd");
    let mut rows = 0;
    for record in records {
        let event: Event<CleanText> = codec().decode(record.value.as_deref()).expect("a record of our own encoding");
        let Event::ModelCall(call) = event else { continue };
        serde_json::to_writer(&mut writer, &call).expect("JSON");
        writer.write_all(b"\n").expect("memory");
        rows += 1;
    }
    let bytes = writer.finish().expect("zstd");
    assert!(!Sha256::of(&bytes).is_zero());
    (rows, bytes.len() as u64)
}

fn bench(c: &mut Criterion<CpuTime>) {
    let records = records();
    let runtime: Runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let raw: usize = records.iter().map(|r| r.value.as_ref().map_or(0, |v| v.len())).sum();
    let (ours, peer) = (runtime.block_on(archive(&records)), json_lines(&records));
    assert_eq!((ours.0, peer.0), (COUNT as u64, COUNT as u64), "every event is a row");
    println!("{COUNT} events, {} bytes on average; Parquet {} bytes, JSON lines {}", raw / COUNT, ours.1, peer.1);

    let mut group = c.benchmark_group("parquet");
    group.throughput(Throughput::Elements(COUNT as u64)).sample_size(10);
    group.bench_function("archive/custody", |b| b.iter(|| runtime.block_on(archive(&records))));
    group.bench_function("archive/json-lines-zstd", |b| b.iter(|| json_lines(&records)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = bench
}
criterion_main!(benches);
