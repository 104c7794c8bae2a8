//! The log in memory: the deterministic reference, with faults that a test scripts.
//!
//! The same calls in the same order give the same answers: no clock, no thread, no timer (an idle
//! consumer yields once and returns `Idle`). Nothing survives the process.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use schemas::record::{PartitionId, Position, Record};
use schemas::topic::Topic;

use super::in_process::{InProcessBroker, Store, Write, WriteKind, name};
use super::{Committed, ErrorClass, LogError};

/// A broker in memory.
pub type MemoryBroker = InProcessBroker<MemoryStore>;

/// A fault that happens once, to the first operation it fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A commit (of a step or of a position) of `group` answers an error.
    Commit {
        /// Group that commits.
        group: String,
        /// Whether it took effect anyway: a lost answer.
        applied: bool,
        /// Error class that the caller gets.
        class: ErrorClass,
    },
    /// An append answers an error.
    Append {
        /// Whether the records were written anyway: a lost answer.
        applied: bool,
        /// Error class that the caller gets.
        class: ErrorClass,
    },
    /// A fetch of `group` gives at most so many records.
    ShortFetch {
        /// Group that reads.
        group: String,
        /// Records, at least 1.
        records_max: usize,
    },
    /// A fetch of `group` answers an error.
    Fetch {
        /// Group that reads.
        group: String,
        /// Error class that the caller gets.
        class: ErrorClass,
    },
}

#[derive(Debug, Default)]
struct Partition {
    next: u64,
    records: Vec<Record>,
    /// Of a compacted topic: what is live.
    entries: BTreeMap<Bytes, Bytes>,
}

#[derive(Debug, Default)]
struct Held {
    topics: BTreeMap<Topic, u32>,
    partitions: BTreeMap<PartitionId, Partition>,
    committed: BTreeMap<(String, PartitionId), Committed>,
    faults: VecDeque<Fault>,
    fired: Vec<Fault>,
}

/// Records, state entries and positions in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    held: Mutex<Held>,
    markers: bool,
}

impl MemoryBroker {
    /// An empty log without topics.
    pub fn new() -> Self {
        Self::over(MemoryStore::default())
    }

    /// As [`MemoryBroker::new`], but each step takes one more offset in every partition that it
    /// writes to, as the control records of Kafka's transactions do (invariant I11).
    pub fn with_control_records() -> Self {
        Self::over(MemoryStore { markers: true, ..MemoryStore::default() })
    }

    /// Adds a fault to the end of the script.
    pub fn inject(&self, fault: Fault) {
        self.store().lock().faults.push_back(fault);
    }

    /// Faults that have fired, in order, and how many are still to fire.
    pub fn faults(&self) -> (Vec<Fault>, usize) {
        let held = self.store().lock();
        (held.fired.clone(), held.faults.len())
    }

    /// Every record of a partition, for a test's oracle.
    pub fn records(&self, partition: PartitionId) -> Vec<Record> {
        self.store().lock().partitions.get(&partition).map(|p| p.records.clone()).unwrap_or_default()
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl Held {
    /// The first scripted fault that `fits`, taken out of the script.
    fn fault(&mut self, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let fault = self.faults.remove(self.faults.iter().position(fits)?)?;
        // Tests check that every scripted fault has happened: one that never fires would prove nothing.
        self.fired.push(fault.clone());
        Some(fault)
    }

    fn write_fault(&mut self, write: &Write) -> Option<(bool, ErrorClass)> {
        let by = write.offset.as_ref().map(|(group, ..)| group.as_str());
        let fault = self.fault(|fault| match fault {
            Fault::Commit { group, .. } => write.kind != WriteKind::Append && by == Some(group.as_str()),
            Fault::Append { .. } => write.kind == WriteKind::Append,
            Fault::ShortFetch { .. } | Fault::Fetch { .. } => false,
        })?;
        match fault {
            Fault::Commit { applied, class, .. } | Fault::Append { applied, class } => Some((applied, class)),
            Fault::ShortFetch { .. } | Fault::Fetch { .. } => None,
        }
    }

    fn apply(&mut self, write: Write, markers: bool) -> Vec<Position> {
        let mut positions = Vec::with_capacity(write.records.len());
        for placed in write.records {
            let at = self.partitions.entry(placed.partition).or_default().push(placed.partition, placed.record);
            positions.push(at);
        }
        if let Some((group, partition, committed)) = write.offset {
            self.committed.insert((group, partition), committed);
        }
        if markers && write.kind == WriteKind::Step {
            let mut touched: Vec<PartitionId> = positions.iter().map(|p| p.partition).collect();
            touched.sort_unstable();
            touched.dedup();
            // Kafka writes one control record to each partition of a transaction: offsets then have gaps,
            // which nothing may count (I11).
            for id in touched {
                self.partitions.entry(id).or_default().next += 1;
            }
        }
        positions
    }
}

impl Partition {
    fn push(&mut self, id: PartitionId, record: schemas::record::OutRecord) -> Position {
        let at = Position { partition: id, offset: self.next };
        self.next += 1;
        if id.topic.is_compacted() {
            let key = record.key.unwrap_or_default();
            match record.value {
                Some(value) => self.entries.insert(key, value),
                None => self.entries.remove(&key),
            };
        } else {
            let schemas::record::OutRecord { timestamp, key, value, headers, .. } = record;
            self.records.push(Record { at, timestamp, key, value, headers });
        }
        at
    }

    fn slice(&self, offset: u64, records_max: usize, bytes_max: usize) -> (Vec<Record>, u64) {
        let first = self.records.partition_point(|r| r.at.offset < offset);
        let mut bytes = 0;
        let fits = |record: &&Record| {
            let taken = bytes;
            bytes += record.value.as_ref().map_or(0, Bytes::len);
            // The first record is always returned: one above the limit would otherwise block its partition.
            taken == 0 || bytes <= bytes_max
        };
        let tail = self.records.get(first..).unwrap_or_default();
        let records: Vec<Record> = tail.iter().take(records_max).take_while(fits).cloned().collect();
        let next = self.records.get(first + records.len()).map_or(self.next, |r| r.at.offset);
        (records, next)
    }
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn scripted(class: ErrorClass, what: String) -> LogError {
    LogError::new(class, what, "scripted fault")
}

impl Store for MemoryStore {
    fn idle_wait_ms(&self) -> u64 {
        0
    }

    async fn create(&self, topic: Topic, partitions: u32) -> Result<(), LogError> {
        self.lock().topics.insert(topic, partitions);
        Ok(())
    }

    async fn grow(&self, topic: Topic, partitions: u32) -> Result<(), LogError> {
        self.create(topic, partitions).await
    }

    fn partitions(&self, topic: Topic) -> Option<u32> {
        self.lock().topics.get(&topic).copied()
    }

    async fn write(&self, write: Write) -> Result<Vec<Position>, LogError> {
        let mut held = self.lock();
        let what = match &write.offset {
            Some((group, partition, _)) => format!("commit of {} in group {group}", name(*partition)),
            None => "append".to_owned(),
        };
        match held.write_fault(&write) {
            None => Ok(held.apply(write, self.markers)),
            Some((applied, class)) => {
                // A lost answer: the write takes effect and the caller gets an error, as after a broken
                // connection.
                if applied {
                    held.apply(write, self.markers);
                }
                Err(scripted(class, what))
            }
        }
    }

    async fn read(
        &self,
        group: &str,
        partition: PartitionId,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Record>, u64), LogError> {
        let mut held = self.lock();
        let fault = held.fault(
            |fault| matches!(fault, Fault::ShortFetch { group: g, .. } | Fault::Fetch { group: g, .. } if g == group),
        );
        let records_max = match fault {
            Some(Fault::ShortFetch { records_max, .. }) => records_max.max(1),
            Some(Fault::Fetch { class, .. }) => return Err(scripted(class, format!("fetch of {}", name(partition)))),
            _ => records_max,
        };
        let missing = || LogError::fatal(name(partition), "the partition holds nothing");
        held.partitions.get(&partition).map(|p| p.slice(offset, records_max, bytes_max)).ok_or_else(missing)
    }

    async fn entries(&self, partition: PartitionId) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let held = self.lock();
        let entries = held.partitions.get(&partition).map(|p| p.entries.clone()).unwrap_or_default();
        Ok(entries.into_iter().collect())
    }

    async fn committed(&self, group: &str, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        Ok(self.lock().committed.get(&(group.to_owned(), partition)).cloned())
    }

    fn bounds(&self, partition: PartitionId) -> Range<u64> {
        0..self.lock().partitions.get(&partition).map_or(0, |p| p.next)
    }
}

#[cfg(test)]
mod tests;
