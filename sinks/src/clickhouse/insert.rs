//! The load sink: records in, RowBinary batches out, each under a token that names its exact range.
//!
//! A batch is kept by the caller until it is acknowledged and may be inserted any number of times.
//! It commits no offset; the intent protocol (`intent`) says when the caller does.

use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::record::{PartitionId, Record, SourceRef};
use schemas::table::{Row, Table, insert_columns};
use schemas::time::TimestampMicros;
use serde::Deserialize;

use crate::clickhouse::client::{ClickHouse, ClickHouseConfig, Insert};
use crate::clickhouse::migrate;
use crate::error::{ErrorClass, SinkError};
use crate::publication::{Publication, RowDigest};
use crate::row::{counted_as, row_of};

/// Rows that ClickHouse forms into one block (`max_insert_block_size`): an insert below it is
/// atomic, one above it is several blocks, of which a retry may repeat some.
const BLOCK_ROWS_MAX: u64 = 1_048_448;
/// Bytes of one chunk of a body.
const CHUNK_BYTES: usize = 1 << 20;

/// Bounds of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadConfig {
    /// Rows, at most 1 048 448.
    pub rows_max: u64,
    /// Raw value bytes. The engine needs several times as much while it inserts.
    pub bytes_max: u64,
}

impl Default for LoadConfig {
    fn default() -> Self {
        Self { rows_max: 100_000, bytes_max: 64 << 20 }
    }
}

/// Rows of one table and month: one insert.
#[derive(Debug, Default)]
struct Body {
    rows: u64,
    chunks: Vec<Bytes>,
    tail: Vec<u8>,
}

/// A range of one partition as rows.
#[derive(Debug)]
pub struct LoadBatch {
    publication: Publication,
    digest: RowDigest,
    bodies: BTreeMap<(Table, i64), Body>,
}

impl LoadBatch {
    /// An empty batch from `offset_first`, the committed position; `first` is its first record.
    pub fn open(partition: PartitionId, offset_first: u64, first: &Record) -> Self {
        Self {
            publication: Publication::open(partition, offset_first, first.timestamp),
            digest: RowDigest::default(),
            bodies: BTreeMap::new(),
        }
    }

    /// Adds a record, in offset order.
    ///
    /// # Errors
    /// [`ErrorClass::Data`]: the record cannot be decoded, which its writer should have refused.
    /// Stop the partition, offset uncommitted (I10).
    pub fn push(&mut self, record: &Record) -> Result<(), SinkError> {
        let row = row_of(record, Row::loaded).map_err(|error| {
            let PartitionId { topic, partition } = record.at.partition;
            SinkError::new(ErrorClass::Data, format!("load {topic}/{partition} offset {}", record.at.offset), error)
        })?;
        let Some(row) = row else {
            self.publication.add_tick(record.at.offset);
            return Ok(());
        };
        let source = SourceRef::from_headers(&record.headers);
        let (kind, tenant_id) = counted_as(&row);
        self.publication.add_row(record, source, kind, tenant_id);
        let value = record.value.as_deref().unwrap_or_default();
        self.digest.add(record.at.offset, record.timestamp, source, value);
        self.bodies.entry((row.table(), month_of(record.timestamp))).or_default().add(&row);
        Ok(())
    }

    /// Whether the batch must not grow.
    pub fn is_full(&self, config: &LoadConfig) -> bool {
        let is_long = self.publication.rows >= config.rows_max.min(BLOCK_ROWS_MAX);
        is_long || self.publication.raw_bytes >= config.bytes_max
    }

    /// Whether there is nothing to insert: ticks alone. The position may be committed at once.
    pub fn is_empty(&self) -> bool {
        self.publication.rows == 0
    }

    /// Broker time of the earliest row; `None` without rows.
    pub fn oldest_row_at(&self) -> Option<TimestampMicros> {
        self.publication.broker_time_min_us.map(TimestampMicros)
    }

    /// The inserts that the batch consists of: one per table and month, each atomic and under a token of
    /// its own.
    pub fn inserts(&self) -> Vec<BatchInsert> {
        let of = |((table, month), body): (&(Table, i64), &Body)| BatchInsert {
            table: *table,
            token: insert_token(*table, &self.publication, *month),
            rows: body.rows,
            chunks: body.chunks(),
        };
        self.bodies.iter().map(of).collect()
    }

    /// What the batch is so far: range, counts, digest.
    pub fn publication(&self) -> Publication {
        Publication { row_digest: self.digest.finish(), ..self.publication.clone() }
    }
}

/// Rows of one table and month of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchInsert {
    /// Table.
    pub table: Table,
    /// Deduplication token.
    pub token: String,
    /// Rows.
    pub rows: u64,
    /// RowBinary bytes, in order.
    pub chunks: Vec<Bytes>,
}

impl Body {
    fn add(&mut self, row: &Row) {
        row.write_row_binary(&mut self.tail);
        self.rows += 1;
        if self.tail.len() >= CHUNK_BYTES {
            self.chunks.push(Bytes::from(std::mem::take(&mut self.tail)));
            self.tail.reserve(CHUNK_BYTES + CHUNK_BYTES / 8);
        }
    }

    fn chunks(&self) -> Vec<Bytes> {
        let tail = (!self.tail.is_empty()).then(|| Bytes::copy_from_slice(&self.tail));
        self.chunks.iter().cloned().chain(tail).collect()
    }
}

/// `YYYYMM`: the tables' partition key over the broker's time.
fn month_of(at: TimestampMicros) -> i64 {
    let (year, month, _, _) = at.utc_hour();
    year * 100 + i64::from(month)
}

/// `table:topic:partition:first-next:YYYYMM`. The month keeps apart the two inserts of a batch that
/// crosses the end of one: an insert that touches two table partitions is not atomic.
pub fn insert_token(table: Table, publication: &Publication, month: i64) -> String {
    format!("{}:{}:{month:06}", table.name(), publication.token())
}

/// Writes batches to one database.
#[derive(Debug, Clone)]
pub struct ClickHouseSink {
    server: ClickHouse,
    columns: BTreeMap<Table, String>,
}

impl ClickHouseSink {
    /// Connects and checks that retries cannot double rows: layout current, deduplication on.
    ///
    /// # Errors
    /// [`ErrorClass::Retry`]: the server is away. [`ErrorClass::Config`]: what to change.
    pub async fn open(config: &ClickHouseConfig) -> Result<Self, SinkError> {
        let server = ClickHouse::new(config)?;
        migrate::check(&server).await?;
        check_deduplication(&server).await?;
        let columns = Table::ALL.iter().map(|table| (*table, insert_columns(*table))).collect();
        Ok(Self { server, columns })
    }

    /// Inserts the batch; the rows of each table. Inserting it again adds nothing, so after an unknown
    /// outcome repeat it.
    ///
    /// # Errors
    /// [`ErrorClass::Retry`]: keep the batch, repeat. Other classes stop the partition.
    pub async fn insert(&self, batch: &LoadBatch) -> Result<BTreeMap<Table, u64>, SinkError> {
        let mut rows = BTreeMap::new();
        for BatchInsert { table, token, rows: count, chunks } in batch.inserts() {
            let columns = self.columns.get(&table).map(String::as_str).unwrap_or_default();
            let insert = Insert { table: table.name(), columns, token: &token, body: &chunks };
            self.server.insert(&insert).await?;
            fail::fail_point!("load.table_inserted");
            tracing::debug!(table = table.name(), rows = count, token, "inserted");
            *rows.entry(table).or_default() += count;
        }
        Ok(rows)
    }
}

/// A table's engine, as the server shows it.
#[derive(Deserialize)]
struct Engine {
    name: String,
    engine: String,
    engine_full: String,
}

/// A plain MergeTree forgets tokens at once unless its window is set; replicated and shared ones
/// remember them by default.
async fn check_deduplication(server: &ClickHouse) -> Result<(), SinkError> {
    let database = server.database();
    let sql = format!("SELECT name, engine, engine_full FROM system.tables WHERE database = '{database}'");
    let engines: Vec<Engine> = server.rows(&sql).await?;
    for table in Table::ALL {
        let what = || format!("table {database}.{}", table.name());
        let Some(engine) = engines.iter().find(|engine| engine.name == table.name()) else {
            return Err(SinkError::new(ErrorClass::Config, what(), "it does not exist; run the migration"));
        };
        if !remembers_tokens(&engine.engine, &engine.engine_full) {
            let message = "non_replicated_deduplication_window is 0, a retry would double rows; \
                           ALTER TABLE … MODIFY SETTING non_replicated_deduplication_window = 100000";
            return Err(SinkError::new(ErrorClass::Config, what(), message));
        }
    }
    Ok(())
}

fn remembers_tokens(engine: &str, engine_full: &str) -> bool {
    let setting = |name: &str| {
        let rest = engine_full.split(&format!(" {name} = ")).nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    match engine.starts_with("Replicated") || engine.starts_with("Shared") {
        true => setting("replicated_deduplication_window") != Some(0),
        false => setting("non_replicated_deduplication_window").is_some_and(|window| window > 0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use schemas::codec::{Derived, codec};
    use schemas::event::{ControlTotal, Event, EventHeader, ModelCall, Tick};
    use schemas::id::Sha256;
    use schemas::record::Position;
    use schemas::text::CleanText;
    use schemas::topic::Topic;

    use super::*;
    use crate::parquet::archive::{ArchiveConfig, ArchiveSink};
    use crate::parquet::store::Store;

    /// 2026-11-30T23:59:59Z, milliseconds.
    const MONTH_END: i64 = 1_796_083_199_000;

    fn record(topic: Topic, offset: u64, at_ms: i64, value: &Derived) -> Record {
        let partition = PartitionId { topic, partition: 3 };
        Record {
            at: Position { partition, offset },
            timestamp: TimestampMicros::from_ms(at_ms),
            key: None,
            value: Some(codec().encode_derived(value)),
            headers: SourceRef { offset, sha256: Sha256([1; 32]) }.to_headers(),
        }
    }

    fn call() -> Derived {
        let h = EventHeader { tenant_id: "acme".to_owned(), ..EventHeader::of_type("model.call") };
        Derived::Event(Event::<CleanText>::ModelCall(ModelCall { h, ..ModelCall::default() }))
    }

    fn tick() -> Derived {
        Derived::Event(Event::Tick(Tick { h: EventHeader::of_type("tick"), ..Tick::default() }))
    }

    fn batch(records: &[Record]) -> LoadBatch {
        let mut batch = LoadBatch::open(records[0].at.partition, 10, &records[0]);
        records.iter().for_each(|record| batch.push(record).unwrap());
        batch
    }

    fn tokens(batch: &LoadBatch) -> Vec<(String, u64)> {
        let token = |((table, month), body): (&(Table, i64), &Body)| {
            (insert_token(*table, &batch.publication, *month), body.rows)
        };
        batch.bodies.iter().map(token).collect()
    }

    #[test]
    fn a_batch_is_one_insert_per_table_and_month() {
        let clean = [
            record(Topic::Clean, 12, MONTH_END, &call()),
            record(Topic::Clean, 13, MONTH_END + 1_000, &call()),
            record(Topic::Clean, 14, MONTH_END, &call()),
            record(Topic::Clean, 17, MONTH_END + 1_000, &tick()),
        ];
        let expected = [("events:custody.clean.v1:3:10-18:202611", 2), ("events:custody.clean.v1:3:10-18:202612", 1)];
        let found = tokens(&batch(&clean));
        assert_eq!(found.iter().map(|(t, n)| (t.as_str(), *n)).collect::<Vec<_>>(), expected);

        let total = Derived::ControlTotal(ControlTotal::default());
        let findings =
            [record(Topic::Findings, 10, MONTH_END, &call()), record(Topic::Findings, 11, MONTH_END, &total)];
        let expected =
            ["findings:custody.findings.v1:3:10-12:202611", "control_totals:custody.findings.v1:3:10-12:202611"];
        assert_eq!(tokens(&batch(&findings)).into_iter().map(|(t, _)| t).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn ticks_are_counted_and_not_loaded() {
        let ticks = batch(&[record(Topic::Clean, 12, MONTH_END, &tick())]);
        assert!(ticks.is_empty());
        let publication = ticks.publication();
        assert_eq!((publication.ticks, publication.offset_first, publication.offset_next), (1, 10, 13));
    }

    /// What the manifest of an object of the archive says of the range from offset 10 on.
    async fn archived(records: &[Record]) -> Publication {
        let store = Store::new(Arc::new(InMemory::new()));
        let mut sink = ArchiveSink::open(store, ArchiveConfig::default(), 1).await.unwrap();
        let partition = records[0].at.partition;
        assert_eq!(sink.position(partition).await.unwrap(), None);
        sink.assign(partition, 10).unwrap();
        sink.push(records).unwrap();
        let (_, receipts, failure) = sink.flush().await.unwrap().remove(0);
        assert_eq!((receipts.len(), failure), (1, None));
        receipts[0].publication.clone()
    }

    #[tokio::test]
    async fn the_same_range_has_the_digest_that_the_archive_gives_it() {
        let check = async |offsets: &[(u64, Derived)]| {
            let record = |(offset, value): &(u64, Derived)| record(Topic::Clean, *offset, MONTH_END, value);
            let records: Vec<Record> = offsets.iter().map(record).collect();
            let (loaded, archived) = (batch(&records).publication(), archived(&records).await);
            assert_eq!(loaded, archived);
            loaded.row_digest
        };
        let one = check(&[(12, call())]).await;
        let two = check(&[(12, call()), (13, tick()), (17, call())]).await;
        let moved = check(&[(12, call()), (13, tick()), (18, call())]).await;
        assert!(one != two && two != moved, "another range has another digest");
    }

    #[test]
    fn a_batch_is_full_at_either_bound() {
        let one = batch(&[record(Topic::Clean, 12, MONTH_END, &call())]);
        let check = |rows_max, bytes_max, expected| {
            assert_eq!(one.is_full(&LoadConfig { rows_max, bytes_max }), expected, "{rows_max} {bytes_max}");
        };
        check(1, 1 << 20, true);
        check(2, 1 << 20, false);
        check(2, 1, true);
    }

    #[test]
    fn a_record_that_is_none_stops_the_partition() {
        let good = record(Topic::Clean, 12, MONTH_END, &call());
        let mut batch = batch(std::slice::from_ref(&good));
        let error = batch.push(&Record { value: Some("garbage".into()), ..good }).unwrap_err();
        assert_eq!(error.class, ErrorClass::Data);
        assert!(error.what.contains("custody.clean.v1/3 offset 12"), "{error}");
    }

    /// Answers ClickHouse#59165: exactly once needs a deduplication window, which is off by default.
    #[test]
    fn a_table_that_forgets_tokens_is_refused() {
        let check = |engine, full, expected| assert_eq!(remembers_tokens(engine, full), expected, "{full}");
        let full = "ReplacingMergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100000, index_granularity = 8192";
        check("ReplacingMergeTree", full, true);
        check("ReplacingMergeTree", "ReplacingMergeTree ORDER BY a SETTINGS index_granularity = 8192", false);
        check("MergeTree", "MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 0", false);
        check("ReplicatedReplacingMergeTree", "ReplicatedReplacingMergeTree('/a', 'b') ORDER BY a", true);
        check("ReplicatedMergeTree", "… SETTINGS replicated_deduplication_window = 0", false);
        check("SharedReplacingMergeTree", "SharedReplacingMergeTree('/a', 'b') ORDER BY a", true);
    }
}
