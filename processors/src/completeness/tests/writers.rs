//! The stage `writers`, one deviation at a time.

use schemas::codec::Derived;
use schemas::event::*;
use schemas::record::{PartitionId, Position, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use super::fleet::{START_MS, TENANT, findings, kinds};
use crate::completeness::{Writers, WritersConfig, WritersState};
use crate::stage::{Processor, Sourced};

const MINUTE_MS: i64 = 60_000;

/// At a minute: a report of (epoch, ranges, claim, closed), or nothing but the watermark.
type Step<'a> = (i64, Option<(i64, &'a [(i64, i64)], i64, bool)>);

fn record(offset: usize, minute: i64, value: Derived) -> Sourced<Derived> {
    let at = Position { partition: PartitionId { topic: Topic::Writers, partition: 0 }, offset: offset as u64 };
    let broker_time = TimestampMicros::from_ms(START_MS + minute * MINUTE_MS);
    Sourced { at, broker_time, source: SourceRef::default(), value }
}

/// The steps of one source partition lead to exactly these findings.
#[track_caller]
fn check(steps: &[Step<'_>], expected: &[(&str, i64)]) -> Vec<DetectionRaised> {
    let mut records = Vec::new();
    for (minute, report) in steps {
        if let Some((producer_epoch, ranges, last_claimed, closed)) = report {
            let span = WriterSpan {
                tenant_id: TENANT.to_owned(),
                producer_id: "w".to_owned(),
                agent_id: "agent".to_owned(),
                producer_epoch: *producer_epoch,
                spans: ranges.iter().map(|(first, next)| SeqSpan { first: *first, next: *next }).collect(),
                last_claimed: *last_claimed,
                closed: *closed,
                ..Default::default()
            };
            records.push(record(records.len(), *minute, Derived::WriterSpan(span)));
        }
        let at = TimestampMicros::from_ms(START_MS + minute * MINUTE_MS);
        let watermark = Watermark { at, source_partition: 0, source_partitions: 1 };
        records.push(record(records.len(), *minute, Derived::Watermark(watermark)));
    }
    let stage = Writers::new(WritersConfig::default());
    let output = stage.process(&mut WritersState::default(), &records);
    let found = findings(&output.derived);
    let expected: Vec<_> = expected.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    assert_eq!(kinds(&found), expected, "{found:#?}");
    found
}

#[test]
fn numbers_that_stay_away_are_reported_once() {
    let found = check(
        &[(0, Some((1, &[(0, 3), (5, 6), (9, 10)], -1, false))), (1, None), (3, None), (9, None)],
        &[("writer_gap", 5)],
    );
    assert_eq!(found[0].attributes["missing"], "3-4, 6-8");
    assert_eq!(found[0].reason, "5 of 10 events of writer w reached no partition (producer_seq 3-4, 6-8)");
    assert_eq!(found[0].h.event_time, TimestampMicros::from_ms(START_MS + 3 * MINUTE_MS));
}

#[test]
fn numbers_that_come_within_the_grace_are_not_reported() {
    check(&[(0, Some((1, &[(4, 9)], -1, false))), (1, Some((1, &[(0, 4)], -1, false))), (9, None)], &[]);
}

#[test]
fn a_claim_shows_what_never_came() {
    check(&[(0, Some((1, &[(0, 4)], 9, true))), (9, None)], &[("writer_gap", 6)]);
    check(&[(0, Some((1, &[], 9, true))), (9, None)], &[("writer_gap", 10)]);
    check(&[(0, Some((1, &[(0, 4)], 3, true))), (9, None)], &[]);
}

#[test]
fn numbers_that_come_after_their_report_are_taken_back() {
    let found = check(
        &[
            (0, Some((1, &[(0, 2), (8, 9)], -1, false))),
            (5, None),
            (6, Some((1, &[(3, 5), (7, 8)], -1, false))),
            (20, None),
        ],
        &[("writer_gap", 6), ("gap_filled", 3)],
    );
    assert_eq!(found[1].attributes["filled"], "3-4, 7");
}

#[test]
fn numbers_used_twice_are_reported() {
    check(&[(0, Some((1, &[(0, 9)], -1, false))), (1, Some((1, &[(4, 12)], -1, false)))], &[("seq_regressed", 5)]);
    check(&[(0, Some((1, &[(0, 9), (3, 5)], -1, false)))], &[("seq_regressed", 2)]);
}

#[test]
fn an_epoch_starts_over_and_an_older_one_is_a_clock_set_back() {
    let (first, second) = ((1, [(0, 4)]), (2, [(0, 2)]));
    check(&[(0, Some((first.0, &first.1, -1, false))), (1, Some((second.0, &second.1, -1, false))), (9, None)], &[]);
    check(
        &[(0, Some((second.0, &second.1, -1, false))), (1, Some((first.0, &first.1, -1, false))), (9, None)],
        &[("seq_regressed", 1)],
    );
}

#[test]
fn a_writer_that_stops_without_a_word_is_silent_once() {
    let steps: &[Step<'_>] = &[(0, Some((1, &[(0, 4)], 2, false))), (1, None), (3, None), (9, None)];
    check(steps, &[("writer_silent", 1)]);
    let again: &[Step<'_>] = &[(10, Some((1, &[(4, 6)], 4, false))), (20, None)];
    check(&[steps, again].concat(), &[("writer_silent", 1), ("writer_silent", 1)]);
    check(&[(0, Some((1, &[(0, 4)], 2, true))), (9, None)], &[]);
    check(&[(0, Some((1, &[(0, 4)], -1, false))), (9, None)], &[]);
}

#[test]
fn a_long_running_epoch_that_is_not_remembered_is_judged_from_its_first_number() {
    let epoch = TimestampMicros::from_ms(START_MS - 40 * 1_440 * MINUTE_MS).0;
    check(&[(0, Some((epoch, &[(500, 504), (505, 506)], -1, false))), (9, None)], &[("writer_gap", 1)]);
}

#[test]
fn an_epoch_is_reported_before_it_is_forgotten() {
    let report = |minute, epoch| (minute, Some((epoch, &[(1_i64, 2_i64)][..], -1, false)));
    let steps: Vec<Step<'_>> = (0..5).map(|n| report(n, n)).collect();
    // The grace has passed for the epochs of minutes 0, 1 and 2; nothing is reported twice when the
    // fifth epoch pushes the first one out.
    check(&steps, &[("writer_gap", 1), ("writer_gap", 1), ("writer_gap", 1)]);
}

#[test]
fn a_changed_partition_count_is_reported_as_data() {
    let mark = |source_partitions| Derived::Watermark(Watermark { source_partitions, ..Default::default() });
    let records = [record(0, 0, mark(2)), record(1, 0, mark(3)), record(2, 0, Derived::Alert(Alert::default()))];
    let output = Writers::default().process(&mut WritersState::default(), &records);
    assert_eq!(kinds(&findings(&output.derived)), [("watermark_refused".to_owned(), 1)]);
    assert_eq!(output.rejects.len(), 1);
}
