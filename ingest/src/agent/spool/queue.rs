//! A spool that threads share: the writer's own state under the same lock, the fsync policy, and
//! waiting that is bounded.
//!
//! An append waits for space and, under [`Fsync::Always`], for the disk, together up to a limit; a separate
//! thread runs fsync without the lock. What to do about a full spool is the caller's decision. It does not
//! send anything.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Fsync, Segment, Spool, SpoolError};

/// Wait before a refused fsync is tried again.
const SYNC_RETRY_MS: u64 = 1_000;

/// A record that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its index.
    pub index: u64,
    /// Whether it is on the disk for good; else it survives the process, and the disk follows.
    pub is_durable: bool,
}

/// The queue; a clone is the same queue.
#[derive(Debug)]
pub struct Queue<W>(Arc<Inner<W>>);

impl<W> Clone for Queue<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<W> {
    fsync: Fsync,
    state: Mutex<State<W>>,
    /// Space was freed, or waiting is over.
    room: Condvar,
    /// Something was forced to the disk.
    synced: Condvar,
    /// There is something to force to the disk.
    unsynced: Condvar,
    /// There may be something to read.
    readable: Notify,
}

/// What the lock protects.
#[derive(Debug)]
pub struct State<W> {
    /// The spool.
    pub spool: Spool,
    /// What the writer keeps in step with it.
    pub writer: W,
    is_closed: bool,
    is_sync_urgent: bool,
    /// The reader is woken when this record can be read,
    wake_at: u64,
    /// or when so many bytes are waiting.
    wake_bytes: u64,
}

/// The thread that forces to the disk; [`Syncer::join`] it after [`Queue::close`].
#[derive(Debug)]
pub struct Syncer(Option<JoinHandle<()>>);

impl Syncer {
    /// Waits until it has forced the last record, or was refused once more.
    pub fn join(self) {
        if let Some(thread) = self.0 {
            // The thread is not expected to panic; if it did, the records are still in the files.
            drop(thread.join());
        }
    }
}

impl<W: Send + 'static> Queue<W> {
    /// Shares a spool, and starts the thread that the policy asks for.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(spool: Spool, fsync: Fsync, writer: W) -> std::io::Result<(Self, Syncer)> {
        let state = State { spool, writer, is_closed: false, is_sync_urgent: false, wake_at: 0, wake_bytes: u64::MAX };
        let queue = Self(Arc::new(Inner {
            fsync,
            state: Mutex::new(state),
            room: Condvar::new(),
            synced: Condvar::new(),
            unsynced: Condvar::new(),
            readable: Notify::new(),
        }));
        let thread = match fsync {
            Fsync::Never => None,
            _ => {
                let queue = queue.clone();
                Some(std::thread::Builder::new().name("custody-fsync".to_owned()).spawn(move || queue.sync_loop())?)
            }
        };
        Ok((queue, Syncer(thread)))
    }

    /// Forces to the disk what the policy asks for, until the queue is closed and all is forced.
    fn sync_loop(&self) {
        let inner = &*self.0;
        loop {
            let idle = |state: &mut State<W>| !state.spool.is_dirty() && !state.is_closed;
            let mut state = wait_while(&inner.unsynced, self.lock(), None, idle);
            if let Fsync::IntervalMs(ms) = inner.fsync {
                let early = |state: &mut State<W>| !state.is_sync_urgent && !state.is_closed;
                state = wait_while(&inner.unsynced, state, Some(Duration::from_millis(ms)), early);
            }
            state.is_sync_urgent = false;
            let is_closed = state.is_closed;
            // Taken under the lock and run without it: appends continue during an fsync, which takes
            // milliseconds, and are covered by the next one.
            let Some(job) = state.spool.sync_job() else {
                if is_closed {
                    return;
                }
                continue;
            };
            drop(state);
            let outcome = job.run();
            let mut state = self.lock();
            // After the fsync has returned: a reader must not see records as durable while the disk may still
            // refuse them.
            state.spool.finish_sync(job, outcome.is_ok());
            self.wake_reader(&state);
            inner.synced.notify_all();
            if let Err(error) = outcome {
                tracing::error!(%error, "spooled events are not durable yet");
                if is_closed {
                    return;
                }
                let open = |state: &mut State<W>| !state.is_closed;
                // A disk that is full or failing refuses at once; without the wait this would be a busy loop.
                drop(wait_while(&inner.unsynced, state, Some(Duration::from_millis(SYNC_RETRY_MS)), open));
            }
        }
    }
}

impl<W> Queue<W> {
    /// The state, for what takes no time.
    pub fn lock(&self) -> MutexGuard<'_, State<W>> {
        // A panic under the lock cannot leave the spool inconsistent: every step of its operations leaves it whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the record that `make` returns, in the order of the calls. It is called exactly once, whether
    /// there is space or not: the numbers that it assigns are final. Its error is returned and nothing is
    /// appended. The inner error says that the spool has not stored the record: [`SpoolError::Full`] after
    /// `block` without space, or the file system's.
    ///
    /// # Errors
    /// That of `make`.
    pub fn append_with<E>(
        &self,
        block: Duration,
        make: impl FnOnce(&mut W) -> Result<Bytes, E>,
    ) -> Result<Result<Appended, SpoolError>, E> {
        let deadline = Instant::now().checked_add(block);
        let full = |state: &mut State<W>| state.spool.is_full() && !state.is_closed;
        let mut state = wait_while(&self.0.room, self.lock(), Some(block), full);
        // Also if the spool is still full: the event has happened, and its number shows `completeness` that it
        // is missing.
        let payload = make(&mut state.writer)?;
        Ok(self.append(state, deadline, |spool| spool.append(&payload)))
    }

    /// Waits until there is room for a record, for `block` at most, and says whether there is.
    pub fn wait_for_room(&self, block: Duration) -> bool {
        let full = |state: &mut State<W>| state.spool.is_full() && !state.is_closed;
        !wait_while(&self.0.room, self.lock(), Some(block), full).spool.is_full()
    }

    /// Appends a record even if the bound is reached, without waiting.
    ///
    /// # Errors
    /// [`SpoolError::TooLarge`] or [`SpoolError::Io`]: it is not taken.
    pub fn append_beyond(&self, make: impl FnOnce(&mut W) -> Bytes) -> Result<Appended, SpoolError> {
        let mut state = self.lock();
        let payload = make(&mut state.writer);
        self.append(state, None, |spool| spool.append_beyond(&payload))
    }

    fn append(
        &self,
        mut state: MutexGuard<'_, State<W>>,
        deadline: Option<Instant>,
        append: impl FnOnce(&mut Spool) -> Result<u64, SpoolError>,
    ) -> Result<Appended, SpoolError> {
        let was_dirty = state.spool.is_dirty();
        let index = append(&mut state.spool)?;
        if self.0.fsync == Fsync::Never {
            self.wake_reader(&state);
            return Ok(Appended { index, is_durable: false });
        }
        // While something is dirty the thread is awake already.
        if !was_dirty {
            self.0.unsynced.notify_one();
        }
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now())).unwrap_or_default();
        if self.0.fsync != Fsync::Always || left.is_zero() {
            return Ok(Appended { index, is_durable: false });
        }
        let waiting = |state: &mut State<W>| state.spool.synced() <= index;
        let state = wait_while(&self.0.synced, state, Some(left), waiting);
        Ok(Appended { index, is_durable: state.spool.synced() > index })
    }

    /// Records before this index may be sent: a power failure must not undo a number that was sent already, because the
    /// next process would use it again for another event.
    pub fn limit(&self, spool: &Spool) -> u64 {
        match self.0.fsync {
            Fsync::Never => spool.next(),
            _ => spool.synced(),
        }
    }

    /// The segment with record `index` and the limit up to which it may be read, if there is one.
    pub fn segment_at(&self, index: u64) -> Option<(Segment, u64)> {
        let state = self.lock();
        let limit = self.limit(&state.spool);
        (index < limit).then(|| Some((state.spool.segment_at(index)?, limit))).flatten()
    }

    /// Waits until record `index` can be read, or [`Queue::wake`] is called.
    pub async fn readable(&self, index: u64) {
        self.readable_or_bytes(index, u64::MAX).await;
    }

    /// As [`Queue::readable`], or until so many bytes are waiting.
    pub async fn readable_or_bytes(&self, index: u64, bytes: u64) {
        let notified = {
            let mut state = self.lock();
            (state.wake_at, state.wake_bytes) = (index, bytes);
            if self.is_awaited(&state) {
                return;
            }
            // Created under the lock: a record that becomes readable after the check above still wakes this
            // future.
            self.0.readable.notified()
        };
        notified.await;
    }

    fn is_awaited(&self, state: &State<W>) -> bool {
        self.limit(&state.spool) > state.wake_at || state.spool.pending_bytes() >= state.wake_bytes
    }

    fn wake_reader(&self, state: &State<W>) {
        if self.is_awaited(state) {
            self.wake();
        }
    }

    /// Wakes the reader.
    pub fn wake(&self) {
        // `notify_one` keeps a permit if there is no waiter yet, so that a wake-up between two waits is not lost.
        self.0.readable.notify_one();
    }

    /// Frees space after records were acknowledged.
    ///
    /// # Errors
    /// [`SpoolError::Io`]: the space is not given back; try again.
    pub fn trim(&self, keep_from: u64) -> Result<usize, SpoolError> {
        let trimmed = self.lock().spool.trim(keep_from)?;
        self.0.room.notify_all();
        Ok(trimmed)
    }

    /// Requests an fsync without waiting for the interval.
    pub fn sync_soon(&self) {
        self.lock().is_sync_urgent = true;
        self.0.unsynced.notify_all();
    }

    /// Ends every wait, and the thread once everything is fsynced.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.0.room.notify_all();
        self.0.unsynced.notify_all();
        self.wake();
    }
}

/// Waits while `holds`, without limit or for `most`.
fn wait_while<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    most: Option<Duration>,
    holds: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    match most {
        None => condvar.wait_while(guard, holds).unwrap_or_else(PoisonError::into_inner),
        Some(most) => condvar.wait_timeout_while(guard, most, holds).unwrap_or_else(PoisonError::into_inner).0,
    }
}
