//! Carries out a core's commands on a log: the only loop that runs a stage.
//!
//! It decides nothing but when to ask again; errors are handed to the core by class.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ingest::log::{ErrorClass, Log, LogError, LogEvent, Txn};
use processors::stage::Processor;
use schemas::record::{PartitionId, Record, header};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::control::{Condition, Control};
use super::core::{Command, RunnerCore, RunnerEvent};
use super::input::StageInput;
use super::waiting::Waiting;
use crate::clock;
use crate::metrics::Meter;
use crate::registry::SchemaRegistry;

/// What the loop holds beside the core and the log.
struct Shell<'a> {
    state_topic: Option<Topic>,
    control: &'a Control,
    meter: Meter,
    waiting: Waiting<'a>,
}

/// Runs a stage until it is told to stop, or until its upstream is done and the end is reached. A step
/// in hand is finished and committed before it returns. Records of a schema that `registry` has not told
/// yet wait, with what stands behind them.
///
/// # Errors
/// [`LogError`]: the stage stopped with its offsets uncommitted; the class says whether starting it
/// again helps, the message names the partition and the remedy.
pub async fn drive<P, L>(
    core: &mut RunnerCore<P>,
    log: &mut L,
    state_topic: Option<Topic>,
    registry: Option<&SchemaRegistry>,
    control: &Control,
    group: &str,
) -> Result<(), LogError>
where
    P: Processor,
    P::Input: StageInput,
    L: Log,
{
    let mut shell = Shell { state_topic, control, meter: control.meter(group), waiting: Waiting::new(registry) };
    // A log is idle too while it has not assigned anything yet: that is no end.
    let mut is_assigned = false;
    while !control.stop.is_raised() {
        // Read before the poll: an upstream that finishes during it may have written more.
        let upstream_done = control.upstream_done.is_raised();
        let polled = tokio::select! {
            biased;
            () = control.stop.raised() => break,
            polled = log.next() => polled,
        };
        let event = match polled {
            Ok(event) => event,
            Err(error) => {
                shell.wait_or_stop(error).await?;
                continue;
            }
        };
        control.condition.set(Condition::Running);
        match event {
            LogEvent::Assigned(partitions) => {
                is_assigned = true;
                shell.meter.assigned(&partitions);
                let partitions: Vec<PartitionId> = partitions.into_iter().map(|(p, _)| p).collect();
                partitions.iter().for_each(|p| shell.waiting.forget(*p));
                shell.execute(core, log, RunnerEvent::Assigned(partitions)).await?;
            }
            // Steps are whole when the log is polled: nothing is in hand of what is revoked.
            LogEvent::Revoked(partitions) | LogEvent::Lost(partitions) => {
                shell.meter.gone(&partitions);
                partitions.iter().for_each(|p| shell.waiting.forget(*p));
                shell.execute(core, log, RunnerEvent::Gone(partitions)).await?;
            }
            LogEvent::Fetched { partition, records, next } => {
                shell.step(core, log, partition, records, next).await?;
            }
            LogEvent::Idle if upstream_done && is_assigned && shell.waiting.is_empty() => return Ok(()),
            LogEvent::Idle => shell.meter.caught_up(clock::now(), |p| shell.waiting.holds(p)),
        }
        shell.release(core, log).await?;
        control.records.set(core.counts().records);
        control.rejects.set(core.counts().rejects);
    }
    Ok(())
}

/// What a step writes, for metrics.
struct Written {
    derived: BTreeMap<Topic, u64>,
    dead: BTreeMap<String, u64>,
}

impl Written {
    fn of(txn: &Txn) -> Self {
        let mut written = Self { derived: BTreeMap::new(), dead: BTreeMap::new() };
        for output in &txn.outputs {
            let reason = output.headers.iter().find(|(name, _)| name == header::DLQ_REASON);
            match reason {
                Some((_, reason)) => {
                    *written.dead.entry(String::from_utf8_lossy(reason).into_owned()).or_default() += 1;
                }
                None => *written.derived.entry(output.topic).or_default() += 1,
            }
        }
        written
    }
}

impl Shell<'_> {
    /// Hands a batch to the core, or what stands before the first record that must wait for its schema.
    async fn step<P, L>(
        &mut self,
        core: &mut RunnerCore<P>,
        log: &mut L,
        partition: PartitionId,
        mut records: Vec<Record>,
        mut next: u64,
    ) -> Result<(), LogError>
    where
        P: Processor,
        P::Input: StageInput,
        L: Log,
    {
        let (facts, first) = self.waiting.look::<P::Input>(&records).await;
        if let Some((index, held)) = first {
            // Before the step: one that fails goes back to where it was committed, which ends this wait.
            if let Err(error) = log.hold(partition).await {
                let failed = self.failure(partition, error)?;
                return self.execute(core, log, failed).await;
            }
            self.waiting.hold(partition, held);
            tracing::warn!(
                topic = %partition.topic, partition = partition.partition, offset = held.offset, id = held.id,
                "waits until the schema registry tells what has this id"
            );
            records.truncate(index);
            next = held.offset;
        }
        if let Some(oldest) = records.first().map(|r| r.timestamp) {
            self.meter.fetched(partition, records.len() as u64, oldest);
            self.execute(core, log, RunnerEvent::Fetched(partition, records, next, facts)).await?;
        }
        if let Some((_, held)) = first.filter(|_| self.waiting.holds(partition)) {
            self.meter.fetched(partition, 0, held.timestamp);
        }
        Ok(())
    }

    /// Goes on with partitions whose schema is known now.
    async fn release<P, L>(&mut self, core: &mut RunnerCore<P>, log: &mut L) -> Result<(), LogError>
    where
        P: Processor,
        P::Input: StageInput,
        L: Log,
    {
        for (partition, held) in self.waiting.answered() {
            match log.seek(partition, held.offset).await {
                Ok(()) => self.waiting.forget(partition),
                Err(error) => {
                    let failed = self.failure(partition, error)?;
                    self.execute(core, log, failed).await?;
                }
            }
        }
        Ok(())
    }

    /// Hands an event to the core and carries its commands out until none is left.
    async fn execute<P, L>(&mut self, core: &mut RunnerCore<P>, log: &mut L, event: RunnerEvent) -> Result<(), LogError>
    where
        P: Processor,
        P::Input: StageInput,
        L: Log,
    {
        let last_at = match &event {
            RunnerEvent::Fetched(_, records, ..) => records.last().map(|r| r.timestamp),
            _ => None,
        };
        let mut commands: VecDeque<Command> = core.handle(event).into();
        while let Some(command) = commands.pop_front() {
            let answer = match command {
                Command::Stop(error) => return Err(error),
                Command::Wait(ms) => {
                    self.control.stop.wait(Duration::from_millis(ms)).await;
                    if self.control.stop.is_raised() {
                        // What failed is not committed: the next start reads it again.
                        return Ok(());
                    }
                    None
                }
                // It waits for others' transactions, longer than a drain may; nothing is lost if it is left.
                Command::Recover(partition) => {
                    let stop = &self.control.stop;
                    tokio::select! {
                        biased;
                        () = stop.raised() => return Ok(()),
                        recovered = self.recover(log, partition) => Some(recovered?),
                    }
                }
                Command::Commit(txn) => self.commit(log, txn, last_at).await?,
            };
            if let Some(event) = answer {
                commands.extend(core.handle(event));
            }
        }
        Ok(())
    }

    async fn commit<L: Log>(
        &mut self,
        log: &mut L,
        txn: Txn,
        last_at: Option<TimestampMicros>,
    ) -> Result<Option<RunnerEvent>, LogError> {
        let (source, next, written) = (txn.source, txn.consumed.end, Written::of(&txn));
        let begun = Instant::now();
        let role = self.control.identity.role;
        let span = tracing::info_span!(
            "step", role, topic = %source.topic, partition = source.partition,
            first = txn.consumed.start, next, outputs = txn.outputs.len()
        );
        match log.commit(txn).instrument(span).await {
            Ok(()) => {
                self.meter.committed(begun.elapsed(), &written.derived, &written.dead);
                self.meter.moved(source, next, last_at);
                Ok(None)
            }
            Err(error) => self.failure(source, error).map(Some),
        }
    }

    /// Reads a partition's state and seeks to its committed offset.
    async fn recover<L: Log>(&mut self, log: &mut L, partition: PartitionId) -> Result<RunnerEvent, LogError> {
        let attempt = async {
            let entries = match self.state_topic {
                Some(topic) => log.restore(PartitionId { topic, partition: partition.partition }).await?,
                None => Vec::new(),
            };
            let next = match log.committed(partition).await? {
                Some(committed) => committed.next,
                // A log with retention does not begin at 0 for ever.
                None => log.bounds(partition).await?.start,
            };
            log.seek(partition, next).await?;
            Ok::<_, LogError>((entries, next))
        };
        match attempt.await {
            Ok((entries, next)) => {
                self.waiting.forget(partition);
                self.meter.moved(partition, next, None);
                Ok(RunnerEvent::Restored(partition, entries))
            }
            Err(error) => self.failure(partition, error),
        }
    }

    /// The event that a failed operation is for the core; a fatal one ends the stage with its message.
    fn failure(&mut self, partition: PartitionId, error: LogError) -> Result<RunnerEvent, LogError> {
        match error.class {
            ErrorClass::Fatal => Err(error),
            class => {
                self.retrying();
                tracing::warn!(%error, ?class, topic = %partition.topic, partition = partition.partition, "step not committed");
                Ok(RunnerEvent::Failed(partition, class))
            }
        }
    }

    /// A poll that failed: wait where that helps, else stop.
    async fn wait_or_stop(&mut self, error: LogError) -> Result<(), LogError> {
        match error.class {
            ErrorClass::Retry { after_ms } => {
                self.retrying();
                tracing::warn!(%error, "log not reachable, trying again");
                self.control.stop.wait(Duration::from_millis(after_ms)).await;
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn retrying(&self) {
        self.control.condition.set(Condition::Retrying);
        self.meter.retried();
    }
}

#[cfg(test)]
mod tests;
