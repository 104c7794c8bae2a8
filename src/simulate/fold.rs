//! The reference: every stage as the pure fold that it is, over whole partitions at once.
//!
//! No runner, no log, no batches, no time. Fed with the input alone it gives what an installation
//! without faults holds; fed with the log of a run it gives what that very log must have produced. It
//! does not publish.

use std::collections::BTreeMap;

use processors::stage::Processor;
use schemas::codec::RegistryFacts;
use schemas::record::{OutRecord, PartitionId, Position, Record};
use schemas::time::TimestampMicros;

use super::lanes::Topics;
use super::world::World;
use crate::roles;
use crate::runner::core::{Command, OutputPartitions, RunnerCore, RunnerEvent};
use crate::runner::input::StageInput;
use crate::stage_table::{STAGES, StageSpec, StageVisitor};

/// What the stages make of `given`. A stage reads what is given of its topic, and where nothing is, what
/// the stage before it made.
///
/// # Errors
/// A stage stopped, or a topic does not exist.
pub(super) async fn chain(world: &World, given: &Topics) -> anyhow::Result<Topics> {
    let mut made = Topics::new();
    let settings = world.setup.stages();
    for spec in &STAGES {
        let is_given = given.keys().any(|id| id.topic == spec.source);
        let source = if is_given { given } else { &made };
        let inputs: Inputs =
            source.iter().filter(|(id, _)| id.topic == spec.source).map(|(id, r)| (*id, r.clone())).collect();
        let outputs = roles::outputs_of(&world.broker, spec).await?;
        for output in spec.stage.visit(&settings, Fold { inputs, outputs })?? {
            append(&mut made, output);
        }
    }
    Ok(made)
}

type Inputs = BTreeMap<PartitionId, Vec<Record>>;

/// Folds whole partitions at once: what the stage writes.
struct Fold {
    inputs: Inputs,
    outputs: OutputPartitions,
}

impl StageVisitor for Fold {
    type Output = anyhow::Result<Vec<OutRecord>>;

    fn visit<P>(self, spec: &'static StageSpec, processor: P) -> Self::Output
    where
        P: Processor + 'static,
        P::Input: StageInput,
    {
        let mut core = RunnerCore::new(processor, spec.state, self.outputs);
        let mut written = Vec::new();
        for (id, records) in self.inputs {
            let Some(next) = records.last().map(|r| r.at.offset + 1) else { continue };
            let mut commands = core.handle(RunnerEvent::Restored(id, Vec::new()));
            commands.extend(core.handle(RunnerEvent::Fetched(id, records, next, RegistryFacts::new())));
            for command in commands {
                match command {
                    Command::Commit(txn) => written.extend(txn.outputs),
                    other => anyhow::bail!("{} stopped at {id:?}: {other:?}", spec.group),
                }
            }
        }
        Ok(written)
    }
}

/// Appends as the log does: the next offset, times in milliseconds.
fn append(made: &mut Topics, output: OutRecord) {
    let OutRecord { topic, partition, timestamp, key, value, headers } = output;
    let partition = PartitionId { topic, partition: partition.unwrap_or_default() };
    let held = made.entry(partition).or_default();
    let at = Position { partition, offset: held.len() as u64 };
    // Kafka keeps milliseconds; compared in microseconds every record would differ.
    held.push(Record { at, timestamp: TimestampMicros::from_ms(timestamp.ms()), key, value, headers });
}
