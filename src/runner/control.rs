//! How a role is told to finish and tells how far it is. Shared flags and counters, no logic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A flag that is raised once.
#[derive(Debug, Clone, Default)]
pub struct Flag(Arc<AtomicBool>);

impl Flag {
    /// Raises it.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is raised.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
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

/// What a role shares with whoever started it.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// Stop now; what is uncommitted is read again by the next start.
    pub stop: Flag,
    /// Nothing more will be written upstream: finish once the end is reached.
    pub upstream_done: Flag,
    /// Records read so far.
    pub records: Counter,
    /// Dead letters written so far.
    pub rejects: Counter,
}
