//! The contract of a stage: what it receives, what it returns, what it remembers.
//!
//! The runner decodes, commits and restores; a stage only computes.

use bytes::Bytes;
use schemas::codec::Derived;
use schemas::record::{Position, SourceRef};
use schemas::reject::Reject;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use crate::rekey::{Change, Rekeyed, StateEntry};

/// Name and logic version of a stage, e.g. `pii` 1. Part of every derived id: a new version never
/// collides with an old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessorId {
    /// Name.
    pub name: &'static str,
    /// Logic version; raised whenever the same input gives another output.
    pub version: u32,
}

impl std::fmt::Display for ProcessorId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// A decoded record with where and when the log holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced<T> {
    /// Position in the topic that the stage reads.
    pub at: Position,
    /// The broker's time of the record.
    pub broker_time: TimestampMicros,
    /// The record in [`Topic::Events`] that this one stems from; in that topic itself, the record.
    pub source: SourceRef,
    /// The record.
    pub value: T,
}

/// Which partition an output goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The number of the source partition.
    Same,
    /// [`schemas::topic::partition_of`] the key.
    ByKey,
    /// Every partition of the topic: watermarks.
    All,
}

/// A derived record, addressed to a topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Topic.
    pub topic: Topic,
    /// Partition.
    pub route: Route,
    /// Record key.
    pub key: Vec<u8>,
    /// The source that the record's headers name: clean events only.
    pub source: Option<SourceRef>,
    /// Log time of the record: that of the input that caused it.
    pub broker_time: TimestampMicros,
    /// The record.
    pub value: Derived,
}

/// What a batch produced, in input order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// Derived records.
    pub derived: Vec<Outgoing>,
    /// Records that the stage refuses: dead letters.
    pub rejects: Vec<Reject>,
}

/// A pure stage: the same state and batch always give the same output.
///
/// Total: bad input becomes [`Output::rejects`]; `process` does not fail (invariant I4). Time
/// arrives as tick events in the batch. The five laws are in `testing`.
pub trait Processor: Send + Sync {
    /// What the stage reads: `RawEvent`, `CleanEvent` or a derived record.
    type Input: Send;
    /// What one source partition remembers between batches; [`NoState`] for none.
    type State: PartitionState;

    /// Name and logic version.
    fn id(&self) -> ProcessorId;

    /// Folds one batch of one partition, in offset order.
    fn process(&self, state: &mut Self::State, batch: &[Sourced<Self::Input>]) -> Output;
}

/// A changed entry of a state: `None` deletes it.
pub type StateChange = (Bytes, Option<Bytes>);

/// What a partition remembers: a map of small entries, mirrored in a compacted changelog topic.
///
/// Loading every live entry into a default state gives an equal state.
pub trait PartitionState: Default + Clone + Eq + std::fmt::Debug + Send {
    /// Entries that changed since the last call, in key order; each at most
    /// [`schemas::limits::STATE_ENTRY_BYTES_MAX`].
    fn take_changes(&mut self) -> Vec<StateChange>;

    /// Loads one entry that an earlier run, of this or an older version, wrote.
    ///
    /// # Errors
    /// The entry cannot be read: the runner stops the partition (never guesses).
    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError>;

    /// Carries the entries of all partitions into another number of partitions: every entry goes where the records
    /// of its key go, or is folded, or is counted as left behind. The order of `entries` does not matter.
    ///
    /// # Errors
    /// An entry cannot be read, or the partitions were not read to their end.
    fn rekey(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError>;
}

/// [`PartitionState::rekey`] of some stage.
pub type Rekey = fn(&[StateEntry], &Change) -> Result<Rekeyed, StateError>;

/// A state entry that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state entry {key} cannot be read: {reason}")]
pub struct StateError {
    /// The entry's key, readable.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// The state of a stage that remembers nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoState;

impl PartitionState for NoState {
    fn take_changes(&mut self) -> Vec<StateChange> {
        Vec::new()
    }

    fn load(&mut self, key: &[u8], _value: &[u8]) -> Result<(), StateError> {
        // An entry where none belongs is another stage's topic: to ignore it would start the stage without its
        // memory.
        let key = String::from_utf8_lossy(key).into_owned();
        Err(StateError { key, reason: "this stage keeps no state".to_owned() })
    }

    fn rekey(entries: &[StateEntry], _change: &Change) -> Result<Rekeyed, StateError> {
        // Its own `load` refuses whatever there is.
        entries.iter().try_for_each(|entry| Self.load(&entry.key, &entry.value))?;
        Ok(Rekeyed::default())
    }
}
