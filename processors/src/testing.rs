//! The five laws that every [`Processor`] obeys, as checks that a stage's own tests instantiate.
//!
//! Deterministic, batching does not matter, restart does not matter, total, bounded. A stage brings
//! its processor and a strategy of event batches to [`five_laws!`](crate::five_laws); the checks
//! themselves are plain functions that panic with the law's name. Totality needs no check of its
//! own: `process` cannot return an error, and a panic in any law fails the test. It makes no events.

use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::id::Sha256;
use schemas::limits::{OUTPUTS_PER_EVENT_MAX, STATE_ENTRY_BYTES_MAX};
use schemas::record::{PartitionId, Position, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use crate::stage::{Output, PartitionState, Processor, Sourced};

/// A compacted changelog: what a restarted instance would find.
pub type Changelog = BTreeMap<Bytes, Bytes>;

/// `values` as the records of partition 0 of `topic`: offsets from 0, one every `step_ms` from
/// `first`, source = the record itself with a digest of its offset.
pub fn sourced<T>(
    topic: Topic,
    first: TimestampMicros,
    step_ms: i64,
    values: impl IntoIterator<Item = T>,
) -> Vec<Sourced<T>> {
    let record = |(offset, value): (usize, T)| {
        let time = first.plus_ms(step_ms.saturating_mul(i64::try_from(offset).unwrap_or(i64::MAX)));
        let offset = offset as u64;
        let at = Position { partition: PartitionId { topic, partition: 0 }, offset };
        let source = SourceRef { offset, sha256: Sha256::of(&offset.to_be_bytes()) };
        Sourced { at, broker_time: time, source, value }
    };
    values.into_iter().enumerate().map(record).collect()
}

/// Folds the pending changes of `state` into `log`, checking that each entry is within its bound
/// and that they come in key order.
///
/// # Panics
/// An entry is too large, or the keys are not strictly ascending.
pub fn drain_changes<S: PartitionState>(state: &mut S, log: &mut Changelog) {
    let changes = state.take_changes();
    let ascending = changes.windows(2).all(|pair| pair[0].0 < pair[1].0);
    assert!(ascending, "law deterministic: changes are not in strictly ascending key order");
    for (key, value) in changes {
        let Some(value) = value else {
            log.remove(&key);
            continue;
        };
        let bytes = key.len() + value.len();
        assert!(bytes <= STATE_ENTRY_BYTES_MAX, "law bounded: state entry {key:?} has {bytes} bytes");
        log.insert(key, value);
    }
    assert!(state.take_changes().is_empty(), "take_changes returned the same changes twice");
}

/// The state that a restarted instance loads from `log`.
///
/// # Panics
/// An entry cannot be read back.
pub fn restored<S: PartitionState>(log: &Changelog) -> S {
    let mut state = S::default();
    for (key, value) in log {
        let loaded = state.load(key, value);
        assert!(loaded.is_ok(), "law restart does not matter: {loaded:?}");
    }
    state
}

/// Everything that a run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Run<S> {
    /// All outputs, in order.
    pub output: Output,
    /// State after the last batch, changes drained.
    pub state: S,
    /// Compacted changelog.
    pub log: Changelog,
}

/// Folds `events` in batches that end at `cuts` (any order, clamped to the length); with `restart`,
/// every batch starts from a state loaded from the changelog.
pub fn run<P: Processor>(stage: &P, events: &[Sourced<P::Input>], cuts: &[usize], restart: bool) -> Run<P::State> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| (*cut).min(events.len())).collect();
    ends.push(events.len());
    ends.sort_unstable();
    let mut run = Run { output: Output::default(), state: P::State::default(), log: Changelog::new() };
    let mut first = 0;
    for next in ends {
        if restart {
            run.state = restored(&run.log);
        }
        let Output { derived, rejects } = stage.process(&mut run.state, &events[first..next]);
        run.output.derived.extend(derived);
        run.output.rejects.extend(rejects);
        drain_changes(&mut run.state, &mut run.log);
        first = next;
    }
    run
}

/// Law *deterministic*: the same state and batch give the same output, changes and state.
///
/// # Panics
/// The law does not hold.
pub fn check_deterministic<P: Processor>(stage: &P, events: &[Sourced<P::Input>]) {
    let (one, two) = (run(stage, events, &[], false), run(stage, events, &[], false));
    assert_same("deterministic", &one, &two);
}

/// Law *batching does not matter*: any split of the events gives the same run.
///
/// # Panics
/// The law does not hold.
pub fn check_batching<P: Processor>(stage: &P, events: &[Sourced<P::Input>], cuts: &[usize]) {
    assert_same("batching does not matter", &run(stage, events, &[], false), &run(stage, events, cuts, false));
}

/// Law *restart does not matter*: forgetting everything but the changelog between batches gives
/// the same run.
///
/// # Panics
/// The law does not hold.
pub fn check_restart<P: Processor>(stage: &P, events: &[Sourced<P::Input>], cuts: &[usize]) {
    let (kept, restarted) = (run(stage, events, cuts, false), run(stage, events, cuts, true));
    assert_same("restart does not matter", &kept, &restarted);
    let loaded = restored::<P::State>(&kept.log);
    assert!(loaded == kept.state, "law restart does not matter: {loaded:?} was loaded instead of {:?}", kept.state);
}

/// Law *bounded*: over every prefix, at most [`OUTPUTS_PER_EVENT_MAX`] records per input and at
/// most `entries_max` state entries (each at most [`STATE_ENTRY_BYTES_MAX`] bytes).
///
/// # Panics
/// The law does not hold.
pub fn check_bounded<P: Processor>(stage: &P, events: &[Sourced<P::Input>], entries_max: usize) {
    let (mut state, mut log, mut outputs) = (P::State::default(), Changelog::new(), 0);
    for (index, event) in events.iter().enumerate() {
        let Output { derived, rejects } = stage.process(&mut state, std::slice::from_ref(event));
        outputs += derived.len() + rejects.len();
        let outputs_max = OUTPUTS_PER_EVENT_MAX * (index + 1);
        assert!(outputs <= outputs_max, "law bounded: {outputs} outputs of {} events", index + 1);
        drain_changes(&mut state, &mut log);
        assert!(log.len() <= entries_max, "law bounded: {} state entries, at most {entries_max}", log.len());
    }
}

/// All five laws on one list of events and one set of cuts.
///
/// # Panics
/// A law does not hold; its name is in the message.
pub fn check_laws<P: Processor>(stage: &P, events: &[Sourced<P::Input>], cuts: &[usize], entries_max: usize) {
    check_deterministic(stage, events);
    check_batching(stage, events, cuts);
    check_restart(stage, events, cuts);
    check_bounded(stage, events, entries_max);
}

fn assert_same<S: PartialEq + std::fmt::Debug>(law: &str, one: &Run<S>, two: &Run<S>) {
    let pairs = one.output.derived.iter().zip(&two.output.derived);
    for (index, (a, b)) in pairs.enumerate() {
        assert!(a == b, "law {law}: derived record {index} is {a:?} in one run and {b:?} in the other");
    }
    let lengths = (one.output.derived.len(), two.output.derived.len());
    assert!(lengths.0 == lengths.1, "law {law}: the runs derive {lengths:?} records");
    assert!(one.output.rejects == two.output.rejects, "law {law}: rejects differ");
    assert!(one.log == two.log, "law {law}: changelogs differ: {:?} and {:?}", one.log, two.log);
    assert!(one.state == two.state, "law {law}: states differ: {:?} and {:?}", one.state, two.state);
}

/// A property test `$name` that the five laws hold for the processor `$stage` over batches of the
/// strategy `$events` (of `Vec<Sourced<Input>>`), cut at random places; `$entries_max` bounds the
/// state entries. The calling crate needs `proptest`.
#[macro_export]
macro_rules! five_laws {
    ($name:ident, $stage:expr, $events:expr, $entries_max:expr) => {
        proptest::proptest! {
            #[test]
            fn $name(
                events in $events,
                cuts in proptest::collection::vec(proptest::prelude::any::<proptest::sample::Index>(), 0..6),
            ) {
                let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(events.len() + 1)).collect();
                $crate::testing::check_laws(&$stage, &events, &cuts, $entries_max);
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use schemas::topic::Topic;

    use super::*;
    use crate::stage::{ProcessorId, StateChange, StateError};

    /// Remembers the numbers it has seen and rejects a number's second appearance. `fault` breaks
    /// one law, so that the checks themselves are tested.
    struct Distinct {
        fault: Option<Fault>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        DependsOnBatch,
        ForgetsToPersist,
        Floods,
    }

    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    struct Seen {
        numbers: BTreeSet<u8>,
        changed: BTreeSet<u8>,
    }

    impl PartitionState for Seen {
        fn take_changes(&mut self) -> Vec<StateChange> {
            let changed = std::mem::take(&mut self.changed);
            changed.into_iter().map(|n| (Bytes::from(vec![n]), Some(Bytes::from_static(b"x")))).collect()
        }
        fn load(&mut self, key: &[u8], _value: &[u8]) -> Result<(), StateError> {
            self.numbers.insert(key[0]);
            Ok(())
        }
    }

    impl Processor for Distinct {
        type Input = u8;
        type State = Seen;
        fn id(&self) -> ProcessorId {
            ProcessorId { name: "distinct", version: 1 }
        }
        fn process(&self, state: &mut Seen, batch: &[Sourced<u8>]) -> Output {
            let mut output = Output::default();
            for record in batch {
                let new = state.numbers.insert(record.value);
                if new && self.fault != Some(Fault::ForgetsToPersist) {
                    state.changed.insert(record.value);
                }
                let copies = match self.fault {
                    Some(Fault::Floods) => OUTPUTS_PER_EVENT_MAX + 1,
                    Some(Fault::DependsOnBatch) => batch.len(),
                    _ => usize::from(!new),
                };
                output.rejects.extend((0..copies).map(|_| schemas::reject::Reject {
                    at: record.at,
                    reason: schemas::reject::RejectReason::Malformed,
                    detail: String::new(),
                }));
            }
            output
        }
    }

    fn numbers() -> impl Strategy<Value = Vec<Sourced<u8>>> {
        proptest::collection::vec(0_u8..8, 0..40)
            .prop_map(|values| sourced(Topic::Events, TimestampMicros(0), 1, values))
    }

    five_laws!(a_lawful_stage_passes, Distinct { fault: None }, numbers(), 8);

    fn faulty(fault: Fault, entries_max: usize) {
        let events = sourced(Topic::Events, TimestampMicros(0), 1, [1, 2, 1, 3]);
        check_laws(&Distinct { fault: Some(fault) }, &events, &[2], entries_max);
    }

    #[test]
    #[should_panic(expected = "batching does not matter")]
    fn a_stage_that_looks_at_the_batch_is_caught() {
        faulty(Fault::DependsOnBatch, 8);
    }

    #[test]
    #[should_panic(expected = "restart does not matter")]
    fn a_stage_that_forgets_to_persist_is_caught() {
        faulty(Fault::ForgetsToPersist, 8);
    }

    #[test]
    #[should_panic(expected = "law bounded")]
    fn a_stage_that_floods_is_caught() {
        faulty(Fault::Floods, 8);
    }
}
