//! The log inside one process: groups, fencing, fetching and waiting, over any store of records.
//!
//! [`memory`](super::memory) and [`local`](super::local) are stores; everything that must be equal
//! in both is here. It does not speak to other processes.

mod appender;
mod lease;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schemas::limits::{STEP_BYTES_MAX, STEP_RECORDS_MAX};
use schemas::record::{OutRecord, PartitionId, Position, Record};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, partition_of};
use tokio::time::Instant;

pub use self::appender::InProcessAppender;
pub use self::lease::Lease;
use self::lease::{GroupKey, Groups};
pub use self::store::{Placed, Store, Write, WriteKind};
use super::group::{Gone, Group, MembershipChange};
use super::{Broker, Committed, Log, LogError, LogEvent, METADATA_BYTES_MAX, Txn, step_records};

/// Group name of a read from outside any group.
const OUTSIDE: &str = "";

/// A broker in this process; clones share one log.
pub struct InProcessBroker<S> {
    store: Arc<S>,
    groups: Arc<Groups>,
}

impl<S> Clone for InProcessBroker<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), groups: Arc::clone(&self.groups) }
    }
}

impl<S> fmt::Debug for InProcessBroker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessBroker").finish_non_exhaustive()
    }
}

impl<S: Store> InProcessBroker<S> {
    /// A broker over `store`.
    pub fn over(store: S) -> Self {
        Self { store: Arc::new(store), groups: Arc::default() }
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Revokes all partitions of a member in an orderly way: [`LogEvent::Revoked`] at its next
    /// `next`, [`LogEvent::Assigned`] after it.
    pub fn revoke(&self, group: &str, topic: Topic, instance: &str) {
        let _: Result<(), Gone> = self.groups.with(&(group.to_owned(), topic), |g| g.revoke(instance));
        self.groups.changed.notify_waiters();
    }

    /// Takes all partitions from a member at once, as a session timeout does: its commits are
    /// fenced, others may take over, and its next `next` returns [`LogEvent::Lost`].
    pub fn expel(&self, group: &str, topic: Topic, instance: &str) {
        let _: Result<(), Gone> = self.groups.with(&(group.to_owned(), topic), |g| g.expel(instance));
        self.groups.changed.notify_waiters();
    }

    fn count(&self, topic: Topic) -> Result<u32, LogError> {
        let missing = || LogError::fatal(format!("topic {topic}"), "it does not exist; create the topics first");
        self.store.partitions(topic).ok_or_else(missing)
    }

    /// Refuses a partition that the topic does not have.
    fn held(&self, partition: PartitionId) -> Result<(), LogError> {
        match self.count(partition.topic)? {
            count if partition.partition < count => Ok(()),
            count => Err(LogError::fatal(name(partition), format!("the topic has only {count} partitions"))),
        }
    }

    fn place(&self, record: OutRecord) -> Result<Placed, LogError> {
        let count = self.count(record.topic)?;
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, count),
            (None, None) => 0,
        };
        let id = PartitionId { topic: record.topic, partition };
        if partition >= count {
            return Err(LogError::fatal(name(id), format!("the topic has only {count} partitions")));
        }
        if record.key.is_none() && record.topic.is_compacted() {
            return Err(LogError::fatal(name(id), "a record of a compacted topic needs a key"));
        }
        // Kafka keeps milliseconds: anything finer would be lost when the records are copied to Kafka, and the
        // copy would not give the same outputs.
        let timestamp = TimestampMicros::from_ms(record.timestamp.ms());
        Ok(Placed { partition: id, record: OutRecord { timestamp, ..record } })
    }

    async fn write(&self, write: Write) -> Result<Vec<Position>, LogError> {
        // Notified whatever the outcome: a write whose answer is an error may have taken effect.
        let written = self.store.write(write).await;
        self.groups.changed.notify_waiters();
        written
    }
}

/// `topic/partition`, as messages name it.
pub(super) fn name(id: PartitionId) -> String {
    format!("{}/{}", id.topic, id.partition)
}

impl<S: Store> Broker for InProcessBroker<S> {
    type Log = InProcessLog<S>;
    type Appender = InProcessAppender<S>;

    async fn create_topics(&self, topics: &[Topic], partitions: u32) -> Result<(), LogError> {
        for &topic in topics {
            match self.store.partitions(topic) {
                Some(held) if held == partitions => {}
                Some(held) => {
                    let message = format!(
                        "it has {held} partitions and log.partitions asks for {partitions}: set back log.partitions; the \
                         embedded log keeps its count, more partitions are for topics on Kafka (`custody topics migrate`)"
                    );
                    return Err(LogError::fatal(format!("topic {topic}"), message));
                }
                None if partitions == 0 => {
                    return Err(LogError::fatal(format!("topic {topic}"), "a topic needs at least one partition"));
                }
                None => self.store.create(topic, partitions).await?,
            }
        }
        Ok(())
    }

    async fn grow_topic(&self, topic: Topic, partitions: u32) -> Result<(), LogError> {
        if self.count(topic)? < partitions {
            self.store.grow(topic, partitions).await?;
        }
        // Members learn of it at their next poll, as Kafka's do at their next look at the metadata.
        self.groups.grow(topic, partitions);
        self.groups.changed.notify_waiters();
        Ok(())
    }

    async fn partitions(&self, topic: Topic) -> Result<u32, LogError> {
        self.count(topic)
    }

    async fn partitions_now(&self, topic: Topic) -> Result<Option<u32>, LogError> {
        Ok(self.store.partitions(topic))
    }

    async fn consumer(&self, group: &str, topic: Topic, instance: &str) -> Result<Self::Log, LogError> {
        let count = self.count(topic)?;
        // A compacted topic has no order of records to follow: only the newest value of each key is left.
        if topic.is_compacted() {
            return Err(LogError::fatal(format!("topic {topic}"), "it is compacted; read it with restore"));
        }
        let key = (group.to_owned(), topic);
        let mut groups = self.groups.lock();
        let incarnation = groups.entry(key.clone()).or_insert_with(|| Group::new(count)).join(instance);
        drop(groups);
        self.groups.changed.notify_waiters();
        let instance = instance.to_owned();
        Ok(InProcessLog {
            broker: self.clone(),
            key,
            instance,
            incarnation,
            positions: BTreeMap::new(),
            held: BTreeSet::new(),
            last: 0,
        })
    }

    async fn topic_settings(&self, topic: Topic) -> Result<Option<BTreeMap<String, String>>, LogError> {
        Ok(self.store.partitions(topic).map(|_| BTreeMap::new()))
    }

    async fn broker_settings(&self) -> Result<Vec<BTreeMap<String, String>>, LogError> {
        Ok(Vec::new())
    }

    async fn bounds(&self, partition: PartitionId) -> Result<Range<u64>, LogError> {
        self.held(partition)?;
        Ok(self.store.bounds(partition))
    }

    async fn committed(&self, group: &str, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        self.held(partition)?;
        self.store.committed(group, partition).await
    }

    async fn commit_first(&self, group: &str, partition: PartitionId, next: u64) -> Result<(), LogError> {
        self.held(partition)?;
        let committed = Committed { next, metadata: String::new() };
        let offset = Some((group.to_owned(), partition, committed));
        self.write(Write { offset, kind: WriteKind::Offset, ..Write::default() }).await.map(drop)
    }

    async fn read(&self, partition: PartitionId, offset: u64) -> Result<(Vec<Record>, u64), LogError> {
        self.held(partition)?;
        let bounds = self.store.bounds(partition);
        match offset.max(bounds.start) {
            // A store answers an error for a partition that holds nothing; for a reader from outside an empty
            // end is no error.
            offset if offset >= bounds.end => Ok((Vec::new(), offset)),
            offset => self.store.read(OUTSIDE, partition, offset, STEP_RECORDS_MAX, STEP_BYTES_MAX).await,
        }
    }

    async fn appender(&self) -> Result<Self::Appender, LogError> {
        Ok(InProcessAppender { broker: self.clone() })
    }
}

/// A member of a group; dropping it leaves the group.
pub struct InProcessLog<S> {
    broker: InProcessBroker<S>,
    key: GroupKey,
    instance: String,
    incarnation: u64,
    /// Next offset to fetch of each assigned partition.
    positions: BTreeMap<u32, u64>,
    /// Assigned partitions that are not fetched until they are sought.
    held: BTreeSet<u32>,
    /// Partition fetched last: the next one in order goes first, so that none starves.
    last: u32,
}

impl<S> fmt::Debug for InProcessLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, instance, positions, .. } = self;
        f.debug_struct("InProcessLog")
            .field("group", key)
            .field("instance", instance)
            .field("positions", positions)
            .finish_non_exhaustive()
    }
}

impl<S> Drop for InProcessLog<S> {
    fn drop(&mut self) {
        let _: Result<(), Gone> = self.broker.groups.with(&self.key, |g| g.leave(&self.instance, self.incarnation));
        self.broker.groups.changed.notify_waiters();
    }
}

impl<S: Store> InProcessLog<S> {
    fn id(&self, partition: u32) -> PartitionId {
        PartitionId { topic: self.key.1, partition }
    }

    fn fenced(&self, verb: &str) -> LogError {
        LogError::fenced(format!("{verb} of {} in group {} as {}", self.key.1, self.key.0, self.instance))
    }

    /// A change of the assignment, if there is one.
    async fn change(&mut self) -> Result<Option<LogEvent>, LogError> {
        let change = self.broker.groups.with(&self.key, |g| g.poll(&self.instance, self.incarnation));
        let change = change.and_then(|c| c).map_err(|Gone| self.fenced("read"))?;
        let ids = |partitions: &[u32]| partitions.iter().map(|p| self.id(*p)).collect::<Vec<_>>();
        let event = match &change {
            MembershipChange::Nothing => return Ok(None),
            MembershipChange::Assign(partitions) => return self.assigned(ids(partitions)).await.map(Some),
            MembershipChange::Revoke(partitions) => LogEvent::Revoked(ids(partitions)),
            MembershipChange::Lose(partitions) => LogEvent::Lost(ids(partitions)),
        };
        if let MembershipChange::Revoke(gone) | MembershipChange::Lose(gone) = &change {
            self.positions.retain(|p, _| !gone.contains(p));
            self.held.retain(|p| !gone.contains(p));
            // The partitions are released at this member's next call, and other members wait for the notification.
            self.broker.groups.changed.notify_waiters();
        }
        Ok(Some(event))
    }

    async fn assigned(&mut self, partitions: Vec<PartitionId>) -> Result<LogEvent, LogError> {
        let mut starts = Vec::with_capacity(partitions.len());
        for id in partitions {
            // Read after the assignment: the owner before may have committed until it released the partition.
            let next = self.broker.store.committed(&self.key.0, id).await?.map_or(0, |c| c.next);
            self.positions.insert(id.partition, next);
            starts.push((id, next));
        }
        Ok(LogEvent::Assigned(starts))
    }

    async fn fetch(&mut self) -> Result<Option<LogEvent>, LogError> {
        // Starting after the partition that was read last: under load the first one would otherwise always
        // have records, and the others would starve.
        let after = self.positions.range(self.last.saturating_add(1)..);
        let order: Vec<(u32, u64)> = after.chain(self.positions.range(..=self.last)).map(|(p, o)| (*p, *o)).collect();
        for (partition, offset) in order {
            let id = self.id(partition);
            if self.held.contains(&partition) || self.broker.store.bounds(id).end <= offset {
                continue;
            }
            let read = self.broker.store.read(&self.key.0, id, offset, STEP_RECORDS_MAX, STEP_BYTES_MAX);
            let (records, next) = read.await?;
            self.positions.insert(partition, next);
            if !records.is_empty() {
                self.last = partition;
                return Ok(Some(LogEvent::Fetched { partition: id, records, next }));
            }
        }
        Ok(None)
    }

    /// Refuses a partition that this member does not own, or whose assignment it has not handled yet.
    fn own(&self, partition: PartitionId, verb: &str) -> Result<(), LogError> {
        let owns = self.broker.groups.with(&self.key, |g| {
            partition.topic == self.key.1 && g.owns(&self.instance, self.incarnation, partition.partition)
        });
        match owns {
            // Owned in the group is not enough: after a rejoin the handle may own a partition whose `Assigned`
            // it has not returned yet.
            Ok(true) if self.positions.contains_key(&partition.partition) => Ok(()),
            _ => Err(LogError::fenced(format!("{verb} in {}", name(partition)))),
        }
    }

    fn lease(&self, partition: PartitionId, verb: &str) -> Result<Lease, LogError> {
        if partition.topic != self.key.1 {
            let message = format!("this consumer reads {}", self.key.1);
            return Err(LogError::fatal(format!("{verb} of {}", name(partition)), message));
        }
        let lease =
            self.broker.groups.with(&self.key, |g| g.lease(&self.instance, self.incarnation, partition.partition));
        lease.and_then(|l| l).map_err(|Gone| LogError::fenced(format!("{verb} of {}", name(partition))))?;
        Ok(Lease {
            groups: Arc::clone(&self.broker.groups),
            key: self.key.clone(),
            incarnation: self.incarnation,
            partition: partition.partition,
        })
    }
}

impl<S: Store> Log for InProcessLog<S> {
    async fn next(&mut self) -> Result<LogEvent, LogError> {
        let groups = Arc::clone(&self.broker.groups);
        let wait_ms = self.broker.store.idle_wait_ms();
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        loop {
            // Registered before the checks below: a notification between the checks and the wait would
            // otherwise be missed, and the consumer would sleep although records are there.
            let mut news = pin!(groups.changed.notified());
            news.as_mut().enable();
            if let Some(event) = self.change().await? {
                return Ok(event);
            }
            if let Some(event) = self.fetch().await? {
                return Ok(event);
            }
            if wait_ms == 0 {
                // The memory log has no timers, to be deterministic: without the yield a consumer in a loop
                // would never let the writer run.
                tokio::task::yield_now().await;
                return Ok(LogEvent::Idle);
            }
            // The deadline is checked as well as the timeout: under steady writes to other topics every
            // wait ends with a notification, and the caller would never see `Idle`.
            if Instant::now() >= deadline || tokio::time::timeout_at(deadline, news).await.is_err() {
                return Ok(LogEvent::Idle);
            }
        }
    }

    async fn restore(&mut self, state: PartitionId) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        if !state.topic.is_compacted() {
            return Err(LogError::fatal(format!("restore of {}", name(state)), "the topic is not compacted"));
        }
        self.broker.count(state.topic)?;
        self.broker.store.entries(state).await
    }

    async fn commit(&mut self, mut txn: Txn) -> Result<(), LogError> {
        // Taken before anything is written and held until the write has ended: a successor that gets the
        // partition in between would read a position that is about to change.
        let lease = Some(self.lease(txn.source, "commit")?);
        let records: Result<Vec<Placed>, LogError> =
            step_records(&mut txn)?.into_iter().map(|r| self.broker.place(r)).collect();
        let committed = Committed { next: txn.consumed.end, metadata: String::new() };
        let offset = Some((self.key.0.clone(), txn.source, committed));
        self.broker.write(Write { records: records?, offset, kind: WriteKind::Step, lease }).await.map(drop)
    }

    async fn seek(&mut self, partition: PartitionId, offset: u64) -> Result<(), LogError> {
        self.own(partition, "seek")?;
        self.positions.insert(partition.partition, offset);
        self.held.remove(&partition.partition);
        Ok(())
    }

    async fn hold(&mut self, partition: PartitionId) -> Result<(), LogError> {
        self.own(partition, "hold")?;
        self.held.insert(partition.partition);
        Ok(())
    }

    async fn committed(&mut self, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        self.broker.store.committed(&self.key.0, partition).await
    }

    async fn commit_offset(&mut self, partition: PartitionId, committed: Committed) -> Result<(), LogError> {
        let lease = Some(self.lease(partition, "commit")?);
        if committed.metadata.len() > METADATA_BYTES_MAX {
            let message = format!("metadata of {} bytes; at most {METADATA_BYTES_MAX}", committed.metadata.len());
            return Err(LogError::fatal(format!("commit of {}", name(partition)), message));
        }
        let offset = Some((self.key.0.clone(), partition, committed));
        self.broker.write(Write { records: Vec::new(), offset, kind: WriteKind::Offset, lease }).await.map(drop)
    }

    async fn bounds(&mut self, partition: PartitionId) -> Result<Range<u64>, LogError> {
        self.broker.bounds(partition).await
    }

    async fn close(self) -> Result<(), LogError> {
        Ok(())
    }
}
