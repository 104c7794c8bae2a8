//! The sans-I/O core of a stage's runner: what happened in, what to do out.
//!
//! One step is one partition's contiguous batch with its outputs, state changes and next offset
//! (invariant I5). It holds no log and no clock; `drive` carries its commands out.

use std::collections::BTreeMap;

use bytes::Bytes;
use ingest::log::{ErrorClass, LogError, Txn};
use processors::stage::{Outgoing, PartitionState, Processor, Route, Sourced};
use schemas::codec::{RegistryFacts, codec};
use schemas::record::{Headers, OutRecord, PartitionId, Record, header};
use schemas::reject::Reject;
use schemas::topic::{Topic, partition_of};

use super::input::StageInput;

/// What happened.
#[derive(Debug)]
pub enum RunnerEvent {
    /// Partitions are ours from now on.
    Assigned(Vec<PartitionId>),
    /// State entries of a partition, as they were committed.
    Restored(PartitionId, Vec<(Bytes, Bytes)>),
    /// Records of a partition, the offset behind them, and what a registry says of the ids that they ask for.
    Fetched(PartitionId, Vec<Record>, u64, RegistryFacts),
    /// Partitions are no longer ours.
    Gone(Vec<PartitionId>),
    /// The step of a partition was not committed, or it is not known whether it was.
    Failed(PartitionId, ErrorClass),
}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Read the partition's state and continue at its committed offset.
    Recover(PartitionId),
    /// Commit a step.
    Commit(Txn),
    /// Wait at least so many milliseconds before the next command.
    Wait(u64),
    /// Stop the stage: offsets stay where they are (invariant I10).
    Stop(LogError),
}

/// What one step did, for metrics and progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub records: u64,
    /// Records written, dead letters not counted.
    pub derived: u64,
    /// Dead letters.
    pub rejects: u64,
}

/// The partitions that a stage writes to.
#[derive(Debug, Clone, Default)]
pub struct OutputPartitions {
    /// Number of the first partition of every topic.
    pub first: u32,
    /// Partitions of each topic.
    pub counts: BTreeMap<Topic, u32>,
    /// Where [`Route::Same`] begins in a topic that several stages write to. Each has partitions of its
    /// own there, so that the order in a partition follows from one stage's input and from nothing
    /// else (invariant I6).
    pub bases: BTreeMap<Topic, u32>,
}

/// The core of one stage.
#[derive(Debug)]
pub struct RunnerCore<P: Processor> {
    processor: P,
    state_topic: Option<Topic>,
    outputs: OutputPartitions,
    partitions: BTreeMap<PartitionId, P::State>,
    counts: Counts,
}

impl<P: Processor> RunnerCore<P>
where
    P::Input: StageInput,
{
    /// A core for `processor`, whose state lives in `state_topic`.
    pub fn new(processor: P, state_topic: Option<Topic>, outputs: OutputPartitions) -> Self {
        Self { processor, state_topic, outputs, partitions: BTreeMap::new(), counts: Counts::default() }
    }

    /// What was done since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes in what happened and says what to do, in order.
    pub fn handle(&mut self, event: RunnerEvent) -> Vec<Command> {
        match event {
            RunnerEvent::Assigned(partitions) => partitions.into_iter().map(Command::Recover).collect(),
            RunnerEvent::Restored(partition, entries) => self.restored(partition, &entries),
            RunnerEvent::Fetched(partition, records, next, facts) => self.fetched(partition, &records, next, &facts),
            RunnerEvent::Gone(partitions) => {
                self.partitions.retain(|p, _| !partitions.contains(p));
                Vec::new()
            }
            RunnerEvent::Failed(partition, class) => self.failed(partition, class),
        }
    }

    fn restored(&mut self, partition: PartitionId, entries: &[(Bytes, Bytes)]) -> Vec<Command> {
        let mut state = P::State::default();
        for (key, value) in entries {
            if let Err(error) = state.load(key, value) {
                return vec![Command::Stop(LogError::fatal(
                    self.at(partition),
                    format!("the state cannot be read: {error}"),
                ))];
            }
        }
        self.partitions.insert(partition, state);
        Vec::new()
    }

    fn fetched(
        &mut self,
        partition: PartitionId,
        records: &[Record],
        next: u64,
        facts: &RegistryFacts,
    ) -> Vec<Command> {
        let (Some(state), Some(first)) = (self.partitions.get_mut(&partition), records.first()) else {
            return Vec::new();
        };
        let mut rejects = Vec::new();
        let mut batch: Vec<Sourced<P::Input>> = Vec::with_capacity(records.len());
        for record in records {
            match P::Input::decode(record, facts) {
                Ok(input) => batch.push(input),
                Err(reject) => rejects.push(reject),
            }
        }
        let output = self.processor.process(state, &batch);
        rejects.extend(output.rejects);
        rejects.sort_by_key(|r| r.at);
        let changes = state.take_changes();
        self.counts.records += records.len() as u64;
        self.counts.derived += output.derived.len() as u64;
        self.counts.rejects += rejects.len() as u64;
        let mut outputs = Vec::with_capacity(output.derived.len() + rejects.len());
        for outgoing in output.derived {
            self.address(partition, outgoing, &mut outputs);
        }
        let stage = self.processor.id().to_string();
        outputs.extend(rejects.iter().filter_map(|r| dead_letter(&stage, r, records)));
        vec![Command::Commit(Txn {
            source: partition,
            consumed: first.at.offset..next,
            outputs,
            changes,
            state_topic: self.state_topic,
        })]
    }

    /// Encodes a derived record and gives it its partition.
    fn address(&self, source: PartitionId, outgoing: Outgoing, outputs: &mut Vec<OutRecord>) {
        let count = self.outputs.counts.get(&outgoing.topic).copied().unwrap_or(1);
        let base = self.outputs.bases.get(&outgoing.topic).copied().unwrap_or_default();
        let indexes = match outgoing.route {
            Route::Same => base + source.index()..base + source.index() + 1,
            Route::ByKey => {
                let index = partition_of(&outgoing.key, count);
                index..index + 1
            }
            Route::All => 0..count,
        };
        let partitions = indexes.map(|index| self.outputs.first + index);
        let value = codec().encode_derived(&outgoing.value);
        let key = Bytes::from(outgoing.key);
        let headers = outgoing.source.map(|s| s.to_headers()).unwrap_or_default();
        outputs.extend(partitions.map(|partition| OutRecord {
            topic: outgoing.topic,
            partition: Some(partition),
            timestamp: outgoing.broker_time,
            key: Some(key.clone()),
            value: Some(value.clone()),
            headers: headers.clone(),
        }));
    }

    /// The stage and a partition, as messages name them.
    fn at(&self, partition: PartitionId) -> String {
        format!("{} at {}/{}", self.processor.id(), partition.topic, partition.partition)
    }

    fn failed(&mut self, partition: PartitionId, class: ErrorClass) -> Vec<Command> {
        // The state already holds the lost step: only a restore brings it back in line.
        self.partitions.remove(&partition);
        match class {
            ErrorClass::AbortTxn => vec![Command::Recover(partition)],
            ErrorClass::Retry { after_ms } => vec![Command::Wait(after_ms), Command::Recover(partition)],
            ErrorClass::Fenced => vec![Command::Stop(LogError::new(
                ErrorClass::Fenced,
                self.at(partition),
                "another member took over; if that was another process of the same name, give each its own `instance`",
            ))],
            ErrorClass::Fatal => vec![Command::Stop(LogError::fatal(self.at(partition), "stopped"))],
        }
    }
}

/// The dead letter of a reject: the original key, value and headers untouched, with Kafka Connect's
/// headers added. `None` if the reject names no record of the batch, which a stage cannot do.
pub(crate) fn dead_letter(stage: &str, reject: &Reject, records: &[Record]) -> Option<OutRecord> {
    let index = records.binary_search_by_key(&reject.at.offset, |r| r.at.offset).ok()?;
    let record = records.get(index)?;
    let text = |name: &str, value: String| (name.to_owned(), Bytes::from(value));
    let mut headers: Headers = record.headers.clone();
    headers.extend([
        text(header::DLQ_REASON, reject.reason.code().to_owned()),
        text(header::DLQ_TOPIC, reject.at.partition.topic.name().to_owned()),
        text(header::DLQ_PARTITION, reject.at.partition.partition.to_string()),
        text(header::DLQ_OFFSET, reject.at.offset.to_string()),
        text(header::DLQ_STAGE, stage.to_owned()),
        text(header::DLQ_MESSAGE, reject.detail.clone()),
    ]);
    Some(OutRecord {
        topic: Topic::Dlq,
        partition: Some(reject.at.partition.partition),
        timestamp: record.timestamp,
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
    })
}
