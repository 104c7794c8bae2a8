//! The groups of an in-process log, and the lease that a commit has on its partition.
//!
//! It decides nothing: ownership is decided in [`group`](crate::log::group).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::topic::Topic;
use tokio::sync::Notify;

use crate::log::group::{Gone, Group};

pub(super) type GroupKey = (String, Topic);

#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Mutex<BTreeMap<GroupKey, Group>>,
    pub(super) changed: Notify,
}

impl Groups {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupKey, Group>> {
        // A group is consistent between any two statements, so a panic elsewhere cannot have torn it.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<R>(&self, key: &GroupKey, act: impl FnOnce(&mut Group) -> R) -> Result<R, Gone> {
        self.lock().get_mut(key).map(act).ok_or(Gone)
    }

    /// Tells the groups of a topic that it has more partitions.
    pub(super) fn grow(&self, topic: Topic, partitions: u32) {
        for (_, group) in self.lock().iter_mut().filter(|((_, of), _)| *of == topic) {
            group.grow(partitions);
        }
    }
}

/// A commit in flight: while it lives, no successor gets the partition.
#[derive(Debug)]
pub struct Lease {
    pub(super) groups: Arc<Groups>,
    pub(super) key: GroupKey,
    pub(super) incarnation: u64,
    pub(super) partition: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _: Result<(), Gone> = self.groups.with(&self.key, |g| g.release(self.incarnation, self.partition));
        // A successor waits for the end of this commit.
        self.groups.changed.notify_waiters();
    }
}
