//! A bounded durable queue on disk: the events of an agent that no gateway has acknowledged yet.
//!
//! Segment files of checksummed frames ([`frame`]), appended to by one process at a time (file lock),
//! read in order ([`reader`]), acknowledged as a contiguous prefix and deleted by whole segments. A torn
//! tail is truncated at open; damage anywhere else is kept aside and counted, never skipped without a
//! report. [`queue`] shares it between threads and adds the fsync policy and the bounded wait. It does not
//! know what a record means, and it never changes a record.

pub mod frame;
pub mod queue;
pub mod reader;
pub(crate) mod segments;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use frame::{FRAME_BYTES, HEAD_BYTES, PAYLOAD_BYTES_MAX};
use segments::Acks;

/// When appended records are fsynced. Under every policy they survive the death of the process; the policy is about
/// a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Before an append is answered; concurrent appends share one.
    Always,
    /// At most this many milliseconds after an append. A record is not sent before that.
    IntervalMs(u64),
    /// Never: a power failure may lose records that were sent already, and their numbers are then used again.
    Never,
}

/// Where a spool is and how large it may get.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// Its directory, of its own; made if absent, readable by its owner only.
    pub dir: PathBuf,
    /// Bytes on disk at which it is full; it may exceed this by one record.
    pub bytes_max: u64,
    /// Bytes at which a new segment is started; space is freed by whole segments.
    pub segment_bytes_max: u64,
}

impl SpoolConfig {
    /// A spool of so many bytes in about sixteen segments, each of 64 KiB to 8 MiB.
    pub fn new(dir: impl Into<PathBuf>, bytes_max: u64) -> Self {
        Self { dir: dir.into(), bytes_max, segment_bytes_max: (bytes_max / 16).clamp(64 << 10, 8 << 20) }
    }
}

/// Why a spool could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process uses it: stop, or choose another directory.
    #[error("spool {} is in use by another process: give each process a directory of its own", .0.display())]
    Locked(PathBuf),
    /// The bound is reached: wait until records are acknowledged, or drop and count.
    #[error("spool is full")]
    Full,
    /// A record longer than a frame may be: it can never be stored.
    #[error("record of {0} bytes is longer than {PAYLOAD_BYTES_MAX}")]
    TooLarge(usize),
    /// The file system refuses: check the path and the free space. The spool stays usable.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl SpoolError {
    /// For `map_err` after a file operation.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// Damage inside of a segment, kept aside in the folder `corrupt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Copy of the bytes.
    pub kept: PathBuf,
    /// How many bytes are no record.
    pub bytes: u64,
    /// How many unacknowledged records it cost.
    pub missing: u64,
    /// Whether no earlier open has reported it.
    pub is_new: bool,
}

/// What was found at open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of a torn last write that were truncated.
    pub torn_bytes: u64,
    /// Damage, in order.
    pub damage: Vec<Damage>,
}

impl Opened {
    /// Unacknowledged records that are missing and were not reported before.
    pub fn missing_new(&self) -> u64 {
        self.damage.iter().filter(|damage| damage.is_new).map(|damage| damage.missing).sum()
    }
}

/// A segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Index of its first record; its name.
    pub first: u64,
    /// Index after its last record.
    pub next: u64,
    /// Length of its sound part, bytes.
    pub bytes: u64,
}

/// The queue. All operations are synchronous; none waits for anything but the file system.
#[derive(Debug)]
pub struct Spool {
    config: SpoolConfig,
    /// Nothing is written without it.
    lock: Option<File>,
    acks: Acks,
    /// Oldest first; the last one is appended to.
    segments: VecDeque<Segment>,
    active: Option<Arc<File>>,
    /// Files with writes that are not forced to the disk yet.
    dirty: Vec<Arc<File>>,
    /// Whether a segment was made since names were last forced to the disk.
    has_new_names: bool,
    /// Frame lengths of the records from the acknowledged one on; 0 for a missing one.
    pending: VecDeque<u32>,
    pending_events: u64,
    pending_bytes: u64,
    next: u64,
    synced: u64,
    buffer: Vec<u8>,
}

/// An fsync that can run without the spool's lock, so that appends continue meanwhile.
#[derive(Debug)]
pub struct SyncJob {
    files: Vec<Arc<File>>,
    dir: PathBuf,
    has_new_names: bool,
    next: u64,
}

impl SyncJob {
    /// Forces everything appended before [`Spool::sync_job`] to the disk.
    ///
    /// # Errors
    /// The disk refuses: the records are not durable; try again.
    pub fn run(&self) -> Result<(), SpoolError> {
        for file in &self.files {
            file.sync_data().map_err(SpoolError::io("force to disk", &self.dir))?;
        }
        // A new file is durable only once its directory is.
        if self.has_new_names { segments::sync_dir(&self.dir) } else { Ok(()) }
    }
}

impl Spool {
    /// Opens or makes a spool. `visit` sees every record that is still there, acknowledged ones
    /// included, in order.
    ///
    /// # Errors
    /// [`SpoolError::Locked`] or [`SpoolError::Io`].
    pub fn open(config: SpoolConfig, visit: impl FnMut(u64, &[u8])) -> Result<(Self, Opened), SpoolError> {
        segments::make_dir(&config.dir)?;
        let lock = segments::lock(&config.dir)?;
        // Under the lock, like everything below: two processes would append with the same indexes.
        let acks = Acks::open(&config.dir)?;
        let found = segments::scan(&config.dir, acks.next(), visit)?;
        let next = found.segments.back().map_or(0, |segment| segment.next).max(acks.next());
        let mut pending = found.pending;
        // A torn tail may have held records that are acknowledged already. The next index continues after them:
        // an index that is used twice would be taken as acknowledged and never be sent.
        pending.truncate((next - acks.next()) as usize);
        let spool = Self {
            pending_events: pending.iter().filter(|len| **len > 0).count() as u64,
            pending_bytes: pending.iter().map(|len| u64::from(*len)).sum(),
            pending,
            next,
            synced: next,
            segments: found.segments,
            active: None,
            dirty: Vec::new(),
            has_new_names: true,
            config,
            lock: Some(lock),
            acks,
            buffer: Vec::new(),
        };
        // The process before may have died before its fsync. Readers hand out records up to `synced`, so
        // everything must be durable before `synced` says so.
        for segment in &spool.segments {
            let path = segments::path(&spool.config.dir, segment.first);
            let sync = File::open(&path).and_then(|file| file.sync_data());
            sync.map_err(SpoolError::io("force to disk", &path))?;
        }
        Ok((spool, found.opened))
    }

    /// Appends a record and returns its index. It survives the death of the process from now on,
    /// and that of the machine from the next [`Spool::sync`] on.
    ///
    /// # Errors
    /// [`SpoolError::Full`], [`SpoolError::TooLarge`] or [`SpoolError::Io`]: it is not taken.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, SpoolError> {
        if self.is_full() {
            return Err(SpoolError::Full);
        }
        self.append_beyond(payload)
    }

    /// [`Spool::append`] without the bound, for the few records that report that it is reached.
    ///
    /// # Errors
    /// As [`Spool::append`], [`SpoolError::Full`] excepted.
    pub fn append_beyond(&mut self, payload: &[u8]) -> Result<u64, SpoolError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SpoolError::TooLarge(payload.len()));
        }
        if self.lock.is_none() {
            return Err(SpoolError::Locked(self.config.dir.clone()));
        }
        let file = self.writable()?;
        let index = self.next;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        frame::put(index, payload, &mut buffer);
        let written = (&*file).write_all(&buffer);
        let bytes = buffer.len();
        self.buffer = buffer;
        // One large record must not keep 4 MiB for the life of the process.
        self.buffer.shrink_to(64 << 10);
        let Some(segment) = self.segments.back_mut() else { return Ok(index) };
        if let Err(source) = written {
            // Part of a frame may be there: truncate it, and start a new segment in case that fails too. A frame
            // after garbage would be found again, but the garbage would count as damage.
            let path = segments::path(&self.config.dir, segment.first);
            drop(file.set_len(segment.bytes));
            self.active = None;
            return Err(SpoolError::Io { what: "append to", path, source });
        }
        segment.bytes += bytes as u64;
        segment.next = index + 1;
        self.next = index + 1;
        self.pending.push_back(bytes as u32);
        self.pending_events += 1;
        self.pending_bytes += bytes as u64;
        // A segment that was followed by the next may still be dirty: both are fsynced.
        if self.dirty.last().is_none_or(|last| !Arc::ptr_eq(last, &file)) {
            self.dirty.push(file);
        }
        Ok(index)
    }

    /// The file to append to: the active one, or a new segment's.
    fn writable(&mut self) -> Result<Arc<File>, SpoolError> {
        let is_large = |segment: &Segment| segment.bytes >= self.config.segment_bytes_max;
        match (&self.active, self.segments.back()) {
            (Some(file), Some(segment)) if !is_large(segment) => Ok(file.clone()),
            _ => self.roll(),
        }
    }

    fn roll(&mut self) -> Result<Arc<File>, SpoolError> {
        let file = Arc::new(segments::create(&self.config.dir, self.next)?);
        // A segment of this name can only be empty: its first record would have the index that is used now.
        self.segments.retain(|segment| segment.first != self.next);
        self.segments.push_back(Segment { first: self.next, next: self.next, bytes: HEAD_BYTES as u64 });
        self.active = Some(file.clone());
        self.has_new_names = true;
        Ok(file)
    }

    /// Releases the lock for another process; this one no longer appends.
    pub fn release(&mut self) {
        self.lock = None;
    }

    /// Whether the bound is reached.
    pub fn is_full(&self) -> bool {
        self.disk_bytes() >= self.config.bytes_max
    }

    /// Bytes of all segments.
    pub fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Acknowledges every record before `next`, for good; an earlier `next` than before changes nothing.
    ///
    /// # Errors
    /// [`SpoolError::Io`]: records may be handed out again after a restart.
    pub fn ack(&mut self, next: u64) -> Result<(), SpoolError> {
        let next = next.min(self.next);
        for _ in self.acks.next()..next {
            let bytes = self.pending.pop_front().unwrap_or_default();
            self.pending_events -= u64::from(bytes > 0);
            self.pending_bytes -= u64::from(bytes);
        }
        self.acks.advance(next)
    }

    /// Deletes segments whose records are all acknowledged and before `keep_from`, the active one
    /// too if it is half full. Returns how many went.
    ///
    /// # Errors
    /// [`SpoolError::Io`]: the space is not given back; try again.
    pub fn trim(&mut self, keep_from: u64) -> Result<usize, SpoolError> {
        let limit = keep_from.min(self.acks.next());
        let mut trimmed = 0;
        while self.can_trim(limit) {
            if trimmed == 0 {
                // Once no segment is left, only the acknowledgement says which index comes next: were it lost, the
                // indexes would start again at 0.
                self.acks.sync()?;
            }
            let Some(segment) = self.segments.front() else { break };
            let path = segments::path(&self.config.dir, segment.first);
            std::fs::remove_file(&path).map_err(SpoolError::io("delete", &path))?;
            self.segments.pop_front();
            if self.segments.is_empty() {
                self.active = None;
            }
            trimmed += 1;
        }
        Ok(trimmed)
    }

    /// Whether [`Spool::trim`] would delete a segment, if nothing else were to be kept.
    pub fn is_trimmable(&self) -> bool {
        self.can_trim(self.acks.next())
    }

    fn can_trim(&self, limit: u64) -> bool {
        let Some(segment) = self.segments.front() else { return false };
        // Deleting the active segment for every acknowledgement would make a file per batch; half full is a
        // compromise with the space that it holds.
        let is_active = self.segments.len() == 1 && self.active.is_some();
        segment.next <= limit && (!is_active || segment.bytes >= self.config.segment_bytes_max / 2)
    }

    /// What is to be forced to the disk, if anything is.
    pub fn sync_job(&mut self) -> Option<SyncJob> {
        if self.dirty.is_empty() {
            return None;
        }
        let files = std::mem::take(&mut self.dirty);
        let has_new_names = std::mem::take(&mut self.has_new_names);
        Some(SyncJob { files, dir: self.config.dir.clone(), has_new_names, next: self.next })
    }

    /// Records the outcome of a [`SyncJob`]: what it covered is durable, or still to be fsynced.
    pub fn finish_sync(&mut self, job: SyncJob, is_done: bool) {
        if is_done {
            self.synced = self.synced.max(job.next);
        } else {
            self.has_new_names |= job.has_new_names;
            // In front: they were written first, and the next fsync must cover them.
            self.dirty.splice(0..0, job.files);
        }
    }

    /// Forces everything appended to the disk.
    ///
    /// # Errors
    /// [`SpoolError::Io`]: it is not durable; try again.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        let Some(job) = self.sync_job() else { return Ok(()) };
        let outcome = job.run();
        self.finish_sync(job, outcome.is_ok());
        outcome
    }

    /// Whether something is to be forced to the disk.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Index of the next record to be appended.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Index of the first record that is not acknowledged.
    pub fn acked(&self) -> u64 {
        self.acks.next()
    }

    /// Records before this index are on the disk for good.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Records that are not acknowledged.
    pub fn pending_events(&self) -> u64 {
        self.pending_events
    }

    /// Bytes of the frames of records that are not acknowledged.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// The segment that holds record `index`, or the next one after it.
    pub fn segment_at(&self, index: u64) -> Option<Segment> {
        self.segments.iter().find(|segment| segment.next > index).copied()
    }

    /// A reader that begins with record `index`; it reads without the spool.
    pub fn reader(&self, index: u64) -> reader::Reader {
        reader::Reader::new(self.config.dir.clone(), index)
    }
}

/// Frame length of a payload, bytes.
pub fn frame_bytes(payload: &[u8]) -> usize {
    FRAME_BYTES + payload.len()
}
