//! The log of the simulation: the one in memory, behind a gate.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use ingest::log::in_process::{InProcessAppender, InProcessLog};
use ingest::log::memory::{Fault, MemoryBroker, MemoryStore};
use ingest::log::{Broker, Committed, ErrorClass, Log, LogError, LogEvent, Txn};
use schemas::record::{PartitionId, Record};
use schemas::topic::Topic;

use super::Broken;
use super::chaos::{FaultKind, Gate, Operation};

/// How long a consumer without news waits, in simulated time: others get their turn, and the clock moves.
const IDLE_WAIT: std::time::Duration = std::time::Duration::from_millis(20);

/// A broker as one life of a role sees it.
#[derive(Debug, Clone)]
pub(super) struct SimBroker {
    pub(super) inner: MemoryBroker,
    pub(super) gate: Gate,
    pub(super) broken: Option<Broken>,
}

/// A consumer of it.
#[derive(Debug)]
pub(super) struct SimLog {
    inner: InProcessLog<MemoryStore>,
    broker: MemoryBroker,
    gate: Gate,
    broken: Option<Broken>,
    group: String,
    topic: Topic,
    instance: String,
}

fn failed(class: ErrorClass, operation: Operation) -> LogError {
    LogError::new(class, format!("{operation:?}"), "simulated fault")
}

const RETRY: ErrorClass = ErrorClass::Retry { after_ms: 50 };

impl Broker for SimBroker {
    type Log = SimLog;
    type Appender = InProcessAppender<MemoryStore>;

    async fn create_topics(&self, topics: &[Topic], partitions: u32) -> Result<(), LogError> {
        self.inner.create_topics(topics, partitions).await
    }

    async fn grow_topic(&self, topic: Topic, partitions: u32) -> Result<(), LogError> {
        self.inner.grow_topic(topic, partitions).await
    }

    async fn commit_first(&self, group: &str, partition: PartitionId, next: u64) -> Result<(), LogError> {
        self.inner.commit_first(group, partition, next).await
    }

    async fn partitions(&self, topic: Topic) -> Result<u32, LogError> {
        self.inner.partitions(topic).await
    }

    async fn partitions_now(&self, topic: Topic) -> Result<Option<u32>, LogError> {
        self.inner.partitions_now(topic).await
    }

    async fn consumer(&self, group: &str, topic: Topic, instance: &str) -> Result<SimLog, LogError> {
        Ok(SimLog {
            inner: self.inner.consumer(group, topic, instance).await?,
            broker: self.inner.clone(),
            gate: self.gate.clone(),
            broken: self.broken,
            group: group.to_owned(),
            topic,
            instance: instance.to_owned(),
        })
    }

    async fn topic_settings(&self, topic: Topic) -> Result<Option<BTreeMap<String, String>>, LogError> {
        self.inner.topic_settings(topic).await
    }

    async fn broker_settings(&self) -> Result<Vec<BTreeMap<String, String>>, LogError> {
        self.inner.broker_settings().await
    }

    async fn bounds(&self, partition: PartitionId) -> Result<Range<u64>, LogError> {
        Broker::bounds(&self.inner, partition).await
    }

    async fn committed(&self, group: &str, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        Broker::committed(&self.inner, group, partition).await
    }

    async fn read(&self, partition: PartitionId, offset: u64) -> Result<(Vec<Record>, u64), LogError> {
        self.inner.read(partition, offset).await
    }

    async fn appender(&self) -> Result<Self::Appender, LogError> {
        self.inner.appender().await
    }
}

impl SimLog {
    /// A question without effect: it is answered or refused.
    async fn ask(&self) -> Result<(), LogError> {
        match self.gate.pass(Operation::Ask, self.topic.name()).await {
            None => Ok(()),
            Some(_) => Err(failed(RETRY, Operation::Ask)),
        }
    }

    /// Carries out what goes wrong around a commit; `apply` is the commit itself.
    async fn write(&mut self, operation: Operation, write: Write) -> Result<(), LogError> {
        let fault = self.gate.pass(operation, self.topic.name()).await;
        match fault {
            Some(FaultKind::Refused) => return Err(failed(RETRY, operation)),
            Some(FaultKind::Aborted) => return Err(failed(ErrorClass::AbortTxn, operation)),
            Some(FaultKind::Expelled) => self.broker.expel(&self.group, self.topic, &self.instance),
            _ => {}
        }
        // After an expulsion the commit is tried anyway: the log itself must refuse it.
        let done = match write {
            Write::Step(txn) => self.inner.commit(*txn).await,
            Write::Offset(partition, committed) => self.inner.commit_offset(partition, committed).await,
        };
        match fault {
            Some(FaultKind::CrashAfter) => self.gate.crash().await,
            // What was written is written; the caller cannot know.
            Some(FaultKind::AnswerLost) => return Err(failed(ErrorClass::AbortTxn, operation)),
            _ => {}
        }
        done
    }
}

enum Write {
    Step(Box<Txn>),
    Offset(PartitionId, Committed),
}

impl Log for SimLog {
    async fn next(&mut self) -> Result<LogEvent, LogError> {
        match self.gate.pass(Operation::Read, self.topic.name()).await {
            Some(FaultKind::Refused) => return Err(failed(RETRY, Operation::Read)),
            Some(FaultKind::Short) => {
                // At least one: a fetch without any would be no progress, which is another thing.
                let records_max = 1 + self.gate.draw(5) as usize;
                self.broker.inject(Fault::ShortFetch { group: self.group.clone(), records_max });
            }
            Some(FaultKind::Revoked) => self.broker.revoke(&self.group, self.topic, &self.instance),
            Some(FaultKind::Expelled) => self.broker.expel(&self.group, self.topic, &self.instance),
            _ => {}
        }
        let event = self.inner.next().await?;
        // Simulated time moves only while all sleep: a consumer that asked again at once would stop the clock.
        if event == LogEvent::Idle {
            tokio::time::sleep(IDLE_WAIT).await;
        }
        Ok(event)
    }

    async fn restore(&mut self, state: PartitionId) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        self.ask().await?;
        self.inner.restore(state).await
    }

    async fn commit(&mut self, mut txn: Txn) -> Result<(), LogError> {
        if self.broken == Some(Broken::AcknowledgePastReject) {
            // The offset moves anyway: the defect is a dead letter that is not written.
            txn.outputs.retain(|output| output.topic != Topic::Dlq);
        }
        self.write(Operation::Commit, Write::Step(Box::new(txn))).await
    }

    async fn seek(&mut self, partition: PartitionId, offset: u64) -> Result<(), LogError> {
        self.ask().await?;
        self.inner.seek(partition, offset).await
    }

    async fn hold(&mut self, partition: PartitionId) -> Result<(), LogError> {
        self.ask().await?;
        self.inner.hold(partition).await
    }

    async fn committed(&mut self, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        self.ask().await?;
        self.inner.committed(partition).await
    }

    async fn commit_offset(&mut self, partition: PartitionId, committed: Committed) -> Result<(), LogError> {
        self.write(Operation::CommitOffset, Write::Offset(partition, committed)).await
    }

    async fn bounds(&mut self, partition: PartitionId) -> Result<Range<u64>, LogError> {
        self.ask().await?;
        self.inner.bounds(partition).await
    }

    async fn close(self) -> Result<(), LogError> {
        self.inner.close().await
    }
}
