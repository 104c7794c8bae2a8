//! The log, from which everything else is derived. One trait, three implementations, one conformance suite.
//!
//! `memory` is the deterministic reference, `local` the embedded durable one, `kafka` the one for a cluster.
//! The traits state what must hold; `conformance` checks it.

use std::collections::BTreeMap;
use std::ops::Range;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod group;
pub mod in_process;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "local")]
pub mod local;
pub mod memory;

use bytes::Bytes;
use schemas::record::{OutRecord, PartitionId, Position, Record};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

/// A changed entry of a partition's state, as in `processors::stage`.
pub type StateChange = (Bytes, Option<Bytes>);

/// One atomic step as plain data: outputs, state and position, all or nothing (invariant I5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Txn {
    /// Source partition.
    pub source: PartitionId,
    /// Source offsets consumed, `[first, next)`; `next` is what gets committed.
    pub consumed: Range<u64>,
    /// Records to append.
    pub outputs: Vec<OutRecord>,
    /// State entries to write to `state_topic`, partition `source.partition`.
    pub changes: Vec<StateChange>,
    /// Compacted topic of the stage's state; `None` for a stage without state.
    pub state_topic: Option<Topic>,
}

/// What happens to a consumer, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// These partitions are assigned to this member, each starting at the committed offset (0 if none).
    Assigned(Vec<(PartitionId, u64)>),
    /// These partitions are being revoked: finish and commit the step in flight; the next call releases them.
    Revoked(Vec<PartitionId>),
    /// These partitions are lost already: drop the step in flight, commit nothing.
    Lost(Vec<PartitionId>),
    /// Records of one partition, in offset order; offsets may have gaps.
    Fetched {
        /// Partition.
        partition: PartitionId,
        /// Records, never empty.
        records: Vec<Record>,
        /// Offset that the next fetch starts at: after the last record and after any control
        /// records that followed it.
        next: u64,
    },
    /// Nothing to read now: every assigned partition is read to its end.
    Idle,
}

/// A committed position with the metadata that was committed with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// Next offset to read.
    pub next: u64,
    /// Free text, at most 4096 bytes (Kafka's default `offset.metadata.max.bytes`).
    pub metadata: String,
}

/// What the caller must do about an error; there is no "ignore" (invariant I10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Retry after this delay, without limit; nothing is lost while the caller retries.
    Retry {
        /// Shortest wait in milliseconds.
        after_ms: u64,
    },
    /// The step was not written, or its outcome is unknown (a lost answer): drop it, restore the state and resume at
    /// the committed offset, which is correct in both cases.
    AbortTxn,
    /// Another instance has taken over: drop the partition, commit nothing.
    Fenced,
    /// Configuration or broken invariant: stop with offsets uncommitted and report what to change.
    Fatal,
}

/// A failed log operation.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {message}")]
pub struct LogError {
    /// What to do.
    pub class: ErrorClass,
    /// The operation and its object, e.g. `commit of custody.events.v1/3`.
    pub what: String,
    /// What happened and, where there is one, the remedy.
    pub message: String,
}

impl LogError {
    /// An error of `class` about `what`.
    pub fn new(class: ErrorClass, what: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class, what: what.into(), message: message.into() }
    }

    /// A broken invariant or configuration.
    pub fn fatal(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Fatal, what, message)
    }

    /// Another instance took over.
    pub fn fenced(what: impl Into<String>) -> Self {
        Self::new(ErrorClass::Fenced, what, "the partition belongs to another member now; drop it and commit nothing")
    }
}

/// The next generation of the topics, as a process of the current one sees it. Topics are created in this order, so
/// that every process can observe each step of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Successor {
    /// Partitions that the next events topic will have; `None` if no successor is announced. Once it is, intake stops.
    pub announced: Option<u32>,
    /// Whether intake may write to it; the current generation no longer accepts records.
    pub is_open: bool,
    /// Whether the state was carried over, so that the current generation is no longer needed.
    pub is_complete: bool,
}

/// The dead-letter topic is created first, the topic of clean events last.
impl Successor {
    /// Its existence announces a successor.
    pub const FIRST: Topic = Topic::Dlq;
    /// Its existence marks the migration as complete.
    pub const LAST: Topic = Topic::Clean;
}

/// Most bytes of [`Committed::metadata`]; Kafka's default `offset.metadata.max.bytes`.
pub const METADATA_BYTES_MAX: usize = 4096;

/// A member of a consumer group on one topic.
///
/// Guarantees that every implementation gives (checked by [`conformance`]):
/// * a [`Txn`] is visible whole or not at all;
/// * after [`ErrorClass::Fenced`] no earlier handle of the group can commit;
/// * times have millisecond resolution, rounded down;
/// * records of a partition arrive in offset order, each at most once between two seeks;
/// * `restore` sees every state entry that was committed before the assignment.
#[allow(async_fn_in_trait)]
pub trait Log: Send {
    /// The next thing that happened; waits a bounded time (at most about 100 ms) before [`LogEvent::Idle`].
    fn next(&mut self) -> impl Future<Output = Result<LogEvent, LogError>> + Send;

    /// Live entries of the state topic in that partition, in key order.
    fn restore(&mut self, state: PartitionId) -> impl Future<Output = Result<Vec<(Bytes, Bytes)>, LogError>> + Send;

    /// Commits a step.
    ///
    /// # Errors
    /// [`ErrorClass::Retry`]: nothing was written, the same step may be committed again;
    /// [`ErrorClass::AbortTxn`] and [`ErrorClass::Fenced`] as described there.
    fn commit(&mut self, txn: Txn) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Continues reading an assigned partition at `offset`, also one that is held.
    fn seek(&mut self, partition: PartitionId, offset: u64) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Returns no more records of an assigned partition before its next [`Log::seek`] or assignment. The member keeps
    /// the partition, and other partitions are read as before. [`LogEvent::Idle`] does not wait for it.
    fn hold(&mut self, partition: PartitionId) -> impl Future<Output = Result<(), LogError>> + Send;

    /// What the group committed last for a partition.
    fn committed(&mut self, partition: PartitionId)
    -> impl Future<Output = Result<Option<Committed>, LogError>> + Send;

    /// Commits a position without outputs: sinks, whose truth is what they published. Fenced like a
    /// step.
    fn commit_offset(
        &mut self,
        partition: PartitionId,
        committed: Committed,
    ) -> impl Future<Output = Result<(), LogError>> + Send;

    /// First and next offset that the partition holds now.
    fn bounds(&mut self, partition: PartitionId) -> impl Future<Output = Result<Range<u64>, LogError>> + Send;

    /// Leaves the group; what is uncommitted is read again by the next member.
    fn close(self) -> impl Future<Output = Result<(), LogError>> + Send;
}

/// An intake producer: idempotent, not transactional, so that offsets stay dense.
pub trait Appender: Send {
    /// Appends in order and waits until the log has every record safely; the positions, in order.
    ///
    /// # Errors
    /// [`ErrorClass::Retry`]: some records may have been written; appending them again is the
    /// caller's decision (readers remove duplicates by event id).
    fn append(&mut self, records: Vec<OutRecord>) -> impl Future<Output = Result<Vec<Position>, LogError>> + Send;
}

/// A log that consumers and producers are opened on.
pub trait Broker: Clone + Send + Sync + 'static {
    /// Its consumer.
    type Log: Log + 'static;
    /// Its producer.
    type Appender: Appender + 'static;

    /// Creates topics that do not exist; an existing topic with another partition count is an error.
    fn create_topics(&self, topics: &[Topic], partitions: u32) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Raises the partitions of a topic to `partitions`; one that has as many or more stays as it is. Records,
    /// positions and the numbers of the partitions before stay what they were. Only for topics whose partitions
    /// are not chosen by key: other keys would go elsewhere afterwards. Whoever was opened before may learn of
    /// them late: a producer then answers [`ErrorClass::Retry`].
    ///
    /// # Errors
    /// There is no such topic, or the broker refuses.
    fn grow_topic(&self, topic: Topic, partitions: u32) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Partitions of a topic.
    fn partitions(&self, topic: Topic) -> impl Future<Output = Result<u32, LogError>> + Send;

    /// Partitions of a topic as the brokers hold it now; [`Broker::partitions`] may remember. `None` if there
    /// is no such topic.
    fn partitions_now(&self, topic: Topic) -> impl Future<Output = Result<Option<u32>, LogError>> + Send;

    /// Number of the first partition of every topic: 0, except in later generations of the topics
    /// ([`schemas::record::first_partition`]).
    fn first_partition(&self) -> u32 {
        0
    }

    /// What exists of the next generation of the topics; nothing on a log that has only one generation.
    fn successor(&self) -> impl Future<Output = Result<Successor, LogError>> + Send {
        async { Ok(Successor::default()) }
    }

    /// The numbers of a topic's partitions.
    fn numbers(&self, topic: Topic) -> impl Future<Output = Result<Range<u32>, LogError>> + Send {
        async move {
            let first = self.first_partition();
            Ok(first..first + self.partitions(topic).await?)
        }
    }

    /// Joins `group` on `topic`; `instance` is stable across restarts, so that a successor fences its
    /// predecessor at once.
    fn consumer(
        &self,
        group: &str,
        topic: Topic,
        instance: &str,
    ) -> impl Future<Output = Result<Self::Log, LogError>> + Send;

    /// The broker's settings of a topic by Kafka's names, `replicas` among them; empty where the log has
    /// none, `None` if there is no such topic.
    fn topic_settings(
        &self,
        topic: Topic,
    ) -> impl Future<Output = Result<Option<BTreeMap<String, String>>, LogError>> + Send;

    /// The settings of every broker of the cluster by Kafka's names; empty where the log has none.
    fn broker_settings(&self) -> impl Future<Output = Result<Vec<BTreeMap<String, String>>, LogError>> + Send;

    /// First and next offset that the partition holds now, asked from outside any group.
    fn bounds(&self, partition: PartitionId) -> impl Future<Output = Result<Range<u64>, LogError>> + Send;

    /// What a group committed last for a partition, read from outside it: no member is fenced.
    fn committed(
        &self,
        group: &str,
        partition: PartitionId,
    ) -> impl Future<Output = Result<Option<Committed>, LogError>> + Send;

    /// Commits the first position of a group that has no members at the moment.
    ///
    /// # Errors
    /// The brokers do not answer, or the group has members, whose commits alone count.
    fn commit_first(
        &self,
        group: &str,
        partition: PartitionId,
        next: u64,
    ) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Committed records from `offset` on, without joining a group: at most
    /// [`STEP_RECORDS_MAX`](schemas::limits::STEP_RECORDS_MAX) and about
    /// [`STEP_BYTES_MAX`](schemas::limits::STEP_BYTES_MAX), at least one unless the end is reached; and
    /// the offset to resume at. For tools that inspect the log; a consumer follows it.
    fn read(
        &self,
        partition: PartitionId,
        offset: u64,
    ) -> impl Future<Output = Result<(Vec<Record>, u64), LogError>> + Send;

    /// Opens an intake producer.
    fn appender(&self) -> impl Future<Output = Result<Self::Appender, LogError>> + Send;
}

/// A step's records: its outputs, then its state entries.
fn step_records(txn: &mut Txn) -> Result<Vec<OutRecord>, LogError> {
    let mut records = std::mem::take(&mut txn.outputs);
    let changes = std::mem::take(&mut txn.changes);
    let Some(topic) = txn.state_topic else {
        let stray = || {
            LogError::fatal(
                format!("commit of {}", in_process::name(txn.source)),
                "state changes without a state topic",
            )
        };
        // Fail closed: dropping them would commit a step whose state is lost.
        return if changes.is_empty() { Ok(records) } else { Err(stray()) };
    };
    records.extend(changes.into_iter().map(|(key, value)| OutRecord {
        topic,
        // State lives in the partition of its source, so that the member that is assigned the source restores exactly
        // its state.
        partition: Some(txn.source.partition),
        // Kafka takes 0 for the time of sending. Nothing reads the time of a state entry.
        timestamp: TimestampMicros(0),
        key: Some(key),
        value,
        headers: Vec::new(),
    }));
    Ok(records)
}
