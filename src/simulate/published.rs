//! The auditor's look at what the sinks published: archive and tables hold the rows of the log, each
//! once, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemas::record::{PartitionId, Record, SourceRef};
use sinks::clickhouse::insert::{BatchInsert, LoadBatch};
use sinks::parquet::inspect::Columns;
use sinks::parquet::read;
use sinks::parquet::store::Store;
use sinks::parquet::verify::{VerifyOptions, verify};
use sinks::publication::RowDigest;

use super::lanes::Topics;
use super::world::World;
use crate::demo::census;
use crate::sink_table::PUBLISHED;

/// One seed in so many has every archived column recomputed: that is the slowest check, and columns do
/// not depend on faults.
const SEEDS_PER_COLUMNS: u64 = 16;

/// Records of a partition that become rows.
type Rows<'a> = BTreeMap<PartitionId, Vec<&'a Record>>;

/// Adds what is wrong with what the sinks published of `topics`.
pub(super) async fn examine(world: &World, topics: &Topics, wrong: &mut Vec<String>) -> anyhow::Result<()> {
    let published = topics.iter().filter(|(id, _)| PUBLISHED.contains(&id.topic));
    let is_row = |record: &&Record| !census::is_tick(record);
    let rows: Rows<'_> = published.map(|(id, records)| (*id, records.iter().filter(is_row).collect())).collect();
    archive(world, &rows, wrong).await?;
    files(world, wrong).await?;
    tables(world, topics, &rows, wrong);
    Ok(())
}

/// The archive verifies, and its files hold exactly the rows of the log.
async fn archive(world: &World, rows: &Rows<'_>, wrong: &mut Vec<String>) -> anyhow::Result<()> {
    let store = Store::new(Arc::clone(&world.objects));
    let columns = match world.setup.seed % SEEDS_PER_COLUMNS {
        0 => Columns::Recompute,
        _ => Columns::Trust,
    };
    // That the rows of each file are those whose digest its manifest names is what `verify` shows.
    let report = verify(&store, &VerifyOptions { threads: 1, columns, ..VerifyOptions::default() }, |_| ()).await?;
    wrong.extend(report.failures.iter().map(|f| format!("archive {}: {}", f.object, f.reason)));
    wrong.extend(report.notes.iter().filter(|note| note.contains("unfinished")).map(|note| format!("archive {note}")));
    let mut archived: BTreeMap<PartitionId, usize> = BTreeMap::new();
    let manifests = read::manifests(&store, &PUBLISHED).await?;
    for manifest in &manifests {
        let held = &manifest.publication;
        let range = within(rows.get(&held.partition_id()), held.offset_first, held.offset_next);
        // Counted as well as compared: a hole between two right files would show in no digest.
        *archived.entry(held.partition_id()).or_default() += range.len();
        if digest(range) != held.row_digest {
            wrong.push(format!("{} does not hold the rows of the log", manifest.object.key));
        }
    }
    for (id, expected) in rows {
        let found = archived.get(id).copied().unwrap_or_default();
        if found != expected.len() {
            wrong.push(format!("{id:?}: {} rows in the log, {found} archived", expected.len()));
        }
    }
    // Whoever reads the files by a pattern must meet each row once: no file beside the chain's.
    let listed = store.list("archive", None).await?;
    let data = listed.iter().filter(|object| object.location.as_ref().ends_with(".parquet")).count();
    if data != manifests.len() {
        wrong.push(format!("{data} data objects and {} manifests: some rows stand in two objects", manifests.len()));
    }
    Ok(())
}

/// Equal logs give equal files, where log time alone cuts them.
async fn files(world: &World, wrong: &mut Vec<String>) -> anyhow::Result<()> {
    if world.setup.clock_flush_ms.is_some() {
        return Ok(());
    }
    // Bytes and names of all objects, manifests included.
    let (found, due) = (world.objects().await?, world.archived_again().await?);
    let keys: BTreeSet<&String> = found.keys().chain(due.keys()).collect();
    let other = keys.into_iter().filter(|key| found.get(*key) != due.get(*key));
    wrong.extend(other.map(|key| format!("{key} is not what an archive of the same log holds")));
    Ok(())
}

fn within<'a, 'b>(rows: Option<&'b Vec<&'a Record>>, first: u64, next: u64) -> &'b [&'a Record] {
    let rows = rows.map(Vec::as_slice).unwrap_or_default();
    let (start, end) = (rows.partition_point(|r| r.at.offset < first), rows.partition_point(|r| r.at.offset < next));
    rows.get(start..end).unwrap_or_default()
}

fn digest(rows: &[&Record]) -> schemas::id::Sha256 {
    let mut digest = RowDigest::default();
    for row in rows {
        let source = SourceRef::from_headers(&row.headers);
        digest.add(row.at.offset, row.timestamp, source, row.value.as_deref().unwrap_or_default());
    }
    digest.finish()
}

/// The inserts that took effect are those of disjoint ranges that cover every row, byte for byte.
fn tables(world: &World, topics: &Topics, rows: &Rows<'_>, wrong: &mut Vec<String>) {
    let mut ranges: BTreeMap<(PartitionId, u64, u64), Vec<BatchInsert>> = BTreeMap::new();
    for held in world.tables.all() {
        let key = (held.of.partition_id(), held.of.offset_first, held.of.offset_next);
        ranges.entry(key).or_default().push(held.insert);
    }
    let mut loaded: BTreeMap<(PartitionId, u64), u32> = BTreeMap::new();
    for ((id, first, next), inserts) in ranges {
        within(rows.get(&id), first, next).iter().for_each(|r| *loaded.entry((id, r.at.offset)).or_default() += 1);
        let records = topics.get(&id).map(Vec::as_slice).unwrap_or_default();
        // By the range that the insert itself names: batches may be cut anywhere, but must hold what lies between.
        let due = due_inserts(id, records.iter().filter(|r| (first..next).contains(&r.at.offset)), first);
        if bodies(&inserts) != bodies(&due) {
            wrong.push(format!("the inserts of {id:?} [{first}, {next}) are not the rows of the log"));
        }
    }
    for (id, expected) in rows {
        for row in expected {
            match loaded.get(&(*id, row.at.offset)) {
                Some(1) => {}
                Some(count) => wrong.push(format!("loaded {count} times: {id:?} offset {}", row.at.offset)),
                None => wrong.push(format!("not loaded: {id:?} offset {}", row.at.offset)),
            }
        }
    }
}

/// The inserts that a range of the log consists of.
fn due_inserts<'a>(id: PartitionId, records: impl Iterator<Item = &'a Record>, first: u64) -> Vec<BatchInsert> {
    let mut batch: Option<LoadBatch> = None;
    for record in records {
        let batch = batch.get_or_insert_with(|| LoadBatch::open(id, first, record));
        if batch.push(record).is_err() {
            return Vec::new();
        }
    }
    batch.map(|batch| batch.inserts()).unwrap_or_default()
}

/// Inserts without their tokens, in a fixed order.
fn bodies(inserts: &[BatchInsert]) -> Vec<(&'static str, u64, Vec<u8>)> {
    let mut bodies: Vec<_> = inserts.iter().map(|i| (i.table.name(), i.rows, i.chunks.concat())).collect();
    // Tables are inserted in an order of their own, and an aborted attempt may have done a part of them first.
    bodies.sort();
    bodies
}
