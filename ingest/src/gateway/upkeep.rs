//! The events of which the gateway itself is the source: uses, denials and changes of keys.
//!
//! They are events like any other and go through the same writer; what the writer does not accept is
//! submitted again. It decides nothing about keys.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::app::App;
use super::auth::key_file::KeyFile;
use super::intake::Arrived;

/// Interval between two rounds.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes the gateway's own events.
pub(super) struct Upkeep {
    pub(super) app: Arc<App>,
    pub(super) keys: Option<Arc<KeyFile>>,
    /// Events that are not in the log yet.
    pub(super) pending: Vec<Arrived>,
}

impl Upkeep {
    /// Runs until it is dropped.
    pub(super) async fn run(&mut self) {
        let mut interval = interval(INTERVAL);
        // A round can take as long as the request timeout. Rounds that were missed meanwhile have nothing to
        // add, so they are not made up for.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.submit_changes().await;
            self.pending.extend(self.app.journal.due((self.app.clock)()));
            self.submit().await;
        }
    }

    /// Submits what is left, once.
    pub(super) async fn finish(mut self) {
        self.pending.extend(self.app.journal.drain());
        self.submit().await;
        if !self.pending.is_empty() {
            tracing::warn!(events = self.pending.len(), "the last counts of key uses and denials are not in the log");
        }
    }

    async fn submit(&mut self) {
        // A clone is submitted, because a refused submission is offered again. The ids were fixed when the
        // events were made: if the first attempt was appended and only its answer was lost, the repeat is a
        // duplicate.
        if !self.pending.is_empty() && self.app.writer.submit(self.pending.clone(), None).await.is_ok() {
            self.pending.clear();
        }
    }

    /// Changes stay in the key file until their events are in the log.
    async fn submit_changes(&self) {
        let Some(keys) = &self.keys else { return };
        let now = (self.app.clock)();
        keys.refresh(now);
        let (changes, events) = keys.overdue(now);
        if changes.is_empty() || self.app.writer.submit(events, None).await.is_err() {
            return;
        }
        // The events are in the log before the file forgets the changes: a crash in between appends them again
        // under the same ids, the other order would lose them. Editing waits for a file lock that another
        // process may hold, so it must not block the runtime.
        let keys = Arc::clone(keys);
        let settled = tokio::task::spawn_blocking(move || keys.settle(&changes)).await;
        if let Ok(Err(error)) = settled {
            tracing::warn!(error = %error, "the key file still holds changes that are in the log already; their events will be appended again");
        }
    }
}
