//! The roles of the pipeline: which stage or sink reads which topic, under which group.
//!
//! Only wiring: what a role does is in its stage or sink, how it runs is in `runner`.

use ingest::log::{Broker, Log, LogError};
use processors::stage::Processor;
use schemas::topic::Topic;

use crate::registry::SchemaRegistry;
use crate::runner::control::Control;
use crate::runner::core::{OutputPartitions, RunnerCore};
use crate::runner::input::StageInput;
use crate::runner::{self, sink::SinkRole};

/// Topics that stages write to.
const OUTPUT_TOPICS: &[Topic] =
    &[Topic::Clean, Topic::Findings, Topic::Signals, Topic::Writers, Topic::Alerts, Topic::Dlq];

/// The stages that write to a topic partition by partition, in the order of their partitions.
const fn writers_of(topic: Topic) -> &'static [&'static str] {
    match topic {
        Topic::Findings => &[PII.group, COMPLETENESS.group, WRITERS.group],
        Topic::Alerts => &[SCORE.group, FEATURES.group],
        _ => &[],
    }
}

/// Partitions of a topic, if the events topic has `partitions`: one per source partition and stage
/// that writes to it.
pub fn partitions_of(topic: Topic, partitions: u32) -> u32 {
    partitions * u32::try_from(writers_of(topic).len().max(1)).unwrap_or(1)
}

/// Creates every topic that does not exist.
///
/// # Errors
/// The broker refuses, or a topic exists with another number of partitions.
pub async fn create_topics<B: Broker>(broker: &B, partitions: u32) -> Result<(), LogError> {
    for topic in Topic::ALL {
        broker.create_topics(&[*topic], partitions_of(*topic, partitions)).await?;
    }
    Ok(())
}

/// Where a stage reads and keeps its state.
#[derive(Debug, Clone, Copy)]
pub struct StagePlace {
    /// Consumer group; also names the role in errors.
    pub group: &'static str,
    /// Topic that it reads.
    pub source: Topic,
    /// Topic of its state.
    pub state: Option<Topic>,
}

/// Place of the stage `pii`.
pub const PII: StagePlace = StagePlace { group: "custody-pii", source: Topic::Events, state: Some(Topic::StatePii) };
/// Place of the stage `completeness`.
pub const COMPLETENESS: StagePlace =
    StagePlace { group: "custody-completeness", source: Topic::Clean, state: Some(Topic::StateCompleteness) };
/// Place of the stage `features`.
pub const FEATURES: StagePlace =
    StagePlace { group: "custody-features", source: Topic::Clean, state: Some(Topic::StateFeatures) };
/// Place of the stage `writers`.
pub const WRITERS: StagePlace =
    StagePlace { group: "custody-writers", source: Topic::Writers, state: Some(Topic::StateWriters) };
/// Place of the stage `score`.
pub const SCORE: StagePlace =
    StagePlace { group: "custody-score", source: Topic::Signals, state: Some(Topic::StateScore) };

/// Topics that are archived and loaded, with the consumer groups of archive and loader. Only the first
/// carries ticks.
pub const SINK_TOPICS: [(Topic, &str, &str); 3] = [
    (Topic::Clean, "custody-archive", "custody-load"),
    (Topic::Findings, "custody-archive-findings", "custody-load-findings"),
    (Topic::Alerts, "custody-archive-alerts", "custody-load-alerts"),
];

/// The partitions that a stage writes to.
///
/// # Errors
/// A topic does not exist.
pub(crate) async fn outputs_of<B: Broker>(broker: &B, place: StagePlace) -> Result<OutputPartitions, LogError> {
    let source_partitions = broker.partitions(place.source).await?;
    let mut outputs = OutputPartitions { first: broker.first_partition(), ..OutputPartitions::default() };
    for topic in OUTPUT_TOPICS {
        outputs.counts.insert(*topic, broker.partitions(*topic).await?);
        if let Some(index) = (0..).zip(writers_of(*topic)).find(|(_, w)| **w == place.group).map(|(i, _)| i) {
            outputs.bases.insert(*topic, index * source_partitions);
        }
    }
    Ok(outputs)
}

/// Runs one instance of a stage until it is told to stop or its upstream is done.
///
/// # Errors
/// [`LogError`]: the stage cannot go on; its offsets are where its last step left them.
pub async fn stage<B, P>(broker: B, place: StagePlace, processor: P, control: Control) -> anyhow::Result<()>
where
    B: Broker,
    P: Processor,
    P::Input: StageInput,
{
    stage_with(broker, place, processor, None, control).await
}

/// As [`stage`], reading the records of others with the schemas of a registry.
///
/// # Errors
/// As [`stage`].
pub async fn stage_with<B, P>(
    broker: B,
    place: StagePlace,
    processor: P,
    registry: Option<SchemaRegistry>,
    control: Control,
) -> anyhow::Result<()>
where
    B: Broker,
    P: Processor,
    P::Input: StageInput,
{
    let outputs = outputs_of(&broker, place).await?;
    let mut log = broker.consumer(place.group, place.source, &control.identity.instance).await?;
    let mut core = RunnerCore::new(processor, place.state, outputs);
    let outcome =
        runner::drive::drive(&mut core, &mut log, place.state, registry.as_ref(), &control, place.group).await;
    // After a failure too: a member that is gone must not keep its partitions.
    let closed = log.close().await;
    outcome?;
    Ok(closed?)
}

/// Runs one instance of a sink on one topic.
///
/// # Errors
/// [`runner::sink::RoleError`] or [`LogError`]: the sink cannot go on; what it published stays, and the
/// next start continues behind it.
pub async fn sink<B, S>(
    broker: B,
    group: &'static str,
    source: Topic,
    mut sink: S,
    control: Control,
) -> anyhow::Result<()>
where
    B: Broker,
    S: SinkRole,
{
    let mut log = broker.consumer(group, source, &control.identity.instance).await?;
    let outcome = runner::sink::drive(&mut sink, &mut log, &control, group).await;
    let closed = log.close().await;
    outcome?;
    Ok(closed?)
}
