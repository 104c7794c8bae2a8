//! Runs one instance of a stage or of a sink on a log, and makes the topics that they need.
//!
//! Only wiring: which stages and sinks there are is in `stage_table` and `sink_table`, what they do is in their
//! crates, how they are driven is in `runner`.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ingest::log::{Broker, Log, LogError};
use processors::stage::Processor;
use schemas::record::PartitionId;
use schemas::topic::Topic;

use crate::registry::SchemaRegistry;
use crate::runner::control::Control;
use crate::runner::core::{OutputPartitions, RunnerCore};
use crate::runner::input::StageInput;
use crate::runner::{self, sink::SinkRole};
use crate::stage_table::{Count, Stage, StageSettings, StageSpec, StageVisitor, count, partitions_of, written_topics};

/// Creates every topic that does not exist, and adds the slots that stages of this version need to those that do.
///
/// # Errors
/// The broker refuses, or a topic exists with another number of partitions.
pub async fn create_topics<B: Broker>(broker: &B, partitions: u32) -> Result<(), LogError> {
    for &topic in Topic::ALL {
        let wanted = partitions_of(topic, partitions);
        match broker.partitions_now(topic).await?.map(|found| count(topic, found, partitions)) {
            Some(Count::Right) => {}
            Some(Count::LacksSlots { wanted }) => broker.grow_topic(topic, wanted).await?,
            // Of a topic that is there with a wrong count, the broker says so with the remedy for its kind.
            None | Some(Count::Wrong { .. }) => broker.create_topics(&[topic], wanted).await?,
        }
    }
    Ok(())
}

/// Lets the groups of receivers begin at the first alert of partitions that they have never read, where the group
/// has read others: a receiver that begins at the newest alert would pass over those of a stage that is new.
///
/// # Errors
/// The log cannot be reached.
pub async fn start_receivers<B: Broker>(broker: &B, groups: &[String]) -> Result<(), LogError> {
    for group in groups {
        let mut unread = Vec::new();
        let mut has_read = false;
        for partition in broker.numbers(Topic::Alerts).await? {
            let id = PartitionId { topic: Topic::Alerts, partition };
            if broker.committed(group, id).await?.is_some() {
                has_read = true;
            } else {
                unread.push(id);
            }
        }
        for id in unread.into_iter().filter(|_| has_read) {
            // A group with members is refused; those see the new partition themselves and read it from its start.
            if let Err(error) = broker.commit_first(group, id, 0).await {
                tracing::warn!(%error, group, "the receiver runs: it begins in the new partition by itself");
            }
        }
    }
    Ok(())
}

/// The partitions that a stage writes to.
///
/// # Errors
/// A topic does not exist.
pub(crate) async fn outputs_of<B: Broker>(broker: &B, spec: &StageSpec) -> Result<OutputPartitions, LogError> {
    let source_partitions = broker.partitions(spec.source).await?;
    let mut outputs = OutputPartitions { first: broker.first_partition(), ..OutputPartitions::default() };
    for topic in written_topics() {
        outputs.counts.insert(topic, broker.partitions(topic).await?);
        outputs.bases.extend(spec.slot_in(topic).map(|slot| (topic, slot * source_partitions)));
    }
    Ok(outputs)
}

/// Runs one instance of a stage until it is asked to stop or its upstream is done. Records of others are read with
/// the schemas of `registry`, if there is one.
///
/// # Errors
/// The settings hold nothing for the stage, or [`LogError`]: the stage cannot continue; its offsets are where its
/// last step left them.
pub fn stage<B: Broker>(
    broker: B,
    stage: Stage,
    settings: &StageSettings,
    registry: Option<SchemaRegistry>,
    control: Control,
) -> BoxFuture<'static, anyhow::Result<()>> {
    match stage.visit(settings, RunStage { broker, registry, control }) {
        Ok(running) => running,
        Err(error) => futures::future::ready(Err(error.into())).boxed(),
    }
}

/// Runs the stage that it visits.
struct RunStage<B> {
    broker: B,
    registry: Option<SchemaRegistry>,
    control: Control,
}

impl<B: Broker> StageVisitor for RunStage<B> {
    type Output = BoxFuture<'static, anyhow::Result<()>>;

    fn visit<P>(self, spec: &'static StageSpec, processor: P) -> Self::Output
    where
        P: Processor + 'static,
        P::Input: StageInput,
    {
        let Self { broker, registry, control } = self;
        async move {
            let outputs = outputs_of(&broker, spec).await?;
            let mut log = broker.consumer(spec.group, spec.source, &control.identity.instance).await?;
            let mut core = RunnerCore::new(processor, spec.state, outputs);
            let outcome =
                runner::drive::drive(&mut core, &mut log, spec.state, registry.as_ref(), &control, spec.group).await;
            // After a failure too: a member that is gone must not keep its partitions.
            let closed = log.close().await;
            outcome?;
            Ok(closed?)
        }
        .boxed()
    }
}

/// Runs one instance of a sink on one topic.
///
/// # Errors
/// [`runner::sink::RoleError`] or [`LogError`]: the sink cannot continue; what it published stays, and the
/// next start continues behind it.
pub async fn sink<B, S>(broker: B, group: &str, source: Topic, mut sink: S, control: Control) -> anyhow::Result<()>
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
