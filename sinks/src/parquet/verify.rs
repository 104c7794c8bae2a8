//! Proves an archive against itself: chain, objects, rows, columns, counts. Offline, with no trust in
//! the writer.
//!
//! What it cannot prove alone is that the newest objects were not cut off: that needs a position
//! from outside, and without one the report says `unwitnessed`. It changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::StreamExt as _;
use schemas::id::Sha256;
use schemas::object_key;
use schemas::record::PartitionId;
use schemas::topic::Topic;

use crate::error::{ErrorClass, SinkError};
use crate::manifest::Manifest;
use crate::parquet::inspect::{self, Columns, Found};
use crate::parquet::recover::{Head, offset_first_of};
use crate::parquet::store::{OBJECT_BYTES_MAX, Store};

/// Root of the archive's keys.
const ROOT: &str = "archive";

/// What to verify, and against what.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Positions from outside (a witness, a checkpoint): the chain must contain them. A partition
    /// without one is reported as unwitnessed.
    pub witnessed: BTreeMap<PartitionId, Head>,
    /// Objects that are checked at the same time; 0 means one.
    pub threads: usize,
    /// Whether every column is recomputed from the exact bytes beside it.
    pub columns: Columns,
}

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Objects checked.
    pub objects: u64,
    /// Objects in all.
    pub objects_total: u64,
    /// Bytes of checked objects.
    pub bytes: u64,
    /// Raw value bytes of checked rows.
    pub raw_bytes: u64,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// Key of the object.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a partition's archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    /// Partition.
    pub partition: PartitionId,
    /// Manifests.
    pub manifests: u64,
    /// First offset covered.
    pub offset_first: u64,
    /// End of the chain.
    pub head: Head,
    /// Rows that the manifests name.
    pub rows: u64,
    /// Ticks that the manifests name.
    pub ticks: u64,
    /// Bytes of the objects.
    pub bytes: u64,
    /// Whether an outside position confirms that the chain is not cut short, as far as it reaches.
    pub is_witnessed: bool,
}

/// Outcome of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Per partition, in order.
    pub partitions: Vec<PartitionReport>,
    /// Everything that is wrong, in order of object; empty means intact.
    pub failures: Vec<Failure>,
    /// What the reader should know: `unwitnessed` partitions, an object whose manifest is not written yet.
    pub notes: Vec<String>,
    /// Totals.
    pub progress: Progress,
}

impl VerifyReport {
    /// Whether nothing is wrong. Says nothing about what only an outside position can show.
    pub fn is_intact(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Everything under the archive's root, sorted by what it is.
#[derive(Default)]
struct Inventory {
    manifests: BTreeMap<PartitionId, Vec<String>>,
    objects: BTreeMap<String, u64>,
    unknown: Vec<String>,
}

/// Verifies every partition of the archive. `progress` is called after each object.
///
/// # Errors
/// The store cannot be read ([`ErrorClass::Retry`] or [`ErrorClass::Config`]). Whatever the store
/// *holds* is reported, not raised.
pub async fn verify(
    store: &Store,
    options: &VerifyOptions,
    mut progress: impl FnMut(Progress),
) -> Result<VerifyReport, SinkError> {
    let inventory = take_inventory(store).await?;
    let mut report = VerifyReport::default();
    let mut chains = Vec::new();
    for (partition, keys) in &inventory.manifests {
        let chain = read_chain(store, *partition, keys, &mut report.failures).await?;
        check_witness(*partition, &chain, options, &mut report);
        chains.push((*partition, chain));
    }
    check_inventory(&inventory, &chains, &mut report);
    let manifests: Vec<&Manifest> =
        chains.iter().flat_map(|(_, chain)| chain.iter().map(|link| &link.manifest)).collect();
    report.progress.objects_total = manifests.len() as u64;
    let checks = manifests.into_iter().map(|manifest| check_object(store, &inventory, manifest, options.columns));
    let mut checks = futures::stream::iter(checks).buffer_unordered(options.threads.max(1));
    while let Some(outcome) = checks.next().await {
        let Found { failures, bytes, raw_bytes } = outcome?;
        report.failures.extend(failures);
        report.progress.objects += 1;
        report.progress.bytes += bytes;
        report.progress.raw_bytes += raw_bytes;
        progress(report.progress);
    }
    report.partitions = chains.iter().filter_map(|(id, chain)| summarise(*id, chain, options)).collect();
    report.failures.sort();
    report.failures.dedup();
    Ok(report)
}

async fn take_inventory(store: &Store) -> Result<Inventory, SinkError> {
    let mut inventory = Inventory::default();
    for object in store.list(ROOT, None).await? {
        let key = object.location.to_string();
        match (partition_of_manifest(&key), partition_of_data(&key)) {
            (Some(partition), _) => inventory.manifests.entry(partition).or_default().push(key),
            (None, Some(_)) => {
                inventory.objects.insert(key, object.size);
            }
            (None, None) => inventory.unknown.push(key),
        }
    }
    Ok(inventory)
}

fn partition_of_manifest(key: &str) -> Option<PartitionId> {
    let mut parts = key.strip_prefix("archive/_manifest/")?.split('/');
    let topic = Topic::from_name(parts.next()?)?;
    let partition = PartitionId { topic, partition: parts.next()?.parse().ok()? };
    let offset_first = parts.next()?.strip_suffix(".json")?.parse().ok()?;
    (object_key::manifest_key(partition, offset_first) == key).then_some(partition)
}

fn partition_of_data(key: &str) -> Option<PartitionId> {
    let topic = Topic::from_name(key.strip_prefix("archive/")?.split('/').next()?)?;
    let name = key.rsplit('/').next()?.strip_prefix(topic.name())?.strip_prefix('-')?;
    let number = name.split_once('-')?.0.parse().ok()?;
    let partition = PartitionId { topic, partition: number };
    offset_first_of(key, partition).map(|_| partition)
}

/// A manifest with its digest.
struct Link {
    manifest: Manifest,
    sha256: Sha256,
}

/// Reads a partition's manifests and checks that each continues the one before it.
async fn read_chain(
    store: &Store,
    partition: PartitionId,
    keys: &[String],
    failures: &mut Vec<Failure>,
) -> Result<Vec<Link>, SinkError> {
    let mut chain: Vec<Link> = Vec::with_capacity(keys.len());
    let mut is_broken = false;
    for key in keys {
        let mut fail = |reason: String| failures.push(Failure { object: key.clone(), reason });
        let read = match store.get(key).await? {
            None => Err("the manifest disappeared during verification".to_owned()),
            Some(bytes) => Manifest::from_bytes(&bytes)
                .map(|manifest| Link { manifest, sha256: Sha256::of(&bytes) })
                .map_err(|error| error.to_string()),
        };
        let link = match read {
            Ok(link) => link,
            Err(reason) => {
                fail(reason);
                is_broken = true;
                continue;
            }
        };
        let publication = &link.manifest.publication;
        if publication.partition_id() != partition || publication.manifest_key() != *key {
            fail(format!("it is the manifest of {}", publication.manifest_key()));
        }
        if link.manifest.object.key != publication.data_key() {
            fail(format!("it names {}, which is not the place of its range", link.manifest.object.key));
        }
        // After an unreadable manifest the next one cannot be compared with it; its own failure stands.
        if !is_broken {
            check_link(chain.last(), &link).into_iter().for_each(&mut fail);
        }
        is_broken = false;
        chain.push(link);
    }
    Ok(chain)
}

/// What is wrong between two neighbours; `None` before the first.
fn check_link(previous: Option<&Link>, link: &Link) -> Vec<String> {
    let publication = &link.manifest.publication;
    let mut reasons = Vec::new();
    let expected = previous.map_or(Sha256::ZERO, |previous| previous.sha256);
    if link.manifest.prev_manifest_sha256 != expected {
        reasons.push(match previous {
            None => "it is the first manifest but names one before it: earlier manifests were removed".to_owned(),
            Some(previous) => format!(
                "prev_manifest_sha256 is {} but {} has {}: a manifest was removed or altered",
                link.manifest.prev_manifest_sha256,
                previous.manifest.publication.manifest_key(),
                previous.sha256
            ),
        });
    }
    if let Some(previous) = previous.map(|previous| &previous.manifest.publication) {
        let (end, start) = (previous.offset_next, publication.offset_first);
        if end < start {
            reasons.push(format!("offsets {end} to {start} (exclusive) are missing before it"));
        }
        if end > start {
            reasons.push(format!("it overlaps the publication before it, which ends at {end}"));
        }
    }
    if publication.offset_next <= publication.offset_first {
        reasons.push("its range is empty".to_owned());
    }
    reasons
}

fn check_witness(id: PartitionId, chain: &[Link], options: &VerifyOptions, report: &mut VerifyReport) {
    let what = format!("{}/{}", id.topic, id.partition);
    let Some(witness) = options.witnessed.get(&id) else {
        report.notes.push(format!(
            "{what}: unwitnessed; nothing outside the archive shows that its newest objects were not removed"
        ));
        return;
    };
    let is_contained = chain.iter().any(|link| is_head(link, witness));
    if !is_contained {
        let reason = format!(
            "an outside position names manifest {} with end {}, which the chain does not contain: it was cut or rewritten",
            witness.manifest_sha256, witness.offset_next
        );
        report.failures.push(Failure { object: object_key::manifest_prefix(id), reason });
    }
}

fn is_head(link: &Link, head: &Head) -> bool {
    let is_same_end = link.manifest.publication.offset_next == head.offset_next;
    is_same_end && link.sha256 == head.manifest_sha256
}

/// Objects that no manifest names, witnessed partitions without manifests, and keys of neither kind.
fn check_inventory(inventory: &Inventory, chains: &[(PartitionId, Vec<Link>)], report: &mut VerifyReport) {
    let mut ends: BTreeMap<PartitionId, u64> = BTreeMap::new();
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for (id, chain) in chains {
        named.extend(chain.iter().map(|link| link.manifest.object.key.as_str()));
        ends.extend(chain.last().map(|link| (*id, link.manifest.publication.offset_next)));
    }
    for key in inventory.objects.keys().filter(|key| !named.contains(key.as_str())) {
        let is_next = partition_of_data(key).is_some_and(|id| match ends.get(&id) {
            Some(end) => offset_first_of(key, id) == Some(*end),
            // Without any manifest, one object may be the first; two mean that a manifest was removed.
            None => inventory.objects.keys().filter(|other| partition_of_data(other) == Some(id)).count() == 1,
        });
        match is_next {
            true => report.notes.push(format!("{key}: unfinished; its manifest is not written yet")),
            false => report.failures.push(Failure { object: key.clone(), reason: "no manifest names it".to_owned() }),
        }
    }
    let unknown = inventory.unknown.iter();
    report
        .failures
        .extend(unknown.map(|key| Failure { object: key.clone(), reason: "unknown object under archive/".to_owned() }));
}

/// Reads one object and hands it to [`inspect::inspect`] on a thread of its own.
async fn check_object(
    store: &Store,
    inventory: &Inventory,
    manifest: &Manifest,
    columns: Columns,
) -> Result<Found, SinkError> {
    let key = manifest.object.key.clone();
    let failed = |reason: String| Found::failed(&key, reason);
    let Some(size) = inventory.objects.get(&key).copied() else {
        return Ok(failed(format!("the object is missing; {} names it", manifest.publication.manifest_key())));
    };
    if size > OBJECT_BYTES_MAX {
        return Ok(failed(format!("{size} bytes are more than any object of this archive")));
    }
    let Some(bytes) = store.get(&key).await? else {
        return Ok(failed("the object disappeared during verification".to_owned()));
    };
    let manifest = manifest.clone();
    let inspected = tokio::task::spawn_blocking(move || inspect_whole(&bytes, &manifest, columns)).await;
    match inspected {
        Ok(found) => Ok(found),
        // The Parquet reader may panic on bytes that no writer makes: that too is a finding.
        Err(error) if error.is_panic() => Ok(failed("the object cannot be decoded".to_owned())),
        Err(error) => Err(SinkError::new(ErrorClass::Retry, key, error)),
    }
}

fn inspect_whole(bytes: &Bytes, manifest: &Manifest, columns: Columns) -> Found {
    let mut found = Found { bytes: bytes.len() as u64, ..Found::default() };
    let object = &manifest.object;
    if object.bytes != bytes.len() as u64 {
        found.fail(&object.key, format!("it has {} bytes, its manifest says {}", bytes.len(), object.bytes));
    }
    let sha256 = Sha256::of(bytes);
    if object.sha256 != sha256 {
        found.fail(&object.key, format!("its SHA-256 is {sha256}, its manifest says {}", object.sha256));
    }
    // Go on even so: the rows say *what* was changed.
    inspect::inspect(bytes, manifest, columns, &mut found);
    found
}

fn summarise(id: PartitionId, chain: &[Link], options: &VerifyOptions) -> Option<PartitionReport> {
    let (first, last) = (chain.first()?, chain.last()?);
    let sum = |of: fn(&Manifest) -> u64| chain.iter().map(|link| of(&link.manifest)).sum();
    let witness = options.witnessed.get(&id);
    Some(PartitionReport {
        partition: id,
        manifests: chain.len() as u64,
        offset_first: first.manifest.publication.offset_first,
        head: Head { offset_next: last.manifest.publication.offset_next, manifest_sha256: last.sha256 },
        rows: sum(|manifest| manifest.publication.rows),
        ticks: sum(|manifest| manifest.publication.ticks),
        bytes: sum(|manifest| manifest.object.bytes),
        is_witnessed: witness.is_some_and(|head| chain.iter().any(|link| is_head(link, head))),
    })
}
