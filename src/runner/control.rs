//! How a role is told to finish and tells how far it is. Shared flags, counters and handles, no logic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::metrics::{Meter, Metrics};

/// A flag that is raised once.
#[derive(Debug, Clone)]
pub struct Flag(Arc<watch::Sender<bool>>);

impl Default for Flag {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Flag {
    /// Raises it.
    pub fn raise(&self) {
        self.0.send_replace(true);
    }

    /// Whether it is raised.
    pub fn is_raised(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is raised.
    pub async fn raised(&self) {
        // The sender lives as long as this flag, so the wait cannot fail.
        let mut watched = self.0.subscribe();
        let _raised = watched.wait_for(|is_raised| *is_raised).await;
    }

    /// Waits so long, or until it is raised.
    pub async fn wait(&self, wait: Duration) {
        tokio::select! {
            () = self.raised() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A counter that others read while its owner counts.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to it.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a role is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It has not read from the log yet.
    Starting,
    /// It goes on.
    Running,
    /// The last operation failed; it is tried again.
    Retrying,
    /// It has ended.
    Stopped,
}

impl Condition {
    /// Name, as probes show it.
    pub const fn name(self) -> &'static str {
        match self {
            Condition::Starting => "starting",
            Condition::Running => "running",
            Condition::Retrying => "retrying",
            Condition::Stopped => "stopped",
        }
    }
}

/// A [`Condition`] that others read.
#[derive(Debug, Clone, Default)]
pub struct ConditionCell(Arc<AtomicU8>);

impl ConditionCell {
    /// Sets it.
    pub fn set(&self, condition: Condition) {
        self.0.store(condition as u8, Ordering::Relaxed);
    }

    /// What was set last.
    pub fn get(&self) -> Condition {
        match self.0.load(Ordering::Relaxed) {
            0 => Condition::Starting,
            1 => Condition::Running,
            2 => Condition::Retrying,
            _ => Condition::Stopped,
        }
    }
}

/// Who a role is: what its consumers and its series are named by.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Role, as in metrics.
    pub role: &'static str,
    /// Instance: stable over restarts.
    pub instance: String,
    /// Put before groups and topics on the brokers.
    pub namespace: String,
}

impl Default for Identity {
    fn default() -> Self {
        Self { role: "", instance: "0".to_owned(), namespace: String::new() }
    }
}

/// What a role shares with whoever started it.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// Stop polling; finish and commit what is in hand, and leave.
    pub stop: Flag,
    /// Nothing more will be written upstream: finish once the end is reached.
    pub upstream_done: Flag,
    /// Records read so far.
    pub records: Counter,
    /// Dead letters written so far.
    pub rejects: Counter,
    /// How it is doing.
    pub condition: ConditionCell,
    /// Who it is.
    pub identity: Identity,
    /// Everything that the process counts.
    pub metrics: Metrics,
}

impl Control {
    /// What a consumer of this role in `group` counts.
    pub fn meter(&self, group: &str) -> Meter {
        Meter::new(self.metrics.clone(), self.identity.role, &self.identity.namespace, group)
    }
}
