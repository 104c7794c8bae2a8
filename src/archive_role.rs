//! The archive as a role: feeds partitions of the log to the archive sink.
//!
//! Positions come from the store; what is committed to the log is for lag metrics only.

use std::collections::BTreeMap;
use std::time::Duration;

use ingest::log::{Committed, Log};
use schemas::record::{PartitionId, Record};
use sinks::error::SinkError;
use sinks::parquet::archive::{ArchiveConfig, ArchiveSink, Receipt};
use sinks::parquet::store::Store;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::metrics::{Metrics, SinkRow};
use crate::runner::sink::{RoleError, SinkRole};

/// The role.
#[derive(Debug)]
pub struct ArchiveRole {
    sink: ArchiveSink,
    metrics: Metrics,
    /// Longest that rows may wait by the clock; `None` where log time alone cuts files.
    clock_flush: Option<Duration>,
    /// Since when a partition has had rows in hand, by the clock.
    waiting: BTreeMap<PartitionId, Instant>,
    /// Offset behind what is published.
    published: BTreeMap<PartitionId, u64>,
}

impl ArchiveRole {
    /// Opens the archive; refuses a store that ignores create-only puts.
    ///
    /// # Errors
    /// The store cannot be used: the message says why and what to change.
    pub async fn open(store: Store, config: ArchiveConfig) -> Result<Self, SinkError> {
        let nonce = crate::clock::now().0.unsigned_abs();
        Ok(Self {
            sink: ArchiveSink::open(store, config, nonce).await?,
            metrics: Metrics::default(),
            clock_flush: None,
            waiting: BTreeMap::new(),
            published: BTreeMap::new(),
        })
    }

    /// Counts in `metrics`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Cuts a file also when its first row has waited so long by the clock: for topics without ticks,
    /// whose log time stands still while nothing happens. Two runs over such a topic may cut
    /// differently; what is published once stays.
    #[must_use]
    pub fn with_clock_flush(mut self, clock_flush_ms: i64) -> Self {
        self.clock_flush = Some(Duration::from_millis(clock_flush_ms.max(0).unsigned_abs()));
        self
    }

    async fn publish<L: Log>(&mut self, log: &mut L) -> Result<(), RoleError> {
        let begun = Instant::now();
        let outcomes = self.sink.publish().instrument(tracing::info_span!("flush", sink = "archive")).await;
        if outcomes.iter().any(|(_, receipts, _)| !receipts.is_empty()) {
            self.metrics.sink_committed("archive", begun.elapsed());
        }
        self.report(log, outcomes).await
    }

    /// Commits what was published for lag metrics, and raises the first failure.
    async fn report<L: Log>(
        &mut self,
        log: &mut L,
        outcomes: Vec<(PartitionId, Vec<Receipt>, Option<SinkError>)>,
    ) -> Result<(), RoleError> {
        for (partition, receipts, failure) in outcomes {
            receipts.iter().for_each(|r| self.metrics.archived(partition.topic, r.object.bytes));
            if let Some(last) = receipts.last() {
                let next = last.publication.offset_next;
                self.published.insert(partition, next);
                log.commit_offset(partition, Committed { next, metadata: String::new() }).await?;
            }
            if let Some(error) = failure {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Seals what has waited long enough by the clock.
    fn seal_overdue(&mut self, now: Instant) -> Result<(), SinkError> {
        let Some(limit) = self.clock_flush else { return Ok(()) };
        let (sink, waiting) = (&self.sink, &mut self.waiting);
        waiting.retain(|partition, _| sink.oldest_row_at(*partition).is_some());
        for partition in sink.partitions().filter(|p| sink.oldest_row_at(*p).is_some()) {
            waiting.entry(partition).or_insert(now);
        }
        let overdue: Vec<PartitionId> =
            waiting.iter().filter(|(_, since)| now.duration_since(**since) >= limit).map(|(p, _)| *p).collect();
        for partition in overdue {
            self.waiting.remove(&partition);
            self.sink.seal(partition)?;
        }
        Ok(())
    }
}

impl SinkRole for ArchiveRole {
    async fn resume<L: Log>(&mut self, log: &mut L, partition: PartitionId) -> Result<u64, RoleError> {
        let next = match self.sink.position(partition).await? {
            Some(next) => next,
            None => log.bounds(partition).await?.start,
        };
        self.sink.assign(partition, next)?;
        self.published.insert(partition, next);
        Ok(next)
    }

    async fn take<L: Log>(
        &mut self,
        log: &mut L,
        _: PartitionId,
        records: Vec<Record>,
        _: u64,
    ) -> Result<(), RoleError> {
        self.sink.push(&records)?;
        match self.sink.sealed() {
            0 => Ok(()),
            _ => self.publish(log).await,
        }
    }

    async fn idle<L: Log>(&mut self, log: &mut L, is_end: bool) -> Result<(), RoleError> {
        if !is_end {
            return Ok(());
        }
        let outcomes = self.sink.flush().await?;
        self.report(log, outcomes).await
    }

    async fn due<L: Log>(&mut self, log: &mut L) -> Result<(), RoleError> {
        // Elsewhere only log time seals an object: a flush by the clock would cut files of the same log
        // differently on a second run (invariant I6).
        self.seal_overdue(Instant::now())?;
        match self.sink.sealed() {
            0 => Ok(()),
            _ => self.publish(log).await,
        }
    }

    async fn finish<L: Log>(&mut self, _: &mut L, _: &[PartitionId]) -> Result<(), RoleError> {
        // An object that is not complete would be cut where the process happened to stop. Its records
        // are in the log.
        Ok(())
    }

    fn forget(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            self.sink.release(*partition);
            self.waiting.remove(partition);
            self.published.remove(partition);
        }
    }

    fn row(&self, partition: PartitionId) -> SinkRow {
        let published_next = self.published.get(&partition).copied();
        SinkRow { published_next, oldest_at: self.sink.oldest_row_at(partition) }
    }
}
