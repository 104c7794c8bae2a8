//! Waits until every role has read the old generation to its end, upstream first.
//!
//! Nothing comes into it any more, so that what is read to its end stays so. The archive cuts files by log time,
//! which would stand still: this writes ticks into the clean topic while the archive has rows in hand. They name a
//! source record that is covered already, so that control totals do not count them.

use std::time::Duration;

use ingest::log::{Appender as _, Broker};
use schemas::record::PartitionId;
use schemas::topic::Topic;
use tokio::time::Instant;

use super::{LOOK, Migration, WRITER_ID, say};
use crate::clock;
use crate::operate::status::{ReaderStatus, reader_status, readers};
use crate::replay::ticks;

/// Between two rounds of ticks.
const TICKS: Duration = Duration::from_secs(2);
/// Between two lines about the same lags.
const REPORT: Duration = Duration::from_secs(10);

impl Migration<'_> {
    /// How far every role of this installation is.
    pub(super) async fn lags(&self) -> anyhow::Result<Vec<ReaderStatus>> {
        let receivers: Vec<String> = self.config.alert.receivers.keys().cloned().collect();
        let mut lags = Vec::new();
        // Upstream first: a role that is at its end when those before it are has seen everything.
        for reader in readers(&receivers).iter().filter(|r| !self.request.without.contains(r.role)) {
            lags.push(reader_status(&self.old, reader, clock::now()).await?);
        }
        Ok(lags)
    }

    /// Waits until nothing is left.
    pub(super) async fn drain(&self) -> anyhow::Result<()> {
        let mut appender = self.old.appender().await?;
        let (mut ticked, mut reported): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            let lags = self.lags().await?;
            let behind: Vec<&ReaderStatus> = lags.iter().filter(|r| r.lag_records > 0).collect();
            if behind.is_empty() {
                say("drained: every role has read the old topics to their end");
                return Ok(());
            }
            let is_clean = behind.iter().all(|r| r.role != "pii");
            let waits_for_time = behind.iter().any(|r| r.role == "archive" && r.topic == Topic::Clean.name());
            if is_clean && waits_for_time && ticked.is_none_or(|at| at.elapsed() >= TICKS) {
                let round = self.ticks().await?;
                appender.append(round).await?;
                ticked = Some(Instant::now());
            }
            if reported.is_none_or(|at| at.elapsed() >= REPORT) {
                let lines: Vec<String> = behind.iter().map(|r| format!("{} {}", r.group, r.lag_records)).collect();
                say(format_args!("draining, records left by group: {}", lines.join(", ")));
                reported = Some(Instant::now());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One tick for each partition of the clean topic.
    async fn ticks(&self) -> anyhow::Result<Vec<schemas::record::OutRecord>> {
        let now = clock::now();
        let mut round = Vec::new();
        for partition in self.old.numbers(Topic::Clean).await? {
            let end = self.old.bounds(PartitionId { topic: Topic::Events, partition }).await?.end;
            round.push(ticks::tick(WRITER_ID, partition, end.saturating_sub(1), now));
        }
        Ok(round)
    }
}
