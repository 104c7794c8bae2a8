//! The counts are exact: whatever is withheld or repeated anywhere is found, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use schemas::codec::Derived;
use schemas::event::*;
use schemas::id::{Sha256, Uuid};
use schemas::record::{PartitionId, Position, SourceRef};
use schemas::topic::Topic;

use super::fleet::*;
use crate::completeness::{CompletenessConfig, Writers, WritersConfig, WritersState, spans};
use crate::stage::{Outgoing, Processor, Route, Sourced};

const PARTITIONS: u32 = 3;
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

proptest! {
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
