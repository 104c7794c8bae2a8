//! The embedded durable log: `fjall` under the groups of [`in_process`](super::in_process).
//!
//! One writer thread commits everything that is queued as one atomic, fsynced batch, so that several writers
//! share an fsync; whatever was answered `Ok` survives `kill -9` and a power failure. One process at a time.
//! It does not replicate and does not delete old records.

mod layout;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use fjall::config::BlockSizePolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use schemas::record::{PartitionId, Position, Record};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use self::layout::{PartitionKey, Reader};
use self::writer::{Job, LogWriter};
use super::in_process::{InProcessBroker, Store, Write, WriteKind, name};
use super::{Committed, LogError};

/// A durable broker in this process.
pub type LocalBroker = InProcessBroker<LocalStore>;

/// Where the broker's own time comes from, if it stamps records.
pub type Clock = Arc<dyn Fn() -> TimestampMicros + Send + Sync>;

/// Cache of blocks read from disk. With the memtables below (one active and at most four sealed
/// each) the whole engine stays under 64 MiB.
const CACHE_BYTES: u64 = 8 << 20;
const RECORDS_MEMTABLE_BYTES: u64 = 8 << 20;
const STATE_MEMTABLE_BYTES: u64 = 1 << 20;
const META_MEMTABLE_BYTES: u64 = 1 << 20;
/// Smallest bound that the engine accepts; it also bounds the time to reopen.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Records are read in order: fewer, larger blocks.
const RECORD_BLOCK_BYTES: u32 = 64 << 10;
/// Longest key of the engine is 65 535 bytes; six of them are ours.
const KEY_BYTES_MAX: usize = 60_000;
const IDLE_WAIT_MS: u64 = 100;

/// A topic as it is held.
#[derive(Debug, Clone, Copy)]
struct TopicHeld {
    id: u16,
    partitions: u32,
}

/// What is known without reading the disk.
#[derive(Debug, Default)]
struct Known {
    topics: BTreeMap<Topic, TopicHeld>,
    next: BTreeMap<PartitionId, u64>,
}

struct Inner {
    dir: PathBuf,
    db: Database,
    records: Keyspace,
    state: Keyspace,
    meta: Keyspace,
    known: RwLock<Known>,
}

/// Records, state entries and positions on disk.
pub struct LocalStore {
    inner: Arc<Inner>,
    writer: LogWriter,
    clock: Option<Clock>,
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStore").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl LocalBroker {
    /// Opens the log in `dir`, which is created if it is missing. With a `clock`, appended records
    /// get the broker's time (Kafka's `LogAppendTime`); without, they keep their own
    /// (`CreateTime`). Steps always keep the times that their records carry. Blocks for as long as
    /// the journal (at most 64 MiB) takes to read.
    ///
    /// # Errors
    /// [`Fatal`](super::ErrorClass::Fatal): another process has it open, or data are damaged.
    pub fn open(dir: impl AsRef<Path>, clock: Option<Clock>) -> Result<Self, LogError> {
        let inner = Arc::new(Inner::open(dir.as_ref())?);
        let writer = LogWriter::start(Arc::clone(&inner))?;
        Ok(Self::over(LocalStore { inner, writer, clock }))
    }
}

/// An engine error as the log tells it.
fn engine(what: impl Into<String>) -> impl FnOnce(fjall::Error) -> LogError {
    let what = what.into();
    |error| match error {
        fjall::Error::Locked => {
            LogError::fatal(what, "another process has it open; stop that process or choose another directory")
        }
        error => LogError::fatal(what, format!("{error:?}; check disk and free space, then start again")),
    }
}

fn damaged(what: impl Into<String>, why: impl fmt::Display) -> LogError {
    LogError::fatal(what, format!("damaged: {why}; restore the directory from a backup, nothing was skipped"))
}

impl Inner {
    fn open(dir: &Path) -> Result<Self, LogError> {
        let what = || format!("log in {}", dir.display());
        let db = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            // The writer thread decides when the journal is synced: once per batch.
            .manual_journal_persist(true)
            .open()
            .map_err(engine(what()))?;
        let keyspace = |name: &str, memtable: u64, block: u32| {
            let options = KeyspaceCreateOptions::default()
                .max_memtable_size(memtable)
                .data_block_size_policy(BlockSizePolicy::all(block));
            db.keyspace(name, || options).map_err(engine(what()))
        };
        let inner = Self {
            dir: dir.to_owned(),
            records: keyspace("records", RECORDS_MEMTABLE_BYTES, RECORD_BLOCK_BYTES)?,
            state: keyspace("state", STATE_MEMTABLE_BYTES, 4 << 10)?,
            meta: keyspace("meta", META_MEMTABLE_BYTES, 4 << 10)?,
            known: RwLock::default(),
            db,
        };
        inner.recover()?;
        Ok(inner)
    }

    /// Reads topics and next offsets, and checks that the newest record of each partition is there.
    fn recover(&self) -> Result<(), LogError> {
        let mut known = Known::default();
        for &topic in Topic::ALL {
            // A topic that this version knows and the log does not is no damage: it is created on demand.
            let Some(mut value) = self.meta(&layout::topic_key(topic.name()))? else { continue };
            let fields = value.u16().and_then(|id| Ok(TopicHeld { id, partitions: value.u32()? }));
            let held = fields.map_err(|e| damaged(format!("topic {topic}"), e))?;
            known.topics.insert(topic, held);
            for partition in 0..held.partitions {
                let id = PartitionId { topic, partition };
                let next = self.recover_next(id, layout::partition_key(held.id, partition))?;
                known.next.insert(id, next);
            }
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    fn recover_next(&self, id: PartitionId, key: PartitionKey) -> Result<u64, LogError> {
        let next = match self.meta(&layout::next_key(key))? {
            Some(mut value) => value.u64().map_err(|e| damaged(name(id), e))?,
            None => 0,
        };
        if id.topic.is_compacted() {
            return Ok(next);
        }
        // The engine recovers by cutting its journal at the first damage. Records and `next` are written in
        // one batch, so that they disagree only if something was lost.
        let last = self.records.prefix(key).next_back().map(|guard| guard.key().map_err(engine(name(id))));
        let held = last.transpose()?.map(|key| layout::offset_of(&key)).transpose();
        match held.map_err(|e| damaged(name(id), e))?.map_or(0, |offset| offset + 1) {
            held if held == next => Ok(next),
            held => Err(damaged(name(id), format!("its newest record is {held} - 1, it should be {next} - 1"))),
        }
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Reader>, LogError> {
        let what = || format!("log in {}", self.dir.display());
        let value = self.meta.get(key).map_err(engine(what()))?;
        value.map(|v| Reader::open(bytes_of(v))).transpose().map_err(|e| damaged(what(), e))
    }

    fn key(&self, id: PartitionId) -> Result<PartitionKey, LogError> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let held = known.topics.get(&id.topic).filter(|held| id.partition < held.partitions);
        held.map(|held| layout::partition_key(held.id, id.partition))
            .ok_or_else(|| LogError::fatal(name(id), "there is no such partition; create the topics first"))
    }

    fn next(&self, id: PartitionId) -> u64 {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.next.get(&id).copied().unwrap_or(0)
    }

    fn read(
        &self,
        id: PartitionId,
        offset: u64,
        most: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Record>, u64), LogError> {
        let key = self.key(id)?;
        // The end in memory, which moves only after the fsync: nothing is read that a crash could take back.
        let end = self.next(id);
        let mut records = Vec::with_capacity(most.min(end.saturating_sub(offset) as usize));
        let (mut next, mut bytes) = (offset, 0);
        for guard in self.records.range(layout::record_key(key, offset)..layout::record_key(key, end.max(offset))) {
            let (held, value) = guard.into_inner().map_err(engine(name(id)))?;
            let found = layout::offset_of(&held).map_err(|e| damaged(name(id), e))?;
            // Offsets of this log are dense: a gap is a lost record, and nothing is skipped in silence (I10).
            if found != next {
                return Err(damaged(name(id), format!("offset {next} is missing, the next one is {found}")));
            }
            let at = Position { partition: id, offset: found };
            let record =
                layout::decode(at, bytes_of(value)).map_err(|e| damaged(format!("{} at {found}", name(id)), e))?;
            bytes += record.value.as_ref().map_or(0, Bytes::len);
            // One record at least, however large: the partition could not be read past it otherwise.
            if !records.is_empty() && bytes > bytes_max {
                break;
            }
            records.push(record);
            next += 1;
            if records.len() == most {
                break;
            }
        }
        if records.is_empty() && offset < end {
            return Err(damaged(name(id), format!("offset {offset} is missing, the log ends at {end}")));
        }
        Ok((records, next))
    }

    fn entries(&self, id: PartitionId) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let prefix = self.key(id)?;
        let mut entries = Vec::new();
        for guard in self.state.prefix(prefix) {
            let (key, value) = guard.into_inner().map_err(engine(name(id)))?;
            let value = Reader::open(bytes_of(value)).map_err(|e| damaged(name(id), e))?;
            entries.push((bytes_of(key).slice(prefix.len()..), value.0));
        }
        Ok(entries)
    }

    fn committed(&self, group: &str, id: PartitionId) -> Result<Option<Committed>, LogError> {
        let Some(mut value) = self.meta(&layout::offset_key(group, self.key(id)?))? else { return Ok(None) };
        let what = || format!("position of group {group} in {}", name(id));
        let next = value.u64().map_err(|e| damaged(what(), e))?;
        let metadata = String::from_utf8(value.0.to_vec()).map_err(|e| damaged(what(), e))?;
        Ok(Some(Committed { next, metadata }))
    }
}

fn bytes_of(slice: fjall::Slice) -> Bytes {
    slice.into()
}

/// Runs `read` on a thread that may wait for the disk.
async fn blocking<R: Send + 'static>(
    inner: &Arc<Inner>,
    read: impl FnOnce(&Inner) -> Result<R, LogError> + Send + 'static,
) -> Result<R, LogError> {
    let inner = Arc::clone(inner);
    let joined = tokio::task::spawn_blocking(move || read(&inner)).await;
    joined.unwrap_or_else(|e| Err(LogError::fatal("read of the embedded log", format!("its thread ended: {e}"))))
}

impl Store for LocalStore {
    fn idle_wait_ms(&self) -> u64 {
        IDLE_WAIT_MS
    }

    async fn create(&self, topic: Topic, partitions: u32) -> Result<(), LogError> {
        self.writer.send(Job::Create { topic, partitions, may_grow: false }).await.map(drop)
    }

    async fn grow(&self, topic: Topic, partitions: u32) -> Result<(), LogError> {
        self.writer.send(Job::Create { topic, partitions, may_grow: true }).await.map(drop)
    }

    fn partitions(&self, topic: Topic) -> Option<u32> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.topics.get(&topic).map(|held| held.partitions)
    }

    async fn write(&self, write: Write) -> Result<Vec<Position>, LogError> {
        let stamp = self
            .clock
            .as_ref()
            .filter(|_| write.kind == WriteKind::Append)
            .map(|clock| TimestampMicros::from_ms(clock().ms()));
        let mut records = Vec::with_capacity(write.records.len());
        for placed in write.records {
            let key_bytes = placed.record.key.as_ref().map_or(0, Bytes::len);
            // Refused before the job is queued: the engine would fail the whole batch, and with it the writes
            // of others.
            if placed.partition.topic.is_compacted() && key_bytes > KEY_BYTES_MAX {
                let message = format!("a state key of {key_bytes} bytes; at most {KEY_BYTES_MAX}");
                return Err(LogError::fatal(name(placed.partition), message));
            }
            records.push(writer::Encoded::of(placed, stamp));
        }
        self.writer.send(Job::Write { records, offset: write.offset, lease: write.lease }).await
    }

    async fn read(
        &self,
        _group: &str,
        partition: PartitionId,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Record>, u64), LogError> {
        blocking(&self.inner, move |inner| inner.read(partition, offset, records_max, bytes_max)).await
    }

    async fn entries(&self, partition: PartitionId) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        blocking(&self.inner, move |inner| inner.entries(partition)).await
    }

    async fn committed(&self, group: &str, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        let group = group.to_owned();
        blocking(&self.inner, move |inner| inner.committed(&group, partition)).await
    }

    fn bounds(&self, partition: PartitionId) -> Range<u64> {
        0..self.inner.next(partition)
    }
}

#[cfg(test)]
mod tests;
