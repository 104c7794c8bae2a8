//! The archive sink: records in, immutable objects and their manifests out.
//!
//! `push` and `seal` only compute; `publish` does all I/O and may be repeated until it succeeds.
//! It commits no offset: the position is what the store holds (invariant I8).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use futures::StreamExt as _;
use schemas::id::Sha256;
use schemas::record::{PartitionId, Record, SourceRef};
use schemas::table::Table;
use schemas::time::TimestampMicros;

use crate::error::{ErrorClass, SinkError};
use crate::manifest::ObjectRef;
use crate::parquet::encode::ObjectWriter;
use crate::parquet::recover::{self, Head};
use crate::parquet::rows::{Kind, RowBuilder, layout_of};
use crate::parquet::store::{Created, Store, refused_but_absent};
use crate::publication::{Conflict, Observed, Publication, RowDigest, Step, next_step};
use crate::roll::{Intake, RollPolicy, Seal};

/// Raw value bytes that are gathered into one record batch: small enough for 64 partitions at once,
/// large enough that a batch's fixed cost disappears.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Rows of one batch; keeps small events from growing the column builders without bound.
const BATCH_ROWS_MAX: usize = 4_096;
/// Partitions that are published at the same time.
const PUBLISH_CONCURRENCY: usize = 8;

/// How the archive is cut and named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveConfig {
    /// When an object is complete.
    pub roll: RollPolicy,
    /// Encoded bytes of a row group: what verification holds at a time.
    pub row_group_bytes_max: usize,
    /// Build that writes, e.g. `custody/0.1.0`.
    pub build: String,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        let build = concat!("custody/", env!("CARGO_PKG_VERSION")).to_owned();
        Self { roll: RollPolicy::default(), row_group_bytes_max: 16 << 20, build }
    }
}

/// A published range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What was published.
    pub publication: Publication,
    /// The data object.
    pub object: ObjectRef,
    /// Digest of its manifest: what the evidence log signs.
    pub manifest_sha256: Sha256,
    /// Why the object ended.
    pub seal: Seal,
}

/// An object that takes in rows.
struct Open {
    intake: Intake,
    publication: Publication,
    digest: RowDigest,
    writer: ObjectWriter,
    rows: RowBuilder,
}

/// A complete object that is not published yet.
struct Sealed {
    publication: Publication,
    bytes: Bytes,
    seal: Seal,
}

/// What the sink holds of one partition.
struct Partition {
    id: PartitionId,
    head: Option<Head>,
    /// Offset that the next record may have at least.
    offset_next: u64,
    open: Option<Open>,
    sealed: VecDeque<Sealed>,
}

/// Writes the archive of the partitions that it was given.
pub struct ArchiveSink {
    store: Store,
    config: ArchiveConfig,
    heads: BTreeMap<PartitionId, Option<Head>>,
    partitions: BTreeMap<PartitionId, Partition>,
}

impl std::fmt::Debug for ArchiveSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveSink").field("partitions", &self.partitions.keys()).finish_non_exhaustive()
    }
}

impl ArchiveSink {
    /// Opens the archive on a store that honours create-only PUTs; `nonce` names the self-test's object.
    ///
    /// # Errors
    /// As [`Store::self_test`].
    pub async fn open(store: Store, config: ArchiveConfig, nonce: u64) -> Result<Self, SinkError> {
        let protection = store.self_test(nonce).await?;
        tracing::info!(%protection, "the archive's store refuses to overwrite");
        Ok(Self { store, config, heads: BTreeMap::new(), partitions: BTreeMap::new() })
    }

    /// Offset at which the partition's archive goes on; `None` if it has none. Drops what was in hand
    /// of the partition, and finishes a publication that a crash interrupted.
    ///
    /// # Errors
    /// As [`recover::recover`].
    pub async fn position(&mut self, id: PartitionId) -> Result<Option<u64>, SinkError> {
        self.release(id);
        let head = recover::recover(&self.store, id, &self.config.build).await?;
        self.heads.insert(id, head);
        Ok(head.map(|head| head.offset_next))
    }

    /// Takes the partition in, to be fed from `offset_first`: its [`ArchiveSink::position`], or the
    /// log's first offset where there is none.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: the topic is not archived. [`ErrorClass::Data`]: `offset_first` is
    /// not the position; records between the two would be missing or doubled.
    pub fn assign(&mut self, id: PartitionId, offset_first: u64) -> Result<(), SinkError> {
        let what = || format!("archive {}/{}", id.topic, id.partition);
        let Some(head) = self.heads.get(&id).copied() else {
            return Err(SinkError::new(ErrorClass::Restart, what(), "ask for its position first"));
        };
        if Table::archive_of(id.topic).is_none() {
            return Err(SinkError::new(ErrorClass::Config, what(), "this topic is not archived"));
        }
        if let Some(head) = head.filter(|head| head.offset_next != offset_first) {
            let message = format!(
                "the archive ends at {} but the log is read from {offset_first}: retention passed the archive, or the topic was made anew",
                head.offset_next
            );
            return Err(SinkError::new(ErrorClass::Data, what(), message));
        }
        let partition = Partition { id, head, offset_next: offset_first, open: None, sealed: VecDeque::new() };
        self.partitions.insert(id, partition);
        Ok(())
    }

    /// Forgets a partition and drops what is in hand of it: the next owner reads it again.
    pub fn release(&mut self, id: PartitionId) {
        self.partitions.remove(&id);
        self.heads.remove(&id);
    }

    /// Adds records of assigned partitions, in offset order; objects that they complete wait for
    /// [`ArchiveSink::publish`]. Records below the position are skipped: they are published.
    ///
    /// # Errors
    /// [`ErrorClass::Data`]: a record cannot be decoded, which its writer should have refused. The
    /// partition is released, so that nothing can be added behind the hole; its offset stays where
    /// it is (I10).
    pub fn push(&mut self, records: &[Record]) -> Result<(), SinkError> {
        for record in records {
            let id = record.at.partition;
            let Some(partition) = self.partitions.get_mut(&id) else {
                let what = format!("archive {}/{}", id.topic, id.partition);
                return Err(SinkError::new(ErrorClass::Restart, what, "the partition is not assigned"));
            };
            if record.at.offset < partition.offset_next {
                continue;
            }
            let added = partition.push(&self.config, record);
            added.inspect_err(|_| self.release(id))?;
        }
        Ok(())
    }

    /// Completes the partition's object if it has rows, whatever its size.
    ///
    /// # Errors
    /// [`ErrorClass::Data`]: a defect in encoding; the partition is released.
    pub fn seal(&mut self, id: PartitionId) -> Result<(), SinkError> {
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        let has_rows = partition.open.as_ref().is_some_and(|open| open.intake.rows > 0);
        let sealed = if has_rows { partition.seal(Seal::Flush) } else { Ok(()) };
        sealed.inspect_err(|_| self.release(id))
    }

    /// Publishes every complete object, oldest first within a partition. Each partition's outcome
    /// stands alone; after [`ErrorClass::Retry`] nothing is lost, call again.
    pub async fn publish(&mut self) -> Vec<(PartitionId, Vec<Receipt>, Option<SinkError>)> {
        let (store, build) = (&self.store, self.config.build.as_str());
        // A loop and not an iterator chain: closures over `&mut` would keep the future from being `Send`.
        let mut waiting = Vec::new();
        for partition in self.partitions.values_mut() {
            if !partition.sealed.is_empty() {
                waiting.push(partition.publish(store, build));
            }
        }
        let outcomes = futures::stream::iter(waiting).buffer_unordered(PUBLISH_CONCURRENCY);
        let mut outcomes: Vec<_> = outcomes.collect().await;
        outcomes.sort_by_key(|(id, ..)| *id);
        outcomes
    }

    /// [`ArchiveSink::seal`] of every partition, then [`ArchiveSink::publish`].
    ///
    /// # Errors
    /// As [`ArchiveSink::seal`].
    pub async fn flush(&mut self) -> Result<Vec<(PartitionId, Vec<Receipt>, Option<SinkError>)>, SinkError> {
        let ids: Vec<PartitionId> = self.partitions.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.seal(id))?;
        Ok(self.publish().await)
    }

    /// Memory held for unpublished records, bytes: pause reading when it passes a bound.
    pub fn memory_bytes(&self) -> usize {
        let held = |partition: &Partition| {
            let open = partition.open.as_ref().map_or(0, |open| open.writer.memory_bytes() + open.rows.raw_bytes());
            open + partition.sealed.iter().map(|sealed| sealed.bytes.len()).sum::<usize>()
        };
        self.partitions.values().map(held).sum()
    }

    /// The partitions that are taken in.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.partitions.keys().copied()
    }

    /// Broker time of the first row in hand of a partition; `None` if there is none.
    pub fn oldest_row_at(&self, id: PartitionId) -> Option<TimestampMicros> {
        let partition = self.partitions.get(&id)?;
        let sealed = partition.sealed.front().and_then(|sealed| sealed.publication.broker_time_min_us);
        let open = partition.open.as_ref().and_then(|open| open.intake.first_row_at);
        sealed.map(TimestampMicros).or(open)
    }

    /// Complete objects that wait for [`ArchiveSink::publish`].
    pub fn sealed(&self) -> usize {
        self.partitions.values().map(|partition| partition.sealed.len()).sum()
    }
}

impl Partition {
    fn push(&mut self, config: &ArchiveConfig, record: &Record) -> Result<(), SinkError> {
        let at = record.timestamp;
        if let Some(seal) = self.open.as_ref().and_then(|open| config.roll.before(&open.intake, at)) {
            self.seal(seal)?;
        }
        let id = self.id;
        let failed = |error: &dyn std::fmt::Display| {
            let what = format!("archive {}/{} offset {}", id.topic, id.partition, record.at.offset);
            SinkError::new(ErrorClass::Data, what, error)
        };
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(config, id, self.offset_next, record).map_err(|error| failed(&error))?,
        };
        let is_full = open.push(&config.roll, record).map_err(|error| failed(&error))?;
        self.offset_next = open.publication.offset_next;
        self.open = Some(open);
        is_full.map_or(Ok(()), |seal| self.seal(seal))
    }

    fn seal(&mut self, seal: Seal) -> Result<(), SinkError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let key = open.publication.data_key();
        let (publication, bytes) = open.finish().map_err(|error| SinkError::new(ErrorClass::Data, key, error))?;
        self.sealed.push_back(Sealed { publication, bytes, seal });
        Ok(())
    }

    async fn publish(&mut self, store: &Store, build: &str) -> (PartitionId, Vec<Receipt>, Option<SinkError>) {
        let mut receipts = Vec::new();
        while let Some(sealed) = self.sealed.front() {
            match publish_one(store, build, self.head, sealed).await {
                Ok((receipt, head)) => {
                    receipts.push(receipt);
                    self.head = Some(head);
                    self.sealed.pop_front();
                }
                Err(error) => return (self.id, receipts, Some(error)),
            }
        }
        (self.id, receipts, None)
    }
}

/// Drives one publication to its end: observe, ask [`next_step`], execute.
async fn publish_one(
    store: &Store,
    build: &str,
    head: Option<Head>,
    sealed: &Sealed,
) -> Result<(Receipt, Head), SinkError> {
    let want = &sealed.publication;
    let key = want.data_key();
    // Nothing is looked up first: the create-only PUT itself is the observation.
    let mut seen = Observed::Archive { object: None, manifest: None };
    let mut object =
        ObjectRef { bytes: sealed.bytes.len() as u64, key: key.clone(), sha256: Sha256::of(&sealed.bytes) };
    let mut new_head = None;
    fail::fail_point!("archive.sealed");
    loop {
        match next_step(want, &seen) {
            Step::PutParquet => {
                let mut existing = want.as_existing();
                if store.create(&key, sealed.bytes.clone()).await? == Created::Exists {
                    let Some(stored) = store.get(&key).await? else {
                        return Err(refused_but_absent(&key));
                    };
                    let (publication, stored_object) = recover::read_object(&key, &stored)?;
                    existing = publication.as_existing();
                    object = stored_object;
                }
                fail::fail_point!("archive.object_put");
                seen = Observed::Archive { object: Some(existing), manifest: None };
            }
            Step::PutManifest => {
                new_head = Some(recover::put_manifest(store, want.clone(), object.clone(), head, build).await?);
                fail::fail_point!("archive.manifest_put");
                seen = Observed::Archive { object: Some(want.as_existing()), manifest: Some(want.as_existing()) };
            }
            Step::Stop(conflict) => return Err(stopped(store, build, head, want, conflict).await),
            Step::Done | Step::CommitIntent(_) | Step::InsertRows(_) => break,
        }
    }
    let head = new_head.ok_or_else(|| SinkError::new(ErrorClass::Data, key, "published without a manifest"))?;
    let receipt =
        Receipt { publication: want.clone(), object, manifest_sha256: head.manifest_sha256, seal: sealed.seal };
    Ok((receipt, head))
}

/// The error of a conflict. A range that another writer published is finished for it, so that the
/// position that the caller asks for next lies behind it.
async fn stopped(store: &Store, build: &str, head: Option<Head>, want: &Publication, conflict: Conflict) -> SinkError {
    let key = want.data_key();
    if !matches!(conflict, Conflict::Superseded { .. }) {
        return SinkError::new(ErrorClass::Data, key, conflict);
    }
    match recover::roll_forward(store, &key, want.partition_id(), head, build).await {
        Ok(_) => SinkError::new(ErrorClass::Restart, key, conflict),
        Err(error) => error,
    }
}

impl Open {
    fn new(
        config: &ArchiveConfig,
        id: PartitionId,
        offset_first: u64,
        record: &Record,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let table = Table::archive_of(id.topic).ok_or("the topic is not archived")?;
        let rows = RowBuilder::new(table);
        let layout = layout_of(table, config.row_group_bytes_max);
        Ok(Self {
            intake: Intake::open(record.timestamp),
            publication: Publication::open(id, offset_first, record.timestamp),
            digest: RowDigest::default(),
            writer: ObjectWriter::new(rows.schema(), &layout, &config.build)?,
            rows,
        })
    }

    /// Adds a record; whether the object is complete now.
    fn push(&mut self, roll: &RollPolicy, record: &Record) -> Result<Option<Seal>, Box<dyn std::error::Error>> {
        let source = SourceRef::from_headers(&record.headers);
        match self.rows.push(record)? {
            Kind::Tick => {
                self.publication.add_tick(record.at.offset);
                return Ok(None);
            }
            Kind::Row { kind, tenant_id } => self.publication.add_row(record, source, kind, tenant_id),
        }
        let value = record.value.as_deref().unwrap_or_default();
        self.digest.add(record.at.offset, record.timestamp, source, value);
        self.intake.add_row(record.timestamp, value.len() as u64);
        if self.rows.raw_bytes() >= BATCH_BYTES_MAX || self.rows.len() >= BATCH_ROWS_MAX {
            self.writer.write(&self.rows.finish()?)?;
        }
        Ok(roll.after(&self.intake))
    }

    fn finish(mut self) -> Result<(Publication, Bytes), Box<dyn std::error::Error>> {
        if !self.rows.is_empty() {
            self.writer.write(&self.rows.finish()?)?;
        }
        self.publication.row_digest = self.digest.finish();
        let bytes = self.writer.finish(&self.publication)?;
        Ok((self.publication, bytes))
    }
}
