//! The ClickHouse loader as a role: intent into the log, rows into ClickHouse, position into the log.
//!
//! The intent names the exact range of a batch before its first row leaves, so that whoever goes on
//! repeats that range under the same token. What a row is, and which token it gets, is in `sinks`.

use std::collections::BTreeMap;
use std::time::Duration;

use ingest::log::{Committed, Log};
use schemas::record::{PartitionId, Record};
use schemas::table::Table;
use sinks::clickhouse::insert::{ClickHouseSink, LoadBatch, LoadConfig};
use sinks::clickhouse::intent::{Intent, LoadDecision, decide, encode_intent};
use sinks::error::{ErrorClass, SinkError};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::metrics::{Metrics, SinkRow};
use crate::runner::sink::{RoleError, SinkRole};

/// Where rows go.
pub trait RowSink: Send + Sync {
    /// Inserts a batch; inserting it again adds nothing. The rows of each table.
    ///
    /// # Errors
    /// As [`ClickHouseSink::insert`].
    fn insert(&self, batch: &LoadBatch) -> impl Future<Output = Result<BTreeMap<Table, u64>, SinkError>> + Send;
}

impl RowSink for ClickHouseSink {
    async fn insert(&self, batch: &LoadBatch) -> Result<BTreeMap<Table, u64>, SinkError> {
        ClickHouseSink::insert(self, batch).await
    }
}

/// The role.
#[derive(Debug)]
pub struct LoadRole<S = ClickHouseSink> {
    sink: S,
    config: LoadConfig,
    flush_interval_ms: i64,
    metrics: Metrics,
    partitions: BTreeMap<PartitionId, Loading>,
}

/// What is in hand of one partition.
#[derive(Debug)]
struct Loading {
    /// Position that the group committed.
    committed: u64,
    /// Range to repeat before anything else.
    repeat: Option<Intent>,
    batch: Option<LoadBatch>,
    opened_at: Instant,
}

impl<S: RowSink> LoadRole<S> {
    /// A loader that inserts a batch when it is full or `flush_interval_ms` old.
    pub fn new(sink: S, config: LoadConfig, flush_interval_ms: i64) -> Self {
        Self { sink, config, flush_interval_ms, metrics: Metrics::default(), partitions: BTreeMap::new() }
    }

    /// Counts in `metrics`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Inserts what is in hand of a partition and commits its end.
    async fn load<L: Log>(&mut self, log: &mut L, partition: PartitionId) -> Result<(), RoleError> {
        let Some(loading) = self.partitions.get_mut(&partition) else { return Ok(()) };
        let Some(batch) = &loading.batch else { return Ok(()) };
        let publication = batch.publication();
        let next = publication.offset_next;
        if !batch.is_empty() {
            let intent = Intent::of(&publication);
            match &loading.repeat {
                Some(pending) if *pending != intent => return Err(other_rows(partition, pending, &intent).into()),
                Some(_) => {}
                None => {
                    let metadata = encode_intent(&intent);
                    log.commit_offset(partition, Committed { next: loading.committed, metadata }).await?;
                    fail::fail_point!("load.intent_committed");
                }
            }
            let begun = Instant::now();
            let span = tracing::info_span!(
                "insert", topic = %partition.topic, partition = partition.partition,
                first = publication.offset_first, next, rows = publication.rows
            );
            let rows = self.sink.insert(batch).instrument(span).await?;
            fail::fail_point!("load.inserted");
            self.metrics.sink_committed("load", begun.elapsed());
            rows.iter().for_each(|(table, rows)| self.metrics.loaded(table.name(), *rows));
        }
        log.commit_offset(partition, Committed { next, metadata: String::new() }).await?;
        (loading.committed, loading.repeat, loading.batch) = (next, None, None);
        Ok(())
    }

    fn push(&mut self, partition: PartitionId, record: &Record) -> Result<bool, SinkError> {
        let Some(loading) = self.partitions.get_mut(&partition) else { return Ok(false) };
        if loading.batch.is_none() {
            loading.opened_at = Instant::now();
        }
        let batch = loading.batch.get_or_insert_with(|| LoadBatch::open(partition, loading.committed, record));
        batch.push(record)?;
        Ok(match &loading.repeat {
            Some(pending) => record.at.offset + 1 >= pending.offset_next,
            None => batch.is_full(&self.config),
        })
    }

    fn is_due(&self, partition: PartitionId) -> bool {
        let flush_interval = Duration::from_millis(self.flush_interval_ms.max(0).unsigned_abs());
        self.partitions
            .get(&partition)
            .is_some_and(|l| l.batch.is_some() && l.repeat.is_none() && l.opened_at.elapsed() >= flush_interval)
    }
}

/// The records of a pending range are not those that its intent was written for.
fn other_rows(partition: PartitionId, pending: &Intent, found: &Intent) -> SinkError {
    let what = format!("load {}/{}", partition.topic, partition.partition);
    let message = format!(
        "offsets [{}, {}) hold other records than when they were about to be inserted (digest {} was {}); \
         the topic was made anew or changed: use another consumer group and database",
        pending.offset_first, pending.offset_next, found.row_digest, pending.row_digest
    );
    SinkError::new(ErrorClass::Data, what, message)
}

impl<S: RowSink> SinkRole for LoadRole<S> {
    async fn resume<L: Log>(&mut self, log: &mut L, partition: PartitionId) -> Result<u64, RoleError> {
        let committed = log.committed(partition).await?;
        let bounds = log.bounds(partition).await?;
        let decision = decide(committed.as_ref().map(|c| (c.next, c.metadata.as_str())), &bounds);
        let (at, repeat) = match decision {
            LoadDecision::Start { at } => (at, None),
            LoadDecision::Repeat(intent) => (intent.offset_first, Some(intent)),
            LoadDecision::Stop(stop) => {
                let what = format!("load {}/{}", partition.topic, partition.partition);
                return Err(SinkError::new(ErrorClass::Config, what, stop).into());
            }
        };
        let loading = Loading { committed: at, repeat, batch: None, opened_at: Instant::now() };
        self.partitions.insert(partition, loading);
        Ok(at)
    }

    async fn take<L: Log>(
        &mut self,
        log: &mut L,
        partition: PartitionId,
        records: Vec<Record>,
        _: u64,
    ) -> Result<(), RoleError> {
        for record in &records {
            if self.push(partition, record)? {
                self.load(log, partition).await?;
            }
        }
        Ok(())
    }

    async fn idle<L: Log>(&mut self, log: &mut L, is_end: bool) -> Result<(), RoleError> {
        let partitions: Vec<PartitionId> = self.partitions.keys().copied().filter(|_| is_end).collect();
        for partition in partitions {
            self.load(log, partition).await?;
        }
        Ok(())
    }

    async fn due<L: Log>(&mut self, log: &mut L) -> Result<(), RoleError> {
        let due: Vec<PartitionId> = self.partitions.keys().copied().filter(|p| self.is_due(*p)).collect();
        for partition in due {
            self.load(log, partition).await?;
        }
        Ok(())
    }

    async fn finish<L: Log>(&mut self, log: &mut L, partitions: &[PartitionId]) -> Result<(), RoleError> {
        for partition in partitions {
            // Part of a range that is to be repeated is no batch: whoever goes on repeats it whole.
            if self.partitions.get(partition).is_some_and(|l| l.repeat.is_none()) {
                self.load(log, *partition).await?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, partitions: &[PartitionId]) {
        self.partitions.retain(|p, _| !partitions.contains(p));
    }

    fn row(&self, partition: PartitionId) -> SinkRow {
        let loading = self.partitions.get(&partition);
        let batch = loading.and_then(|l| l.batch.as_ref());
        SinkRow {
            published_next: loading.map(|l| l.committed),
            oldest_at: batch.and_then(|batch| batch.oldest_row_at()),
        }
    }
}
