//! The writer: one task that numbers events, appends them in order, and acknowledges them once the log has
//! stored them safely.
//!
//! One task, because numbers and hash chains follow the order in the log. The queue is bounded: a request
//! that arrives while it is full is answered 429. While the log fails, the same bytes are appended again
//! until it accepts them (readers remove repeats by event id), and each request has a timeout of its own. It
//! does not parse, authenticate or charge quotas.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use schemas::id::Uuid;
use schemas::limits::EVENT_BYTES_MAX;
use schemas::record::{OutRecord, Position};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::intake::{Arrived, Problem};
use super::limits::Share;
use super::metrics::GatewayMetrics;
use super::numbering::{Numbering, TooLarge};
use super::problem::{Code, overloaded};
use crate::agent::tick::Ticker;
use crate::log::{Appender, Broker, ErrorClass, LogError};

/// Most events of one append; a larger one only delays the first answer.
const APPEND_EVENTS_MAX: usize = 10_000;
/// Longest wait between two attempts at the same append.
const RETRY_MS_MAX: u64 = 5_000;
/// Shortest wait between two attempts, so that a log that fails immediately is not called in a tight loop.
const RETRY_MS_MIN: u64 = 50;

/// What the writer needs to know.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// Name of this gateway, stable over restarts.
    pub instance: String,
    /// Most requests that wait for the writer.
    pub queue_requests_max: usize,
    /// How long a request waits for the log, milliseconds.
    pub request_timeout_ms: u64,
    /// Between two rounds of ticks, milliseconds.
    pub tick_interval_ms: u64,
    /// Most events that are remembered so that a repeat is known.
    pub idempotence_entries_max: u64,
    /// How long they are remembered, milliseconds.
    pub idempotence_ttl_ms: u64,
    /// Most sessions that are numbered in one epoch.
    pub sessions_max: usize,
}

/// The outcome of a request whose events are all in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Events appended now.
    pub accepted: u64,
    /// Events that were in the log already, with the same contents.
    pub duplicates: u64,
}

/// A request on its way to the log.
#[derive(Debug)]
struct Submission {
    events: Vec<Arrived>,
    reply: oneshot::Sender<Result<Receipt, Problem>>,
    /// Its share of the memory bound, held until it is answered.
    _budget: Option<Share>,
}

/// Whether the log acknowledges: what probes ask.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    failing: AtomicBool,
    /// When the append in flight began, µs; 0 for none.
    pending_since: AtomicI64,
}

impl Health {
    /// Whether the log has acknowledged anything yet.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Whether the log acknowledges: the last append succeeded, and none has been in flight for longer
    /// than `pending_ms_max`.
    pub fn acknowledges(&self, now: TimestampMicros, pending_ms_max: u64) -> bool {
        let hangs = self.hangs(now, Duration::from_millis(pending_ms_max));
        self.has_started() && !self.failing.load(Ordering::Relaxed) && !hangs
    }

    /// Whether an append has been in flight for longer than `pending_max`.
    fn hangs(&self, now: TimestampMicros, pending_max: Duration) -> bool {
        let since = self.pending_since.load(Ordering::Relaxed);
        let pending_us = if since == 0 { 0 } else { now.0.saturating_sub(since) };
        u64::try_from(pending_us).is_ok_and(|us| Duration::from_micros(us) > pending_max)
    }
}

/// The writer's handle. Clones share it.
#[derive(Debug, Clone)]
pub struct WriterHandle {
    queue: mpsc::Sender<Submission>,
    health: Arc<Health>,
    timeout: Duration,
    clock: fn() -> TimestampMicros,
}

impl WriterHandle {
    /// Submits events and waits until the log has them all. `budget` is held until then.
    ///
    /// # Errors
    /// [`Code::Overloaded`]: the queue is full, nothing was accepted. [`Code::LogUnavailable`]: either the events
    /// were not acknowledged in time, may be in the log or not, and can safely be sent again; or nothing was
    /// accepted, because the log has not acknowledged an earlier append for that long.
    /// [`Code::EventTooLarge`]: nothing was accepted, and sending it again cannot succeed.
    pub async fn submit(&self, events: Vec<Arrived>, budget: Option<Share>) -> Result<Receipt, Problem> {
        if events.is_empty() {
            return Ok(Receipt::default());
        }
        // An append that hangs lets every later request wait for its whole timeout, holding memory and a place
        // in the queue, only to be answered 503 then. During an outage they are refused at once, until an
        // append succeeds.
        if self.health.hangs((self.clock)(), self.timeout) {
            return Err(Code::LogUnavailable.problem("nothing was accepted; send the events again"));
        }
        let (reply, answer) = oneshot::channel();
        // Never waits for a place: a 429 is something that a client can act on, and a waiting request would
        // hold its share of the budget.
        self.queue.try_send(Submission { events, reply, _budget: budget }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => {
                Code::Draining.problem("send the events again, to another instance")
            }
        })?;
        // A submission that times out stays in the queue and may still be appended, so that the answer must
        // not say that it was not.
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(Code::LogUnavailable.problem(
                "the events may have been written or not; send the same events again, repeats are recognised by event_id",
            )),
        }
    }

    /// Whether the log acknowledges.
    pub fn health(&self) -> &Health {
        &self.health
    }
}

fn too_large(TooLarge { index, bytes }: TooLarge) -> Problem {
    let detail = format!("the event is {bytes} bytes as a record, more than {EVENT_BYTES_MAX}; shorten its content");
    Code::EventTooLarge.problem(detail).in_event(index)
}

/// Numbers and appends. Created with its handle by [`GatewayWriter::new`], runs in [`GatewayWriter::run`].
#[derive(Debug)]
pub struct GatewayWriter<B> {
    config: WriterConfig,
    broker: B,
    clock: fn() -> TimestampMicros,
    metrics: GatewayMetrics,
    queue: mpsc::Receiver<Submission>,
    health: Arc<Health>,
    numbering: Numbering,
    epoch: TimestampMicros,
    /// Tenant, event id and contents of what is in the log.
    known: Cache<Uuid, ()>,
}

impl<B: Broker> GatewayWriter<B> {
    /// A writer of the epoch that begins now, and its handle.
    pub fn new(
        config: WriterConfig,
        broker: B,
        clock: fn() -> TimestampMicros,
        metrics: GatewayMetrics,
    ) -> (Self, WriterHandle) {
        let (sender, queue) = mpsc::channel(config.queue_requests_max.max(1));
        let health = Arc::new(Health::default());
        let timeout = Duration::from_millis(config.request_timeout_ms);
        let handle = WriterHandle { queue: sender, health: Arc::clone(&health), timeout, clock };
        let epoch = clock();
        let numbering = Numbering::new(&config.instance, epoch, config.sessions_max);
        // Least recently used, not least frequently used (moka's default): a repeat arrives soon after the first, and
        // a new entry must not be evicted for its low frequency.
        let known = Cache::builder()
            .max_capacity(config.idempotence_entries_max)
            .time_to_live(Duration::from_millis(config.idempotence_ttl_ms))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        (Self { config, broker, clock, metrics, queue, health, numbering, epoch, known }, handle)
    }

    /// Runs until every handle is dropped or `close` is true, and everything that was submitted is in
    /// the log.
    ///
    /// # Errors
    /// The log will never accept what was submitted: a wrong configuration, or another owner.
    pub async fn run(mut self, mut close: watch::Receiver<bool>) -> Result<(), LogError> {
        // Retried without a limit: a gateway starts without its log, is not ready, and becomes ready when the
        // log is available.
        let (mut appender, partitions) = self.open().await?;
        let mut ticker = Ticker::new(self.numbering.producer_id(), self.epoch, partitions);
        // The first ticks also tell whether the log acknowledges: without them an idle gateway could not become ready.
        self.append(&mut appender, ticker.round((self.clock)())).await?;
        let mut interval = ticks(self.config.tick_interval_ms);
        let mut closing = false;
        loop {
            tokio::select! {
                // In this order: ticks are due under full load as well, because without them nothing
                // downstream can close a window.
                biased;
                _ = interval.tick(), if !closing => {
                    self.append(&mut appender, ticker.round((self.clock)())).await?;
                }
                () = async { close.wait_for(|close| *close).await.map_or((), |_| ()) }, if !closing => {
                    closing = true;
                    // Closed and not dropped: what was queued before is still received, appended and answered.
                    self.queue.close();
                }
                first = self.queue.recv() => {
                    let Some(first) = first else { return Ok(()) };
                    self.take(first, &mut appender, &mut ticker).await?;
                }
            }
        }
    }

    async fn open(&self) -> Result<(B::Appender, Range<u32>), LogError> {
        loop {
            let opened = async { Ok((self.broker.appender().await?, self.broker.numbers(Topic::Events).await?)) };
            match opened.await {
                Ok(opened) => return Ok(opened),
                Err(error) => self.pause(error).await?,
            }
        }
    }

    /// Appends `first` and everything else that is queued, and answers all of it.
    async fn take(
        &mut self,
        first: Submission,
        appender: &mut B::Appender,
        ticker: &mut Ticker,
    ) -> Result<(), LogError> {
        let now = (self.clock)();
        let (mut records, mut answers) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(submission) = next {
            let Submission { events, reply, _budget } = submission;
            match self.number(events, now, &mut records) {
                Ok(receipt) => answers.push((reply, receipt, _budget)),
                // Sending fails if the client has disconnected, and then nobody needs the answer.
                Err(large) => _ = reply.send(Err(too_large(large))),
            }
            // One append for all that is queued: a round trip to the brokers takes as long for one event as
            // for thousands.
            next = if records.len() < APPEND_EVENTS_MAX { self.queue.try_recv().ok() } else { None };
        }
        if !records.is_empty() {
            let positions = self.append(appender, records).await?;
            // A crash here leaves events in the log that were not acknowledged: clients send them again, and
            // readers drop the repeats.
            fail::fail_point!("intake.appended");
            ticker.acknowledge(&positions);
        }
        for (reply, receipt, _budget) in answers {
            let _ = reply.send(Ok(receipt));
        }
        Ok(())
    }

    /// Numbers the events of one request that are not in the log yet.
    fn number(
        &mut self,
        mut events: Vec<Arrived>,
        now: TimestampMicros,
        records: &mut Vec<OutRecord>,
    ) -> Result<Receipt, TooLarge> {
        let total = events.len() as u64;
        let mut keys = Vec::with_capacity(events.len());
        let mut places = Vec::with_capacity(events.len());
        let mut place = 0;
        events.retain(|arrived| {
            let h = arrived.event.h();
            // With the content in the key: another content under the same id is no repeat, and must not be
            // dropped as one.
            let key = Uuid::derive(&[h.tenant_id.as_bytes(), &h.event_id.0, &arrived.content_sha256.0]);
            let new = !self.known.contains_key(&key);
            if new {
                // Entered before the append, so that a repeat within one append is recognised too. This is
                // safe because the append is retried until it succeeds or the writer ends.
                self.known.insert(key, ());
                keys.push(key);
                places.push(place);
            }
            place += 1;
            new
        });
        match self.numbering.records(&mut events, now) {
            Ok(numbered) => {
                let accepted = numbered.len() as u64;
                records.extend(numbered);
                Ok(Receipt { accepted, duplicates: total - accepted })
            }
            Err(large) => {
                // Nothing of the request will be appended: its events must not be taken for repeats when the
                // client sends the rest of them again.
                keys.iter().for_each(|key| self.known.invalidate(key));
                // The client counts its own events, of which the repeats were left out here.
                Err(TooLarge { index: places[large.index], ..large })
            }
        }
    }

    /// Appends the same bytes until the log has acknowledged them.
    async fn append(&mut self, appender: &mut B::Appender, records: Vec<OutRecord>) -> Result<Vec<Position>, LogError> {
        // 0 stands for no append in flight.
        self.health.pending_since.store((self.clock)().0.max(1), Ordering::Relaxed);
        let begun = Instant::now();
        loop {
            // The same bytes in every attempt: events that are numbered again would have two numbers in the
            // log, and a gap where the first attempt had been lost.
            match appender.append(records.clone()).await {
                Ok(positions) => {
                    self.metrics.append_seconds.observe(begun.elapsed().as_secs_f64());
                    self.health.failing.store(false, Ordering::Relaxed);
                    self.health.started.store(true, Ordering::Relaxed);
                    self.health.pending_since.store(0, Ordering::Relaxed);
                    return Ok(positions);
                }
                Err(error) => self.pause(error).await?,
            }
        }
    }

    /// Waits before the next attempt, where there is one.
    async fn pause(&self, error: LogError) -> Result<(), LogError> {
        let after_ms = match error.class {
            ErrorClass::Retry { after_ms } => after_ms,
            // The outcome is unknown, as after a lost answer: appending the same bytes again is safe, because
            // readers remove repeats by event id.
            ErrorClass::AbortTxn => RETRY_MS_MIN,
            // Retrying would never succeed. The process ends, and its supervisor or an operator sees the
            // reason.
            ErrorClass::Fenced | ErrorClass::Fatal => return Err(error),
        };
        // One warning per outage; the metric counts the attempts.
        let first = !self.health.failing.swap(true, Ordering::Relaxed);
        self.metrics.log_retries.inc();
        if first {
            tracing::warn!(error = %error, "the log does not acknowledge; appending again until it does");
        }
        tokio::time::sleep(Duration::from_millis(after_ms.clamp(RETRY_MS_MIN, RETRY_MS_MAX))).await;
        Ok(())
    }
}

fn ticks(interval_ms: u64) -> Interval {
    let period = Duration::from_millis(interval_ms.max(1));
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    // After an outage one round of ticks is enough: ticks say what time it is, and the missed times have
    // passed.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests;
