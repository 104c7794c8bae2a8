//! The client library: an agent submits events; the client numbers them, keeps them on disk, and sends
//! them until the gateway confirms that the log has them.
//!
//! [`Client::emit`] waits for space and for the disk up to a limit, and never for the network. An event
//! that found no space still uses its number: the stage `completeness` sees the gap, and `dropped_count`
//! of the next heartbeat explains it. Batches are sent one at a time and in order; only an answer 202
//! removes events from the spool. It does not redact: content leaves the agent as it is, over whatever
//! transport `endpoint` names.

mod refused;
mod sender;
mod verdict;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use schemas::event::RawEvent;
use schemas::id::Uuid;
use schemas::secret::Secret;
use schemas::time::TimestampMicros;

use super::spool::queue::{Appended, Queue, Syncer};
use super::spool::{Fsync, Spool, SpoolConfig, SpoolError};
pub use writer::CLOSED_EXT;
use writer::{ClientWriter, Saved, WriterIdentity};

/// Everything that a client needs to know. Start from [`ClientConfig::new`].
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Base URL of the gateway, e.g. `http://127.0.0.1:4318`; `/v1/events` is added.
    pub endpoint: String,
    /// API key; empty: none is sent.
    pub api_key: Secret,
    /// PEM file with further certificates to trust.
    pub ca_file: Option<PathBuf>,
    /// Directory of the spool, used by this process only.
    pub spool_dir: PathBuf,
    /// Tenant of events that name none, and of heartbeats.
    pub tenant_id: String,
    /// Agent of events that name none, and of heartbeats.
    pub agent_id: String,
    /// Name of this writer; no other may have it. Empty: one is made and kept in the spool's directory.
    pub producer_id: String,
    /// Most events of one request.
    pub batch_events_max: usize,
    /// Most bytes of one request before compression; one event is sent however long it is.
    pub batch_bytes_max: usize,
    /// How long a batch that is not full waits for more, milliseconds.
    pub linger_ms: u64,
    /// Bytes on disk at which the spool is full.
    pub spool_bytes_max: u64,
    /// Longest that [`Client::emit`] waits for space and for the disk, milliseconds.
    pub block_ms_max: u64,
    /// When events are forced to the disk.
    pub fsync: Fsync,
    /// Longest that one request may take, milliseconds.
    pub request_timeout_ms: u64,
    /// First wait after a failure, milliseconds; it doubles from there.
    pub backoff_ms_min: u64,
    /// Longest wait after a failure, milliseconds, unless the gateway asks for more.
    pub backoff_ms_max: u64,
    /// Time between two heartbeats, milliseconds; 0: none. The stage `writers` expects 30 s.
    pub heartbeat_interval_ms: u64,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// Most sessions that are open at once; an agent that never ends one would fill its memory.
    pub sessions_max: usize,
    /// The clock.
    pub clock: fn() -> TimestampMicros,
}

impl ClientConfig {
    /// The defaults: 500 events, 1 MiB or 200 ms per batch, a spool of 256 MiB that is fsynced every 50 ms,
    /// and at most 100 ms of blocking in `emit`.
    pub fn new(endpoint: impl Into<String>, spool_dir: impl Into<PathBuf>, clock: fn() -> TimestampMicros) -> Self {
        Self {
            endpoint: endpoint.into(),
            api_key: Secret::default(),
            ca_file: None,
            spool_dir: spool_dir.into(),
            tenant_id: "default".to_owned(),
            agent_id: "agent".to_owned(),
            producer_id: String::new(),
            batch_events_max: 500,
            batch_bytes_max: 1 << 20,
            linger_ms: 200,
            spool_bytes_max: 256 << 20,
            block_ms_max: 100,
            fsync: Fsync::IntervalMs(50),
            request_timeout_ms: 30_000,
            backoff_ms_min: 200,
            backoff_ms_max: 30_000,
            heartbeat_interval_ms: 30_000,
            gzip: true,
            sessions_max: 10_000,
            clock,
        }
    }
}

/// Why a client cannot start. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The file with the writer's state cannot be read or written; numbering cannot resume without it.
    #[error("cannot use {}: {reason}; restore it, or give the client a new spool directory", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The endpoint, the certificates or a bound is not usable.
    #[error("client configuration: {0}")]
    Config(String),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// An event that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Its place in the spool.
    pub index: u64,
    /// Whether it is fsynced. If not, it survives the process, and the fsync follows.
    pub is_durable: bool,
}

/// Why an event was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// The spool stayed full for `block_ms_max`: dropped and counted.
    #[error("the spool is full: the event was dropped and counted")]
    Full,
    /// The file system refuses: dropped and counted.
    #[error("the event was dropped and counted: {0}")]
    Spool(SpoolError),
    /// Longer than an event may be, so many bytes: dropped and counted.
    #[error("an event of {0} bytes is too long: it was dropped and counted")]
    TooLong(usize),
    /// The gateway would refuse it: correct the event. It has used no number.
    #[error("the event is not valid: {0}")]
    Invalid(String),
    /// So many sessions are open: end some with `session.ended`. It has used no number.
    #[error("{0} sessions are open: end some before new ones begin")]
    TooManySessions(usize),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

/// What a client has done since it started, and what is queued.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events accepted, heartbeats included.
    pub taken: u64,
    /// Events that got a number and were not stored, and records that were lost to damage of the spool.
    pub dropped: u64,
    /// Events that the log has, duplicates included.
    pub acked: u64,
    /// Events that the gateway refused; they are in `refused/refused.jsonl`.
    pub refused: u64,
    /// Requests.
    pub requests: u64,
    /// Requests that have to be sent again.
    pub retries: u64,
    /// Events that wait in the spool.
    pub spooled_events: u64,
    /// Bytes that wait in the spool.
    pub spooled_bytes: u64,
    /// Why the last request did not succeed; `None` if it did.
    pub last_error: Option<String>,
    /// [`Stats::last_error`] will not clear without an operator: check the key, the address and the gateway.
    pub needs_help: bool,
}

/// How a client ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The last figures; `spooled_events` are sent by the next client on this spool.
    pub stats: Stats,
    /// Whether everything was delivered or set aside.
    pub is_drained: bool,
}

#[derive(Debug, Default)]
struct Counters {
    taken: AtomicU64,
    acked: AtomicU64,
    refused: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
}

#[derive(Debug, Default)]
struct Trouble {
    last_error: Option<String>,
    needs_help: bool,
    /// The sender has ended: everything is delivered, or it was stopped.
    is_through: bool,
}

/// What the agent's threads and the sender share.
#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    queue: Queue<ClientWriter>,
    counters: Counters,
    trouble: Mutex<Trouble>,
    through: Condvar,
    /// Phase of the sender; it only moves forward.
    stop: tokio::sync::watch::Sender<Phase>,
}

/// What the sender is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Send what comes.
    Run,
    /// Send what is there, then stop.
    Drain,
    /// Stop.
    Stop,
}

/// A client; share it between threads in an `Arc`. Dropped without [`Client::close`] it stops at once, and
/// the next client on the same directory sends what is in the spool.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    threads: Mutex<Option<(JoinHandle<()>, Syncer)>>,
}

impl Client {
    /// Opens the spool and starts to send what an earlier process left there.
    ///
    /// # Errors
    /// [`ClientError`]: nothing was started.
    pub fn start(config: ClientConfig) -> Result<Self, ClientError> {
        check(&config)?;
        // Before the spool is opened: a wrong configuration must not take the lock, repair files or use up an
        // epoch.
        let http = sender::http_client(&config)?;
        let dir = &config.spool_dir;
        let spool_config = SpoolConfig::new(dir, config.spool_bytes_max);
        let mut saved = None;
        // `Spool::open` takes the lock before it calls back, so the state is read under the lock: another process
        // may be writing it until then.
        let (spool, opened) = Spool::open(spool_config, |index, payload| {
            if let Ok(saved) = saved.get_or_insert_with(|| Saved::load(dir)) {
                saved.replay(index, payload);
            }
        })?;
        let saved = saved.unwrap_or_else(|| Saved::load(dir))?;
        // A name of its own for every spool: two agents under one name would give the same numbers to
        // different events.
        let producer_id = if config.producer_id.is_empty() {
            let random = u128::from(random_u64()) << 64 | u128::from(random_u64());
            format!("sdk-rust/{}", Uuid::v7((config.clock)().ms().unsigned_abs(), random))
        } else {
            config.producer_id.clone()
        };
        let mut writer = ClientWriter::start(identity(&config), saved, producer_id, (config.clock)());
        // Records that damage has cost are reported as drops in the next heartbeat, so that the gap is
        // explained; each is counted once, by the open that finds it.
        writer.dropped = opened.missing_new();
        // The epoch is stored before its first number is used: a crash in between must not give the next process
        // the same epoch, or two events could have one (epoch, number).
        writer.saved(&spool).save(dir)?;
        report(&opened);
        Self::run(config, spool, writer, http)
    }

    fn run(config: ClientConfig, spool: Spool, writer: ClientWriter, http: sender::Http) -> Result<Self, ClientError> {
        let (queue, syncer) = Queue::start(spool, config.fsync, writer).map_err(ClientError::Thread)?;
        let shared = Arc::new(Shared {
            config,
            queue,
            counters: Counters::default(),
            trouble: Mutex::default(),
            through: Condvar::new(),
            stop: tokio::sync::watch::Sender::new(Phase::Run),
        });
        let sender = sender::start(shared.clone(), http).map_err(|error| {
            shared.queue.close();
            ClientError::Thread(error)
        })?;
        Ok(Self { shared, threads: Mutex::new(Some((sender, syncer))) })
    }

    /// Submits an event. Fields that the agent leaves empty are filled in: event id, time, tenant, agent.
    /// `seq`, `prev_hash`, the producer's fields, `source` and `capture` are the client's. A session
    /// has one writer: two threads that emit events of one session must agree on their order.
    ///
    /// # Errors
    /// [`NotTaken`]: the event will not reach the log; the agent may continue.
    pub fn emit(&self, mut event: RawEvent) -> Result<Taken, NotTaken> {
        let shared = &*self.shared;
        let now = (shared.config.clock)();
        let block = Duration::from_millis(shared.config.block_ms_max);
        match shared.queue.append_with(block, |writer| writer.stamp(&mut event, now))? {
            Ok(Appended { index, is_durable }) => {
                shared.counters.taken.fetch_add(1, Ordering::Relaxed);
                Ok(Taken { index, is_durable })
            }
            Err(error) => {
                // The event has its number, so that the gap must be explained by the next heartbeat.
                shared.queue.lock().writer.dropped += 1;
                Err(match error {
                    SpoolError::Full => NotTaken::Full,
                    error => NotTaken::Spool(error),
                })
            }
        }
    }

    /// Waits until the spool has space, for `block` at most, and returns whether it has: for a sender that
    /// can wait and must not drop.
    pub fn wait_for_room(&self, block: Duration) -> bool {
        self.shared.queue.wait_for_room(block)
    }

    /// The file that refused events are kept in, once there are some.
    pub fn refused_path(&self) -> PathBuf {
        refused::path(&self.shared.config.spool_dir)
    }

    /// What was done so far, and what is queued.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Stops accepting events, reports that in a last heartbeat, and sends what is queued, for `timeout`
    /// at most. A second call only returns the statistics.
    pub fn close(&self, timeout: Duration) -> Closed {
        let shared = &*self.shared;
        shared.close_writer();
        // After the last heartbeat was appended, so that the sender takes it along.
        shared.stop.send_replace(Phase::Drain);
        // The sender reads only what is fsynced: without this it would wait for the interval.
        shared.queue.sync_soon();
        shared.queue.wake();
        let trouble = shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = shared.through.wait_timeout_while(trouble, timeout, |trouble| !trouble.is_through);
        drop(waited);
        self.stop();
        let stats = self.stats();
        Closed { is_drained: stats.spooled_events == 0, stats }
    }

    /// Ends the threads and stores the sessions.
    fn stop(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((sender, syncer)) = threads else { return };
        self.shared.stop.send_replace(Phase::Stop);
        self.shared.queue.wake();
        // The sender is not expected to panic; if it did, its events are still in the spool.
        drop(sender.join());
        // After the sender has ended: it is the one that acknowledges, and the last fsync below covers that as
        // well.
        self.shared.queue.close();
        syncer.join();
        if let Err(error) = self.shared.save() {
            tracing::warn!(%error, "the next client reads the sessions from the spool");
        }
        // Last: until here this process still writes, and another one must not open the directory.
        self.shared.queue.lock().spool.release();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn stats(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (dropped, spooled_events, spooled_bytes) = {
            let state = self.queue.lock();
            (state.writer.dropped, state.spool.pending_events(), state.spool.pending_bytes())
        };
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        Stats {
            taken: count(&self.counters.taken),
            dropped,
            acked: count(&self.counters.acked),
            refused: count(&self.counters.refused),
            requests: count(&self.counters.requests),
            retries: count(&self.counters.retries),
            spooled_events,
            spooled_bytes,
            last_error: trouble.last_error.clone(),
            needs_help: trouble.needs_help,
        }
    }

    fn set_trouble(&self, last_error: Option<String>, needs_help: bool) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        (trouble.last_error, trouble.needs_help) = (last_error, needs_help);
    }

    /// Appends a heartbeat. It may exceed the bound of the spool, because a full spool is what it reports. The last
    /// one closes the writer.
    fn beat(&self, is_last: bool) {
        let now = (self.config.clock)();
        let waiting = {
            let mut state = self.queue.lock();
            let was_closed = state.writer.is_closed;
            state.writer.is_closed |= is_last;
            // The last heartbeat closes the epoch; one after it would open a sequence that was reported as
            // complete.
            if was_closed {
                return;
            }
            (state.spool.pending_events(), state.spool.pending_bytes())
        };
        match self.queue.append_beyond(|writer| writer.heartbeat(now, waiting, is_last)) {
            Ok(_) => drop(self.counters.taken.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                // As for any event: it has used a number.
                self.queue.lock().writer.dropped += 1;
                tracing::warn!(%error, "a heartbeat was dropped");
            }
        }
    }

    fn close_writer(&self) {
        match self.config.heartbeat_interval_ms {
            // An interval of 0 switches heartbeats off, the last one included.
            0 => self.queue.lock().writer.is_closed = true,
            _ => self.beat(true),
        }
    }

    /// Stores the sessions, and returns the index before which the spool is no longer needed for them.
    fn save(&self) -> Result<u64, ClientError> {
        let saved = {
            let state = self.queue.lock();
            state.writer.saved(&state.spool)
        };
        saved.save(&self.config.spool_dir)?;
        Ok(saved.next_index)
    }
}

fn identity(config: &ClientConfig) -> WriterIdentity {
    WriterIdentity {
        tenant_id: config.tenant_id.clone(),
        agent_id: config.agent_id.clone(),
        sessions_max: config.sessions_max,
    }
}

fn check(config: &ClientConfig) -> Result<(), ClientError> {
    let rules = [
        (config.batch_events_max == 0, "batch_events_max is 0"),
        (config.batch_bytes_max == 0, "batch_bytes_max is 0"),
        (config.request_timeout_ms == 0, "request_timeout_ms is 0"),
        (config.backoff_ms_max < config.backoff_ms_min, "backoff_ms_max is below backoff_ms_min"),
        (config.tenant_id.is_empty(), "tenant_id is empty"),
        (config.agent_id.is_empty(), "agent_id is empty"),
        (config.sessions_max == 0, "sessions_max is 0"),
    ];
    match rules.into_iter().find(|(is_broken, _)| *is_broken) {
        Some((_, rule)) => Err(ClientError::Config(rule.to_owned())),
        None => Ok(()),
    }
}

fn report(opened: &super::spool::Opened) {
    if opened.torn_bytes > 0 {
        tracing::warn!(torn_bytes = opened.torn_bytes, "the spool ended in a torn write, which was cut");
    }
    for damage in opened.damage.iter().filter(|damage| damage.is_new) {
        let kept: &Path = &damage.kept;
        tracing::error!(kept = %kept.display(), missing = damage.missing, "the spool is damaged");
    }
}

/// 64 bits that the operating system seeds, for the name of a writer and for jitter; no secret
/// depends on them.
fn random_u64() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}
