//! Partitions that wait for a schema: which, for which id, and where they go on.
//!
//! A record whose schema nobody knows yet is neither skipped nor refused (invariant I10): what stands
//! before it goes on, it and all behind it wait. It asks the log for nothing.

use std::collections::{BTreeMap, BTreeSet};

use schemas::codec::RegistryFacts;
use schemas::record::{PartitionId, Record};
use schemas::time::TimestampMicros;

use super::input::StageInput;
use crate::registry::SchemaRegistry;

/// A partition that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// The id whose schema it waits for.
    pub(super) id: u32,
    /// Where it goes on.
    pub(super) offset: u64,
    /// Time of the record there.
    pub(super) timestamp: TimestampMicros,
}

/// The partitions of a stage that wait.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    registry: Option<&'a SchemaRegistry>,
    held: BTreeMap<PartitionId, Held>,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(registry: Option<&'a SchemaRegistry>) -> Self {
        Self { registry, held: BTreeMap::new() }
    }

    /// What the records ask for, and the first that must wait, with its index.
    pub(super) async fn look<I: StageInput>(&self, records: &[Record]) -> (RegistryFacts, Option<(usize, Held)>) {
        let ids: BTreeSet<u32> = records.iter().filter_map(I::registry_id).collect();
        // Without a registry the codec says that the id is unknown.
        let Some(registry) = self.registry.filter(|_| !ids.is_empty()) else { return (RegistryFacts::new(), None) };
        let facts = registry.resolve(&ids).await;
        let open = |record: &Record| I::registry_id(record).filter(|id| !facts.contains_key(id));
        let held = |(index, record): (usize, &Record)| {
            let held = Held { id: open(record)?, offset: record.at.offset, timestamp: record.timestamp };
            Some((index, held))
        };
        let first = records.iter().enumerate().find_map(held);
        (facts, first)
    }

    pub(super) fn hold(&mut self, partition: PartitionId, held: Held) {
        self.held.insert(partition, held);
    }

    /// It was taken away, or its position was moved for another reason.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.held.remove(&partition);
    }

    pub(super) fn holds(&self, partition: PartitionId) -> bool {
        self.held.contains_key(&partition)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Those whose id has an answer now.
    pub(super) fn answered(&self) -> Vec<(PartitionId, Held)> {
        let is_answered = |held: &Held| self.registry.is_some_and(|registry| registry.is_answered(held.id));
        self.held.iter().filter(|(_, held)| is_answered(held)).map(|(p, held)| (*p, *held)).collect()
    }
}
