//! The thread that polls librdkafka, and what it does when the group's assignment changes.
//!
//! A revoked partition is kept until the handle has finished with it (it asks for the next event); of a lost
//! one it can finish nothing, and is waited for too. Polling goes on, with partitions paused, while nobody
//! takes records.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use schemas::limits::STEP_RECORDS_MAX;
use schemas::record::{PartitionId, Position, Record};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use tokio::sync::oneshot;

use super::context::{Context, share_context};
use super::membership::member_id;
use super::noise::warn;
use super::oauth::give;
use super::outside::watermarks;
use super::queue::{Inbox, Item};
use super::{ANSWER_WAIT, class_of, failed};
use crate::log::{ErrorClass, LogError};

const POLL_WAIT: Duration = Duration::from_millis(20);
/// A full queue for so long: pause the partitions and poll on, or the group takes this member for
/// dead (`max.poll.interval.ms`, five minutes).
const FULL_WAIT: Duration = Duration::from_secs(30);
/// A partition that was assigned a moment ago refuses a seek until its fetcher has started.
const SEEK_WAIT: Duration = Duration::from_secs(10);

/// What the handle asks of the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Revoked partitions are finished with.
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
    /// The handle is gone: nobody will finish anything.
    pub(super) closing: Arc<AtomicBool>,
    /// What the member was called when partitions were assigned last.
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
        let kept = self.leave_kept(consumer, &joined_as)?;
        let mut starts = Vec::new();
        let mut assigned = TopicPartitionList::new();
        for (is_new, partitions) in [(true, list), (false, &kept)] {
            for (topic, partition, next) in self.starts(consumer, partitions)? {
                let next_offset = Offset::Offset(next);
                match is_new {
                    true => assigned.add_partition_offset(&topic, partition, next_offset)?,
                    false => self.move_to(consumer, &topic, partition, next_offset)?,
                }
                starts.push((self.first + partition as u32, next as u64));
            }
        }
        starts.sort_unstable();
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&assigned)?,
            _ => consumer.assign(&assigned)?,
        }
        if !starts.is_empty() {
            self.inbox.tell(|queue| queue.assign(starts, joined_as));
        }
        Ok(())
    }

    /// Takes away what the member holds from an earlier membership, and says what that is. librdkafka keeps the
    /// partitions of a member that is told when it joins that the group has given it up (2.12.1; told by a
    /// heartbeat it loses them): others may have read on in them before the group gave them back.
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

    /// Where partitions go on: topic, the brokers' number, offset.
    fn starts(&self, consumer: &GroupConsumer, list: &TopicPartitionList) -> KafkaResult<Vec<(String, i32, i64)>> {
        if list.count() == 0 {
            return Ok(Vec::new());
        }
        let mut starts = Vec::new();
        for element in self.committed(consumer, list)?.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let next = match element.offset() {
                Offset::Offset(next) => next,
                _ => self.persist(consumer, || watermarks(consumer, topic, partition))?.0,
            };
            starts.push((topic.to_owned(), partition, next));
        }
        Ok(starts)
    }

    fn committed(&self, consumer: &GroupConsumer, list: &TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        self.persist(consumer, || {
            let committed = consumer.committed_offsets(list.clone(), ANSWER_WAIT)?;
            committed.elements().iter().try_for_each(|e| e.error())?;
            Ok(committed)
        })
    }

    /// Repeats a question until it is answered: without an answer the member cannot start. Nothing is polled
    /// meanwhile, so that a token that ends would end the answers too.
    fn persist<R>(&self, consumer: &GroupConsumer, mut ask: impl FnMut() -> KafkaResult<R>) -> KafkaResult<R> {
        loop {
            match ask() {
                Err(e) if !self.closing.load(Ordering::Acquire) && is_transient(&e) => {
                    warn("rebalance", || format!("a broker did not answer in a rebalance: {e}; asking again"));
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
        let is_lost = consumer.assignment_lost() || member_id(consumer) != *self.lock_joined_as();
        self.take_away(consumer, list, is_lost)?;
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        }
    }

    /// Tells the handle and waits for it.
    fn take_away(&self, consumer: &GroupConsumer, list: &TopicPartitionList, is_lost: bool) -> KafkaResult<()> {
        let gone = numbers(list, self.first);
        // librdkafka would keep a partition paused that comes back.
        let paused: Vec<u32> = gone.iter().copied().filter(|p| self.inbox.lock().is_paused(*p)).collect();
        consumer.resume(&only(list, self.first, |p| paused.contains(&p)))?;
        if gone.is_empty() || self.closing.load(Ordering::Acquire) {
            return Ok(());
        }
        let event = if is_lost { Item::Lost(gone.clone()) } else { Item::Revoked(gone.clone()) };
        self.inbox.tell(|queue| queue.remove(&gone, Some(event)));
        self.wait_for_hand_over(consumer);
        Ok(())
    }

    /// Serves the handle until it has finished with what was revoked, or knows what was lost. The member does
    /// not join anew before this returns: as a member again it could commit positions of partitions that others
    /// have read on meanwhile, and the brokers, who ask for the member's generation alone, would take them.
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
            // Nothing is polled before the seek below, which is then one of a partition that is read.
            let resumed =
                consumer.assignment().and_then(|list| consumer.resume(&only(&list, self.first, |p| p == partition)));
            resumed.map_err(|e| failed("seek", &e, consumer.client()))?;
        }
        // Taken away meanwhile: the handle will hear of it, and until then there is nothing to move.
        if !self.inbox.lock().holds(partition) {
            return Ok(());
        }
        let topics = consumer.subscription().map_err(|e| failed("seek", &e, consumer.client()))?;
        let topic = topics.elements().first().map(|e| e.topic().to_owned()).unwrap_or_default();
        let number = (partition - self.first) as i32;
        self.move_to(consumer, &topic, number, Offset::Offset(offset as i64)).map_err(|error| {
            // Brokers that are away keep a fetcher from starting: that passes, whatever librdkafka calls the state.
            let what = format!("seek in {topic}/{partition}");
            match consumer.client().fatal_error() {
                Some(_) => failed(what, &error, consumer.client()),
                None => LogError::new(ErrorClass::Retry { after_ms: 500 }, what, error.to_string()),
            }
        })?;
        self.inbox.tell(|queue| queue.restart(partition));
        Ok(())
    }

    /// Goes on in a partition at another offset, once its fetcher has started.
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
            if since.elapsed() < FULL_WAIT {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            if paused.is_none() {
                paused = consumer.assignment().ok().filter(|list| consumer.pause(list).is_ok());
            }
        } else {
            full_since = None;
            let resumed = paused.take().map(|list| {
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

/// Does what the handle asked for.
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

/// Takes what librdkafka has, at most one step's worth, waiting for the first.
fn poll_many(context: &GroupContext, consumer: &GroupConsumer, topic: Topic) {
    let mut wait = POLL_WAIT;
    for _ in 0..STEP_RECORDS_MAX {
        let Some(polled) = consumer.poll(wait) else { break };
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
        context.inbox.news.notify_waiters();
    }
}

/// An error while reading: what librdkafka gets over by itself is logged, the rest ends the reading.
fn refuse(context: &GroupContext, consumer: &GroupConsumer, error: &KafkaError) {
    if is_transient(error) && consumer.client().fatal_error().is_none() {
        warn("read", || format!("reading goes on after {error}"));
        return;
    }
    let mut failure = failed("read", error, consumer.client());
    if error.rdkafka_error_code() == Some(Code::AutoOffsetReset) {
        failure
            .message
            .push_str("; the log no longer holds the committed offset: records were deleted before they were read");
    }
    context.inbox.tell(|queue| queue.fail(failure));
}

/// A message as a record; copies it out of librdkafka's buffers.
pub(super) fn record(message: &BorrowedMessage<'_>, partition: PartitionId) -> Record {
    let copy = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
    let headers = message.headers().map(|headers| {
        let header = |h: rdkafka::message::Header<'_, &[u8]>| (h.key.to_owned(), copy(h.value).unwrap_or_default());
        headers.iter().map(header).collect()
    });
    Record {
        at: Position { partition, offset: message.offset() as u64 },
        timestamp: TimestampMicros::from_ms(message.timestamp().to_millis().unwrap_or(0)),
        key: copy(message.key()),
        value: copy(message.payload()),
        headers: headers.unwrap_or_default(),
    }
}
