//! The thread that polls librdkafka, and what it does when the group's assignment changes.
//!
//! A revoked partition is kept until the handle has finished with it, which it shows by asking for the next
//! event. Of a lost partition it can finish nothing, but the thread waits for it as well. While the queue is
//! full, partitions are paused and polling continues.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use schemas::limits::STEP_RECORDS_MAX;
use schemas::record::PartitionId;
use schemas::topic::Topic;
use tokio::sync::oneshot;

use super::context::{Context, share_context};
use super::convert::record;
use super::membership::member_id;
use super::noise::warn;
use super::oauth::give;
use super::outside::watermarks;
use super::queue::{Inbox, Item};
use super::{ANSWER_WAIT, class_of, failed};
use crate::log::{ErrorClass, LogError};

const POLL_WAIT: Duration = Duration::from_millis(20);
/// When the queue has been full for this long, pause the partitions and keep polling: a member that does not poll
/// for `max.poll.interval.ms` (five minutes) is removed from the group.
const FULL_WAIT: Duration = Duration::from_secs(30);
/// How long to retry a seek: librdkafka refuses it until the fetcher of a newly assigned partition has started.
const SEEK_WAIT: Duration = Duration::from_secs(10);

/// What the handle asks of the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// The handle has finished with the partitions that were revoked or lost.
    HandedOver,
    Seek {
        partition: u32,
        offset: u64,
        reply: oneshot::Sender<Result<(), LogError>>,
    },
    Hold {
        partition: u32,
        reply: oneshot::Sender<Result<(), LogError>>,
    },
    Stop,
}

/// The consumer's callbacks.
pub(super) struct GroupContext {
    pub(super) common: Context,
    pub(super) inbox: Arc<Inbox>,
    pub(super) commands: Mutex<mpsc::Receiver<Command>>,
    /// The handle was dropped: nothing will be finished.
    pub(super) closing: Arc<AtomicBool>,
    /// Member id at the last assignment.
    pub(super) joined_as: Mutex<Arc<str>>,
    /// Number of the first partition: here and on the queue, partitions have our numbers, not the brokers'.
    pub(super) first: u32,
}

pub(super) type GroupConsumer = BaseConsumer<GroupContext>;

share_context!(GroupContext);

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let done = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.revoke(consumer, list),
            other => Err(KafkaError::Rebalance(other.into())),
        };
        if let Err(error) = done {
            let error = failed("rebalance", &error, consumer.client());
            self.inbox.tell(|queue| queue.fail(error));
        }
    }
}

fn numbers(list: &TopicPartitionList, first: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = list.elements().iter().map(|e| first + e.partition() as u32).collect();
    numbers.sort_unstable();
    numbers
}

/// The partitions of a list that are chosen by number.
fn only(list: &TopicPartitionList, first: u32, choose: impl Fn(u32) -> bool) -> TopicPartitionList {
    let mut chosen = TopicPartitionList::new();
    for element in list.elements().iter().filter(|e| choose(first + e.partition() as u32)) {
        chosen.add_partition(element.topic(), element.partition());
    }
    chosen
}

impl GroupContext {
    fn assign(&self, consumer: &GroupConsumer, list: &TopicPartitionList) -> KafkaResult<()> {
        let joined_as = member_id(consumer);
        // Before the new partitions: what was kept from an earlier membership must be given up by the handle
        // before it is given anything else.
        let kept = self.leave_kept(consumer, &joined_as)?;
        let mut starts = Vec::new();
        let mut assigned = TopicPartitionList::new();
        for (is_new, partitions) in [(true, list), (false, &kept)] {
            for (topic, partition, next) in self.starts(consumer, partitions)? {
                let next_offset = Offset::Offset(next);
                if is_new {
                    assigned.add_partition_offset(&topic, partition, next_offset)?
                } else {
                    self.move_to(consumer, &topic, partition, next_offset)?
                }
                starts.push((self.first + partition as u32, next as u64));
            }
        }
        starts.sort_unstable();
        match consumer.rebalance_protocol() {
            // With the cooperative protocol a list holds only what changes; `assign` would replace all other
            // partitions.
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&assigned)?,
            _ => consumer.assign(&assigned)?,
        }
        if !starts.is_empty() {
            self.inbox.tell(|queue| queue.assign(starts, joined_as));
        }
        Ok(())
    }

    /// Takes away the partitions that the member holds from an earlier membership, and returns them. When
    /// `JoinGroup` answers that the group has removed the member, librdkafka keeps its partitions (2.12.1; when a
    /// heartbeat answers so, it drops them), although others may have read them before they were assigned again.
    fn leave_kept(&self, consumer: &GroupConsumer, joined_as: &Arc<str>) -> KafkaResult<TopicPartitionList> {
        let before = std::mem::replace(&mut *self.lock_joined_as(), Arc::clone(joined_as));
        let held = if before == *joined_as { Vec::new() } else { self.inbox.lock().held() };
        if held.is_empty() {
            return Ok(TopicPartitionList::new());
        }
        let kept = only(&consumer.assignment()?, self.first, |p| held.contains(&p));
        self.take_away(consumer, &kept, true)?;
        Ok(kept)
    }

    fn lock_joined_as(&self) -> MutexGuard<'_, Arc<str>> {
        self.joined_as.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to resume in each partition: topic, the brokers' number, offset.
    fn starts(&self, consumer: &GroupConsumer, list: &TopicPartitionList) -> KafkaResult<Vec<(String, i32, i64)>> {
        if list.count() == 0 {
            return Ok(Vec::new());
        }
        let mut starts = Vec::new();
        for element in self.committed(consumer, list)?.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let next = match element.offset() {
                Offset::Offset(next) => next,
                // No committed offset: the group begins at the first record that the partition still holds.
                _ => self.persist(consumer, || watermarks(consumer, topic, partition))?.0,
            };
            starts.push((topic.to_owned(), partition, next));
        }
        Ok(starts)
    }

    fn committed(&self, consumer: &GroupConsumer, list: &TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        self.persist(consumer, || {
            let committed = consumer.committed_offsets(list.clone(), ANSWER_WAIT)?;
            // librdkafka answers Ok with an error per partition. An offset that was withheld would look like
            // one that was never committed, and reading would begin at the start.
            committed.elements().iter().try_for_each(|e| e.error())?;
            Ok(committed)
        })
    }

    /// Repeats a request until the brokers answer: without the answer the member cannot start. This runs inside
    /// the rebalance callback, where nothing polls the client, so an OAUTHBEARER token that expires here must be
    /// renewed here; otherwise no later request could succeed.
    fn persist<R>(&self, consumer: &GroupConsumer, mut ask: impl FnMut() -> KafkaResult<R>) -> KafkaResult<R> {
        loop {
            match ask() {
                // Without an answer the start offsets are unknown; failing would end the whole role for one
                // broker that restarts.
                Err(e) if !self.closing.load(Ordering::Acquire) && is_transient(&e) => {
                    warn("rebalance", || format!("a broker did not answer during a rebalance: {e}; retrying"));
                    if self.common.tokens().are_used()
                        && let Err(error) = give(consumer.client(), self.common.tokens())
                    {
                        warn("token", || error.to_string());
                    }
                    std::thread::sleep(POLL_WAIT);
                }
                answer => return answer,
            }
        }
    }

    fn revoke(&self, consumer: &GroupConsumer, list: &TopicPartitionList) -> KafkaResult<()> {
        // librdkafka reports a loss only while it knows of it; a changed member id is a loss as well, see
        // `leave_kept`.
        let is_lost = consumer.assignment_lost() || member_id(consumer) != *self.lock_joined_as();
        self.take_away(consumer, list, is_lost)?;
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        }
    }

    /// Notifies the handle and waits until it has finished.
    fn take_away(&self, consumer: &GroupConsumer, list: &TopicPartitionList, is_lost: bool) -> KafkaResult<()> {
        let gone = numbers(list, self.first);
        // librdkafka remembers that a partition is paused: assigned again later, it would deliver nothing.
        let paused: Vec<u32> = gone.iter().copied().filter(|p| self.inbox.lock().is_paused(*p)).collect();
        consumer.resume(&only(list, self.first, |p| paused.contains(&p)))?;
        // A dropped handle answers no commands: waiting for it would block the end of this thread.
        if gone.is_empty() || self.closing.load(Ordering::Acquire) {
            return Ok(());
        }
        let event = if is_lost { Item::Lost(gone.clone()) } else { Item::Revoked(gone.clone()) };
        self.inbox.tell(|queue| queue.remove(&gone, Some(event)));
        self.wait_for_hand_over(consumer);
        Ok(())
    }

    /// Serves the handle until it has finished with what was revoked, or knows what was lost. The member does not
    /// rejoin before this returns: once it is a member again it could commit positions of partitions that others
    /// have read further in the meantime, and the brokers, which check only the generation of the member, would
    /// accept them.
    fn wait_for_hand_over(&self, consumer: &GroupConsumer) {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.closing.load(Ordering::Acquire) {
            match commands.recv_timeout(Duration::from_millis(100)) {
                Ok(Command::HandedOver | Command::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Ok(Command::Seek { partition, offset, reply }) => {
                    let _: Result<(), _> = reply.send(self.seek(consumer, partition, offset));
                }
                Ok(Command::Hold { partition, reply }) => {
                    let _: Result<(), _> = reply.send(self.hold(consumer, partition));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Fetches nothing more of a partition.
    fn hold(&self, consumer: &GroupConsumer, partition: u32) -> Result<(), LogError> {
        let paused =
            consumer.assignment().and_then(|list| consumer.pause(&only(&list, self.first, |p| p == partition)));
        paused.map_err(|e| failed("hold", &e, consumer.client()))?;
        self.inbox.tell(|queue| queue.pause(partition));
        Ok(())
    }

    fn seek(&self, consumer: &GroupConsumer, partition: u32, offset: u64) -> Result<(), LogError> {
        if self.inbox.lock().is_paused(partition) {
            // The partition must be fetching when it is sought, so it is resumed first. No record can slip through
            // in between: only this thread polls.
            let resumed =
                consumer.assignment().and_then(|list| consumer.resume(&only(&list, self.first, |p| p == partition)));
            resumed.map_err(|e| failed("seek", &e, consumer.client()))?;
        }
        // Revoked or lost in the meantime: the handle will be notified, and there is no position to move.
        if !self.inbox.lock().holds(partition) {
            return Ok(());
        }
        let topics = consumer.subscription().map_err(|e| failed("seek", &e, consumer.client()))?;
        let topic = topics.elements().first().map(|e| e.topic().to_owned()).unwrap_or_default();
        let number = (partition - self.first) as i32;
        self.move_to(consumer, &topic, number, Offset::Offset(offset as i64)).map_err(|error| {
            // While brokers are unavailable the fetcher cannot start, and librdkafka reports that as a state
            // error, which would count as fatal. It passes when they are back.
            let what = format!("seek in {topic}/{partition}");
            match consumer.client().fatal_error() {
                Some(_) => failed(what, &error, consumer.client()),
                None => LogError::new(ErrorClass::Retry { after_ms: 500 }, what, error.to_string()),
            }
        })?;
        self.inbox.tell(|queue| queue.restart(partition));
        Ok(())
    }

    /// Moves the position in a partition, once its fetcher has started.
    fn move_to(&self, consumer: &GroupConsumer, topic: &str, partition: i32, to: Offset) -> KafkaResult<()> {
        let deadline = Instant::now() + SEEK_WAIT;
        loop {
            match consumer.seek(topic, partition, to, ANSWER_WAIT) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(POLL_WAIT),
                moved => return moved,
            }
        }
    }
}

fn is_transient(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code().map(class_of), Some(ErrorClass::Retry { .. }))
}

/// Polls until the handle says stop.
pub(super) fn run(consumer: &GroupConsumer, topic: Topic) {
    let context = Arc::clone(consumer.context());
    let mut full_since: Option<Instant> = None;
    let mut paused: Option<TopicPartitionList> = None;
    while serve(&context, consumer).is_continue() {
        if context.inbox.lock().is_full() {
            let since = *full_since.get_or_insert_with(Instant::now);
            // Not polling is the cheap way to stop reading: librdkafka's prefetch is bounded as well. Pausing
            // throws that prefetch away, so that it is the last resort.
            if since.elapsed() < FULL_WAIT {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            if paused.is_none() {
                // Paused, and polling continues: rebalances must be served, and a member that does not poll is removed.
                paused = consumer.assignment().ok().filter(|list| consumer.pause(list).is_ok());
            }
        } else {
            full_since = None;
            let resumed = paused.take().map(|list| {
                // Held partitions stay paused: only a seek resumes them.
                let wanted = only(&list, context.first, |p| !context.inbox.lock().is_paused(p));
                consumer.resume(&wanted)
            });
            if let Some(Err(error)) = resumed {
                let error = failed("resume", &error, consumer.client());
                context.inbox.tell(|queue| queue.fail(error));
            }
        }
        poll_many(&context, consumer, topic);
    }
}

/// Carries out the handle's commands.
fn serve(context: &GroupContext, consumer: &GroupConsumer) -> ControlFlow<()> {
    loop {
        let command = context.commands.lock().unwrap_or_else(PoisonError::into_inner).try_recv();
        match command {
            Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return ControlFlow::Break(()),
            Ok(Command::HandedOver) => {}
            Ok(Command::Seek { partition, offset, reply }) => {
                let _: Result<(), _> = reply.send(context.seek(consumer, partition, offset));
            }
            Ok(Command::Hold { partition, reply }) => {
                let _: Result<(), _> = reply.send(context.hold(consumer, partition));
            }
            Err(mpsc::TryRecvError::Empty) => return ControlFlow::Continue(()),
        }
    }
}

/// Takes the messages that librdkafka has, at most one step's worth; waits for the first only.
fn poll_many(context: &GroupContext, consumer: &GroupConsumer, topic: Topic) {
    let mut wait = POLL_WAIT;
    for _ in 0..STEP_RECORDS_MAX {
        let Some(polled) = consumer.poll(wait) else { break };
        // Only the first poll waits: what librdkafka has prefetched is taken in one go, and the handle is
        // woken once for it.
        wait = Duration::ZERO;
        match polled {
            Ok(message) => {
                let partition = context.first + message.partition() as u32;
                let record = record(&message, PartitionId { topic, partition });
                context.inbox.lock().push(partition, record);
            }
            Err(KafkaError::PartitionEOF(partition)) => context.inbox.lock().end(context.first + partition as u32),
            Err(error) => refuse(context, consumer, &error),
        }
    }
    if wait.is_zero() {
        // Once for many records: a wake-up for each would cost more than the record.
        context.inbox.news.notify_waiters();
    }
}

/// An error while reading: one that librdkafka recovers from by itself is logged, any other ends the reading.
fn refuse(context: &GroupContext, consumer: &GroupConsumer, error: &KafkaError) {
    if is_transient(error) && consumer.client().fatal_error().is_none() {
        warn("read", || format!("reading continues after {error}"));
        return;
    }
    let mut failure = failed("read", error, consumer.client());
    // With `auto.offset.reset=error`: retention has deleted records before they were read. Continuing
    // would hide a loss.
    if error.rdkafka_error_code() == Some(Code::AutoOffsetReset) {
        failure
            .message
            .push_str("; the log no longer holds the committed offset: records were deleted before they were read");
    }
    context.inbox.tell(|queue| queue.fail(failure));
}
