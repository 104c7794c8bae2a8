//! Runs a sink on a log: the loop that is the same for the archive and for ClickHouse.
//!
//! A sink's position comes from what it has published (invariant I8); offsets committed to the log
//! are for lag metrics, or hold the intent of a batch. It decides nothing about files or batches.

use std::collections::BTreeSet;

use ingest::log::{self, Log, LogError, LogEvent};
use schemas::record::{PartitionId, Record};
use sinks::error::{ErrorClass, SinkError};
use sinks::retry::Backoff;

use super::control::Control;

/// What a sink does with a partition's records.
pub trait SinkRole: Send {
    /// The offset to read an assigned partition from.
    fn resume<L: Log>(
        &mut self,
        log: &mut L,
        partition: PartitionId,
    ) -> impl Future<Output = Result<u64, RoleError>> + Send;

    /// Takes records in; publishes what is full or due.
    fn take<L: Log>(
        &mut self,
        log: &mut L,
        partition: PartitionId,
        records: Vec<Record>,
        next: u64,
    ) -> impl Future<Output = Result<(), RoleError>> + Send;

    /// Nothing is left to read: publishes what is due, or everything if this is the end.
    fn idle<L: Log>(&mut self, log: &mut L, is_end: bool) -> impl Future<Output = Result<(), RoleError>> + Send;

    /// Forgets partitions that went to another member.
    fn forget(&mut self, partitions: &[PartitionId]);
}

/// A failure of the log or of the sink.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// Of the log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Of the sink.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// Runs a sink until it is told to stop, or until its upstream is done and everything is published.
///
/// A failure that passes is answered in one way, whatever failed: wait, forget what is in hand, ask
/// for the positions again and read from there. It is safe because positions follow from what is
/// published, and cheap because the log still has the records.
///
/// # Errors
/// The sink cannot go on: the message names the object and the remedy.
pub async fn drive<S: SinkRole, L: Log>(sink: &mut S, log: &mut L, control: &Control) -> anyhow::Result<()> {
    let mut assigned = BTreeSet::new();
    let mut delays = Backoff::default().delays(0);
    let mut is_stale = false;
    while !control.stop.is_raised() {
        let upstream_done = control.upstream_done.is_raised();
        let outcome = match is_stale {
            true => resume_all(sink, log, &assigned).await.map(|()| false),
            false => step(sink, log, &mut assigned, upstream_done, control).await,
        };
        match outcome {
            Ok(true) => return Ok(()),
            Ok(false) => {
                is_stale = false;
                delays = Backoff::default().delays(0);
            }
            Err(error) if passes(&error) => {
                is_stale = true;
                tracing::warn!(%error, "sink not reachable, trying again");
                tokio::time::sleep(delays.next().unwrap_or_default()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One event of the log; true at the end.
async fn step<S: SinkRole, L: Log>(
    sink: &mut S,
    log: &mut L,
    assigned: &mut BTreeSet<PartitionId>,
    upstream_done: bool,
    control: &Control,
) -> Result<bool, RoleError> {
    match log.next().await? {
        LogEvent::Assigned(partitions) => {
            let new: BTreeSet<PartitionId> = partitions.into_iter().map(|(p, _)| p).collect();
            assigned.extend(&new);
            resume_all(sink, log, &new).await?;
        }
        LogEvent::Revoked(partitions) | LogEvent::Lost(partitions) => {
            assigned.retain(|p| !partitions.contains(p));
            sink.forget(&partitions);
        }
        LogEvent::Fetched { partition, records, next } => {
            control.records.add(records.len() as u64);
            sink.take(log, partition, records, next).await?;
        }
        LogEvent::Idle => {
            // A log is idle too while it has not assigned anything yet: that is no end.
            let is_end = upstream_done && !assigned.is_empty();
            sink.idle(log, is_end).await?;
            return Ok(is_end);
        }
    }
    Ok(false)
}

async fn resume_all<S: SinkRole, L: Log>(
    sink: &mut S,
    log: &mut L,
    partitions: &BTreeSet<PartitionId>,
) -> Result<(), RoleError> {
    let list: Vec<PartitionId> = partitions.iter().copied().collect();
    sink.forget(&list);
    for partition in list {
        let next = sink.resume(log, partition).await?;
        log.seek(partition, next).await?;
    }
    Ok(())
}

/// Whether waiting and asking for the positions again helps.
fn passes(error: &RoleError) -> bool {
    match error {
        RoleError::Log(error) => matches!(error.class, log::ErrorClass::Retry { .. } | log::ErrorClass::AbortTxn),
        RoleError::Sink(error) => matches!(error.class, ErrorClass::Retry | ErrorClass::Restart),
    }
}
