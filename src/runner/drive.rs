//! Carries out a core's commands on a log: the only loop that runs a stage.
//!
//! It decides nothing but when to ask again; errors are handed to the core by class.

use ingest::log::{ErrorClass, Log, LogError, LogEvent};
use processors::stage::Processor;
use schemas::record::PartitionId;
use schemas::topic::Topic;

use super::control::Control;
use super::core::{Command, RunnerCore, RunnerEvent};
use super::input::StageInput;

/// Runs a stage until it is told to stop, or until its upstream is done and the end is reached.
///
/// # Errors
/// The stage stopped with its offsets uncommitted: the message names the partition and the remedy.
pub async fn drive<P, L>(
    core: &mut RunnerCore<P>,
    log: &mut L,
    state_topic: Option<Topic>,
    control: &Control,
) -> anyhow::Result<()>
where
    P: Processor,
    P::Input: StageInput,
    L: Log,
{
    // A log is idle too while it has not assigned anything yet: that is no end.
    let mut is_assigned = false;
    while !control.stop.is_raised() {
        // Read before the poll: an upstream that finishes during it may have written more.
        let upstream_done = control.upstream_done.is_raised();
        let event = match log.next().await {
            Ok(event) => event,
            Err(error) => {
                wait_or_stop(error).await?;
                continue;
            }
        };
        let event = match event {
            LogEvent::Assigned(partitions) => RunnerEvent::Assigned(partitions.into_iter().map(|(p, _)| p).collect()),
            LogEvent::Revoked(partitions) | LogEvent::Lost(partitions) => RunnerEvent::Gone(partitions),
            LogEvent::Fetched { partition, records, next } => RunnerEvent::Fetched(partition, records, next),
            LogEvent::Idle if upstream_done && is_assigned => return Ok(()),
            LogEvent::Idle => continue,
        };
        is_assigned |= matches!(event, RunnerEvent::Assigned(_));
        execute(core, log, state_topic, event).await?;
        control.records.set(core.counts().records);
        control.rejects.set(core.counts().rejects);
    }
    Ok(())
}

/// Hands an event to the core and carries its commands out until none is left.
async fn execute<P, L>(
    core: &mut RunnerCore<P>,
    log: &mut L,
    state_topic: Option<Topic>,
    event: RunnerEvent,
) -> anyhow::Result<()>
where
    P: Processor,
    P::Input: StageInput,
    L: Log,
{
    let mut commands: std::collections::VecDeque<Command> = core.handle(event).into();
    while let Some(command) = commands.pop_front() {
        let answer = match command {
            Command::Stop(reason) => anyhow::bail!(reason),
            Command::Wait(ms) => {
                tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
                None
            }
            Command::Recover(partition) => Some(recover(log, partition, state_topic).await?),
            Command::Commit(txn) => {
                let source = txn.source;
                match log.commit(txn).await {
                    Ok(()) => None,
                    Err(error) => Some(failure(source, error)?),
                }
            }
        };
        if let Some(event) = answer {
            commands.extend(core.handle(event));
        }
    }
    Ok(())
}

/// Reads a partition's state and seeks to its committed offset.
async fn recover<L: Log>(
    log: &mut L,
    partition: PartitionId,
    state_topic: Option<Topic>,
) -> anyhow::Result<RunnerEvent> {
    let attempt = async {
        let entries = match state_topic {
            Some(topic) => log.restore(PartitionId { topic, partition: partition.partition }).await?,
            None => Vec::new(),
        };
        let next = log.committed(partition).await?.map_or(0, |c| c.next);
        log.seek(partition, next).await?;
        Ok::<_, LogError>(entries)
    };
    match attempt.await {
        Ok(entries) => Ok(RunnerEvent::Restored(partition, entries)),
        Err(error) => failure(partition, error),
    }
}

/// The event that a failed operation is for the core; a fatal one ends the stage with its message.
fn failure(partition: PartitionId, error: LogError) -> anyhow::Result<RunnerEvent> {
    match error.class {
        ErrorClass::Fatal => Err(error.into()),
        class => {
            tracing::warn!(%error, ?class, topic = %partition.topic, partition = partition.partition, "step not committed");
            Ok(RunnerEvent::Failed(partition, class))
        }
    }
}

/// A poll that failed: wait where that helps, else stop.
async fn wait_or_stop(error: LogError) -> anyhow::Result<()> {
    match error.class {
        ErrorClass::Retry { after_ms } => {
            tracing::warn!(%error, "log not reachable, trying again");
            tokio::time::sleep(std::time::Duration::from_millis(after_ms)).await;
            Ok(())
        }
        _ => Err(error.into()),
    }
}
