//! The counts are exact: whatever is withheld or repeated anywhere is found, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use schemas::codec::Derived;
use schemas::event::*;
use schemas::id::{Sha256, Uuid};
use schemas::record::{PartitionId, Position, SourceRef};
use schemas::topic::Topic;

use super::fleet::*;
use crate::completeness::{
    Completeness, CompletenessConfig, CompletenessState, Writers, WritersConfig, WritersState, spans,
};
use crate::rekey::Change;
use crate::stage::{Outgoing, PartitionState, Processor, Route, Sourced};
use crate::testing::{carried, entries};

const PARTITIONS: u32 = 3;
/// Partitions of the next generation, where there is one.
const PARTITIONS_NEXT: u32 = 5;
const STEP_MS: i64 = 10;

/// A fleet's events in the order of writing, and what is to happen to them.
#[derive(Debug, Clone)]
struct Fleet {
    /// Events of each session, by writer 0 or 1.
    sessions: Vec<(usize, usize)>,
    weave: Vec<usize>,
    withheld: Vec<prop::sample::Index>,
    repeated: Vec<prop::sample::Index>,
    /// How far back a repetition or a reordering moves.
    swaps: Vec<prop::sample::Index>,
}

fn any_fleet() -> impl Strategy<Value = Fleet> {
    let index = || any::<prop::sample::Index>();
    (
        prop::collection::vec((0..2_usize, 2..9_usize), 1..9),
        prop::collection::vec(any::<usize>(), 0..80),
        prop::collection::vec(index(), 0..12),
        prop::collection::vec(index(), 0..6),
        prop::collection::vec(index(), 0..6),
    )
        .prop_map(|(sessions, weave, withheld, repeated, swaps)| Fleet {
            sessions,
            weave,
            withheld,
            repeated,
            swaps,
        })
}

impl Fleet {
    /// Every event in the order in which the agents write: sessions interleaved, numbered by writer.
    fn written(&self) -> (Vec<Made>, [Writer; 2]) {
        let mut writers = [Writer::new("a"), Writer::new("b")];
        let mut open: Vec<(usize, u8, usize, Vec<Made>)> = Vec::new();
        for (index, (writer, len)) in self.sessions.iter().enumerate() {
            open.push((*writer, index as u8 + 1, *len, Vec::new()));
        }
        let mut written = Vec::new();
        let picks = self.weave.iter().copied().chain(0..);
        for pick in picks {
            open.retain(|(_, _, len, made)| made.len() < *len);
            if open.is_empty() {
                break;
            }
            let at = pick % open.len();
            let (writer, id, len, made) = &mut open[at];
            let event = next_event(made.len(), *len, made.last());
            let next = writers[*writer].chained(*id, made.last(), event);
            made.push(next.clone());
            written.push(next);
        }
        (written, writers)
    }

    fn pick(indices: &[prop::sample::Index], len: usize) -> BTreeSet<usize> {
        indices.iter().map(|index| index.index(len)).collect()
    }
}

fn next_event(index: usize, len: usize, last: Option<&Made>) -> CleanEvent {
    match () {
        () if index == 0 => Event::SessionStarted(SessionStarted { expected_steps: len as i64, ..Default::default() }),
        () if index + 1 == len => Event::SessionEnded(SessionEnded {
            event_count: len as i64,
            final_hash: last.map_or(Sha256::ZERO, |made| made.digest),
            ..Default::default()
        }),
        () => model_call(),
    }
}

/// What the partitions derive, each with its finding list, from what arrived.
fn run_partitions(arrived: &[Made]) -> Vec<Vec<Outgoing>> {
    let config = CompletenessConfig { source_partitions: PARTITIONS, ..Default::default() };
    let partition = |number| {
        let mut items = vec![Item::Tick(1)];
        for made in arrived.iter().filter(|made| home(made, PARTITIONS) == number) {
            items.push(Item::Event(made.clone()));
            if made.event.h().producer_seq % 7 == 3 {
                items.push(Item::Tick(1));
            }
        }
        items.extend([10_000, 200_000, 7_200_000, 14_400_000].map(Item::TickAt));
        run(&config, &records(number, STEP_MS, &items))
    };
    (0..PARTITIONS).map(partition).collect()
}

/// The writers topic, its one partition woven by `picks`.
fn run_writers(partitions: &[Vec<Outgoing>], picks: &[usize]) -> Vec<Outgoing> {
    let on_writers = |outgoing: &&Outgoing| outgoing.topic == Topic::Writers;
    let mut rest: Vec<_> = partitions.iter().map(|derived| derived.iter().filter(on_writers)).collect();
    let mut woven: Vec<&Outgoing> = picks.iter().filter_map(|pick| rest[pick % partitions.len()].next()).collect();
    woven.extend(rest.into_iter().flatten());
    let records: Vec<Sourced<Derived>> = woven
        .into_iter()
        .enumerate()
        .map(|(offset, outgoing)| {
            let at = Position { partition: PartitionId { topic: Topic::Writers, partition: 0 }, offset: offset as u64 };
            let (broker_time, value) = (outgoing.broker_time, outgoing.value.clone());
            Sourced { at, broker_time, source: SourceRef::default(), value }
        })
        .collect();
    let stage = Writers::new(WritersConfig::default());
    stage.process(&mut WritersState::default(), &records).derived
}

/// What sessions must be reported for: missing numbers inside, and an end that never came.
fn expected(written: &[Made], arrived: &[Made]) -> (BTreeMap<Uuid, String>, BTreeSet<Uuid>) {
    let mut seen: BTreeMap<Uuid, BTreeSet<i64>> = BTreeMap::new();
    let mut ended = BTreeSet::new();
    for made in arrived {
        let h = made.event.h();
        seen.entry(h.session_id).or_default().insert(h.seq);
        if matches!(made.event, Event::SessionEnded(_)) {
            ended.insert(h.session_id);
        }
    }
    let mut gaps = BTreeMap::new();
    for (id, seqs) in &seen {
        let top = *seqs.last().unwrap();
        let missing = (0..top).filter(|seq| !seqs.contains(seq)).map(|seq| (seq, seq + 1)).collect();
        let (missing, _) = spans::merged(missing);
        if !missing.is_empty() {
            gaps.insert(*id, spans::print(&missing));
        }
    }
    let all: BTreeSet<Uuid> = written.iter().map(|made| made.event.h().session_id).collect();
    (gaps, all.into_iter().filter(|id| seen.contains_key(id) && !ended.contains(id)).collect())
}

/// What the partitions of one generation derive from what arrives in it.
fn run_generation(states: &mut [CompletenessState], first: u32, arrived: &[Made], ticks: &[i64]) -> Vec<Outgoing> {
    let partitions = states.len() as u32;
    let stage = Completeness::new(CompletenessConfig { source_partitions: partitions, ..Default::default() });
    let mut derived = Vec::new();
    for (index, state) in (0..).zip(states) {
        let mut items = vec![Item::TickAt(ticks[0])];
        for made in arrived.iter().filter(|made| home(made, partitions) == index) {
            items.push(Item::Event(made.clone()));
            if made.event.h().producer_seq % 7 == 3 {
                items.push(Item::Tick(1));
            }
        }
        items.extend(ticks[1..].iter().copied().map(Item::TickAt));
        derived.extend(stage.process(state, &records(first + index, STEP_MS, &items)).derived);
    }
    derived
}

/// What the partitions of the writers topic derive, each read to its end.
fn run_writers_generation(states: &mut [WritersState], derived: &[Outgoing]) -> Vec<Outgoing> {
    let partitions = states.len() as u32;
    let stage = Writers::new(WritersConfig::default());
    let mut out = Vec::new();
    for (index, state) in (0..).zip(states) {
        let here = |outgoing: &&Outgoing| {
            outgoing.topic == Topic::Writers
                && (outgoing.route == Route::All || schemas::topic::partition_of(&outgoing.key, partitions) == index)
        };
        let records: Vec<Sourced<Derived>> = (0..)
            .zip(derived.iter().filter(here))
            .map(|(offset, outgoing)| {
                let at = Position { partition: PartitionId { topic: Topic::Writers, partition: index }, offset };
                let (broker_time, value) = (outgoing.broker_time, outgoing.value.clone());
                Sourced { at, broker_time, source: SourceRef::default(), value }
            })
            .collect();
        let output = stage.process(state, &records);
        assert_eq!(output.rejects, [], "watermarks of the next generation are those of its barrier");
        out.extend(output.derived);
    }
    out
}

proptest! {
    /// Partitions become more at any moment, sessions and writers in whatever state, and the counts stay exact.
    #[test]
    fn more_partitions_make_no_gap_and_hide_none(fleet in any_fleet(), cut in any::<prop::sample::Index>()) {
        let (written, writers) = fleet.written();
        let withheld = Fleet::pick(&fleet.withheld, written.len());
        let kept = written.iter().enumerate().filter(|(index, _)| !withheld.contains(index));
        let unique: Vec<Made> = kept.map(|(_, made)| made.clone()).collect();
        let mut arrived = unique.clone();
        let mut duplicates = 0;
        for index in fleet.repeated.iter().filter(|_| !unique.is_empty()) {
            arrived.push(arrived[index.index(arrived.len())].clone());
            duplicates += 1;
        }
        let (before, after) = arrived.split_at(cut.index(arrived.len() + 1));
        let after: Vec<Made> = after.iter().cloned().chain(writers.map(|mut writer| writer.goodbye())).collect();

        let change = Change { from: PARTITIONS, to: PARTITIONS_NEXT, first: 0 };
        let mut old = vec![CompletenessState::default(); PARTITIONS as usize];
        let mut derived = run_generation(&mut old, 0, before, &[1]);
        let mut old_writers = vec![WritersState::default(); PARTITIONS as usize];
        let mut missing = run_writers_generation(&mut old_writers, &derived);
        let mut new: Vec<CompletenessState> = carried(&CompletenessState::rekey(&entries(&mut old), &change).unwrap(), PARTITIONS_NEXT);
        let mut new_writers: Vec<WritersState> = carried(&WritersState::rekey(&entries(&mut old_writers), &change).unwrap(), PARTITIONS_NEXT);
        let first = schemas::record::first_partition(2);
        let later = run_generation(&mut new, first, &after, &[5_000, 10_000, 200_000, 7_200_000, 14_400_000]);
        missing.extend(run_writers_generation(&mut new_writers, &later));
        derived.extend(later);

        let found = findings(&derived);
        let (gaps, open) = expected(&written, &unique);
        let of = |kind: &str| found.iter().filter(|finding| finding.kind == kind).cloned().collect::<Vec<_>>();
        let named: BTreeMap<Uuid, String> =
            of("sequence_gap").iter().map(|f| (f.h.session_id, f.attributes["missing"].clone())).collect();
        prop_assert_eq!(&named, &gaps);
        prop_assert_eq!(of("unterminated").len(), open.len());
        prop_assert_eq!(of("duplicate").len(), duplicates);
        prop_assert_eq!(found.len(), gaps.len() + open.len() + duplicates, "{:#?}", found);
        let missing = findings(&missing);
        let total: i64 = missing.iter().map(|finding| finding.count).sum();
        prop_assert_eq!(total, withheld.len() as i64, "{:#?}", missing);
        prop_assert!(missing.iter().all(|finding| finding.kind == "writer_gap"), "{:#?}", missing);
        let ids: BTreeSet<Uuid> = found.iter().chain(&missing).map(|finding| finding.h.event_id).collect();
        prop_assert_eq!(ids.len(), found.len() + missing.len(), "no id is given twice");
        let totals = derived.iter().filter_map(|outgoing| match &outgoing.value {
            Derived::ControlTotal(total) => Some(total),
            _ => None,
        });
        let sums = totals.fold((0, 0), |sums, total| (sums.0 + total.records, sums.1 + total.duplicates));
        prop_assert_eq!(sums, ((before.len() + after.len()) as i64, duplicates as i64));
    }

    #[test]
    fn every_withheld_and_every_repeated_event_is_counted_and_nothing_else_is_reported(
        fleet in any_fleet(),
        picks in prop::collection::vec(any::<usize>(), 0..60),
    ) {
        let (written, writers) = fleet.written();
        let withheld = Fleet::pick(&fleet.withheld, written.len());
        let kept = written.iter().enumerate().filter(|(index, _)| !withheld.contains(index));
        let mut arrived: Vec<Made> = kept.map(|(_, made)| made.clone()).collect();
        let unique = arrived.clone();
        let mut duplicates = 0;
        if !unique.is_empty() {
            for at in Fleet::pick(&fleet.swaps, arrived.len()) {
                arrived.swap(at / 2, at);
            }
            for index in &fleet.repeated {
                let made = arrived[index.index(arrived.len())].clone();
                arrived.push(made);
                duplicates += 1;
            }
        }
        // Not among what is withheld: the heartbeat that claims the last number.
        arrived.extend(writers.map(|mut writer| writer.goodbye()));

        let partitions = run_partitions(&arrived);
        let found: Vec<DetectionRaised> = partitions.iter().flat_map(|derived| findings(derived)).collect();
        let (gaps, open) = expected(&written, &unique);
        let of = |kind: &str| found.iter().filter(|finding| finding.kind == kind).cloned().collect::<Vec<_>>();
        let named: BTreeMap<Uuid, String> =
            of("sequence_gap").iter().map(|f| (f.h.session_id, f.attributes["missing"].clone())).collect();
        prop_assert_eq!(&named, &gaps);
        let unterminated: BTreeSet<Uuid> = of("unterminated").iter().map(|f| f.h.session_id).collect();
        prop_assert_eq!(&unterminated, &open);
        prop_assert_eq!(of("duplicate").len(), duplicates);
        prop_assert_eq!(found.len(), gaps.len() + open.len() + duplicates, "{:#?}", found);

        let woven = run_writers(&partitions, &picks);
        let missing = findings(&woven);
        let total: i64 = missing.iter().map(|finding| finding.count).sum();
        prop_assert_eq!(total, withheld.len() as i64, "{:#?}", missing);
        prop_assert!(missing.iter().all(|finding| finding.kind == "writer_gap"), "{:#?}", missing);
        prop_assert_eq!(woven, run_writers(&partitions, &[]), "another interleaving gives the same findings");

        let totals = partitions.iter().flatten().filter_map(|outgoing| match &outgoing.value {
            Derived::ControlTotal(total) => Some(total),
            _ => None,
        });
        let sums = totals.fold((0, 0), |sums, total| (sums.0 + total.records, sums.1 + total.duplicates));
        prop_assert_eq!(sums, (arrived.len() as i64, duplicates as i64));
        let marks = partitions.iter().flatten().filter(|o| o.route == Route::All).count();
        prop_assert!(marks >= 5 * PARTITIONS as usize);
    }
}
