//! The one thread that writes: it assigns offsets, builds batches and fsyncs them.
//!
//! Beside the engine it keeps a count of acknowledged commits in a separate file: the engine truncates a
//! damaged journal at the damage without reporting it, and the count, with the numbered commit keys, shows
//! that an acknowledged commit is missing. It reads nothing after its start.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use fjall::{OwnedWriteBatch as WriteBatch, PersistMode};
use schemas::record::{PartitionId, Position};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use tokio::sync::oneshot;

use super::layout::{self, PartitionKey};
use super::{Inner, TopicHeld, damaged, engine};
use crate::log::in_process::{Lease, Placed};
use crate::log::{Committed, LogError};

/// Jobs are committed together up to this many bytes.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Commits whose numbers are kept: more steps than the journals (64 MiB) can hold.
const COMMITS_KEPT: u64 = 1 << 16;
/// Name of the file that counts answered commits: the count and its complement, 16 bytes.
const COUNT_FILE: &str = "answered-commits";

/// A record on its way to disk.
pub(super) struct Encoded {
    partition: PartitionId,
    /// Key of a state entry; `None` for a record that keeps its offset.
    entry: Option<Vec<u8>>,
    /// Bytes to store; `None` deletes the entry.
    value: Option<Vec<u8>>,
}

impl Encoded {
    /// Encodes a record, with the broker's time if there is one.
    pub(super) fn of(placed: Placed, stamp: Option<TimestampMicros>) -> Self {
        let Placed { partition, record } = placed;
        if record.topic.is_compacted() {
            Self {
                partition,
                entry: Some(record.key.unwrap_or_default().to_vec()),
                value: record.value.map(|v| layout::value(&[&v])),
            }
        } else {
            let value = layout::encode(&record, stamp.unwrap_or(record.timestamp));
            Self { partition, entry: None, value: Some(value) }
        }
    }
}

/// Something to write.
pub(super) enum Job {
    /// Of a topic that is there, `may_grow` raises the count; otherwise another count than its own is refused.
    Create {
        topic: Topic,
        partitions: u32,
        may_grow: bool,
    },
    Write {
        records: Vec<Encoded>,
        offset: Option<(String, PartitionId, Committed)>,
        lease: Option<Lease>,
    },
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Create { .. } => 0,
            Job::Write { records, .. } => records.iter().map(|r| r.value.as_ref().map_or(0, Vec::len)).sum(),
        }
    }
}

type Answer = Result<Vec<Position>, LogError>;
type Envelope = (Job, oneshot::Sender<Answer>);

/// Handle of the thread; dropping it ends the thread after everything sent was written.
pub(super) struct LogWriter {
    jobs: Option<mpsc::Sender<Envelope>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        // Closes the channel, so that the thread writes what is queued and ends; the join below waits for it.
        self.jobs = None;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the writer of the embedded log panicked; what was answered is on disk");
        }
    }
}

impl LogWriter {
    /// Checks the count of commits and starts the thread.
    pub(super) fn start(inner: Arc<Inner>) -> Result<Self, LogError> {
        let commits = last_commit(&inner)?;
        let mut thread = Thread { count: open_count(&inner, commits)?, commits, inner };
        let (jobs, inbox) = mpsc::channel();
        let spawned = std::thread::Builder::new().name("local-log".to_owned()).spawn(move || thread.run(&inbox));
        let thread = spawned.map_err(|e| LogError::fatal("thread of the embedded log", e.to_string()))?;
        Ok(Self { jobs: Some(jobs), thread: Mutex::new(Some(thread)) })
    }

    /// Hands a job over and waits until it is durable.
    pub(super) async fn send(&self, job: Job) -> Answer {
        let stopped = || LogError::fatal("write to the embedded log", "its writer has stopped; see the log above");
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send((job, reply)).is_ok());
        if !sent {
            return Err(stopped());
        }
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// The newest commit's number; commits kept must be without a gap.
fn last_commit(inner: &Inner) -> Result<u64, LogError> {
    let what = || format!("log in {}", inner.dir.display());
    let mut last = None;
    for guard in inner.meta.prefix(b"c") {
        let key = guard.key().map_err(engine(what()))?;
        let number = layout::commit_of(&key).map_err(|e| damaged(what(), e))?;
        // Numbers without a gap are the proof that the journal has no hole in the middle.
        if last.is_some_and(|last| last + 1 != number) {
            return Err(damaged(what(), format!("commit {} is missing", number - 1)));
        }
        last = Some(number);
    }
    Ok(last.unwrap_or(0))
}

/// Opens the count of answered commits; the log must hold at least as many.
fn open_count(inner: &Inner, commits: u64) -> Result<File, LogError> {
    let path = inner.dir.join(COUNT_FILE);
    let what = || path.display().to_string();
    let io = |e: std::io::Error| LogError::fatal(path.display().to_string(), e.to_string());
    let mut file =
        File::options().read(true).write(true).create(commits == 0).truncate(false).open(&path).map_err(io)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io)?;
    let answered = match <[u8; 16]>::try_from(bytes.as_slice()).map(u128::from_le_bytes) {
        // The complement tells a count from bytes that a torn write or a foreign program has left.
        Ok(pair) if pair as u64 == !((pair >> 64) as u64) => pair as u64,
        // Only a log without commits may lack the file: elsewhere its absence would switch the check off.
        Err(_) if bytes.is_empty() && commits == 0 => {
            write_count(&mut file, 0).and_then(|()| file.sync_all()).map_err(io)?;
            0
        }
        _ => return Err(damaged(what(), "not a count")),
    };
    if answered > commits {
        Err(damaged(what(), format!("{answered} commits were answered, the log holds {commits}")))
    } else {
        Ok(file)
    }
}

/// In place and within one sector, so that it is the old count or the new one; not fsynced: an older
/// count is a weaker check, never a wrong one.
fn write_count(file: &mut File, count: u64) -> std::io::Result<()> {
    let pair = u128::from(count) | u128::from(!count) << 64;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&pair.to_le_bytes())
}

struct Thread {
    inner: Arc<Inner>,
    commits: u64,
    count: File,
}

/// What a batch changes in memory once it is durable.
#[derive(Default)]
struct Pending {
    next: BTreeMap<PartitionId, u64>,
    topics: BTreeMap<Topic, TopicHeld>,
}

impl Thread {
    fn run(&mut self, inbox: &mpsc::Receiver<Envelope>) {
        while let Ok(first) = inbox.recv() {
            let mut bytes = first.0.bytes();
            let mut taken = vec![first];
            // Group commit: whatever has arrived while the last batch was fsynced goes into one batch and
            // costs one fsync together.
            while bytes < BATCH_BYTES_MAX
                && let Ok(more) = inbox.try_recv()
            {
                bytes += more.0.bytes();
                taken.push(more);
            }
            self.write_together(taken);
        }
    }

    fn write_together(&mut self, taken: Vec<Envelope>) {
        // `fdatasync`: the journal's length is synced with the data, and its times are of no use.
        let mut batch = self.inner.db.batch().durability(Some(PersistMode::SyncData));
        let mut pending = Pending::default();
        let (mut replies, mut leases) = (Vec::with_capacity(taken.len()), Vec::new());
        for (job, reply) in taken {
            let answer = self.add(&mut batch, &mut pending, job, &mut leases);
            replies.push((reply, answer));
        }
        let committed = self.commit(batch, pending);
        // After the commit and before the answers: the partition is free when the caller learns of the
        // outcome.
        drop(leases);
        for (reply, answer) in replies {
            let failed = |e: &LogError| LogError::new(e.class, e.what.clone(), e.message.clone());
            // A dropped receiver only means that the caller stopped waiting; the write is durable regardless.
            let _: Result<(), Answer> = reply.send(committed.as_ref().map_err(failed).and(answer));
        }
    }

    fn commit(&mut self, mut batch: WriteBatch, pending: Pending) -> Result<(), LogError> {
        let number = self.commits + 1;
        batch.insert(&self.inner.meta, layout::commit_key(number), layout::value(&[]));
        // Only the newest numbers are needed to see a cut journal; without this the keyspace would grow by a
        // key per commit.
        if let Some(old) = number.checked_sub(COMMITS_KEPT).filter(|n| *n > 0) {
            batch.remove(&self.inner.meta, layout::commit_key(old));
        }
        for (id, next) in &pending.next {
            let key = layout::next_key(self.key(&pending, *id)?);
            batch.insert(&self.inner.meta, key, layout::value(&[&next.to_le_bytes()]));
        }
        // Everything of the batch becomes visible and durable here, or nothing of it.
        batch.commit().map_err(engine(format!("write to the log in {}", self.inner.dir.display())))?;
        self.commits = number;
        // Only after the fsync: readers take their end from here, and must not see what a crash could take
        // back.
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        known.topics.extend(pending.topics);
        known.next.extend(pending.next);
        drop(known);
        let io = |e: std::io::Error| LogError::fatal(format!("write to {COUNT_FILE}"), e.to_string());
        write_count(&mut self.count, number).map_err(io)
    }

    fn key(&self, pending: &Pending, id: PartitionId) -> Result<PartitionKey, LogError> {
        match pending.topics.get(&id.topic) {
            Some(held) => Ok(layout::partition_key(held.id, id.partition)),
            None => self.inner.key(id),
        }
    }

    /// Adds a job to the batch; an error adds nothing of it.
    fn add(&self, batch: &mut WriteBatch, pending: &mut Pending, job: Job, leases: &mut Vec<Lease>) -> Answer {
        match job {
            Job::Create { topic, partitions, may_grow } => {
                let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
                // What is pending is newer than what is known: the topic may have grown in this very batch.
                let held = pending.topics.get(&topic).or_else(|| known.topics.get(&topic));
                let id = match held {
                    Some(held) if held.partitions == partitions || may_grow && held.partitions > partitions => {
                        return Ok(Vec::new());
                    }
                    // The id is part of the key of every record: it is the topic's for good.
                    Some(held) if may_grow => held.id,
                    Some(held) => {
                        let message = format!("it was created with {} partitions meanwhile", held.partitions);
                        return Err(LogError::fatal(format!("topic {topic}"), message));
                    }
                    // Topics are never deleted, so that their number is the next free id.
                    None => {
                        let new = pending.topics.keys().filter(|t| !known.topics.contains_key(t)).count();
                        (known.topics.len() + new) as u16
                    }
                };
                let value = layout::value(&[&id.to_le_bytes(), &partitions.to_le_bytes()]);
                batch.insert(&self.inner.meta, layout::topic_key(topic.name()), value);
                pending.topics.insert(topic, TopicHeld { id, partitions });
                Ok(Vec::new())
            }
            Job::Write { records, offset, lease } => {
                // Kept until the batch is committed, also if this job fails: the lease must cover the time in
                // which its effect is undecided.
                leases.extend(lease);
                let keys: Result<Vec<PartitionKey>, LogError> =
                    records.iter().map(|r| self.key(pending, r.partition)).collect();
                // All keys before the first insert: an error must leave nothing of the job in the batch, which
                // holds the jobs of others.
                let keys = keys?;
                if let Some((group, id, committed)) = offset {
                    let key = layout::offset_key(&group, self.key(pending, id)?);
                    let value = layout::value(&[&committed.next.to_le_bytes(), committed.metadata.as_bytes()]);
                    batch.insert(&self.inner.meta, key, value);
                }
                let records = keys.into_iter().zip(records);
                Ok(records.map(|(key, record)| self.add_record(batch, pending, key, record)).collect())
            }
        }
    }

    fn add_record(
        &self,
        batch: &mut WriteBatch,
        pending: &mut Pending,
        key: PartitionKey,
        record: Encoded,
    ) -> Position {
        let next = pending.next.entry(record.partition).or_insert_with(|| self.inner.next(record.partition));
        let at = Position { partition: record.partition, offset: *next };
        *next += 1;
        match (record.entry, record.value) {
            (Some(entry), Some(value)) => batch.insert(&self.inner.state, layout::state_key(key, &entry), value),
            (Some(entry), None) => batch.remove(&self.inner.state, layout::state_key(key, &entry)),
            (None, value) => {
                batch.insert(&self.inner.records, layout::record_key(key, at.offset), value.unwrap_or_default());
            }
        }
        at
    }
}
