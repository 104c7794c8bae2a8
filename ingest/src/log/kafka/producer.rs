//! Writing: the intake's idempotent producer and a stage's transactional one.
//!
//! A transaction that cannot be decided in time is left to its successor: the producer is dropped,
//! and the next one, with the same transactional id, ends what it left open.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings::rd_kafka_flush;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::util::IntoOpaque;
use schemas::record::{OutRecord, PartitionId, Position};
use tokio::sync::oneshot;

use super::context::{Context, share_context};
use super::{ANSWER_WAIT, Inner, TRANSACTION_TIMEOUT_MS, class_of, create, failed};
use crate::log::{Appender, ErrorClass, LogError};

/// How long one step of a transaction is repeated before its outcome counts as unknown; more than
/// the transaction's own timeout, so that the brokers have decided by then.
const DECIDE_WAIT: Duration = Duration::from_secs(30);

/// How long an abort is waited for: every reader of this member's partitions waits with it, and the next
/// producer ends the transaction too.
const ABORT_WAIT: Duration = Duration::from_secs(3);
/// How long one call for an abort takes at most. It waits for the delivery reports of what was on its way,
/// and hears of none: they are heard between two calls only.
const ABORT_SLICE: Duration = Duration::from_millis(100);

/// Between two looks at what has been delivered.
const DELIVERY_WAIT_MS: i32 = 1;

/// Settings of both producers.
const SETTINGS: [(&str, &str); 5] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("compression.type", "lz4"),
    ("linger.ms", "5"),
    ("batch.num.messages", "10000"),
];
/// Settings of the intake's producer. It never gives a message up while it lives: given up and sent
/// again, one that the brokers had taken after all would be there twice. Callers bound their own wait.
const INTAKE_SETTINGS: [(&str, &str); 1] = [("message.timeout.ms", "0")];

/// A message on its way; librdkafka copies it.
fn message<'a, D: IntoOpaque>(record: &'a OutRecord, to: PartitionId, wire: &'a str, opaque: D) -> Message<'a, D> {
    let message = BaseRecord::with_opaque_to(wire, opaque).partition(to.index() as i32);
    let message = message.timestamp(record.timestamp.ms());
    let message = match &record.key {
        Some(key) => message.key(key.as_ref()),
        None => message,
    };
    let message = match &record.value {
        Some(value) => message.payload(value.as_ref()),
        None => message,
    };
    if record.headers.is_empty() {
        return message;
    }
    let headers = OwnedHeaders::new_with_capacity(record.headers.len());
    message.headers(
        record.headers.iter().fold(headers, |h, (key, value)| h.insert(Header { key, value: Some(value.as_ref()) })),
    )
}

type Message<'a, D> = BaseRecord<'a, [u8], [u8], D>;

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
            // A step is sent when it is whole. Before its partitions are registered with the transaction
            // librdkafka's thread would only spin on what need not linger: half of the stage's CPU time.
            settings.push(("linger.ms", "100"));
            // The brokers' transaction timeout bounds the message timeout.
            settings.push(("message.timeout.ms", TRANSACTION_TIMEOUT_MS));
            let producer: BaseProducer<Context> = create(&self.inner.config, &settings, self.inner.context())?;
            let begun = until_decided(&producer, DECIDE_WAIT, |wait| producer.init_transactions(wait));
            begun.map_err(|e| failed(format!("start of {}", self.id), &e, producer.client()))?;
            self.producer = Some(producer);
        }
        self.producer.as_ref().ok_or_else(|| LogError::fatal("producer", "it was not made"))
    }

    /// Ends what a producer that was given up left open: until then nobody reads behind it.
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
        let aborted = until_decided(producer, ABORT_WAIT, |_| producer.abort_transaction(ABORT_SLICE)).is_ok();
        if !aborted || producer.client().fatal_error().is_some() {
            self.producer = None;
        }
        if let ErrorClass::Retry { .. } = failure.class {
            // Part of the step may have been sent: it is repeated from the committed offset.
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
                KafkaError::MessageProduction(Code::QueueFull) => producer.poll(Duration::from_millis(10)),
                // The transaction has failed meanwhile: the next call says of what.
                KafkaError::MessageProduction(Code::State) => break 'records,
                error => return Err(error),
            }
            next = same;
        }
    }
    fail::fail_point!("stage.records_sent");
    until_decided(producer, DECIDE_WAIT, |wait| producer.send_offsets_to_transaction(offsets, group, wait))?;
    fail::fail_point!("stage.offsets_sent");
    deliver(producer);
    until_decided(producer, DECIDE_WAIT, |wait| producer.commit_transaction(wait))?;
    fail::fail_point!("stage.committed");
    Ok(())
}

/// Sends what lingers and waits until every message has been delivered or given up, at most as long as a
/// step may take. A commit does so too, but in `rdkafka` for 100 ms at a time, whatever has come meanwhile:
/// 9 steps a second.
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

/// Repeats a call that librdkafka says can be repeated, for `wait` in all; the call is told how long it
/// may take. The producer is polled before each: a token that it waits for is given there.
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

/// What became of an append: filled in by delivery reports.
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
        state.left -= 1;
        if state.left == 0
            && let Some(done) = state.done.take()
        {
            let offsets = std::mem::take(&mut state.offsets);
            // Nobody waits any more: the append was given up.
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
                Err((error, same)) if is_full(&error) => opaque = same.delivery_opaque,
                Err((error, _)) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What the brokers say of a record that is larger than its topic takes, or of any where it takes none.
pub(super) const TOO_LARGE: Code = Code::MessageSizeTooLarge;

/// Positions, or why the brokers have not taken every record.
type Delivered = Result<Vec<Position>, KafkaError>;

impl KafkaAppender {
    /// As [`Appender::append`], with the brokers' own word.
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
