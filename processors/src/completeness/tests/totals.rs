//! Hours add up, and what was acknowledged and is not there is found.

use schemas::codec::Derived;
use schemas::event::{CleanEvent, ControlTotal, Event, Tick};
use schemas::id::Sha256;
use schemas::time::TimestampMicros;

use super::fleet::*;
use crate::completeness::CompletenessConfig;
use crate::stage::{Outgoing, Sourced};

const HOUR_MS: i64 = 3_600_000;

/// A clean record at (ms after the start, source offset).
fn at(offset: u64, ms: i64, source_offset: u64, event: CleanEvent) -> Sourced<CleanEvent> {
    let digest = Sha256::of(&event.h().event_id.0);
    let mut record = record(4, offset, START_MS + ms, event, digest);
    record.source.offset = source_offset;
    record
}

fn acked(ms: i64, writer_id: &str, records_acked: i64) -> CleanEvent {
    Event::Tick(Tick { records_acked, writer_id: writer_id.to_owned(), ..tick(START_MS + ms) })
}

fn totals(derived: &[Outgoing]) -> Vec<ControlTotal> {
    let total = |outgoing: &Outgoing| match &outgoing.value {
        Derived::ControlTotal(total) => Some(total.clone()),
        _ => None,
    };
    derived.iter().filter_map(total).collect()
}

fn session(n: usize) -> Vec<CleanEvent> {
    let made = Writer::new("w").session(1, "", vec![model_call(); n - 2]);
    made.into_iter().map(|made| Event::clone(&made.event)).collect()
}

/// Hop, hour, records, ticks, rejected, source offsets of a total.
fn line(total: &ControlTotal) -> (String, i64, i64, i64, i64, (i64, i64)) {
    let hour = (total.hour.ms() - START_MS) / HOUR_MS;
    (total.hop.clone(), hour, total.records, total.ticks, total.rejected, (total.offset_first, total.offset_next))
}

#[test]
fn an_hour_counts_records_ticks_and_skipped_source_offsets() {
    let [a, b, c]: [CleanEvent; 3] = session(3).try_into().unwrap();
    let records = [
        at(0, 1_000, 2, a.clone()),
        at(1, 2_000, 2, a),
        at(5, 3_000, 3, acked(3_000, "g", -1)),
        at(7, 4_000, 6, b),
        at(8, HOUR_MS + 1_000, 7, c),
        at(9, HOUR_MS + 310_000, 9, acked(HOUR_MS + 310_000, "g", -1)),
        at(10, 3 * HOUR_MS, 10, acked(3 * HOUR_MS, "g", -1)),
    ];
    let derived = run(&CompletenessConfig::default(), &records);
    let found = totals(&derived);
    let lines: Vec<_> = found.iter().map(line).collect();
    let clean = |hour, records, ticks, rejected, offsets| ("clean".to_owned(), hour, records, ticks, rejected, offsets);
    assert_eq!(lines, [clean(0, 2, 1, 4, (0, 7)), clean(1, 1, 1, 1, (7, 10))]);
    assert!(found.iter().all(|total| total.closed && total.partition == 4));
    let types = [("model.call".to_owned(), 1), ("session.started".to_owned(), 1)];
    assert_eq!(found[0].counts_by_type, types.into());
}

#[test]
fn a_topic_that_does_not_start_at_its_origin_counts_nothing_as_rejected() {
    let records = [at(90, 1_000, 100, session(2).remove(0)), at(91, 2 * HOUR_MS, 101, acked(2 * HOUR_MS, "g", 70))];
    let derived = run(&CompletenessConfig::default(), &records);
    assert_eq!(totals(&derived).iter().map(line).map(|l| l.4).collect::<Vec<_>>(), [0, 0]);
    let unterminated = ("unterminated".to_owned(), 1);
    assert_eq!(kinds(&findings(&derived)), [unterminated], "counts from before the first record are not compared");
}

#[test]
fn intake_is_allotted_to_hours_and_equals_clean_and_rejected() {
    let mut records: Vec<_> = session(4).into_iter().zip([0, 1, 2, 4]).collect::<Vec<_>>();
    let last = records.pop().unwrap();
    let mut log: Vec<_> = records.into_iter().map(|(event, source)| at(source, 1_000, source, event)).collect();
    // The tick of the first hour knows of two; the others were acknowledged after it.
    log.push(at(3, 2_000, 3, acked(2_000, "g", 2)));
    log.push(at(4, HOUR_MS, 4, last.0));
    log.push(at(5, HOUR_MS + 1_000, 6, acked(HOUR_MS + 1_000, "g", 3)));
    log.push(at(6, HOUR_MS + 2_000, 7, acked(HOUR_MS + 2_000, "h", 2)));
    log.push(at(7, 3 * HOUR_MS, 8, acked(3 * HOUR_MS, "g", 3)));
    let derived = run(&CompletenessConfig::default(), &log);
    assert_eq!(findings(&derived), []);
    let found = totals(&derived);
    let records: Vec<_> = found.iter().map(|total| (total.hop.as_str(), total.records, total.rejected)).collect();
    assert_eq!(records, [("intake", 3, 0), ("clean", 3, 0), ("intake", 2, 0), ("clean", 1, 1)]);
}

#[test]
fn acknowledged_records_that_are_not_there_are_a_mismatch() {
    let mut log: Vec<_> = session(3).into_iter().zip(0..).map(|(event, n)| at(n, 1_000, n, event)).collect();
    log.push(at(3, 2_000, 3, acked(2_000, "g", 8)));
    log.push(at(4, 3_000, 4, acked(3_000, "g", 8)));
    log.push(at(5, 2 * HOUR_MS, 5, acked(2 * HOUR_MS, "g", 9)));
    let derived = run(&CompletenessConfig::default(), &log);
    let expected = [5, 1].map(|count| ("control_total_mismatch".to_owned(), count));
    assert_eq!(kinds(&findings(&derived)), expected);
    let intake: Vec<_> = totals(&derived).iter().map(|total| (total.hop.clone(), total.records)).collect();
    assert_eq!(intake, [("intake".to_owned(), 8), ("clean".to_owned(), 3)]);
}

#[test]
fn a_record_that_the_stage_before_delivered_again_counts_once() {
    let events = session(3);
    let mut log: Vec<_> = events.iter().cloned().zip(0..).map(|(event, n)| at(n, 1_000, n, event)).collect();
    log.extend(events.into_iter().zip(0..).map(|(event, n)| at(3 + n, 1_500, n, event)));
    log.push(at(6, 2 * HOUR_MS, 3, acked(2 * HOUR_MS, "g", -1)));
    let derived = run(&CompletenessConfig::default(), &log);
    assert_eq!(findings(&derived), []);
    assert_eq!((totals(&derived)[0].records, totals(&derived)[0].duplicates), (3, 0));
}

#[test]
fn a_record_of_a_closed_hour_counts_in_the_open_one() {
    let [a, b]: [CleanEvent; 2] = session(2).try_into().unwrap();
    let log = [
        at(0, 1_000, 0, a),
        at(1, HOUR_MS + 400_000, 1, acked(HOUR_MS + 400_000, "g", -1)),
        at(2, HOUR_MS - 1, 2, b),
        at(3, 3 * HOUR_MS, 3, acked(3 * HOUR_MS, "g", -1)),
    ];
    let derived = run(&CompletenessConfig::default(), &log);
    let hours: Vec<_> = totals(&derived).iter().map(|total| (total.hour.ms(), total.records)).collect();
    assert_eq!(hours, [(START_MS, 1), (START_MS + HOUR_MS, 1)]);
}

#[test]
fn a_tick_far_ahead_of_the_broker_is_not_believed() {
    let mut log: Vec<_> = session(3).into_iter().zip(0..).map(|(event, n)| at(n, 1_000, n, event)).collect();
    log.truncate(2);
    log.push(at(2, 2_000, 2, acked(100 * HOUR_MS, "g", -1)));
    let derived = run(&CompletenessConfig::default(), &log);
    assert_eq!(findings(&derived), []);
    let Derived::Watermark(watermark) = &derived.last().unwrap().value else { panic!("{derived:?}") };
    assert_eq!(watermark.at, TimestampMicros::from_ms(START_MS + 62_000));
}
