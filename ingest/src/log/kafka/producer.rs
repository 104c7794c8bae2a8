//! Writing: the intake's idempotent producer and a stage's transactional one.
//!
//! A transaction whose outcome stays unknown is left to the next producer: this one is dropped, and the
//! next one with the same transactional id ends what it left open.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings::rd_kafka_flush;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;
use schemas::record::{OutRecord, PartitionId, Position};
use tokio::sync::oneshot;

use super::context::{Context, share_context};
use super::convert::message;
use super::{ANSWER_WAIT, Inner, TRANSACTION_TIMEOUT_MS, class_of, create, failed};
use crate::log::{Appender, ErrorClass, LogError};

/// How long one call of a transaction is retried before its outcome counts as unknown. Longer than the transaction
/// timeout (15 s), so that the brokers have ended the transaction by then.
const DECIDE_WAIT: Duration = Duration::from_secs(30);

/// How long to wait for an abort. Every reader of this member's output waits for it as well, and the next producer
/// ends the transaction anyway: with 30 s, scaling a stage paused its rows for 32 s.
const ABORT_WAIT: Duration = Duration::from_secs(3);
/// Longest single call for an abort. librdkafka's abort waits for the delivery reports of messages in flight, but
/// reports are delivered by a poll only, so the call must return for us to poll in between.
const ABORT_SLICE: Duration = Duration::from_millis(100);

/// Between two checks of what has been delivered.
const DELIVERY_WAIT_MS: i32 = 1;

/// Settings of both producers.
const SETTINGS: [(&str, &str); 5] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("compression.type", "lz4"),
    ("linger.ms", "5"),
    ("batch.num.messages", "10000"),
];
/// Settings of the intake's producer. It never expires a message: librdkafka's retries carry the sequence number, so
/// the brokers drop a repeat, but a message that expired and is appended again is a new one, and would be there
/// twice if the first had been written after all. Callers bound their own wait.
const INTAKE_SETTINGS: [(&str, &str); 1] = [("message.timeout.ms", "0")];

fn is_full(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageProduction(Code::QueueFull))
}

/// A producer that writes steps.
pub(super) struct Transactions {
    inner: Arc<Inner>,
    id: String,
    producer: Option<BaseProducer<Context>>,
}

impl Transactions {
    /// Fences the predecessor of the same id and ends what it left open.
    pub(super) fn open(inner: Arc<Inner>, id: String) -> Result<Self, LogError> {
        let mut transactions = Self { inner, id, producer: None };
        transactions.producer()?;
        Ok(transactions)
    }

    fn producer(&mut self) -> Result<&BaseProducer<Context>, LogError> {
        if self.producer.is_none() {
            let mut settings = SETTINGS.to_vec();
            settings.push(("transactional.id", &self.id));
            settings.push(("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS));
            // A step is sent when it is complete. Until its partitions are registered with the transaction,
            // librdkafka's thread spins on messages that do not linger: half of the stage's CPU time.
            settings.push(("linger.ms", "100"));
            // librdkafka refuses a message timeout above the transaction timeout.
            settings.push(("message.timeout.ms", TRANSACTION_TIMEOUT_MS));
            let producer: BaseProducer<Context> = create(&self.inner.config, &settings, self.inner.context())?;
            // Raises the producer's epoch at the coordinator: from here on the predecessor's writes are
            // refused, and its open transaction is ended.
            let begun = until_decided(&producer, DECIDE_WAIT, |wait| producer.init_transactions(wait));
            begun.map_err(|e| failed(format!("start of {}", self.id), &e, producer.client()))?;
            self.producer = Some(producer);
        }
        self.producer.as_ref().ok_or_else(|| LogError::fatal("producer", "it was not made"))
    }

    /// Ends what a dropped producer left open: until then readers of committed records stop in front of it.
    pub(super) fn settle(&mut self) -> Result<(), LogError> {
        self.producer().map(|_| ())
    }

    /// Writes `records` and `offsets` in one transaction.
    pub(super) fn write(
        &mut self,
        records: &[(PartitionId, OutRecord)],
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), LogError> {
        let inner = Arc::clone(&self.inner);
        let what = format!("transaction of {}", self.id);
        let producer = self.producer()?;
        let written = transact(producer, &inner, records, offsets, group);
        let Err(error) = written else { return Ok(()) };
        let mut failure = failed(what, &error, producer.client());
        // Ended at once where possible: readers of committed records stop in front of an open transaction, up
        // to its timeout of 15 s.
        let aborted = until_decided(producer, ABORT_WAIT, |_| producer.abort_transaction(ABORT_SLICE)).is_ok();
        // The outcome is unknown, or the producer unusable. The next one with the same id ends the
        // transaction.
        if !aborted || producer.client().fatal_error().is_some() {
            self.producer = None;
        }
        if let ErrorClass::Retry { .. } = failure.class {
            // Part of the step may have been sent and aborted: the same step must not be committed again, only
            // what is read again from the committed offset.
            failure.class = ErrorClass::AbortTxn;
        }
        Err(failure)
    }
}

fn transact(
    producer: &BaseProducer<Context>,
    inner: &Inner,
    records: &[(PartitionId, OutRecord)],
    offsets: &TopicPartitionList,
    group: &ConsumerGroupMetadata,
) -> KafkaResult<()> {
    producer.begin_transaction()?;
    fail::fail_point!("stage.begun");
    'records: for (to, record) in records {
        let wire = inner.topic(to.topic);
        let mut next = message(record, *to, &wire, ());
        while let Err((error, same)) = producer.send(next) {
            match error {
                // The local queue is full: a poll serves the delivery reports that free it.
                KafkaError::MessageProduction(Code::QueueFull) => producer.poll(Duration::from_millis(10)),
                // The transaction has failed in the background; the next transactional call returns the cause, which
                // this error does not name.
                KafkaError::MessageProduction(Code::State) => break 'records,
                error => return Err(error),
            }
            next = same;
        }
    }
    fail::fail_point!("stage.records_sent");
    // In the same transaction as the outputs (KIP-447): the group's generation fences a member that has
    // lost the partition.
    until_decided(producer, DECIDE_WAIT, |wait| producer.send_offsets_to_transaction(offsets, group, wait))?;
    // A crash here leaves everything written and nothing committed: the successor aborts it and repeats
    // the step.
    fail::fail_point!("stage.offsets_sent");
    // Before the commit, which would wait for the same deliveries 100 ms at a time.
    deliver(producer);
    until_decided(producer, DECIDE_WAIT, |wait| producer.commit_transaction(wait))?;
    fail::fail_point!("stage.committed");
    Ok(())
}

/// Sends what lingers and waits until every message has been delivered or has failed, at most as long as a
/// step may take. `commit_transaction` waits for that too, but in `rdkafka` for 100 ms at a time even if the
/// deliveries arrive earlier: 9 steps a second.
#[allow(unsafe_code, reason = "rdkafka's flush gives librdkafka no time, in which nothing is sent")]
fn deliver(producer: &BaseProducer<Context>) {
    let deadline = Instant::now() + DECIDE_WAIT;
    let mut left = producer.in_flight_count();
    while left > 0 && Instant::now() < deadline {
        producer.poll(Duration::ZERO);
        let before = std::mem::replace(&mut left, producer.in_flight_count());
        if left == before {
            // SAFETY: the client lives as long as its borrow. It only waits: what is left shows above.
            let _left = unsafe { rd_kafka_flush(producer.client().native_ptr(), DELIVERY_WAIT_MS) };
        }
    }
}

/// Retries a call that librdkafka marks as retriable, for `wait` in all; the call gets the longest time that it
/// may take. The producer is polled before each attempt: that is where it gets a token that it waits for.
fn until_decided(
    producer: &BaseProducer<Context>,
    wait: Duration,
    mut call: impl FnMut(Duration) -> KafkaResult<()>,
) -> KafkaResult<()> {
    let deadline = Instant::now() + wait;
    loop {
        producer.poll(Duration::ZERO);
        match call(ANSWER_WAIT.min(wait)) {
            Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            decided => return decided,
        }
    }
}

/// The outcome of an append, filled in by delivery reports.
struct Batch {
    state: Mutex<BatchState>,
}

struct BatchState {
    offsets: Vec<u64>,
    left: usize,
    failure: Option<KafkaError>,
    done: Option<oneshot::Sender<Result<Vec<u64>, KafkaError>>>,
}

impl Batch {
    fn report(&self, index: usize, outcome: Result<u64, KafkaError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (outcome, state.offsets.get_mut(index)) {
            (Ok(offset), Some(slot)) => *slot = offset,
            (Err(error), _) => state.failure = Some(error),
            (Ok(_), None) => {}
        }
        // Answered with the last report and not with the first failure: librdkafka may still write the others,
        // and a caller that retries earlier would append its repeats before them.
        state.left -= 1;
        if state.left == 0
            && let Some(done) = state.done.take()
        {
            let offsets = std::mem::take(&mut state.offsets);
            // Sending fails if the caller stopped waiting; the records are written regardless.
            let _: Result<(), _> = done.send(state.failure.take().map_or(Ok(offsets), Err));
        }
    }
}

struct IntakeContext {
    common: Context,
}

share_context!(IntakeContext);

impl ProducerContext for IntakeContext {
    type DeliveryOpaque = Box<(usize, Arc<Batch>)>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let (index, batch) = *opaque;
        let outcome = match delivered {
            Ok(message) => Ok(message.offset() as u64),
            Err((error, _)) => Err(error.clone()),
        };
        batch.report(index, outcome);
    }
}

/// The intake's producer: idempotent, acknowledged by all in-sync replicas, not transactional.
pub struct KafkaAppender {
    inner: Arc<Inner>,
    producer: ThreadedProducer<IntakeContext>,
}

impl std::fmt::Debug for KafkaAppender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaAppender").finish_non_exhaustive()
    }
}

impl KafkaAppender {
    pub(super) fn open(inner: Arc<Inner>) -> Result<Self, LogError> {
        let context = IntakeContext { common: inner.context() };
        let producer = create(&inner.config, &[&SETTINGS[..], &INTAKE_SETTINGS].concat(), context)?;
        Ok(Self { inner, producer })
    }

    async fn send(
        &self,
        record: &OutRecord,
        to: PartitionId,
        opaque: Box<(usize, Arc<Batch>)>,
    ) -> Result<(), KafkaError> {
        let wire = self.inner.topic(to.topic);
        let mut opaque = opaque;
        loop {
            match self.producer.send(message(record, to, &wire, opaque)) {
                Ok(()) => return Ok(()),
                // The opaque value is owned by the message until it is delivered; a message that was not taken
                // gives it back.
                Err((error, same)) if is_full(&error) => opaque = same.delivery_opaque,
                Err((error, _)) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The brokers' code for a record above the topic's `max.message.bytes`, or for any record of a closed topic.
pub(super) const TOO_LARGE: Code = Code::MessageSizeTooLarge;

/// Positions, or why the brokers have not taken every record.
type Delivered = Result<Vec<Position>, KafkaError>;

impl KafkaAppender {
    /// As [`Appender::append`], but with the brokers' own error.
    pub(super) async fn deliver(&self, records: Vec<OutRecord>) -> Result<Delivered, LogError> {
        let inner = Arc::clone(&self.inner);
        let place = move || {
            let placed: Result<Vec<(PartitionId, OutRecord)>, LogError> =
                records.into_iter().map(|r| Ok((inner.place(&r)?, r))).collect();
            placed
        };
        let placed = super::blocking("placement of records", place).await?;
        let (done, answer) = oneshot::channel();
        let state = BatchState { offsets: vec![0; placed.len()], left: placed.len(), failure: None, done: Some(done) };
        let batch = Arc::new(Batch { state: Mutex::new(state) });
        for (index, (to, record)) in placed.iter().enumerate() {
            if let Err(error) = self.send(record, *to, Box::new((index, Arc::clone(&batch)))).await {
                // Reported like a delivery, so that the answer comes when the last of the others has come:
                // before that their outcome is unknown.
                batch.report(index, Err(error));
            }
        }
        let what = || format!("append of {} records", placed.len());
        let given_up = || LogError::new(class_of(Code::OperationTimedOut), what(), "the producer ended");
        let delivered = answer.await.map_err(|_| given_up())?;
        let places = placed.iter().map(|(partition, _)| *partition);
        let at = |(partition, offset)| Position { partition, offset };
        Ok(delivered.map(|offsets| places.zip(offsets).map(at).collect()))
    }
}

impl Appender for KafkaAppender {
    async fn append(&mut self, records: Vec<OutRecord>) -> Result<Vec<Position>, LogError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let what = format!("append of {} records", records.len());
        let delivered = self.deliver(records).await?;
        delivered.map_err(|error| {
            let mut failure = failed(what, &error, self.producer.client());
            if error.rdkafka_error_code() == Some(TOO_LARGE) {
                failure.message.push_str(
                    "; a topic that takes no records at all (max.message.bytes = 0) was closed by `custody topics \
                     migrate`: start with the log.generation and log.partitions that it names",
                );
            }
            failure
        })
    }
}
