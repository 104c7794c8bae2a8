//! State on its way to another number of partitions: every entry goes where its key's records go.
//!
//! Sessions, writers and subjects move with their keys; what belongs to a partition (an open window, writers'
//! numbers that were not reported yet) stays at its number, which is why there may only be more partitions.
//! It is pure: the entries of a stage's state topic in, those of the next generation out. What a stage keeps
//! and how it reads it is beside its state; what of it could not be carried is counted by name.

#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::topic::partition_of;

use crate::stage::StateError;

/// An entry of a stage's state.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Number of the first partition before: control totals name their partition for ever.
    pub first: u32,
}

impl Change {
    /// Where the records of a key go afterwards.
    pub fn place(&self, key: &[u8]) -> u32 {
        partition_of(key, self.to)
    }
}

/// The state of a stage after the change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rekeyed {
    /// Entries by partition and key.
    pub entries: BTreeMap<(u32, Bytes), Bytes>,
    /// What was left behind: what it is, and how often.
    pub left: BTreeMap<&'static str, u64>,
}

impl Rekeyed {
    /// Adds an entry; one that is there already stays, and the second is counted as left behind.
    pub(crate) fn add(&mut self, entry: StateEntry, what: &'static str) {
        match self.entries.entry((entry.partition, entry.key)) {
            std::collections::btree_map::Entry::Vacant(place) => _ = place.insert(entry.value),
            std::collections::btree_map::Entry::Occupied(_) => *self.left.entry(what).or_default() += 1,
        }
    }
}

/// Re-keys the whole state of one stage.
pub type Rekey = fn(&[StateEntry], &Change) -> Result<Rekeyed, StateError>;

/// The state of `pii`: its keys are those of records.
///
/// # Errors
/// None; the signature is that of every stage.
pub fn pii(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
    let mut rekeyed = Rekeyed::default();
    for entry in entries {
        let moved = StateEntry { partition: change.place(&entry.key), ..entry.clone() };
        rekeyed.add(moved, "values that a session had revealed in a second partition");
    }
    Ok(rekeyed)
}

pub use crate::anomaly::{rekey_features as features, rekey_score as score};
pub use crate::completeness::{rekey as completeness, rekey_writers as writers};
