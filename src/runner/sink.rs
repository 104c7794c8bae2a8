//! Runs a sink on a log: the loop that is the same for the archive and for ClickHouse.
//!
//! A sink's position comes from what it has published (invariant I8); offsets committed to the log
//! are for lag metrics, or hold the intent of a batch. It decides nothing about files or batches.

use std::collections::BTreeSet;

use ingest::log::{self, Log, LogError, LogEvent};
use schemas::record::{PartitionId, Record};
use sinks::error::{ErrorClass, SinkError};
use sinks::retry::Backoff;

use super::control::{Condition, Control};
use crate::clock;
use crate::metrics::{Meter, SinkRow};

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

    /// Nothing is left to read: publishes everything if this is the end.
    fn idle<L: Log>(&mut self, log: &mut L, is_end: bool) -> impl Future<Output = Result<(), RoleError>> + Send;

    /// Publishes what is due by the clock; asked after every event.
    fn due<L: Log>(&mut self, log: &mut L) -> impl Future<Output = Result<(), RoleError>> + Send;

    /// These partitions go to another member, or the process ends: publishes what is worth it. What
    /// is not published is read again by whoever goes on.
    fn finish<L: Log>(
        &mut self,
        log: &mut L,
        partitions: &[PartitionId],
    ) -> impl Future<Output = Result<(), RoleError>> + Send;

    /// Forgets partitions that went to another member.
    fn forget(&mut self, partitions: &[PartitionId]);

    /// What is in hand of a partition, for metrics.
    fn row(&self, partition: PartitionId) -> SinkRow;
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

impl RoleError {
    /// Whether waiting and asking for the positions again helps.
    fn passes(&self) -> bool {
        match self {
            RoleError::Log(error) => matches!(error.class, log::ErrorClass::Retry { .. } | log::ErrorClass::AbortTxn),
            RoleError::Sink(error) => matches!(error.class, ErrorClass::Retry | ErrorClass::Restart),
        }
    }
}

/// The loop's own state.
struct Shell<'a> {
    assigned: BTreeSet<PartitionId>,
    control: &'a Control,
    meter: Meter,
}

/// Runs a sink until it is told to stop, or until its upstream is done and everything is published.
///
/// A failure that passes is answered in one way, whatever failed: wait, forget what is in hand, ask
/// for the positions again and read from there. It is safe because positions follow from what is
/// published, and cheap because the log still has the records.
///
/// # Errors
/// The sink cannot go on: the message names the object and the remedy.
pub async fn drive<S: SinkRole, L: Log>(
    sink: &mut S,
    log: &mut L,
    control: &Control,
    group: &str,
) -> Result<(), RoleError> {
    let mut shell = Shell { assigned: BTreeSet::new(), control, meter: control.meter(group) };
    let mut delays = Backoff::default().delays(0);
    let mut is_stale = false;
    while !control.stop.is_raised() {
        let outcome = match is_stale {
            true => {
                let all = shell.assigned.clone();
                shell.resume(sink, log, &all).await.map(|()| false)
            }
            false => shell.step(sink, log).await,
        };
        match outcome {
            Ok(true) => return Ok(()),
            Ok(false) => {
                is_stale = false;
                control.condition.set(Condition::Running);
                delays = Backoff::default().delays(0);
            }
            Err(error) if error.passes() => {
                is_stale = true;
                control.condition.set(Condition::Retrying);
                shell.meter.retried();
                tracing::warn!(%error, role = control.identity.role, "sink not reachable, trying again");
                control.stop.wait(delays.next().unwrap_or_default()).await;
            }
            Err(error) => return Err(error),
        }
    }
    // What is in hand after a failure is not known to be the next to publish.
    if !is_stale {
        shell.finish(sink, log).await?;
    }
    Ok(())
}

impl Shell<'_> {
    /// One event of the log; true at the end.
    async fn step<S: SinkRole, L: Log>(&mut self, sink: &mut S, log: &mut L) -> Result<bool, RoleError> {
        // Read before the poll: an upstream that finishes during it may have written more.
        let upstream_done = self.control.upstream_done.is_raised();
        let polled = tokio::select! {
            biased;
            () = self.control.stop.raised() => return Ok(false),
            polled = log.next() => polled,
        };
        let mut is_end = false;
        match polled? {
            LogEvent::Assigned(partitions) => {
                self.meter.assigned(&partitions);
                let new: BTreeSet<PartitionId> = partitions.into_iter().map(|(p, _)| p).collect();
                self.assigned.extend(&new);
                self.resume(sink, log, &new).await?;
            }
            LogEvent::Revoked(partitions) => {
                // Nothing of it may be tried again: the partitions go in any case.
                if let Err(error) = sink.finish(log, &partitions).await {
                    if !error.passes() {
                        return Err(error);
                    }
                    tracing::warn!(%error, role = self.control.identity.role, "given up unfinished; the next member reads it again");
                }
                self.lose(sink, &partitions);
            }
            LogEvent::Lost(partitions) => self.lose(sink, &partitions),
            LogEvent::Fetched { partition, records, next } => {
                self.control.records.add(records.len() as u64);
                if let Some(first) = records.first() {
                    self.meter.fetched(partition, records.len() as u64, first.timestamp);
                }
                let last_at = records.last().map(|r| r.timestamp);
                sink.take(log, partition, records, next).await?;
                self.meter.moved(partition, next, last_at);
            }
            LogEvent::Idle => {
                self.meter.caught_up(clock::now(), |_| false);
                // A log is idle too while it has not assigned anything yet: that is no end.
                is_end = upstream_done && !self.assigned.is_empty();
                sink.idle(log, is_end).await?;
            }
        }
        sink.due(log).await?;
        for partition in &self.assigned {
            self.meter.sink(*partition, sink.row(*partition));
        }
        Ok(is_end)
    }

    fn lose<S: SinkRole>(&mut self, sink: &mut S, partitions: &[PartitionId]) {
        self.assigned.retain(|p| !partitions.contains(p));
        self.meter.gone(partitions);
        sink.forget(partitions);
    }

    async fn resume<S: SinkRole, L: Log>(
        &self,
        sink: &mut S,
        log: &mut L,
        partitions: &BTreeSet<PartitionId>,
    ) -> Result<(), RoleError> {
        let list: Vec<PartitionId> = partitions.iter().copied().collect();
        sink.forget(&list);
        for partition in list {
            let next = sink.resume(log, partition).await?;
            log.seek(partition, next).await?;
            self.meter.moved(partition, next, None);
        }
        Ok(())
    }

    /// The process ends: one attempt to publish what is in hand; the rest is read again.
    async fn finish<S: SinkRole, L: Log>(&self, sink: &mut S, log: &mut L) -> Result<(), RoleError> {
        let all: Vec<PartitionId> = self.assigned.iter().copied().collect();
        match sink.finish(log, &all).await {
            Err(error) if error.passes() => {
                tracing::warn!(%error, role = self.control.identity.role, "stopped unfinished; the next start reads it again");
                Ok(())
            }
            outcome => outcome,
        }
    }
}
