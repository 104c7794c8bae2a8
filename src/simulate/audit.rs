//! The auditor: knows what was put in and holds everything that came out against it.
//!
//! It trusts no role: it reads the log, the objects and the inserts themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ingest::log::Broker as _;
use schemas::record::{PartitionId, Record, SourceRef, header, header_value};
use schemas::table::Row;
use schemas::topic::Topic;
use sinks::parquet::read;
use sinks::parquet::store::Store;
use sinks::parquet::verify::{VerifyOptions, verify};
use sinks::row::row_of;

use super::world::World;
use crate::demo::census;
use crate::fleet::stream::Totals;

/// Topics that sinks publish.
const PUBLISHED: [Topic; 3] = [Topic::Clean, Topic::Findings, Topic::Alerts];

/// Everything that a run published, for comparison with another run of the same input.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    /// Values of every record of every topic that stages write, by partition.
    pub(super) topics: BTreeMap<PartitionId, Vec<Vec<u8>>>,
    /// Objects of the archive.
    pub(super) objects: BTreeMap<String, Vec<u8>>,
}

/// What is wrong with a run; empty if nothing is.
pub(super) async fn examine(
    world: &World,
    totals: &Totals,
    secrets: &[String],
) -> anyhow::Result<(Vec<String>, Outcome)> {
    let mut wrong = Vec::new();
    let mut outcome = Outcome::default();
    let mut rows: BTreeMap<PartitionId, BTreeMap<u64, Record>> = BTreeMap::new();
    for topic in [Topic::Clean, Topic::Findings, Topic::Signals, Topic::Writers, Topic::Alerts, Topic::Dlq] {
        for partition in 0..world.broker.partitions(topic).await? {
            let id = PartitionId { topic, partition };
            let records = world.broker.records(id);
            let values = records.iter().map(|r| r.value.as_deref().unwrap_or_default().to_vec());
            outcome.topics.insert(id, values.collect());
            if PUBLISHED.contains(&topic) {
                let held = records.into_iter().filter(|r| matches!(row_of(r, Row::loaded), Ok(Some(_))));
                rows.insert(id, held.map(|r| (r.at.offset, r)).collect());
            }
        }
    }
    one_clean_or_one_letter(world, &mut wrong).await?;
    archive(world, &rows, &mut wrong, &mut outcome).await?;
    tables(world, &rows, &mut wrong);
    secrecy(world, secrets, &outcome, &mut wrong);
    counts(world, totals, &mut wrong).await?;
    Ok((wrong, outcome))
}

/// Every source record has exactly one clean record or one dead letter.
async fn one_clean_or_one_letter(world: &World, wrong: &mut Vec<String>) -> anyhow::Result<()> {
    for partition in 0..world.partitions {
        let id = |topic| PartitionId { topic, partition };
        let mut answers: BTreeMap<u64, u32> = BTreeMap::new();
        for record in world.broker.records(id(Topic::Clean)) {
            match SourceRef::from_headers(&record.headers) {
                Some(source) => *answers.entry(source.offset).or_default() += 1,
                None => wrong.push(format!("clean record {:?} names no source", record.at)),
            }
        }
        for letter in world.broker.records(id(Topic::Dlq)) {
            let offset = header_value(&letter.headers, header::DLQ_OFFSET);
            let offset = offset.and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
            *answers.entry(offset.unwrap_or(u64::MAX)).or_default() += 1;
        }
        let sources: BTreeSet<u64> = world.broker.records(id(Topic::Events)).iter().map(|r| r.at.offset).collect();
        for offset in &sources {
            match answers.remove(offset) {
                Some(1) => {}
                Some(count) => wrong.push(format!("event {partition}/{offset} was answered {count} times")),
                None => wrong.push(format!("event {partition}/{offset} was lost")),
            }
        }
        wrong.extend(answers.keys().map(|offset| format!("an answer to {partition}/{offset}, which was never sent")));
    }
    Ok(())
}

/// The archive verifies and holds exactly the rows of the log.
async fn archive(
    world: &World,
    rows: &BTreeMap<PartitionId, BTreeMap<u64, Record>>,
    wrong: &mut Vec<String>,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let store = Store::new(Arc::clone(&world.objects) as Arc<dyn object_store::ObjectStore>);
    let options = VerifyOptions { threads: 1, ..VerifyOptions::default() };
    let report = verify(&store, &options, |_| ()).await?;
    wrong.extend(report.failures.iter().map(|f| format!("archive {}: {}", f.object, f.reason)));
    let mut archived: BTreeMap<PartitionId, BTreeMap<u64, Record>> = BTreeMap::new();
    for manifest in read::manifests(&store, &PUBLISHED).await? {
        for record in read::records(&store, &manifest).await? {
            let record = record?;
            let held = archived.entry(record.at.partition).or_default();
            if held.insert(record.at.offset, record.clone()).is_some() {
                wrong.push(format!("archived twice: {:?}", record.at));
            }
        }
    }
    for (partition, expected) in rows {
        let found = archived.remove(partition).unwrap_or_default();
        for (offset, record) in expected {
            match found.get(offset) {
                None => wrong.push(format!("not archived: {partition:?} offset {offset}")),
                Some(row) if row.value != record.value => {
                    wrong.push(format!("archived with other bytes: {partition:?} offset {offset}"));
                }
                Some(_) => {}
            }
        }
        let more = found.keys().filter(|offset| !expected.contains_key(offset));
        wrong.extend(more.map(|offset| format!("archived, but not in the log: {partition:?} offset {offset}")));
    }
    for object in store.list("archive", None).await? {
        let key = object.location.to_string();
        let bytes = store.get(&key).await?.unwrap_or_default();
        outcome.objects.insert(key, bytes.to_vec());
    }
    Ok(())
}

/// Inserts cover every row of the log exactly once.
fn tables(world: &World, rows: &BTreeMap<PartitionId, BTreeMap<u64, Record>>, wrong: &mut Vec<String>) {
    let mut inserted: BTreeMap<PartitionId, BTreeMap<u64, u32>> = BTreeMap::new();
    let mut counts: BTreeMap<PartitionId, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for held in world.tables.all() {
        let id = held.of.partition_id();
        *counts.entry(id).or_default() += held.insert.rows;
        // A batch that crosses the end of a month, or fills two tables, is several inserts of one range.
        if !seen.insert((id, held.of.offset_first, held.of.offset_next)) {
            continue;
        }
        let range =
            rows.get(&id).into_iter().flat_map(|held_rows| held_rows.range(held.of.offset_first..held.of.offset_next));
        for (offset, _) in range {
            *inserted.entry(id).or_default().entry(*offset).or_default() += 1;
        }
    }
    for (partition, expected) in rows {
        let found = inserted.remove(partition).unwrap_or_default();
        for offset in expected.keys() {
            match found.get(offset) {
                Some(1) => {}
                Some(count) => wrong.push(format!("loaded {count} times: {partition:?} offset {offset}")),
                None => wrong.push(format!("not loaded: {partition:?} offset {offset}")),
            }
        }
        let count = counts.get(partition).copied().unwrap_or_default();
        if count != expected.len() as u64 {
            wrong.push(format!("{partition:?} has {} rows in the log and {count} in the tables", expected.len()));
        }
    }
}

/// No planted value stands in anything that was published.
fn secrecy(world: &World, secrets: &[String], outcome: &Outcome, wrong: &mut Vec<String>) {
    let finder = match aho_corasick::AhoCorasick::new(secrets) {
        Ok(finder) => finder,
        Err(error) => return wrong.push(format!("the planted values cannot be looked for: {error}")),
    };
    for (partition, values) in outcome.topics.iter().filter(|(p, _)| p.topic != Topic::Dlq) {
        let leaks = values.iter().filter(|value| finder.is_match(value)).count();
        if leaks > 0 {
            wrong.push(format!("{leaks} records of {partition:?} hold a planted value"));
        }
    }
    for held in world.tables.all() {
        if held.insert.chunks.iter().any(|chunk| finder.is_match(chunk)) {
            wrong.push(format!("insert {} holds a planted value", held.insert.token));
        }
    }
}

/// What was withheld is reported missing, what was doubled as duplicate, and nothing else is.
async fn counts(world: &World, totals: &Totals, wrong: &mut Vec<String>) -> anyhow::Result<()> {
    let census = census::take(&world.broker).await?;
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
