//! The auditor: knows what was put in and holds everything that came out against it.
//!
//! It trusts no role: it reads the log, the objects and the inserts themselves. What the sinks
//! published is `published`'s half.

use std::collections::{BTreeMap, BTreeSet};

use schemas::codec::{Derived, codec};
use schemas::event::Event;
use schemas::id::Sha256;
use schemas::record::{PartitionId, Position, Record, SourceRef, header, header_value};
use schemas::text::RawText;
use schemas::topic::Topic;

use super::lanes::{Lanes, Topics};
use super::workload::Workload;
use super::world::World;
use super::{fold, published};
use crate::demo::census;
use crate::stage_table::written_topics;

/// A writer and its epoch.
type WriterEpoch = (String, i64);

/// What is wrong with a run; empty if nothing is. `acknowledged` is where the log said that it keeps
/// each record of the workload.
pub(super) async fn examine(
    world: &World,
    workload: &Workload,
    acknowledged: &[Position],
) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let events = world.topics(&[Topic::Events]).await?;
    let mut topics = world.topics(&written_topics()).await?;
    intake(&events, workload, acknowledged, &mut wrong);
    // In this order: what follows is held against the events that the first stage accepted.
    let accepted = answers(world, &events, &topics, &mut wrong);
    missing(&accepted, &topics, &mut wrong);
    counts(world, workload, &mut wrong).await?;
    secrecy(world, workload, &topics, &mut wrong);
    published::examine(world, &topics, &mut wrong).await?;
    // Of the input alone: what an installation would hold in which nothing ever went wrong.
    let ideal = fold::chain(world, &events).await?;
    let are_ids_masked = !world.setup.is_dense;
    let due = Lanes::of(&ideal, are_ids_masked);
    wrong.extend(Lanes::of(&topics, are_ids_masked).differences(&due, "without faults"));
    // Where the log has holes of its own, ids are not compared above; here the stages read the same holes, so that
    // every byte must agree.
    if are_ids_masked {
        topics.extend(events);
        let again = fold::chain(world, &topics).await?;
        wrong.extend(Lanes::of(&topics, false).differences(&Lanes::of(&again, false), "the same log gives"));
    }
    Ok(wrong)
}

/// Acknowledged ⇒ present, where the log said, byte for byte; and nothing else is.
fn intake(events: &Topics, workload: &Workload, acknowledged: &[Position], wrong: &mut Vec<String>) {
    let held = events.values().map(Vec::len).sum::<usize>();
    // The intake of the simulation never loses an acknowledgement, so that all three are the same number.
    if held != workload.records.len() || acknowledged.len() != held {
        let (sent, acknowledged) = (workload.records.len(), acknowledged.len());
        wrong.push(format!("{sent} records sent, {acknowledged} acknowledged, {held} in the log"));
    }
    for (at, sent) in acknowledged.iter().zip(&workload.records) {
        let record = events.get(&at.partition).and_then(|records| record_at(records, at.offset));
        if record.is_none_or(|record| record.value != sent.value || record.key != sent.key) {
            wrong.push(format!("acknowledged at {at:?}, but not there"));
        }
    }
}

fn record_at(records: &[Record], offset: u64) -> Option<&Record> {
    records.get(records.binary_search_by_key(&offset, |r| r.at.offset).ok()?)
}

/// Every source record has exactly one answer: a clean record that names it, or a dead letter with its
/// bytes. Answers of a partition stand in the order of their sources. Returns the records that were
/// accepted.
fn answers<'a>(world: &World, events: &'a Topics, topics: &Topics, wrong: &mut Vec<String>) -> Vec<&'a Record> {
    let mut accepted = Vec::new();
    for partition in 0..world.setup.partitions {
        let of = |topic| PartitionId { topic, partition };
        let records = |topics: &'a Topics, topic| topics.get(&of(topic)).map(Vec::as_slice).unwrap_or_default();
        let sources = records(events, Topic::Events);
        // What no answer takes out of this set was lost.
        let mut left: BTreeSet<u64> = sources.iter().map(|r| r.at.offset).collect();
        let mut answer =
            |offset: Option<u64>, is_right: &dyn Fn(&Record) -> bool, at: Position| -> Option<&'a Record> {
                let source = offset.and_then(|offset| record_at(sources, offset));
                let Some(source) = source.filter(|source| is_right(source)) else {
                    wrong.push(format!("{at:?} answers no record that was sent"));
                    return None;
                };
                if !left.remove(&source.at.offset) {
                    wrong.push(format!("event {:?} was answered twice", source.at));
                }
                Some(source)
            };
        let mut last = None;
        let mut disordered = Vec::new();
        for clean in topics.get(&of(Topic::Clean)).into_iter().flatten() {
            let named = SourceRef::from_headers(&clean.headers);
            let is_right = |source: &Record| answers_clean(source, clean, named);
            let source = answer(named.map(|named| named.offset), &is_right, clean.at);
            let offset = source.map(|source| source.at.offset);
            // Equal is disorder as well: the same source was answered twice.
            if offset <= last {
                disordered.push(clean.at);
            }
            // An answer to nothing is reported above and must not hide the order of those after it.
            last = offset.or(last);
            accepted.extend(source);
        }
        for letter in topics.get(&of(Topic::Dlq)).into_iter().flatten() {
            let offset = header_value(&letter.headers, header::DLQ_OFFSET);
            let offset = offset.and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
            // A dead letter keeps key and value untouched, or it could not be replayed.
            answer(offset, &|source| (&source.key, &source.value) == (&letter.key, &letter.value), letter.at);
        }
        wrong.extend(disordered.iter().map(|at| format!("{at:?} stands before the answer to an earlier event")));
        wrong.extend(left.iter().map(|offset| format!("event {partition}/{offset} was lost")));
    }
    accepted
}

/// Whether `clean` is what it says: made from these very bytes, under the same id.
fn answers_clean(source: &Record, clean: &Record, named: Option<SourceRef>) -> bool {
    let is_of_bytes = named.is_some_and(|n| n.sha256 == Sha256::of(source.value.as_deref().unwrap_or_default()));
    let id = codec().decode::<RawText>(source.value.as_deref()).ok().map(|event| event.h().event_id);
    let clean_id = match codec().decode_derived(clean.value.as_deref()) {
        Ok(Derived::Event(event)) => Some(event.h().event_id),
        _ => None,
    };
    is_of_bytes && id.is_some() && id == clean_id
}

/// Each writer's numbers that reached no partition are reported missing, and no others.
fn missing(accepted: &[&Record], topics: &Topics, wrong: &mut Vec<String>) {
    let mut numbers: BTreeMap<WriterEpoch, (BTreeSet<i64>, i64)> = BTreeMap::new();
    for record in accepted {
        let Ok(event) = codec().decode::<RawText>(record.value.as_deref()) else { continue };
        let h = event.h();
        if event.is_tick() || h.producer_seq < 0 {
            continue;
        }
        let (seen, last) = numbers.entry((h.producer_id.clone(), h.producer_epoch)).or_insert((BTreeSet::new(), -1));
        seen.insert(h.producer_seq);
        // A tail that was withheld shows in no event, only in what its writer claims.
        let claimed = if let Event::Heartbeat(beat) = &event { beat.last_producer_seq } else { -1 };
        *last = (*last).max(claimed).max(h.producer_seq);
    }
    // Numbers begin at 0, so that the last one gives how many there should be.
    let lost = |(writer, (seen, last)): (WriterEpoch, (BTreeSet<i64>, i64))| (writer, last + 1 - seen.len() as i64);
    let mut due: BTreeMap<WriterEpoch, i64> = numbers.into_iter().map(lost).collect();
    for record in topics.iter().filter(|(id, _)| id.topic == Topic::Findings).flat_map(|(_, records)| records) {
        let Ok(Derived::Event(Event::DetectionRaised(found))) = codec().decode_derived(record.value.as_deref()) else {
            continue;
        };
        let sign = match found.kind.as_str() {
            "writer_gap" => -1,
            // Sessions report theirs under the same kind; only those of the stage `writers` count numbers of writers.
            "gap_filled" if found.detector.contains("writers") => 1,
            _ => continue,
        };
        let fact = |name: &str| found.attributes.get(name).cloned().unwrap_or_default();
        let writer = (fact("producer_id"), fact("producer_epoch").parse().unwrap_or(-1));
        // Signed: a finding about a writer that lost nothing leaves a difference, too.
        *due.entry(writer).or_default() += sign * found.count;
    }
    for ((writer, epoch), left) in due.into_iter().filter(|(_, left)| *left != 0) {
        wrong.push(format!("writer {writer} in epoch {epoch}: {left} missing events too few in the findings"));
    }
}

/// What was withheld is reported missing, what was doubled as duplicate, and nothing else is.
async fn counts(world: &World, workload: &Workload, wrong: &mut Vec<String>) -> anyhow::Result<()> {
    // Counted by the demo's census as well, which prints these numbers to people.
    let (census, totals) = (census::take(&world.broker).await?, &workload.totals);
    let mut expect = |what: &str, found: u64, expected: u64| {
        if found != expected {
            wrong.push(format!("{what}: {found}, expected {expected}"));
        }
    };
    expect("accepted events", census.accepted, totals.delivered);
    expect("missing events", census.missing.max(0).unsigned_abs(), totals.withheld);
    expect("duplicates", census.findings.get("duplicate").copied().unwrap_or_default(), totals.duplicated);
    expect("dead letters", census.rejected.values().sum(), totals.malformed);
    Ok(())
}

/// No planted value stands in anything that was published. Dead letters keep what was sent, on purpose.
fn secrecy(world: &World, workload: &Workload, topics: &Topics, wrong: &mut Vec<String>) {
    let finder = match aho_corasick::AhoCorasick::new(&workload.secrets) {
        Ok(finder) => finder,
        Err(error) => return wrong.push(format!("the planted values cannot be looked for: {error}")),
    };
    for (id, records) in topics.iter().filter(|(id, _)| id.topic != Topic::Dlq) {
        let values = records.iter().filter_map(|record| record.value.as_deref());
        // Whole values at a time: a planted value may stand anywhere, in a key of a map as well.
        let leaks = values.filter(|value| finder.is_match(value)).count();
        if leaks > 0 {
            wrong.push(format!("{leaks} records of {id:?} hold a planted value"));
        }
    }
    for held in world.tables.all() {
        if held.insert.chunks.iter().any(|chunk| finder.is_match(chunk)) {
            wrong.push(format!("insert {} holds a planted value", held.insert.token));
        }
    }
}
