//! The laws that every [`Processor`] obeys, as checks that a stage's own tests instantiate.
//!
//! Five are about its fold: deterministic, batching does not matter, restart does not matter, total, bounded. One is
//! about its state: carried into another number of partitions, nothing is lost. A stage brings
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

use crate::rekey::{Change, Rekeyed, StateEntry};
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

/// The entries of a state topic whose partitions hold these changelogs.
fn entries_of<'a>(logs: impl IntoIterator<Item = &'a Changelog>) -> Vec<StateEntry> {
    let of = |(partition, log): (u32, &'a Changelog)| {
        log.iter().map(move |(key, value)| StateEntry { partition, key: key.clone(), value: value.clone() })
    };
    (0..).zip(logs).flat_map(of).collect()
}

/// The pending changes of states: the entries of a state topic whose partitions they are.
pub fn entries<S: PartitionState>(states: &mut [S]) -> Vec<StateEntry> {
    let mut logs = vec![Changelog::new(); states.len()];
    states.iter_mut().zip(&mut logs).for_each(|(state, log)| drain_changes(state, log));
    entries_of(&logs)
}

/// The states of `count` partitions that load what was carried over.
///
/// # Panics
/// Something was left behind, is of no partition or cannot be read back.
pub fn carried<S: PartitionState>(rekeyed: &Rekeyed, count: u32) -> Vec<S> {
    assert_eq!(rekeyed.left, BTreeMap::new(), "law re-keyed: something was left behind");
    let mut logs = vec![Changelog::new(); count as usize];
    for ((partition, key), value) in &rekeyed.entries {
        assert!(*partition < count, "law re-keyed: entry {key:?} is in partition {partition} of {count}");
        logs[*partition as usize].insert(key.clone(), value.clone());
    }
    logs.iter().map(restored).collect()
}

/// Law *re-keyed*: the state of any number of partitions goes into another number of them whole. Nothing is lost: an
/// entry is found again as it was, is folded, or is counted as left behind, and from one partition nothing is. The
/// order of the entries does not matter. As many partitions as before change nothing.
///
/// # Panics
/// The law does not hold.
pub fn check_rekeyed<P: Processor>(stage: &P, events: &[Sourced<P::Input>], cuts: &[usize]) {
    let whole = run(stage, events, cuts, false).log;
    for to in [1, 3] {
        let grown = rekeyed_in_any_order::<P::State>(&entries_of([&whole]), 1, to);
        let Ok(grown) = grown else { panic!("law re-keyed: {grown:?}") };
        carried::<P::State>(&grown, to);
        if to == 1 {
            let kept = |(key, value): (&Bytes, &Bytes)| {
                let place = (0, key.clone());
                grown.folded.contains(&place) || grown.entries.get(&place) == Some(value)
            };
            assert!(whole.iter().all(kept), "law re-keyed: one partition is another after it became one: {grown:?}");
        }
        let (places, values): (Vec<_>, Vec<_>) = grown.entries.iter().unzip();
        let again: Vec<StateEntry> = places
            .into_iter()
            .zip(values)
            .map(|((partition, key), value)| StateEntry {
                partition: *partition,
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
        let again = rekeyed_in_any_order::<P::State>(&again, to, to).map(|again| (again.entries, again.left));
        assert_eq!(again, Ok((grown.entries, BTreeMap::new())), "law re-keyed: as many partitions change something");
    }
    // Two partitions that know the same keys, one of them less of each: producers may partition in their own way.
    let part = run(stage, &events[..events.len() / 2], &[], false).log;
    for logs in [[&whole, &part], [&part, &whole]] {
        // A stage may refuse it: all partitions of a re-keyed topic receive the same watermarks.
        _ = rekeyed_in_any_order::<P::State>(&entries_of(logs), 2, 3);
    }
}

/// What became of the entries, checked: the order in which they are given does not matter, and none is lost.
fn rekeyed_in_any_order<S: PartitionState>(
    entries: &[StateEntry],
    from: u32,
    to: u32,
) -> Result<Rekeyed, crate::stage::StateError> {
    let change = Change { from, to, first: 0 };
    let rekeyed = S::rekey(entries, &change);
    let (mut turned, reversed) = (entries.to_vec(), entries.iter().rev().cloned().collect::<Vec<_>>());
    turned.rotate_left(entries.len() / 2);
    for other in [entries, &reversed, &turned] {
        assert_eq!(S::rekey(other, &change), rekeyed, "law re-keyed: the order of the entries matters");
    }
    let rekeyed = rekeyed?;
    let found: std::collections::BTreeSet<_> = rekeyed.entries.iter().map(|((_, key), value)| (key, value)).collect();
    let lost = entries.iter().filter(|entry| {
        let folded = rekeyed.folded.contains(&(entry.partition, entry.key.clone()));
        !folded && !found.contains(&(&entry.key, &entry.value))
    });
    let (lost, left) = (lost.count() as u64, rekeyed.left.values().sum::<u64>());
    assert!(lost <= left, "law re-keyed: {lost} entries are lost and {left} are counted as left behind");
    Ok(rekeyed)
}

/// All laws on one list of events and one set of cuts.
///
/// # Panics
/// A law does not hold; its name is in the message.
pub fn check_laws<P: Processor>(stage: &P, events: &[Sourced<P::Input>], cuts: &[usize], entries_max: usize) {
    check_deterministic(stage, events);
    check_batching(stage, events, cuts);
    check_restart(stage, events, cuts);
    check_bounded(stage, events, entries_max);
    check_rekeyed(stage, events, cuts);
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

/// A property test `$name` that the laws hold for the processor `$stage` over batches of the
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
    use crate::rekey::by_place;
    use crate::stage::{ProcessorId, StateChange, StateError};

    /// Remembers the numbers it has seen and rejects a number's second appearance. `fault` breaks
    /// one law, so that the checks themselves are tested.
    struct Distinct<const CARRIES: u8 = WHOLE> {
        fault: Option<Fault>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        DependsOnBatch,
        ForgetsToPersist,
        Floods,
    }

    /// How a state of these numbers is carried over.
    const WHOLE: u8 = 0;
    const FORGETS_ONE: u8 = 1;
    const DEALS_OUT: u8 = 2;

    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    struct Seen<const CARRIES: u8> {
        numbers: BTreeSet<u8>,
        changed: BTreeSet<u8>,
    }

    impl<const CARRIES: u8> PartitionState for Seen<CARRIES> {
        fn take_changes(&mut self) -> Vec<StateChange> {
            let changed = std::mem::take(&mut self.changed);
            changed.into_iter().map(|n| (Bytes::from(vec![n]), Some(Bytes::from_static(b"x")))).collect()
        }
        fn load(&mut self, key: &[u8], _value: &[u8]) -> Result<(), StateError> {
            self.numbers.insert(key[0]);
            Ok(())
        }
        fn rekey(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
            let mut rekeyed = Rekeyed::default();
            let first = if CARRIES == FORGETS_ONE { 1 } else { 0 };
            for (index, entry) in by_place(entries).into_iter().enumerate().skip(first) {
                let dealt = entries.iter().position(|other| other == entry).unwrap_or(index) as u32 % change.to;
                let partition = if CARRIES == DEALS_OUT { dealt } else { change.place(&entry.key) };
                rekeyed.move_to(partition, entry, "numbers that a second partition had too");
            }
            Ok(rekeyed)
        }
    }

    impl<const CARRIES: u8> Processor for Distinct<CARRIES> {
        type Input = u8;
        type State = Seen<CARRIES>;
        fn id(&self) -> ProcessorId {
            ProcessorId { name: "distinct", version: 1 }
        }
        fn process(&self, state: &mut Seen<CARRIES>, batch: &[Sourced<u8>]) -> Output {
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

    five_laws!(a_lawful_stage_passes, Distinct::<WHOLE> { fault: None }, numbers(), 8);

    fn faulty(fault: Fault, entries_max: usize) {
        let events = sourced(Topic::Events, TimestampMicros(0), 1, [1, 2, 1, 3]);
        check_laws(&Distinct::<WHOLE> { fault: Some(fault) }, &events, &[2], entries_max);
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

    #[test]
    #[should_panic(expected = "1 entries are lost and 0 are counted")]
    fn a_stage_that_loses_an_entry_on_the_way_is_caught() {
        let events = sourced(Topic::Events, TimestampMicros(0), 1, [1, 2, 3]);
        check_rekeyed(&Distinct::<FORGETS_ONE> { fault: None }, &events, &[]);
    }

    #[test]
    #[should_panic(expected = "the order of the entries matters")]
    fn a_stage_that_deals_entries_out_as_they_come_is_caught() {
        let events = sourced(Topic::Events, TimestampMicros(0), 1, [1, 2, 3]);
        check_rekeyed(&Distinct::<DEALS_OUT> { fault: None }, &events, &[]);
    }
}
