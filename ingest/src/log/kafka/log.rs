//! A member of a consumer group: the handle over the polling thread and the transactional producer.
//!
//! Members are static (KIP-345): a successor of the same instance takes its partitions over at once
//! and fences it. A closed member's partitions move to others when its session times out.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::record::{OutRecord, PartitionId};
use schemas::topic::Topic;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::consumer::{Command, GroupConsumer, GroupContext, run};
use super::context::Context;
use super::membership::check_member;
use super::outside::{Reading, bounds_by, client, committed_by, watermarks};
use super::producer::Transactions;
use super::queue::{Inbox, Item};
use super::{Inner, PREFETCH_KBYTES, blocking, create, failed};
use crate::log::in_process::name;
use crate::log::{Committed, ErrorClass, Log, LogError, LogEvent, METADATA_BYTES_MAX, Txn, step_records};

/// How long a consumer that has read everything waits before it returns `Idle`.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// How long the brokers may fail to answer before the caller gets an error.
const SILENCE_WAIT: Duration = Duration::from_secs(10);
/// How long restore waits for open transactions in its partition to end.
const RESTORE_WAIT: Duration = Duration::from_secs(60);

/// A member of a consumer group on Kafka.
pub struct KafkaLog {
    inner: Arc<Inner>,
    group: String,
    topic: Topic,
    consumer: Arc<GroupConsumer>,
    inbox: Arc<Inbox>,
    commands: mpsc::Sender<Command>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    transactions: Arc<Mutex<Transactions>>,
    /// By partition: the member id under which it was assigned.
    owned: BTreeMap<u32, Arc<str>>,
    /// Partitions whose revocation or loss was returned to the caller; its next call means that it has finished.
    handing_over: Vec<u32>,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, topic, owned, .. } = self;
        f.debug_struct("KafkaLog")
            .field("group", group)
            .field("topic", topic)
            .field("owned", owned)
            .finish_non_exhaustive()
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Sending fails only if the thread has ended. The thread drops the consumer, so that closing, which can
        // block on brokers, does not block here.
        let _: Result<(), _> = self.commands.send(Command::Stop);
    }
}

impl KafkaLog {
    /// Joins the group; the predecessor of the same instance is fenced before this returns.
    pub(super) fn open(inner: Arc<Inner>, group: &str, topic: Topic, instance: &str) -> Result<Self, LogError> {
        inner.count_of(topic)?;
        let namespace = &inner.config.namespace;
        let version = topic.name_of(inner.generation());
        // Stable over restarts: it is by this id that the brokers fence a predecessor and end its open
        // transaction. With the topic's version in it, because a new generation must not fence the old one.
        let id = format!("{namespace}custody-{group}-{instance}-{version}");
        // Before the consumer joins: once partitions are assigned, the predecessor can write nothing any more,
        // and its transaction has ended.
        let transactions = Arc::new(Mutex::new(Transactions::open(Arc::clone(&inner), id)?));
        let (commands, receiver) = mpsc::channel();
        let (inbox, closing) = (Arc::new(Inbox::default()), Arc::new(AtomicBool::new(false)));
        let context = GroupContext {
            common: inner.context(),
            inbox: Arc::clone(&inbox),
            commands: Mutex::new(receiver),
            closing: Arc::clone(&closing),
            joined_as: Mutex::new(Arc::from("")),
            first: inner.first(),
        };
        let group_id = inner.group(group);
        // One member per topic, so that one instance may read several topics in one group.
        let member = format!("{instance}-{version}");
        let mut settings = inner.config.group_protocol.settings(&member);
        settings.extend([
            ("group.id", group_id.as_str()),
            // Positions are committed only together with the outputs. `enable.partition.eof` is how the handle learns
            // that everything was read.
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("isolation.level", "read_committed"),
            // A committed offset that the log no longer holds means that records were lost: librdkafka's default
            // `latest` would skip to the end without a report.
            ("auto.offset.reset", "error"),
            ("queued.max.messages.kbytes", PREFETCH_KBYTES),
            ("queued.min.messages", "10000"),
            // librdkafka's defaults are 500 ms and 1 s, and a chain of stages would add them up.
            ("fetch.wait.max.ms", "10"),
            ("fetch.queue.backoff.ms", "10"),
        ]);
        let consumer: GroupConsumer = create(&inner.config, &settings, context)?;
        let consumer = Arc::new(consumer);
        let what = || format!("consumer of {} in group {group_id}", inner.topic(topic));
        // Always `subscribe`: with `assign` there is no generation, and nothing would fence a commit.
        consumer.subscribe(&[&inner.topic(topic)]).map_err(|e| failed(what(), &e, consumer.client()))?;
        let polled = Arc::clone(&consumer);
        let thread = std::thread::Builder::new().name("kafka-poll".to_owned());
        let thread = thread.spawn(move || run(&polled, topic)).map_err(|e| LogError::fatal(what(), e.to_string()))?;
        let thread = Some(thread);
        let (group, owned) = (group_id, BTreeMap::new());
        Ok(Self {
            inner,
            group,
            topic,
            consumer,
            inbox,
            commands,
            closing,
            thread,
            transactions,
            owned,
            handing_over: Vec::new(),
        })
    }

    fn id(&self, partition: u32) -> PartitionId {
        PartitionId { topic: self.topic, partition }
    }

    fn ids(&self, partitions: &[u32]) -> Vec<PartitionId> {
        partitions.iter().map(|p| self.id(*p)).collect()
    }

    /// The member id under which the partition was assigned; fenced if it is not.
    fn own(&self, partition: PartitionId, verb: &str) -> Result<Arc<str>, LogError> {
        let owned = self.owned.get(&partition.partition).filter(|_| partition.topic == self.topic);
        owned.cloned().ok_or_else(|| LogError::fenced(format!("{verb} of {}", name(partition))))
    }

    /// Sends a command to the polling thread and waits for its answer.
    async fn ask(
        &self,
        verb: &str,
        partition: PartitionId,
        command: impl FnOnce(oneshot::Sender<Result<(), LogError>>) -> Command,
    ) -> Result<(), LogError> {
        let ended = || LogError::fatal(format!("{verb} in {}", name(partition)), "the polling thread has ended");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Refuses a partition that did not exist when this process counted them: its records were keyed with another
    /// partition count than ours.
    fn known(&self, starts: &[(u32, u64)]) -> Result<(), LogError> {
        let count = self.inner.count_of(self.topic)?;
        match starts.iter().find(|(partition, _)| !self.inner.is_held(*partition, count)) {
            None => Ok(()),
            Some((partition, _)) => Err(LogError::fatal(
                name(self.id(*partition)),
                format!(
                    "the topic had {count} partitions when this process started and was given more since: partitions \
                     are not added to a topic in use, run `custody topics migrate`"
                ),
            )),
        }
    }

    fn event(&mut self, item: Item) -> Result<Option<LogEvent>, LogError> {
        Ok(Some(match item {
            Item::Assigned(starts, joined_as) => {
                self.known(&starts)?;
                self.owned.extend(starts.iter().map(|(p, _)| (*p, Arc::clone(&joined_as))));
                LogEvent::Assigned(starts.into_iter().map(|(p, next)| (self.id(p), next)).collect())
            }
            // Still owned until the next call: the caller may commit the step in flight.
            Item::Revoked(gone) => {
                let event = LogEvent::Revoked(self.ids(&gone));
                self.handing_over = gone;
                event
            }
            Item::Lost(gone) => {
                // At once: no commit may follow for a partition that others may have already.
                self.owned.retain(|p, _| !gone.contains(p));
                let event = LogEvent::Lost(self.ids(&gone));
                self.handing_over = gone;
                event
            }
            Item::Chunk(chunk) => {
                let Some(last) = chunk.records.last() else { return Ok(None) };
                let next = last.at.offset + 1;
                LogEvent::Fetched { partition: self.id(chunk.partition), next, records: chunk.records }
            }
            Item::Failed(error) => return Err(error),
        }))
    }

    fn offsets(&self, partition: PartitionId, committed: &Committed) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(&self.inner.topic(partition.topic), partition.index() as i32);
        let set = element.set_offset(Offset::Offset(committed.next as i64));
        set.map_err(|e| LogError::fatal(name(partition), e.to_string()))?;
        element.set_metadata(&committed.metadata);
        Ok(list)
    }

    /// Ends a transaction of this member whose outcome is unknown: its records are readable only after that.
    async fn settle(&self) -> Result<(), LogError> {
        let transactions = Arc::clone(&self.transactions);
        blocking("end of a transaction", move || transactions.lock().unwrap_or_else(PoisonError::into_inner).settle())
            .await
    }

    /// Commits a position by the group's own protocol.
    async fn commit_plain(
        &self,
        partition: PartitionId,
        committed: &Committed,
        joined_as: Arc<str>,
    ) -> Result<(), LogError> {
        let list = self.offsets(partition, committed)?;
        let consumer = Arc::clone(&self.consumer);
        blocking("commit", move || {
            let what = || format!("commit of {}", name(partition));
            check_member(&consumer, &joined_as, what())?;
            consumer.commit(&list, CommitMode::Sync).map_err(|e| failed(what(), &e, consumer.client()))
        })
        .await
    }
}

impl Log for KafkaLog {
    async fn next(&mut self) -> Result<LogEvent, LogError> {
        let finished = std::mem::take(&mut self.handing_over);
        if !finished.is_empty() {
            self.owned.retain(|p, _| !finished.contains(p));
            // If the thread has ended there is nothing to hand over.
            let _: Result<(), _> = self.commands.send(Command::HandedOver);
        }
        let inbox = Arc::clone(&self.inbox);
        let start = Instant::now();
        loop {
            let mut news = pin!(inbox.news.notified());
            // Before the queue is looked at: an item that comes between the look and the wait would otherwise
            // not wake it.
            news.as_mut().enable();
            let (item, drained) = {
                let mut queue = inbox.lock();
                (queue.pop(), queue.is_drained())
            };
            if let Some(event) = item.map(|item| self.event(item)).transpose()?.flatten() {
                return Ok(event);
            }
            // A consumer that has read everything reports that soon; one that is owed records by the brokers
            // waits longer before it reports an error.
            let wait = if drained { IDLE_WAIT } else { SILENCE_WAIT };
            if tokio::time::timeout_at(start + wait, news).await.is_ok() {
                continue;
            }
            if inbox.lock().is_drained() {
                return Ok(LogEvent::Idle);
            }
            if start.elapsed() >= SILENCE_WAIT {
                let what = format!("read of {} in group {}", self.topic, self.group);
                return Err(LogError::new(ErrorClass::Retry { after_ms: 500 }, what, "the brokers do not answer"));
            }
        }
    }

    async fn restore(&mut self, state: PartitionId) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        if !state.topic.is_compacted() {
            return Err(LogError::fatal(format!("restore of {}", name(state)), "the topic is not compacted"));
        }
        self.settle().await?;
        let (inner, closing) = (Arc::clone(&self.inner), Arc::clone(&self.closing));
        blocking("restore", move || restore(&inner, state, &closing)).await
    }

    async fn commit(&mut self, mut txn: Txn) -> Result<(), LogError> {
        let joined_as = self.own(txn.source, "commit")?;
        let source = txn.source;
        let records = step_records(&mut txn)?;
        let committed = Committed { next: txn.consumed.end, metadata: String::new() };
        // A step without records needs no transaction: a position without outputs is fenced by the group's generation,
        // and costs one round trip.
        if records.is_empty() {
            return self.commit_plain(source, &committed, joined_as).await;
        }
        let offsets = self.offsets(source, &committed)?;
        let (inner, consumer, transactions) =
            (Arc::clone(&self.inner), Arc::clone(&self.consumer), Arc::clone(&self.transactions));
        blocking("commit", move || {
            let placed: Result<Vec<(PartitionId, OutRecord)>, LogError> =
                records.into_iter().map(|r| Ok((inner.place(&r)?, r))).collect();
            // Before the transaction begins: a record without a place must not leave a transaction to be
            // aborted.
            let placed = placed?;
            let group = consumer.group_metadata();
            let group = group.ok_or_else(|| LogError::fatal("commit", "the consumer has no group"))?;
            // After the group metadata was read: a rejoin between the two would otherwise pass the check with the
            // old id and commit with the new generation.
            check_member(&consumer, &joined_as, format!("commit of {}", name(source)))?;
            let mut transactions = transactions.lock().unwrap_or_else(PoisonError::into_inner);
            transactions.write(&placed, &offsets, &group)
        })
        .await
    }

    async fn seek(&mut self, partition: PartitionId, offset: u64) -> Result<(), LogError> {
        let _held = self.own(partition, "seek")?;
        let to = partition.partition;
        self.ask("seek", partition, |reply| Command::Seek { partition: to, offset, reply }).await
    }

    async fn hold(&mut self, partition: PartitionId) -> Result<(), LogError> {
        let _held = self.own(partition, "hold")?;
        let of = partition.partition;
        self.ask("hold", partition, |reply| Command::Hold { partition: of, reply }).await
    }

    async fn committed(&mut self, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        self.settle().await?;
        let (inner, consumer) = (Arc::clone(&self.inner), Arc::clone(&self.consumer));
        blocking("committed offset", move || committed_by(&inner, &consumer, partition)).await
    }

    async fn commit_offset(&mut self, partition: PartitionId, committed: Committed) -> Result<(), LogError> {
        let joined_as = self.own(partition, "commit")?;
        if committed.metadata.len() > METADATA_BYTES_MAX {
            let message = format!("metadata of {} bytes; at most {METADATA_BYTES_MAX}", committed.metadata.len());
            return Err(LogError::fatal(format!("commit of {}", name(partition)), message));
        }
        self.commit_plain(partition, &committed, joined_as).await
    }

    async fn bounds(&mut self, partition: PartitionId) -> Result<Range<u64>, LogError> {
        let (inner, consumer) = (Arc::clone(&self.inner), Arc::clone(&self.consumer));
        blocking("bounds", move || {
            inner.held(partition)?;
            bounds_by(&inner, &consumer, partition)
        })
        .await
    }

    async fn close(mut self) -> Result<(), LogError> {
        let thread = self.thread.take();
        drop(self);
        blocking("close", move || match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err(LogError::fatal("close", "the polling thread panicked")),
            _ => Ok(()),
        })
        .await
    }
}

/// Every live entry of a state partition, after every transaction in it has ended. `closing` stops it early: the
/// handle was dropped.
pub(super) fn restore(
    inner: &Inner,
    state: PartitionId,
    closing: &AtomicBool,
) -> Result<Vec<(Bytes, Bytes)>, LogError> {
    let (wire, number) = (inner.topic(state.topic), state.index() as i32);
    let what = || format!("restore of {}", name(state));
    inner.count_of(state.topic)?;
    let consumer = client(inner, "restore")?;
    let refuse = |e: KafkaError| failed(what(), &e, consumer.client());
    let bounds = decided(inner, &consumer, &wire, number, closing).map_err(refuse)?;
    let (first, end) = bounds.ok_or_else(|| undecided(what()))?;
    let mut entries = BTreeMap::new();
    if first < end {
        let reading = Reading::begin(&consumer, wire, state.index(), first as u64..end as u64);
        read_entries(&consumer, reading.map_err(refuse)?, &mut entries, closing, what)?;
    }
    Ok(entries.into_iter().collect())
}

fn undecided(what: String) -> LogError {
    LogError::new(ErrorClass::Retry { after_ms: 1_000 }, what, "a transaction in it is still open")
}

/// First and next offset, once every transaction in between has ended; `None` if one stays open.
fn decided(
    inner: &Inner,
    committed: &BaseConsumer<Context>,
    wire: &str,
    number: i32,
    closing: &AtomicBool,
) -> Result<Option<(i64, i64)>, KafkaError> {
    // The true end, read before the stable one: what is written after it belongs to nobody, as the
    // predecessor is fenced.
    let (_, high) = watermarks(inner.meta(), wire, number)?;
    let deadline = std::time::Instant::now() + RESTORE_WAIT;
    while std::time::Instant::now() < deadline && !closing.load(Ordering::Acquire) {
        let (first, stable) = watermarks(committed, wire, number)?;
        // The last stable offset stops in front of the first open transaction. Reading only to there would
        // restore a state without a step that is committed a moment later.
        if stable >= high {
            return Ok(Some((first, stable)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(None)
}

fn read_entries(
    consumer: &BaseConsumer<Context>,
    mut reading: Reading,
    entries: &mut BTreeMap<Bytes, Bytes>,
    closing: &AtomicBool,
    what: impl Fn() -> String,
) -> Result<(), LogError> {
    let mut silent_since = std::time::Instant::now();
    loop {
        let polled = consumer.poll(Duration::from_millis(100));
        if let Some(Err(KafkaError::PartitionEOF(_))) = polled {
            if reading.is_over(consumer).map_err(|e| failed(what(), &e, consumer.client()))? {
                return Ok(());
            }
            continue;
        }
        match polled {
            Some(Ok(message)) => {
                silent_since = std::time::Instant::now();
                reading.next = message.offset() as u64 + 1;
                let key = Bytes::copy_from_slice(message.key().unwrap_or_default());
                match message.payload() {
                    // The newest value of each key: compaction may not have run, so that older values are
                    // still there.
                    Some(value) => entries.insert(key, Bytes::copy_from_slice(value)),
                    None => entries.remove(&key),
                };
            }
            Some(Err(error)) => {
                let failure = failed(what(), &error, consumer.client());
                if !matches!(failure.class, ErrorClass::Retry { .. }) {
                    return Err(failure);
                }
            }
            None => {}
        }
        if silent_since.elapsed() > RESTORE_WAIT || closing.load(Ordering::Acquire) {
            return Err(LogError::new(ErrorClass::Retry { after_ms: 1_000 }, what(), "the brokers do not answer"));
        }
    }
}
