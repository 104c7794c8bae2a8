//! One range of a partition on its way to a target, and what to do next about it.
//!
//! Identity and place follow from the range's first offset; the decision is a pure function of what
//! is wanted and what is there already. A restart observes and asks again (invariants I7, I8). It
//! performs no I/O.

use std::collections::{BTreeMap, BTreeSet};

use schemas::id::Sha256;
use schemas::object_key;
use schemas::record::{PartitionId, Record, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::clickhouse::intent::Intent;

/// What a target receives: offsets `[first, next)` of one partition. Fields stand in alphabetical
/// order, so that their JSON is canonical.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    /// Latest broker time of a row, microseconds; `None` without rows.
    pub broker_time_max_us: Option<i64>,
    /// Earliest broker time of a row, microseconds; `None` without rows.
    pub broker_time_min_us: Option<i64>,
    /// Rows per tenant.
    pub counts_by_tenant: BTreeMap<String, u64>,
    /// Rows per event type or record kind.
    pub counts_by_type: BTreeMap<String, u64>,
    /// First offset covered: the `offset_next` of the publication before it.
    pub offset_first: u64,
    /// Offset after the last record covered.
    pub offset_next: u64,
    /// Broker time of the first record, tick or not, microseconds: it names the object's hour.
    pub opened_at_us: i64,
    /// Partition number.
    pub partition: u32,
    /// Raw value bytes of all rows.
    pub raw_bytes: u64,
    /// [`RowDigest`] of the rows.
    pub row_digest: Sha256,
    /// Rows.
    pub rows: u64,
    /// Schema fingerprints or ids of the values, as in [`schema_of`].
    pub schemas: BTreeSet<String>,
    /// First offset in `custody.events.v1` that a row stems from; `None` where rows name no source.
    pub source_offset_first: Option<u64>,
    /// Offset after the last such offset.
    pub source_offset_next: Option<u64>,
    /// Tick records in the range; they are time, not evidence, and become no rows.
    pub ticks: u64,
    /// Topic.
    #[serde(with = "topic_name")]
    pub topic: Topic,
}

/// Topics as their names.
mod topic_name {
    use schemas::topic::Topic;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(topic: &Topic, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(topic.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Topic, D::Error> {
        let name = String::deserialize(deserializer)?;
        Topic::from_name(&name).ok_or_else(|| de::Error::custom(format_args!("unknown topic {name}")))
    }
}

impl Publication {
    /// A publication that starts at `offset_first` with a record of that broker time.
    pub fn open(partition: PartitionId, offset_first: u64, opened_at: TimestampMicros) -> Self {
        Self {
            broker_time_max_us: None,
            broker_time_min_us: None,
            counts_by_tenant: BTreeMap::new(),
            counts_by_type: BTreeMap::new(),
            offset_first,
            offset_next: offset_first,
            opened_at_us: opened_at.0,
            partition: partition.partition,
            raw_bytes: 0,
            row_digest: Sha256::ZERO,
            rows: 0,
            schemas: BTreeSet::new(),
            source_offset_first: None,
            source_offset_next: None,
            ticks: 0,
            topic: partition.topic,
        }
    }

    /// The partition.
    pub fn partition_id(&self) -> PartitionId {
        PartitionId { topic: self.topic, partition: self.partition }
    }

    /// Key of the data object.
    pub fn data_key(&self) -> String {
        object_key::data_key(self.partition_id(), self.offset_first, TimestampMicros(self.opened_at_us))
    }

    /// Key of the manifest.
    pub fn manifest_key(&self) -> String {
        object_key::manifest_key(self.partition_id(), self.offset_first)
    }

    /// `topic:partition:first-next`: the part of a deduplication token that names the range exactly
    /// (ClickHouse drops another batch under a known token in silence).
    pub fn token(&self) -> String {
        format!("{}:{}:{}-{}", self.topic, self.partition, self.offset_first, self.offset_next)
    }

    /// What a target that holds this publication would be seen to hold.
    pub fn as_existing(&self) -> Existing {
        Existing { offset_next: self.offset_next, row_digest: self.row_digest }
    }

    /// Counts a tick at `offset`.
    pub fn add_tick(&mut self, offset: u64) {
        self.ticks += 1;
        self.offset_next = offset + 1;
    }

    /// Counts a row; `kind` is its event type or record kind.
    pub fn add_row(&mut self, record: &Record, source: Option<SourceRef>, kind: &str, tenant_id: &str) {
        let value = record.value.as_deref().unwrap_or_default();
        let at = record.timestamp.0;
        self.rows += 1;
        self.raw_bytes += value.len() as u64;
        self.offset_next = record.at.offset + 1;
        self.broker_time_min_us = Some(self.broker_time_min_us.map_or(at, |t| t.min(at)));
        self.broker_time_max_us = Some(self.broker_time_max_us.map_or(at, |t| t.max(at)));
        if let Some(SourceRef { offset, .. }) = source {
            self.source_offset_first = Some(self.source_offset_first.map_or(offset, |o| o.min(offset)));
            self.source_offset_next = Some(self.source_offset_next.map_or(offset + 1, |o| o.max(offset + 1)));
        }
        increment(&mut self.counts_by_type, kind);
        increment(&mut self.counts_by_tenant, tenant_id);
        let schema = schema_of(value);
        if !self.schemas.contains(schema.as_str()) {
            self.schemas.insert(schema.as_str().to_owned());
        }
    }
}

fn increment(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => {
            counts.insert(name.to_owned(), 1);
        }
    }
}

/// Name of a schema, at most 32 bytes on the stack: it is looked up once per row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaName {
    text: [u8; 32],
    len: usize,
}

impl SchemaName {
    /// As text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or_default()
    }
}

/// The schema that a value's frame names: `avro:<CRC-64-AVRO fingerprint, 16 hex digits as framed>`
/// for an Avro single-object frame, `registry:<id>` for a Confluent frame, else `unframed`.
pub fn schema_of(value: &[u8]) -> SchemaName {
    use std::io::Write as _;
    let mut name = SchemaName { text: [0; 32], len: 0 };
    let mut rest = &mut name.text[..];
    // Writing at most 26 bytes into 32 cannot fail.
    let _written = match value {
        [0xc3, 0x01, print @ ..] if print.len() >= 8 => {
            let print: [u8; 8] = print[..8].try_into().unwrap_or_default();
            write!(rest, "avro:{:016x}", u64::from_be_bytes(print))
        }
        [0x00, a, b, c, d, ..] => write!(rest, "registry:{}", u32::from_be_bytes([*a, *b, *c, *d])),
        _ => write!(rest, "unframed"),
    };
    name.len = 32 - rest.len();
    name
}

/// Digest over the rows of a range, in offset order, independent of how Parquet lays them out: a new
/// writer version may change an object's bytes for equal rows, and that is no conflict.
///
/// SHA-256 over `"custody rows v1\n"` and, per row, 96 bytes: offset (8), broker time in
/// microseconds (8), source offset (8, `u64::MAX` for none), source SHA-256 (32, zeros for none),
/// SHA-256 of the exact value bytes (32), value length (8); integers big-endian.
#[derive(Debug, Clone)]
pub struct RowDigest(sha2::Sha256);

impl Default for RowDigest {
    fn default() -> Self {
        Self(sha2::Sha256::new_with_prefix(b"custody rows v1\n"))
    }
}

impl RowDigest {
    /// Adds a row.
    pub fn add(&mut self, offset: u64, broker_time: TimestampMicros, source: Option<SourceRef>, value: &[u8]) {
        let source = source.unwrap_or(SourceRef { offset: u64::MAX, sha256: Sha256::ZERO });
        let mut row = [0; 96];
        row[..8].copy_from_slice(&offset.to_be_bytes());
        row[8..16].copy_from_slice(&broker_time.0.to_be_bytes());
        row[16..24].copy_from_slice(&source.offset.to_be_bytes());
        row[24..56].copy_from_slice(&source.sha256.0);
        row[56..88].copy_from_slice(&Sha256::of(value).0);
        row[88..].copy_from_slice(&(value.len() as u64).to_be_bytes());
        self.0.update(row);
    }

    /// The digest of the rows so far.
    pub fn finish(&self) -> Sha256 {
        Sha256(self.0.clone().finalize().into())
    }
}

/// A publication as a target shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Existing {
    /// Offset after the last record covered.
    pub offset_next: u64,
    /// Digest of its rows.
    pub row_digest: Sha256,
}

/// What stands at the publication's place in a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Object store: the objects under the publication's two keys.
    Archive {
        /// Data object.
        object: Option<Existing>,
        /// Manifest.
        manifest: Option<Existing>,
    },
    /// Table: what the loader's group has committed in the log.
    Table {
        /// Committed position.
        committed_next: u64,
        /// Intent beside it.
        intent: Option<Intent>,
    },
}

/// What to do next about a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Put the data object, create-only.
    PutParquet,
    /// Put the manifest, create-only.
    PutManifest,
    /// Commit the intent beside the unchanged position.
    CommitIntent(Intent),
    /// Insert the rows under the intent's token, then commit `offset_next` without metadata.
    InsertRows(Intent),
    /// Nothing: the target holds it.
    Done,
    /// The target holds something else.
    Stop(Conflict),
}

/// Why a publication must not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another writer published from the same first offset to another end: legal after a lost
    /// partition. Drop what is in hand and continue behind it.
    #[error("another writer has published this range up to offset {offset_next}; continue there")]
    Superseded {
        /// Where its publication ends.
        offset_next: u64,
    },
    /// The same range with other rows: one of the two is not what the log says.
    #[error("the {target} holds other rows for the same range (row digest {theirs}, ours {ours}); run custody verify")]
    OtherRows {
        /// `object`, `manifest` or `intent`.
        target: &'static str,
        /// Digest there.
        theirs: Sha256,
        /// Digest of what the log gave.
        ours: Sha256,
    },
    /// A manifest without its object: the object was removed.
    #[error("the manifest is there but its object is missing; run custody verify")]
    ObjectMissing,
}

/// What to do next, given what is there (I7).
///
/// | object | manifest | step |
/// |---|---|---|
/// | none | none | `PutParquet` |
/// | equal | none | `PutManifest` |
/// | equal | equal | `Done` |
/// | none | any | `Stop(ObjectMissing)` |
/// | other end | any | `Stop(Superseded)` |
/// | same end, other digest (either) | | `Stop(OtherRows)` |
///
/// | committed | intent | step |
/// |---|---|---|
/// | first | none | `CommitIntent` |
/// | first | equal | `InsertRows` |
/// | first | same range, other digest | `Stop(OtherRows)` |
/// | first | other range | `Stop(Superseded)`: repeat that range first |
/// | next | none | `Done` |
/// | elsewhere | any | `Stop(Superseded)` |
pub fn next_step(want: &Publication, seen: &Observed) -> Step {
    match seen {
        Observed::Archive { object: None, manifest: None } => Step::PutParquet,
        Observed::Archive { object: None, manifest: Some(_) } => Step::Stop(Conflict::ObjectMissing),
        Observed::Archive { object: Some(object), manifest } => {
            let conflict = compare(want, object, "object")
                .or_else(|| manifest.as_ref().and_then(|manifest| compare(want, manifest, "manifest")));
            match (conflict, manifest) {
                (Some(conflict), _) => Step::Stop(conflict),
                (None, None) => Step::PutManifest,
                (None, Some(_)) => Step::Done,
            }
        }
        Observed::Table { committed_next, intent } => next_table_step(want, *committed_next, intent.as_ref()),
    }
}

fn next_table_step(want: &Publication, committed_next: u64, intent: Option<&Intent>) -> Step {
    let is_before = committed_next == want.offset_first;
    match intent {
        None if is_before => Step::CommitIntent(Intent::of(want)),
        None if committed_next == want.offset_next => Step::Done,
        Some(intent) if is_before && intent.offset_next == want.offset_next => {
            let existing = Existing { offset_next: intent.offset_next, row_digest: intent.row_digest };
            match compare(want, &existing, "intent") {
                Some(conflict) => Step::Stop(conflict),
                None => Step::InsertRows(intent.clone()),
            }
        }
        _ => Step::Stop(Conflict::Superseded { offset_next: committed_next }),
    }
}

fn compare(want: &Publication, seen: &Existing, target: &'static str) -> Option<Conflict> {
    let is_same_range = seen.offset_next == want.offset_next;
    let is_same_rows = seen.row_digest == want.row_digest;
    match (is_same_range, is_same_rows) {
        (false, _) => Some(Conflict::Superseded { offset_next: seen.offset_next }),
        (true, false) => Some(Conflict::OtherRows { target, theirs: seen.row_digest, ours: want.row_digest }),
        (true, true) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want() -> Publication {
        let partition = PartitionId { topic: Topic::Clean, partition: 3 };
        let mut publication = Publication::open(partition, 100, TimestampMicros::from_ms(1_795_168_799_000));
        publication.offset_next = 200;
        publication.row_digest = Sha256([7; 32]);
        publication
    }

    #[test]
    fn the_archive_step_follows_the_truth_table() {
        let equal = want().as_existing();
        let longer = Existing { offset_next: 250, ..equal };
        let altered = Existing { row_digest: Sha256([8; 32]), ..equal };
        let superseded = Step::Stop(Conflict::Superseded { offset_next: 250 });
        let other =
            |target| Step::Stop(Conflict::OtherRows { target, theirs: altered.row_digest, ours: equal.row_digest });
        let check = |object, manifest, expected: &Step| {
            assert_eq!(&next_step(&want(), &Observed::Archive { object, manifest }), expected);
        };
        check(None, None, &Step::PutParquet);
        check(Some(equal), None, &Step::PutManifest);
        check(Some(equal), Some(equal), &Step::Done);
        check(None, Some(equal), &Step::Stop(Conflict::ObjectMissing));
        check(Some(longer), None, &superseded);
        check(Some(longer), Some(longer), &superseded);
        check(Some(equal), Some(longer), &superseded);
        check(Some(altered), None, &other("object"));
        check(Some(equal), Some(altered), &other("manifest"));
    }

    #[test]
    fn the_table_step_follows_the_truth_table() {
        let intent = Intent::of(&want());
        let altered = Intent { row_digest: Sha256([8; 32]), ..intent.clone() };
        let longer = Intent { offset_next: 250, ..intent.clone() };
        let other = Conflict::OtherRows { target: "intent", theirs: altered.row_digest, ours: want().row_digest };
        let check = |committed_next, intent: Option<&Intent>, expected: &Step| {
            let seen = Observed::Table { committed_next, intent: intent.cloned() };
            assert_eq!(&next_step(&want(), &seen), expected);
        };
        check(100, None, &Step::CommitIntent(intent.clone()));
        check(100, Some(&intent), &Step::InsertRows(intent.clone()));
        check(100, Some(&altered), &Step::Stop(other));
        check(100, Some(&longer), &Step::Stop(Conflict::Superseded { offset_next: 100 }));
        check(200, None, &Step::Done);
        check(150, None, &Step::Stop(Conflict::Superseded { offset_next: 150 }));
        check(200, Some(&intent), &Step::Stop(Conflict::Superseded { offset_next: 200 }));
    }

    #[test]
    fn key_and_token_follow_from_the_range() {
        let (short, long) = (want(), Publication { offset_next: 900, ..want() });
        assert_eq!(
            short.data_key(),
            "archive/custody.clean.v1/date=2026-11-20/hour=09/custody.clean.v1-00003-00000000000000000100.parquet"
        );
        assert_eq!(short.data_key(), long.data_key(), "two writers that start at one offset collide");
        assert_eq!(short.manifest_key(), long.manifest_key());
        assert_eq!(short.token(), "custody.clean.v1:3:100-200");
        assert_ne!(short.token(), long.token(), "a token names the exact bounds");
    }

    #[test]
    fn every_field_of_a_row_moves_the_digest() {
        let source = SourceRef { offset: 5, sha256: Sha256([1; 32]) };
        let digest = |offset, at, source, value: &[u8]| {
            let mut digest = RowDigest::default();
            digest.add(offset, TimestampMicros(at), source, value);
            digest.finish()
        };
        let base = digest(1, 2, Some(source), b"value");
        for other in [
            digest(2, 2, Some(source), b"value"),
            digest(1, 3, Some(source), b"value"),
            digest(1, 2, None, b"value"),
            digest(1, 2, Some(SourceRef { offset: 6, ..source }), b"value"),
            digest(1, 2, Some(SourceRef { sha256: Sha256([2; 32]), ..source }), b"value"),
            digest(1, 2, Some(source), b"valuf"),
            RowDigest::default().finish(),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base, digest(1, 2, Some(source), b"value"));
    }

    #[test]
    fn the_frame_names_the_schema() {
        let check = |value: &[u8], expected| assert_eq!(schema_of(value).as_str(), expected);
        check(&[0xc3, 1, 1, 2, 3, 4, 5, 6, 7, 8, 99], "avro:0102030405060708");
        check(&[0, 0, 0, 1, 2, 99], "registry:258");
        check(&[0xc3, 1, 1], "unframed");
        check(&[0xff; 9], "unframed");
        check(&[], "unframed");
    }
}
