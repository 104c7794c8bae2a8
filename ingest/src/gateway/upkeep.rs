//! What the gateway has to tell by itself: uses and denials of keys, and changes of them.
//!
//! These are events like any other and go through the same writer; what it does not take now is
//! offered again. It decides nothing about keys.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::auth::key_file::KeyFile;
use super::intake::Arrived;
use super::router::App;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Tells the log about keys.
pub(super) struct Upkeep {
    pub(super) app: Arc<App>,
    pub(super) keys: Option<Arc<KeyFile>>,
    /// Not in the log yet.
    pub(super) pending: Vec<Arrived>,
}

impl Upkeep {
    /// Looks for ever.
    pub(super) async fn run(&mut self) {
        let mut interval = interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.tell_changes().await;
            self.pending.extend(self.app.journal.due((self.app.clock)()));
            self.tell().await;
        }
    }

    /// Tells what is left, once.
    pub(super) async fn finish(mut self) {
        self.pending.extend(self.app.journal.drain());
        self.tell().await;
        if !self.pending.is_empty() {
            tracing::warn!(events = self.pending.len(), "the log did not take the last counts of key uses and denials");
        }
    }

    async fn tell(&mut self) {
        if !self.pending.is_empty() && self.app.writer.submit(self.pending.clone(), None).await.is_ok() {
            self.pending.clear();
        }
    }

    /// Changes stay in the key file until their events are in the log.
    async fn tell_changes(&self) {
        let Some(keys) = &self.keys else { return };
        let now = (self.app.clock)();
        keys.refresh(now);
        let (changes, events) = keys.overdue(now);
        if changes.is_empty() || self.app.writer.submit(events, None).await.is_err() {
            return;
        }
        let keys = Arc::clone(keys);
        let settled = tokio::task::spawn_blocking(move || keys.settle(&changes)).await;
        if let Ok(Err(error)) = settled {
            tracing::warn!(error = %error, "the key file still holds changes that the log has; they will be told again");
        }
    }
}
