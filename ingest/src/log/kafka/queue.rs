//! The bounded queue between the thread that polls librdkafka and the consumer's handle.
//!
//! Plain data behind a lock; it knows no broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use schemas::limits::{STEP_BYTES_MAX, STEP_RECORDS_MAX};
use schemas::record::Record;
use tokio::sync::Notify;

use super::noise::warn;
use crate::log::LogError;

/// The thread stops reading ahead above these.
const QUEUE_RECORDS_MAX: usize = 4 * STEP_RECORDS_MAX;
const QUEUE_BYTES_MAX: usize = 2 * STEP_BYTES_MAX;

/// What the handle receives, in order.
#[derive(Debug)]
pub(super) enum Item {
    /// Partitions with their start offsets, and the member id at that time.
    Assigned(Vec<(u32, u64)>, Arc<str>),
    Revoked(Vec<u32>),
    Lost(Vec<u32>),
    /// Records of one partition: no more than one step takes.
    Chunk(Chunk),
    /// The thread cannot continue.
    Failed(LogError),
}

/// Records of one partition, in offset order.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) partition: u32,
    pub(super) records: Vec<Record>,
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    records: usize,
    bytes: usize,
    /// Assigned partitions; whether each has been read to its end, or is paused.
    at_end: BTreeMap<u32, bool>,
    /// Partitions whose records are withheld until they are sought.
    paused: BTreeSet<u32>,
    /// By partition: the offset after the last record received since it was assigned or sought.
    next: BTreeMap<u32, u64>,
}

/// A queue that one thread fills and one task empties.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    pub(super) news: Notify,
}

impl Inbox {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue and wakes the handle.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Queue)) {
        change(&mut self.lock());
        self.news.notify_waiters();
    }
}

pub(super) fn value_bytes(record: &Record) -> usize {
    record.value.as_ref().map_or(0, Bytes::len)
}

impl Queue {
    pub(super) fn is_full(&self) -> bool {
        self.records >= QUEUE_RECORDS_MAX || self.bytes >= QUEUE_BYTES_MAX
    }

    /// Whether every assigned partition was read to its end and all of it was taken.
    pub(super) fn is_drained(&self) -> bool {
        self.items.is_empty() && self.at_end.values().all(|at_end| *at_end)
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        if let Item::Chunk(chunk) = &item {
            self.records -= chunk.records.len();
            self.bytes -= chunk.bytes;
        }
        Some(item)
    }

    pub(super) fn assign(&mut self, starts: Vec<(u32, u64)>, joined_as: Arc<str>) {
        self.at_end.extend(starts.iter().map(|(partition, _)| (*partition, false)));
        self.items.push_back(Item::Assigned(starts, joined_as));
    }

    /// Partitions that are assigned and have not been taken away since.
    pub(super) fn held(&self) -> Vec<u32> {
        self.at_end.keys().copied().collect()
    }

    /// Whether a partition is assigned and has not been taken away since.
    pub(super) fn holds(&self, partition: u32) -> bool {
        self.at_end.contains_key(&partition)
    }

    /// Takes partitions away with what was read ahead of them.
    pub(super) fn remove(&mut self, partitions: &[u32], event: Option<Item>) {
        // Before the event is queued: the handle must not get records of a partition after its revocation or
        // loss.
        partitions.iter().for_each(|p| self.drop_chunks(*p));
        self.at_end.retain(|partition, _| !partitions.contains(partition));
        self.next.retain(|partition, _| !partitions.contains(partition));
        self.paused.retain(|partition| !partitions.contains(partition));
        self.items.extend(event);
    }

    pub(super) fn fail(&mut self, error: LogError) {
        self.items.push_back(Item::Failed(error));
    }

    /// The partition was read to its end.
    pub(super) fn end(&mut self, partition: u32) {
        if let Some(at_end) = self.at_end.get_mut(&partition) {
            *at_end = true;
        }
    }

    /// Forgets what was read ahead of a partition: its position has moved.
    pub(super) fn restart(&mut self, partition: u32) {
        self.drop_chunks(partition);
        // A seek may go backwards; records before the old position are wanted then.
        self.next.remove(&partition);
        self.paused.remove(&partition);
        if let Some(at_end) = self.at_end.get_mut(&partition) {
            *at_end = false;
        }
    }

    /// Forgets what was read ahead of a partition and counts it as read to its end until it is sought.
    pub(super) fn pause(&mut self, partition: u32) {
        if !self.holds(partition) {
            return;
        }
        self.drop_chunks(partition);
        self.paused.insert(partition);
        self.end(partition);
    }

    pub(super) fn is_paused(&self, partition: u32) -> bool {
        self.paused.contains(&partition)
    }

    /// Appends a record to the newest chunk of its partition, or starts a chunk; drops one that was received before.
    pub(super) fn push(&mut self, partition: u32, record: Record) {
        if self.is_paused(partition) {
            // Read before it was paused: the seek that ends this reads it again.
            return;
        }
        let next = self.next.entry(partition).or_default();
        // A record that librdkafka delivers again must not be counted twice by a stage.
        if record.at.offset < *next {
            warn("again", || format!("{partition}/{} was delivered again and is dropped", record.at.offset));
            return;
        }
        *next = record.at.offset + 1;
        if let Some(at_end) = self.at_end.get_mut(&partition) {
            *at_end = false;
        }
        let bytes = value_bytes(&record);
        self.records += 1;
        self.bytes += bytes;
        let fits = |chunk: &Chunk| {
            chunk.partition == partition
                && chunk.records.len() < STEP_RECORDS_MAX
                && chunk.bytes + bytes <= STEP_BYTES_MAX
        };
        // The newest chunk of this partition, if nothing but other partitions' chunks came after it.
        for item in self.items.iter_mut().rev() {
            match item {
                Item::Chunk(chunk) if fits(chunk) => {
                    chunk.records.push(record);
                    chunk.bytes += bytes;
                    return;
                }
                Item::Chunk(chunk) if chunk.partition != partition => {}
                _ => break,
            }
        }
        self.items.push_back(Item::Chunk(Chunk { partition, records: vec![record], bytes }));
    }

    fn drop_chunks(&mut self, partition: u32) {
        self.items.retain(|item| match item {
            Item::Chunk(chunk) if chunk.partition == partition => {
                self.records -= chunk.records.len();
                self.bytes -= chunk.bytes;
                false
            }
            _ => true,
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use schemas::record::{PartitionId, Position};
    use schemas::time::TimestampMicros;
    use schemas::topic::Topic;

    use super::*;

    fn record(partition: u32, offset: u64, bytes: usize) -> Record {
        let at = Position { partition: PartitionId { topic: Topic::Events, partition }, offset };
        let value = Some(Bytes::from(vec![0; bytes]));
        Record { at, timestamp: TimestampMicros(0), key: None, value, headers: Vec::new() }
    }

    fn chunks(queue: &mut Queue) -> Vec<(u32, usize)> {
        let chunk = |item| match item {
            Item::Chunk(chunk) => (chunk.partition, chunk.records.len()),
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| queue.pop()).map(chunk).collect()
    }

    #[test]
    fn records_gather_by_partition_up_to_one_step() {
        let mut queue = Queue::default();
        for offset in 0..STEP_RECORDS_MAX as u64 + 1 {
            queue.push(0, record(0, offset, 1));
            queue.push(1, record(1, offset, 0));
        }
        let n = STEP_RECORDS_MAX;
        assert_eq!(chunks(&mut queue), [(0, n), (1, n), (0, 1), (1, 1)]);
        assert_eq!((queue.records, queue.bytes), (0, 0));
    }

    /// Answers vector#20939: memory that grows with the backlog.
    #[test]
    fn a_chunk_stays_under_the_bytes_of_one_step() {
        let mut queue = Queue::default();
        (0..5).for_each(|offset| queue.push(0, record(0, offset, STEP_BYTES_MAX / 2)));
        assert!(queue.is_full());
        assert_eq!(chunks(&mut queue), [(0, 2), (0, 2), (0, 1)]);
    }

    #[test]
    fn a_paused_partition_is_empty_until_it_is_sought() {
        let mut queue = Queue::default();
        queue.assign(vec![(0, 0), (1, 0)], "a".into());
        assert!(matches!(queue.pop(), Some(Item::Assigned(..))));
        (0..4).for_each(|i| queue.push(i % 2, record(i % 2, u64::from(i), 1)));
        queue.pause(0);
        queue.push(0, record(0, 2, 1));
        queue.end(1);
        assert_eq!(chunks(&mut queue), [(1, 2)]);
        assert!(queue.is_drained(), "a paused partition does not keep the queue from being drained");
        queue.restart(0);
        assert!(!queue.is_drained());
        queue.push(0, record(0, 0, 1));
        assert_eq!(chunks(&mut queue), [(0, 1)]);
        queue.pause(0);
        queue.remove(&[0], None);
        queue.pause(0);
        assert!(
            !queue.is_paused(0),
            "a partition that was taken away is not paused, and starts afresh when it is assigned again"
        );
    }

    #[test]
    fn a_record_that_comes_again_is_taken_once_unless_it_was_sought() {
        let mut queue = Queue::default();
        [3, 4, 7, 4, 7, 8].into_iter().for_each(|offset| queue.push(0, record(0, offset, 1)));
        queue.push(1, record(1, 3, 1));
        assert_eq!(chunks(&mut queue), [(0, 4), (1, 1)]);
        queue.restart(0);
        queue.push(0, record(0, 4, 1));
        queue.remove(&[1], None);
        queue.push(1, record(1, 3, 1));
        assert_eq!(chunks(&mut queue), [(0, 1), (1, 1)]);
    }

    #[test]
    fn what_was_read_ahead_goes_with_its_partition() {
        let mut queue = Queue::default();
        queue.assign(vec![(0, 0), (1, 0)], "a".into());
        assert!(matches!(queue.pop(), Some(Item::Assigned(..))));
        assert!(!queue.is_drained(), "nothing has been read yet");
        (0..4).for_each(|i| queue.push(i % 2, record(i % 2, u64::from(i), 1)));
        queue.restart(0);
        queue.end(1);
        assert_eq!(chunks(&mut queue), [(1, 2)]);
        assert!(!queue.is_drained(), "partition 0 is read again");
        queue.end(0);
        assert!(queue.is_drained());
        queue.push(1, record(1, 9, 1));
        assert!(queue.holds(1));
        queue.remove(&[1], Some(Item::Revoked(vec![1])));
        assert!(!queue.holds(1));
        assert!(matches!(queue.pop(), Some(Item::Revoked(p)) if p == [1]));
        assert!(queue.is_drained());
    }
}
