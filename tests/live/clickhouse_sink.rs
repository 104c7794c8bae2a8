//! The load sink on the real ClickHouse engine: layout, exact rows, retries, intents, and the numbers
//! in every view. Fails where the engine cannot be had; the message names the remedies.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "clickhouse_sink/dashboards.rs"]
mod dashboards;
#[path = "clickhouse_sink/intent.rs"]
mod intent;
#[path = "clickhouse_sink/rows.rs"]
mod rows;
#[path = "clickhouse_sink/views.rs"]
mod views;

use std::path::{Path, PathBuf};

use custody::embedded::{EmbeddedClickHouse, EmbeddedOptions, Facts, cache_dir, choose};
use schemas::codec::{Derived, codec};
use schemas::id::Sha256;
use schemas::record::{PartitionId, Position, Record, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use serde_json::Value;
use sinks::clickhouse::client::{ClickHouse, ClickHouseConfig};
use sinks::clickhouse::insert::{ClickHouseSink, LoadBatch};
use sinks::clickhouse::migrate::migrate;
use tempfile::TempDir;

/// 2026-11-20T09:00:00Z.
const NINE: TimestampMicros = TimestampMicros(1_795_165_200_000_000);

/// A running engine with a migrated database.
struct World {
    engine: EmbeddedClickHouse,
    config: ClickHouseConfig,
    server: ClickHouse,
    sink: ClickHouseSink,
    _directory: TempDir,
}

async fn engine(directory: &Path) -> EmbeddedClickHouse {
    let cache_dir = cache_dir().expect("cache directory");
    let facts = Facts { server: None, ..Facts::gather(None, &cache_dir, directory) };
    let source = choose(&facts).expect("an engine");
    let executable = Some(PathBuf::from(env!("CARGO_BIN_EXE_custody")));
    let options = EmbeddedOptions { data_dir: directory.to_owned(), executable, ..EmbeddedOptions::default() };
    EmbeddedClickHouse::start_source(source, &cache_dir, &options).await.expect("the engine starts")
}

fn config(engine: &EmbeddedClickHouse) -> ClickHouseConfig {
    ClickHouseConfig { url: engine.url().to_owned(), ..ClickHouseConfig::default() }
}

async fn world() -> World {
    let directory = tempfile::tempdir().expect("temporary directory");
    let engine = engine(directory.path()).await;
    let config = config(&engine);
    let server = ClickHouse::new(&config).unwrap();
    migrate(&server).await.unwrap();
    let sink = ClickHouseSink::open(&config).await.unwrap();
    World { engine, config, server, sink, _directory: directory }
}

impl World {
    async fn load(&self, records: &[Record]) {
        self.sink.insert(&batch(records)).await.unwrap();
    }

    async fn query(&self, sql: &str) -> Vec<Value> {
        self.server.rows(sql).await.unwrap()
    }

    /// The only row of a query.
    async fn row(&self, sql: &str) -> Value {
        let mut rows = self.query(sql).await;
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.remove(0)
    }

    async fn count(&self, from: &str) -> u64 {
        self.row(&format!("SELECT count() AS n FROM custody.{from}")).await["n"].as_u64().unwrap()
    }

    async fn stop(self) {
        self.engine.stop().await.unwrap();
    }
}

fn batch(records: &[Record]) -> LoadBatch {
    let first = &records[0];
    let mut batch = LoadBatch::open(first.at.partition, first.at.offset, first);
    records.iter().for_each(|record| batch.push(record).unwrap());
    batch
}

/// Record number `offset` of partition 0 of a topic, at `at`.
fn record(topic: Topic, offset: u64, at: TimestampMicros, value: &Derived) -> Record {
    let partition = PartitionId { topic, partition: 0 };
    let source = SourceRef { offset, sha256: Sha256::of(&offset.to_be_bytes()) };
    let headers = if topic == Topic::Clean { source.to_headers() } else { Vec::new() };
    let value = Some(codec().encode_derived(value));
    Record { at: Position { partition, offset }, timestamp: at, key: None, value, headers }
}
