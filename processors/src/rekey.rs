//! State that moves to another number of partitions: what a stage receives and what it returns.
//!
//! How the entries of a stage move is part of its state: [`PartitionState::rekey`](crate::stage::PartitionState::rekey).
//! Sessions, writers and subjects move with their keys; what belongs to a partition (an open window, writers'
//! numbers that were not reported yet) stays at its number, which is why partitions can only be added. This module
//! knows no stage.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schemas::topic::partition_of;

/// An entry of a stage's state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StateEntry {
    /// Partition, counted from 0 within its generation.
    pub partition: u32,
    /// Key.
    pub key: Bytes,
    /// Value.
    pub value: Bytes,
}

/// From how many source partitions to how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Partitions before.
    pub from: u32,
    /// Partitions after; at least as many.
    pub to: u32,
    /// Number of the first partition before: a control total keeps the number of the partition that it counts.
    pub first: u32,
}

impl Change {
    /// Where the records of a key go afterwards.
    pub fn place(&self, key: &[u8]) -> u32 {
        partition_of(key, self.to)
    }
}

/// The state of a stage after the change. Every entry before it moved as it is, was folded or was left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rekeyed {
    /// Entries by partition and key.
    pub entries: BTreeMap<(u32, Bytes), Bytes>,
    /// Entries of before, by partition and key, whose content is now part of entries that the stage made itself:
    /// an open hour became a control total.
    pub folded: BTreeSet<(u32, Bytes)>,
    /// What was left behind: what it is, and how often.
    pub left: BTreeMap<&'static str, u64>,
}

impl Rekeyed {
    /// Moves an entry to `partition`; one that is there already stays, and the second is counted as left behind.
    pub(crate) fn move_to(&mut self, partition: u32, entry: &StateEntry, what: &'static str) {
        match self.entries.entry((partition, entry.key.clone())) {
            std::collections::btree_map::Entry::Vacant(place) => _ = place.insert(entry.value.clone()),
            // Two partitions held the same key, which only producers bring about that partition in their own way.
            // Merging would need to know what entries mean.
            std::collections::btree_map::Entry::Occupied(_) => self.leave(what),
        }
    }

    /// Counts an entry that is left behind.
    pub(crate) fn leave(&mut self, what: &'static str) {
        *self.left.entry(what).or_default() += 1;
    }

    /// Notes an entry whose content the stage carries in entries of its own making.
    pub(crate) fn fold(&mut self, entry: &StateEntry) {
        self.folded.insert((entry.partition, entry.key.clone()));
    }
}

/// The entries by partition and key. Where two partitions hold the same key the lower one wins, in whatever order
/// the entries were read.
pub(crate) fn by_place(entries: &[StateEntry]) -> Vec<&StateEntry> {
    let mut sorted: Vec<&StateEntry> = entries.iter().collect();
    sorted.sort_unstable();
    sorted
}
