//! What an in-process log needs of a store: atomic writes, reads, positions.
//!
//! It knows no groups; [`in_process`](super) does.

use std::ops::Range;

use bytes::Bytes;
use schemas::record::{OutRecord, PartitionId, Position, Record};
use schemas::topic::Topic;

use super::lease::Lease;
use crate::log::{Committed, LogError};

/// A record to be written to a store: its partition is resolved and checked.
#[derive(Debug)]
pub struct Placed {
    /// Where it goes.
    pub partition: PartitionId,
    /// The record; `record.partition` has been used already.
    pub record: OutRecord,
}

/// What becomes visible and durable together.
#[derive(Debug, Default)]
pub struct Write {
    /// Records, appended in order.
    pub records: Vec<Placed>,
    /// A group's new position.
    pub offset: Option<(String, PartitionId, Committed)>,
    /// Whether the write is a step or a position (of `offset`'s group), or an appender's.
    pub kind: WriteKind,
    /// Held until the write has ended: keeps successors out.
    pub lease: Option<Lease>,
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum WriteKind {
    /// An intake producer.
    #[default]
    Append,
    /// A step.
    Step,
    /// A position without outputs.
    Offset,
}

/// What a store has to offer.
///
/// Guarantees: a [`Write`] is visible and durable whole or not at all; when `write` answers `Ok`, it
/// is durable; concurrent writes are ordered, and offsets of a partition grow without repeats.
pub trait Store: Send + Sync + 'static {
    /// How long a consumer waits for a change before it reports [`LogEvent::Idle`](crate::log::LogEvent::Idle), milliseconds.
    fn idle_wait_ms(&self) -> u64;

    /// Creates a topic with so many partitions; the store does not hold it yet.
    fn create(&self, topic: Topic, partitions: u32) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Raises the partitions of a topic that the store holds; never lowers them.
    fn grow(&self, topic: Topic, partitions: u32) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Partitions of a topic, `None` if it does not exist.
    fn partitions(&self, topic: Topic) -> Option<u32>;

    /// Writes; positions of `records`, in order.
    fn write(&self, write: Write) -> impl Future<Output = Result<Vec<Position>, LogError>> + Send;

    /// Records from `offset` on, at most `records_max` and about `bytes_max` (at least one record),
    /// and the offset to resume at.
    fn read(
        &self,
        group: &str,
        partition: PartitionId,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> impl Future<Output = Result<(Vec<Record>, u64), LogError>> + Send;

    /// Live entries of a compacted partition, in key order.
    fn entries(&self, partition: PartitionId) -> impl Future<Output = Result<Vec<(Bytes, Bytes)>, LogError>> + Send;

    /// What the group committed.
    fn committed(
        &self,
        group: &str,
        partition: PartitionId,
    ) -> impl Future<Output = Result<Option<Committed>, LogError>> + Send;

    /// First and next offset.
    fn bounds(&self, partition: PartitionId) -> Range<u64>;
}
