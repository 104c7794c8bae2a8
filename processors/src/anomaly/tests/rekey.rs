//! More partitions in the middle of an outage: the alerts are those of a fleet whose partitions stayed.

use super::*;
use crate::rekey::Change;
use crate::stage::PartitionState;
use crate::testing::{carried, entries};

const PARTITIONS_NEXT: u32 = 8;

/// One generation: events and ticks of `[first, next)` through both stages.
fn generation(
    features: &mut [<Features as Processor>::State],
    scores: &mut [<Score as Processor>::State],
    number: u32,
    records: &[Timed],
) -> Vec<Alert> {
    let count = features.len() as u32;
    let first = schemas::record::first_partition(number);
    let stage = Features::new(FeaturesConfig { source_partitions: count, ..FeaturesConfig::default() });
    let mut derived = Vec::new();
    for (index, state) in (0..).zip(features) {
        let here = |(_, event): &&Timed| {
            event.is_tick() || partition_of(&session_key("acme", event.h().session_id), count) == index
        };
        let records = sourced(Topic::Clean, first + index, records.iter().filter(here).cloned());
        derived.extend(stage.process(state, &records).derived);
    }
    let stage = Score::new(ScoreConfig::default());
    let mut alerts = Vec::new();
    for (index, state) in (0..).zip(scores) {
        let here = |o: &&Outgoing| {
            o.topic == Topic::Signals && (o.route == Route::All || partition_of(&o.key, count) == index)
        };
        let signals = derived.iter().filter(here).map(|o| (o.broker_time, o.value.clone()));
        let output = stage.process(state, &sourced(Topic::Signals, first + index, signals));
        assert_eq!(output.rejects, [], "watermarks of the next generation are those of its barrier");
        alerts.extend(alerts_of(output.derived));
    }
    alerts.extend(derived.into_iter().filter_map(|o| match o.value {
        Derived::Alert(alert) => Some(alert),
        _ => None,
    }));
    alerts
}

/// What was reported, in order: class, subject, metric, status and when.
fn reported(mut alerts: Vec<Alert>) -> Vec<(TimestampMicros, String)> {
    alerts.sort_by_key(|alert| (alert.updated_at, alert.fingerprint.clone()));
    let times: Vec<TimestampMicros> = alerts.iter().map(|alert| alert.updated_at).collect();
    times.into_iter().zip(lines(&alerts)).collect()
}

#[test]
fn alerts_that_fire_end_and_new_ones_begin_as_if_the_partitions_had_stayed() {
    let fleet = Fleet { minutes: 60, outage: Some((40, 50)), burst: Some((44, 52)), ..Fleet::quiet(2) };
    let fleet = Fleet { extra: vec![declared(&["tool-2"], "08-18")], ..fleet };
    let expected = reported(alerts(&fleet));
    assert!(expected.len() > 4, "{expected:?}");
    let mut records = fleet.events();
    records.extend((1..=2 * (fleet.minutes + 12)).map(|half| {
        let at = START.plus_ms(half * MINUTE_MS / 2);
        (at, tick(at))
    }));
    records.sort_by_key(|(at, event)| (*at, event.is_tick()));
    // Within a window, between two, before, within and after what is reported.
    for seconds in [600, 2_415, 2_520, 2_705, 3_130, 3_599] {
        let cut = START.plus_ms(seconds * 1_000);
        let (before, after) = records.split_at(records.partition_point(|(at, _)| *at < cut));
        let change = Change { from: PARTITIONS, to: PARTITIONS_NEXT, first: 0 };
        let mut features = vec![<Features as Processor>::State::default(); PARTITIONS as usize];
        let mut scores = vec![<Score as Processor>::State::default(); PARTITIONS as usize];
        let mut found = generation(&mut features, &mut scores, 1, before);
        let mut features: Vec<_> =
            carried(&<Features as Processor>::State::rekey(&entries(&mut features), &change).unwrap(), PARTITIONS_NEXT);
        let mut scores: Vec<_> =
            carried(&<Score as Processor>::State::rekey(&entries(&mut scores), &change).unwrap(), PARTITIONS_NEXT);
        found.extend(generation(&mut features, &mut scores, 2, after));
        assert_eq!(reported(found), expected, "cut after {seconds} s");
    }
}
