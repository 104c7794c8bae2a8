//! The alert sink as a role: one consumer group per receiver, so that a receiver that is away holds back
//! nobody else and loses nothing; its lag grows.
//!
//! A position is committed once the receiver has taken every alert before it, or has refused it for good
//! and a dead letter says so. What is firing is read back from the log at a start and kept nowhere else.
//! Formats, filters and the meaning of answers are in `sinks::alerts`.

mod lane;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use ingest::log::{Appender, Broker, Committed, Log};
use schemas::event::Alert;
use schemas::id::Uuid;
use schemas::record::{PartitionId, Record, header};
use schemas::reject::{Reject, RejectReason};
use schemas::topic::Topic;
use sinks::alerts::answer::Answer;
use sinks::alerts::board::{Board, Verdict};
use sinks::alerts::config::{AlertConfig, Start};
use sinks::alerts::http::Sender;
use sinks::alerts::payload::Item;
use sinks::alerts::receiver::Receiver;
use sinks::error::{ErrorClass, SinkError};
use sinks::retry::Backoff;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::lane::{Lane, Pause, Pending};
pub use self::metrics::AlertMetrics;
use self::metrics::Outcome;
use crate::clock;
use crate::metrics::SinkRow;
use crate::runner;
use crate::runner::control::{Control, Counter};
use crate::runner::core::dead_letter;
use crate::runner::sink::{RoleError, SinkRole};

/// Names the role in ids that it derives.
const PROCESSOR: &str = "alert@1";
/// Most records of a partition in memory; beyond it, they are left in the log.
const QUEUE_MAX: usize = 5_000;
/// Longest time of sending between two looks at the log, far below Kafka's `max.poll.interval.ms` (5 min).
const PUMP_BUDGET: Duration = Duration::from_secs(2);
/// Wait before a full queue's partition is read again.
const FULL_WAIT: Duration = Duration::from_millis(100);
/// How often other members' partitions are read for alerts that go on or end there.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(60);

/// Serves every configured receiver until it is told to stop or its upstream is done. Several instances share
/// the partitions; `instance` is stable over restarts and differs between them.
///
/// # Errors
/// A receiver's configuration is wrong, or its role cannot go on: the message names it and the remedy. The
/// positions of all receivers are where they were.
pub async fn run<B: Broker>(
    broker: B,
    instance: &str,
    config: &AlertConfig,
    metrics: &AlertMetrics,
    control: &Control,
) -> anyhow::Result<()> {
    let receivers = Receiver::open_all(config)?;
    anyhow::ensure!(!receivers.is_empty(), "alert: no receivers; add a section [alert.receivers.<name>]");
    let sender = Sender::new(config.request_timeout_ms)?;
    let mut roles = JoinSet::new();
    for receiver in receivers {
        let (name, group) = (receiver.name().to_owned(), receiver.group());
        let mut log = broker.consumer(&group, Topic::Alerts, instance).await?;
        let mut role = AlertRole::open(broker.clone(), receiver, config, sender.clone(), metrics.clone()).await?;
        role.rejects = control.rejects.clone();
        let control = control.clone();
        roles.spawn(async move {
            let outcome = runner::sink::drive(&mut role, &mut log, &control, &group).await;
            // After a failure too: a member that is gone must not keep its partitions.
            let closed = log.close().await;
            outcome.with_context(|| format!("alert receiver {name} stopped"))?;
            Ok::<(), anyhow::Error>(closed?)
        });
    }
    while let Some(ended) = roles.join_next().await {
        ended??;
    }
    Ok(())
}

/// One receiver.
pub struct AlertRole<B: Broker> {
    broker: B,
    appender: B::Appender,
    partitions: std::ops::Range<u32>,
    dlq_partitions: u32,
    receiver: Receiver,
    sender: Sender,
    metrics: AlertMetrics,
    rejects: Counter,
    lookback_records: u64,
    board: Board,
    /// Offset up to which the board knows a partition.
    known: BTreeMap<PartitionId, u64>,
    lanes: BTreeMap<PartitionId, Lane>,
    /// Partition served last: the next in order goes first, so that none starves.
    last: Option<PartitionId>,
    pause: Pause,
    follow_at: Instant,
    resend_at: Instant,
    resend: VecDeque<String>,
    /// How many of the next resent alerts are sent alone.
    alone: usize,
    is_caught_up: bool,
}

impl<B: Broker> std::fmt::Debug for AlertRole<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlertRole").field("receiver", &self.receiver.name()).finish_non_exhaustive()
    }
}

impl<B: Broker> AlertRole<B> {
    /// A role for one receiver.
    ///
    /// # Errors
    /// The log cannot be asked for its topics.
    pub async fn open(
        broker: B,
        receiver: Receiver,
        config: &AlertConfig,
        sender: Sender,
        metrics: AlertMetrics,
    ) -> Result<Self, RoleError> {
        let backoff = Backoff { initial_ms: config.retry_delay_ms, max_ms: config.retry_delay_ms_max };
        let now = Instant::now();
        Ok(Self {
            appender: broker.appender().await?,
            partitions: broker.numbers(Topic::Alerts).await?,
            dlq_partitions: broker.partitions(Topic::Dlq).await?,
            broker,
            board: Board::new(receiver.rules().clone(), config.firing_age_ms_max),
            receiver,
            sender,
            metrics,
            rejects: Counter::default(),
            lookback_records: config.lookback_records,
            known: BTreeMap::new(),
            lanes: BTreeMap::new(),
            last: None,
            pause: Pause::new(backoff, clock::now().0.unsigned_abs()),
            follow_at: now,
            resend_at: now,
            resend: VecDeque::new(),
            alone: 0,
            is_caught_up: false,
        })
    }

    /// Reads a partition from where the board knows it, or from the look-back's start, up to `until`.
    async fn read_back(&mut self, partition: PartitionId, until: u64, is_own: bool) -> Result<(), RoleError> {
        let first = self.broker.bounds(partition).await?.start;
        let known = self.known.get(&partition).copied().unwrap_or_default();
        let mut at = known.max(until.saturating_sub(self.lookback_records)).max(first);
        while at < until {
            let (records, next) = self.broker.read(partition, at).await?;
            for record in records.into_iter().filter(|r| r.at.offset < until) {
                match Pending::of(record).alert {
                    Ok(alert) if is_own => self.board.settle(alert, partition),
                    Ok(alert) => self.board.observe(alert, partition),
                    // It became a dead letter when it was dealt with, here or by its partition's owner.
                    Err(_) => {}
                }
            }
            if next <= at {
                break;
            }
            at = next;
        }
        self.known.insert(partition, known.max(until));
        Ok(())
    }

    /// Learns what goes on in partitions of other members: an alert that started here may end there.
    async fn follow(&mut self) -> Result<(), RoleError> {
        if Instant::now() < self.follow_at {
            return Ok(());
        }
        for partition in self.partitions.clone().map(|partition| PartitionId { topic: Topic::Alerts, partition }) {
            if !self.lanes.contains_key(&partition) {
                let next = self.broker.bounds(partition).await?.end;
                self.read_back(partition, next, false).await?;
            }
        }
        self.follow_at = Instant::now() + FOLLOW_INTERVAL;
        Ok(())
    }

    /// Sends what waits, within the budget, and commits how far it came.
    async fn pump<L: Log>(&mut self, log: &mut L) -> Result<(), RoleError> {
        let sent = self.send_all().await;
        let waiting = self.lanes.values().map(|lane| lane.queue.len()).sum();
        self.metrics.pending(self.receiver.name(), waiting);
        for (partition, lane) in &mut self.lanes {
            let next = lane.position();
            if next > lane.committed {
                log.commit_offset(*partition, Committed { next, metadata: String::new() }).await?;
                lane.committed = next;
            }
        }
        sent
    }

    async fn send_all(&mut self) -> Result<(), RoleError> {
        self.follow().await?;
        let until = Instant::now() + PUMP_BUDGET;
        while let Some(partition) = self.next_lane() {
            if self.pause.holds() || Instant::now() >= until {
                return Ok(());
            }
            self.last = Some(partition);
            self.serve(partition).await?;
        }
        self.resend(until).await
    }

    /// The next partition with something to send, in turn.
    fn next_lane(&self) -> Option<PartitionId> {
        let after = self.last.map_or(Unbounded, Excluded);
        let turn = self.lanes.range((after, Unbounded)).chain(self.lanes.iter());
        turn.filter(|(_, lane)| !lane.queue.is_empty()).map(|(partition, _)| *partition).next()
    }

    /// Deals with the first record of a partition, or with as many as one request takes.
    async fn serve(&mut self, partition: PartitionId) -> Result<(), RoleError> {
        let Some(lane) = self.lanes.get(&partition) else { return Ok(()) };
        let batch_max = if lane.alone > 0 { 1 } else { self.receiver.batch_max() };
        let ahead = lane.queue.iter().map_while(|p| p.alert.as_ref().ok().map(|alert| (p, alert)));
        let wanted = ahead.take_while(|(_, alert)| self.board.judge(alert, partition) == Verdict::Send);
        let batch: Vec<(Alert, Uuid)> =
            wanted.take(batch_max).map(|(p, alert)| (alert.clone(), p.record.at.derived_id(PROCESSOR, 0))).collect();
        if batch.is_empty() {
            return self.pass_over(partition).await;
        }
        match self.send(&batch).await? {
            Answer::Taken => {
                self.metrics.sent(self.receiver.name(), Outcome::Accepted, batch.len());
                self.settle(partition, batch.len());
            }
            Answer::Again { .. } => {}
            Answer::Refused { .. } if batch.len() > 1 => {
                // One of them is at fault; the others must not go the same way.
                if let Some(lane) = self.lanes.get_mut(&partition) {
                    lane.alone = batch.len();
                }
            }
            Answer::Refused { status } => self.refused(partition, status).await?,
        }
        Ok(())
    }

    /// The first record is not sent: it is no alert, or the receiver does not want it.
    async fn pass_over(&mut self, partition: PartitionId) -> Result<(), RoleError> {
        let Some(pending) = self.lanes.get(&partition).and_then(|lane| lane.queue.front()) else { return Ok(()) };
        match &pending.alert {
            Err(reject) => {
                let (record, reject) = (pending.record.clone(), reject.clone());
                self.bury(&record, &reject, None).await?;
            }
            Ok(alert) if self.board.judge(alert, partition) != Verdict::Unwanted => {
                self.metrics.sent(self.receiver.name(), Outcome::Skipped, 1);
            }
            Ok(_) => {}
        }
        self.settle(partition, 1);
        Ok(())
    }

    /// The receiver will never take the first record.
    async fn refused(&mut self, partition: PartitionId, status: u16) -> Result<(), RoleError> {
        let Some(lane) = self.lanes.get(&partition) else { return Ok(()) };
        let Some(record) = lane.queue.front().map(|pending| pending.record.clone()) else { return Ok(()) };
        let receiver = self.receiver.name();
        let detail = format!("receiver {receiver} refused it with status {status}");
        tracing::error!(receiver, status, offset = record.at.offset, "alert refused for good, kept as a dead letter");
        let reject = Reject { at: record.at, reason: RejectReason::ReceiverRefused, detail };
        self.bury(&record, &reject, Some(status)).await?;
        self.metrics.sent(self.receiver.name(), Outcome::Refused, 1);
        // It is not settled: what the receiver refused is not posted again as firing.
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.pop();
        }
        Ok(())
    }

    /// Appends a dead letter and waits until the log has it.
    async fn bury(&mut self, record: &Record, reject: &Reject, status: Option<u16>) -> Result<(), RoleError> {
        let group = self.receiver.group();
        let Some(mut letter) = dead_letter(&group, reject, std::slice::from_ref(record)) else { return Ok(()) };
        // The topic of alerts has more partitions than the one of dead letters.
        let index = reject.at.partition.index() % self.dlq_partitions.max(1);
        letter.partition = Some(self.partitions.start + index);
        let text = |name: &str, value: String| (name.to_owned(), Bytes::from(value));
        letter.headers.push(text(header::DLQ_RECEIVER, self.receiver.name().to_owned()));
        letter.headers.extend(status.map(|status| text(header::DLQ_STATUS, status.to_string())));
        self.appender.append(vec![letter]).await?;
        self.rejects.add(1);
        Ok(())
    }

    /// The first `count` records have been dealt with.
    fn settle(&mut self, partition: PartitionId, count: usize) {
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        for pending in (0..count).map_while(|_| lane.pop()) {
            if let Ok(alert) = pending.alert {
                self.board.settle(alert, partition);
            }
        }
        let known = self.known.entry(partition).or_default();
        *known = lane.position().max(*known);
    }

    /// One request; a receiver that is away is left alone for a while.
    async fn send(&mut self, batch: &[(Alert, Uuid)]) -> Result<Answer, RoleError> {
        let items: Vec<Item<'_>> = batch.iter().map(|(alert, id)| Item { alert, id: *id }).collect();
        let now = clock::now();
        let Some(post) = self.receiver.post(&items, now) else { return Ok(Answer::Taken) };
        let began = Instant::now();
        let answer = self.sender.send(&post, now).await?;
        let receiver = self.receiver.name();
        self.metrics.took(receiver, began.elapsed().as_secs_f64());
        match &answer {
            Answer::Again { after_ms, why } => {
                let wait = self.pause.begin(*after_ms);
                self.metrics.sent(receiver, Outcome::Retried, batch.len());
                tracing::warn!(receiver, why, wait_ms = wait.as_millis(), "alerts not taken, trying again");
            }
            Answer::Taken | Answer::Refused { .. } => self.pause.end(),
        }
        Ok(answer)
    }

    /// Posts again what is firing, to a receiver that forgets it otherwise.
    async fn resend(&mut self, until: Instant) -> Result<(), RoleError> {
        let Some(interval_ms) = self.receiver.resend_interval_ms() else { return Ok(()) };
        if self.resend.is_empty() {
            if !self.knows_all() || Instant::now() < self.resend_at {
                return Ok(());
            }
            self.resend = self.board.firing(clock::now(), |p| self.lanes.contains_key(&p)).into();
            self.resend_at = Instant::now() + Duration::from_millis(interval_ms);
        }
        while !self.resend.is_empty() && !self.pause.holds() && Instant::now() < until {
            self.resend_some().await?;
        }
        Ok(())
    }

    /// Whether everything that was in the log at the assignment has been read: an end may stand in it.
    fn knows_all(&self) -> bool {
        let is_read = self.lanes.values().all(|lane| lane.next >= lane.end);
        !self.lanes.is_empty() && (self.is_caught_up || is_read)
    }

    async fn resend_some(&mut self) -> Result<(), RoleError> {
        let count = if self.alone > 0 { 1 } else { self.receiver.batch_max() };
        let names: Vec<String> = self.resend.iter().take(count).cloned().collect();
        // Their id is of no use: identity of what is posted again is its labels.
        let firing = names.iter().filter_map(|name| self.board.still_firing(name));
        let batch: Vec<(Alert, Uuid)> = firing.map(|alert| (alert.clone(), Uuid::ZERO)).collect();
        match self.send(&batch).await? {
            Answer::Again { .. } => return Ok(()),
            Answer::Taken => self.metrics.sent(self.receiver.name(), Outcome::Resent, batch.len()),
            Answer::Refused { .. } if batch.len() > 1 => {
                self.alone = names.len();
                return Ok(());
            }
            Answer::Refused { status } => {
                let receiver = self.receiver.name();
                tracing::error!(receiver, status, "a firing alert is refused now, it is not posted again");
                self.metrics.sent(receiver, Outcome::Refused, batch.len());
                names.iter().for_each(|name| self.board.forget(name));
            }
        }
        self.resend.drain(..names.len());
        self.alone = self.alone.saturating_sub(names.len());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.lanes.values().all(|lane| lane.queue.is_empty())
    }

    fn fail(&self, class: ErrorClass, message: String) -> RoleError {
        SinkError::new(class, format!("alert receiver {}", self.receiver.name()), message).into()
    }
}

impl<B: Broker> SinkRole for AlertRole<B> {
    async fn resume<L: Log>(&mut self, log: &mut L, partition: PartitionId) -> Result<u64, RoleError> {
        let (committed, bounds) = (log.committed(partition).await?, log.bounds(partition).await?);
        let at = match (committed, self.receiver.start()) {
            (Some(committed), _) if committed.next > bounds.end => {
                let message = format!(
                    "{partition:?} ends at {} and its group is at {}: the topic was made anew; rename the receiver",
                    bounds.end, committed.next
                );
                return Err(self.fail(ErrorClass::Config, message));
            }
            (Some(committed), _) => committed.next,
            (None, Start::Earliest) => bounds.start,
            // Added while this role ran, for a stage that is new: all of its alerts are newer than this receiver.
            (None, Start::Latest) if !self.partitions.contains(&partition.partition) => {
                self.partitions = self.partitions.start..partition.partition + 1;
                bounds.start
            }
            (None, Start::Latest) => {
                // Committed at once: what comes between now and the first alert sent is not skipped by a restart.
                log.commit_offset(partition, Committed { next: bounds.end, metadata: String::new() }).await?;
                bounds.end
            }
        };
        if at < bounds.start {
            let (receiver, lost) = (self.receiver.name(), bounds.start - at);
            tracing::error!(receiver, lost, "alerts left the log before the receiver took them; raise its retention");
        }
        let at = at.max(bounds.start);
        self.read_back(partition, at, true).await?;
        self.is_caught_up = false;
        self.lanes.insert(partition, Lane::new(at, bounds.end));
        Ok(at)
    }

    async fn take<L: Log>(
        &mut self,
        log: &mut L,
        partition: PartitionId,
        records: Vec<Record>,
        next: u64,
    ) -> Result<(), RoleError> {
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(()) };
        if lane.queue.len() >= QUEUE_MAX {
            log.seek(partition, lane.next).await?;
            tokio::time::sleep(FULL_WAIT).await;
        } else {
            lane.queue.extend(records.into_iter().map(Pending::of));
            lane.next = next;
        }
        self.pump(log).await
    }

    async fn idle<L: Log>(&mut self, log: &mut L, is_end: bool) -> Result<(), RoleError> {
        self.is_caught_up = true;
        self.pump(log).await?;
        while is_end && !self.is_empty() {
            if self.pause.holds() {
                return Err(self.fail(ErrorClass::Retry, "it has not taken every alert yet".to_owned()));
            }
            self.pump(log).await?;
        }
        Ok(())
    }

    async fn due<L: Log>(&mut self, _: &mut L) -> Result<(), RoleError> {
        // Everything that is read is pumped at once; what the receiver does not take yet waits its own time.
        Ok(())
    }

    async fn finish<L: Log>(&mut self, _: &mut L, _: &[PartitionId]) -> Result<(), RoleError> {
        // What was sent is committed; what waits is read again by whoever goes on.
        Ok(())
    }

    fn forget(&mut self, partitions: &[PartitionId]) {
        self.lanes.retain(|partition, _| !partitions.contains(partition));
    }

    fn row(&self, partition: PartitionId) -> SinkRow {
        let lane = self.lanes.get(&partition);
        let oldest_at = lane.and_then(|lane| lane.queue.front()).map(|pending| pending.record.timestamp);
        SinkRow { published_next: lane.map(|lane| lane.committed), oldest_at }
    }
}
