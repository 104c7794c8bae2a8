//! The reference: every stage as the pure fold that it is, over whole partitions at once.
//!
//! No runner, no log, no batches, no time. Fed with the input alone it gives what an installation
//! without faults holds; fed with the log of a run it gives what that very log must have produced. It
//! does not publish.

use std::collections::BTreeMap;

use processors::anomaly::{Features, Score};
use processors::completeness::{Completeness, Writers};
use processors::pii::Pii;
use processors::stage::Processor;
use schemas::codec::RegistryFacts;
use schemas::record::{OutRecord, PartitionId, Position, Record};
use schemas::time::TimestampMicros;

use super::lanes::Topics;
use super::setup::Setup;
use super::world::World;
use crate::demo::settings;
use crate::roles::{self, StagePlace};
use crate::runner::core::{Command, RunnerCore, RunnerEvent};
use crate::runner::input::StageInput;

/// What the stages make of `given`. A stage reads what is given of its topic, and where nothing is, what
/// the stage before it made.
///
/// # Errors
/// A stage stopped, or a topic does not exist.
pub(super) async fn chain(world: &World, given: &Topics) -> anyhow::Result<Topics> {
    let Setup { seed, partitions, .. } = world.setup;
    let mut made = Topics::new();
    fold(world, given, &mut made, roles::PII, Pii::new(settings::pii(seed))).await?;
    // In the order of the topics: each stage reads what those before it made.
    let completeness = Completeness::new(settings::completeness_of(partitions));
    fold(world, given, &mut made, roles::COMPLETENESS, completeness).await?;
    fold(world, given, &mut made, roles::FEATURES, Features::new(settings::features_of(partitions))).await?;
    fold(world, given, &mut made, roles::WRITERS, Writers::new(settings::writers())).await?;
    fold(world, given, &mut made, roles::SCORE, Score::new(world.setup.score())).await?;
    Ok(made)
}

async fn fold<P>(
    world: &World,
    given: &Topics,
    made: &mut Topics,
    place: StagePlace,
    processor: P,
) -> anyhow::Result<()>
where
    P: Processor,
    P::Input: StageInput,
{
    let is_given = given.keys().any(|id| id.topic == place.source);
    let source = if is_given { given } else { &*made };
    let inputs: BTreeMap<PartitionId, Vec<Record>> =
        source.iter().filter(|(id, _)| id.topic == place.source).map(|(id, r)| (*id, r.clone())).collect();
    let outputs = roles::outputs_of(&world.broker, place).await?;
    let mut core = RunnerCore::new(processor, place.state, outputs);
    for (id, records) in inputs {
        // A partition without records leads to nothing, and has no offset to commit.
        let Some(next) = records.last().map(|r| r.at.offset + 1) else { continue };
        let mut commands = core.handle(RunnerEvent::Restored(id, Vec::new()));
        // One fetch of the whole partition: the laws say that batches do not matter, and here that is the claim under
        // test.
        commands.extend(core.handle(RunnerEvent::Fetched(id, records, next, RegistryFacts::new())));
        for command in commands {
            match command {
                Command::Commit(txn) => txn.outputs.into_iter().for_each(|output| append(made, output)),
                other => anyhow::bail!("{} stopped at {id:?}: {other:?}", place.group),
            }
        }
    }
    Ok(())
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
