//! What the role holds of the log and when it may send: one lane per partition, one pause per receiver.
//!
//! Pure but for the timer that a pause is measured with; a lane's position is what may be committed.

use std::collections::VecDeque;
use std::time::Duration;

use schemas::codec::{Derived, codec};
use schemas::event::Alert;
use schemas::record::Record;
use schemas::reject::{Reject, RejectReason};
use sinks::retry::Backoff;
use tokio::time::Instant;

/// A record that has been read and not dealt with.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) record: Record,
    pub(super) alert: Result<Alert, Reject>,
}

impl Pending {
    pub(super) fn of(record: Record) -> Self {
        let reject = |reason, detail: String| Reject { at: record.at, reason, detail };
        let alert = match codec().decode_derived(record.value.as_deref()) {
            Ok(Derived::Alert(alert)) => Ok(alert),
            Ok(other) => Err(reject(RejectReason::WrongTopic, format!("a {} is no alert", other.record_name()))),
            Err(error) => Err(reject(error.reason, error.detail)),
        };
        Self { record, alert }
    }
}

/// One partition.
#[derive(Debug)]
pub(super) struct Lane {
    /// Position that the group committed.
    pub(super) committed: u64,
    /// Offset behind the newest record read.
    pub(super) next: u64,
    /// End of the partition when it was assigned: behind it, everything older has been read.
    pub(super) end: u64,
    pub(super) queue: VecDeque<Pending>,
    /// How many of the next records are sent alone, because the receiver refused them together.
    pub(super) alone: usize,
}

impl Lane {
    pub(super) fn new(at: u64, end: u64) -> Self {
        Self { committed: at, next: at, end, queue: VecDeque::new(), alone: 0 }
    }

    /// Everything before it has been dealt with.
    pub(super) fn position(&self) -> u64 {
        self.queue.front().map_or(self.next, |pending| pending.record.at.offset)
    }

    /// Takes the first record, which has been dealt with.
    pub(super) fn pop(&mut self) -> Option<Pending> {
        self.alone = self.alone.saturating_sub(1);
        self.queue.pop_front()
    }
}

/// When a receiver that failed is tried again.
#[derive(Debug)]
pub(super) struct Pause {
    backoff: Backoff,
    seed: u64,
    failures: usize,
    until: Option<Instant>,
}

impl Pause {
    pub(super) fn new(backoff: Backoff, seed: u64) -> Self {
        Self { backoff, seed, failures: 0, until: None }
    }

    /// Whether the receiver is left alone for now.
    pub(super) fn holds(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Notes a failure; how long the receiver is left alone: the back-off, or what it asked for if that is longer.
    pub(super) fn begin(&mut self, asked_ms: Option<u64>) -> Duration {
        let delay = self.backoff.delays(self.seed).nth(self.failures).unwrap_or_default();
        let wait = delay.max(Duration::from_millis(asked_ms.unwrap_or_default()));
        self.failures += 1;
        self.until = Some(Instant::now() + wait);
        wait
    }

    /// The receiver answered.
    pub(super) fn end(&mut self) {
        (self.failures, self.until) = (0, None);
    }
}
