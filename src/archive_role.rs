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
    /// Offset behind what was read and has not been committed as position yet.
    read: BTreeMap<PartitionId, u64>,
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
            read: BTreeMap::new(),
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
                self.read.retain(|read, to| *read != partition || *to > next);
                log.commit_offset(partition, Committed { next, metadata: String::new() }).await?;
            }
            if let Some(error) = failure {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Commits the end of partitions of which no row is in hand: ticks make no object, and a log that
    /// holds nothing else is no lag.
    async fn pass_ticks<L: Log>(&mut self, log: &mut L) -> Result<(), RoleError> {
        while let Some((&partition, &next)) = self.read.iter().find(|(p, _)| self.sink.oldest_row_at(**p).is_none()) {
            log.commit_offset(partition, Committed { next, metadata: String::new() }).await?;
            self.read.remove(&partition);
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
        partition: PartitionId,
        records: Vec<Record>,
        next: u64,
    ) -> Result<(), RoleError> {
        self.sink.push(&records)?;
        self.read.insert(partition, next);
        match self.sink.sealed() {
            0 => Ok(()),
            _ => self.publish(log).await,
        }
    }

    async fn idle<L: Log>(&mut self, log: &mut L, is_end: bool) -> Result<(), RoleError> {
        if !is_end {
            return self.pass_ticks(log).await;
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
            self.read.remove(partition);
        }
    }

    fn row(&self, partition: PartitionId) -> SinkRow {
        let published_next = self.published.get(&partition).copied();
        SinkRow { published_next, oldest_at: self.sink.oldest_row_at(partition) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails where its set-up does")]

    use std::sync::Arc;

    use ingest::log::memory::MemoryBroker;
    use ingest::log::{Appender as _, Broker as _};
    use object_store::memory::InMemory;
    use schemas::codec::codec;
    use schemas::event::{CleanEvent, Event, EventHeader, ModelCall, Tick};
    use schemas::record::OutRecord;
    use schemas::time::TimestampMicros;
    use schemas::topic::Topic;

    use super::*;

    const CLEAN: PartitionId = PartitionId { topic: Topic::Clean, partition: 0 };
    const NOW: TimestampMicros = TimestampMicros(1_768_208_400_000_000);

    fn record(event: &CleanEvent) -> OutRecord {
        let value = Some(codec().encode(event));
        let key = Some(Topic::Clean.name().into());
        OutRecord { topic: Topic::Clean, partition: Some(0), timestamp: NOW, key, value, headers: Vec::new() }
    }

    fn header(event_type: &str) -> EventHeader {
        EventHeader { event_time: NOW, tenant_id: "t".to_owned(), ..EventHeader::of_type(event_type) }
    }

    fn tick() -> OutRecord {
        record(&Event::Tick(Tick { h: header("tick"), at: NOW, ..Tick::default() }))
    }

    /// Reads everything and is idle; what the group has committed then.
    async fn position_after(records: Vec<OutRecord>) -> Option<u64> {
        let broker = MemoryBroker::new();
        broker.create_topics(&[Topic::Clean], 1).await.unwrap();
        let next = records.len() as u64;
        broker.appender().await.unwrap().append(records).await.unwrap();
        let mut log = broker.consumer("custody-archive", Topic::Clean, "i").await.unwrap();
        log.next().await.unwrap();
        let store = Store::new(Arc::new(InMemory::new()));
        let mut role = ArchiveRole::open(store, ArchiveConfig::default()).await.unwrap();
        role.resume(&mut log, CLEAN).await.unwrap();
        let (read, read_next) = broker.read(CLEAN, 0).await.unwrap();
        assert_eq!(read_next, next);
        role.take(&mut log, CLEAN, read, next).await.unwrap();
        role.idle(&mut log, false).await.unwrap();
        broker.committed("custody-archive", CLEAN).await.unwrap().map(|committed| committed.next)
    }

    #[tokio::test]
    async fn ticks_alone_are_no_lag_and_a_row_in_hand_is() {
        assert_eq!(position_after(vec![tick(), tick()]).await, Some(2));
        let call = record(&Event::ModelCall(ModelCall { h: header("model.call"), ..ModelCall::default() }));
        assert_eq!(position_after(vec![tick(), call, tick()]).await, None);
    }
}
