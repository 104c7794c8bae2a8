//! Reading the log from outside any group: bounds, positions, records.
//!
//! For tools and metrics. Nothing here joins a group, fences a member or commits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::limits::{STEP_BYTES_MAX, STEP_RECORDS_MAX};
use schemas::record::{PartitionId, Record};

use super::context::{Common, Context, serve};
use super::convert::record;
use super::{ANSWER_WAIT, Inner, PREFETCH_KBYTES, create, failed};
use crate::log::in_process::name;
use crate::log::{Committed, ErrorClass, LogError};

/// A client that reads committed records and belongs to no group that anybody else uses.
pub(super) fn client(inner: &Inner, group: &str) -> Result<BaseConsumer<Context>, LogError> {
    let group = inner.group(group);
    let settings = [
        ("group.id", group.as_str()),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
        ("auto.offset.reset", "error"),
        ("fetch.wait.max.ms", "10"),
        ("queued.max.messages.kbytes", PREFETCH_KBYTES),
    ];
    let client = create(&inner.config, &settings, inner.context())?;
    // The first request of a client with OAUTHBEARER fails without a token, and nothing else polls this
    // one.
    serve(&client);
    Ok(client)
}

/// Clients that only query, one per group, created at the first query and kept: connecting takes longer than a
/// hundred answers.
#[derive(Default)]
pub(super) struct Askers(Mutex<BTreeMap<String, Arc<BaseConsumer<Context>>>>);

impl Askers {
    fn of(&self, inner: &Inner, group: &str) -> Result<Arc<BaseConsumer<Context>>, LogError> {
        let mut askers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = askers.get(group) {
            serve(asker);
            return Ok(Arc::clone(asker));
        }
        let asker = Arc::new(client(inner, group)?);
        askers.insert(group.to_owned(), Arc::clone(&asker));
        Ok(asker)
    }
}

/// First offset and last stable offset.
pub(super) fn bounds(inner: &Inner, partition: PartitionId) -> Result<Range<u64>, LogError> {
    inner.held(partition)?;
    bounds_by(inner, &*inner.askers.of(inner, "outside")?, partition)
}

/// First and next offset as `consumer` sees them: one that reads committed records ends at the last
/// stable offset.
pub(super) fn bounds_by<C: ConsumerContext + Common>(
    inner: &Inner,
    consumer: &BaseConsumer<C>,
    partition: PartitionId,
) -> Result<Range<u64>, LogError> {
    let marks = watermarks(consumer, &inner.topic(partition.topic), partition.index() as i32);
    let (first, next) = marks.map_err(|e| failed(name(partition), &e, consumer.client()))?;
    Ok(first as u64..next as u64)
}

/// First and next offset, from the partition's current leader. A client that reads nothing of a topic has been
/// seen to get no answer for 180 s after a broker was stopped, while others did (librdkafka 2.12.1; the cause is
/// not known), so its metadata is refreshed once before the error counts.
pub(super) fn watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    wire: &str,
    number: i32,
) -> KafkaResult<(i64, i64)> {
    consumer.fetch_watermarks(wire, number, ANSWER_WAIT).or_else(|_| {
        // Tells the client who leads the partition now.
        consumer.fetch_metadata(Some(wire), ANSWER_WAIT)?;
        consumer.fetch_watermarks(wire, number, ANSWER_WAIT)
    })
}

/// What `group` committed; asking joins nothing.
pub(super) fn committed(inner: &Inner, group: &str, partition: PartitionId) -> Result<Option<Committed>, LogError> {
    inner.held(partition)?;
    committed_by(inner, &*inner.askers.of(inner, group)?, partition)
}

/// What the group of `consumer` committed.
pub(super) fn committed_by<C: ConsumerContext + Common>(
    inner: &Inner,
    consumer: &BaseConsumer<C>,
    partition: PartitionId,
) -> Result<Option<Committed>, LogError> {
    let mut list = TopicPartitionList::new();
    list.add_partition(&inner.topic(partition.topic), partition.index() as i32);
    let what = || format!("committed offset of {}", name(partition));
    let refuse = |e: KafkaError| failed(what(), &e, consumer.client());
    let answer = consumer.committed_offsets(list, ANSWER_WAIT).map_err(|e| with_remedy(refuse(e)))?;
    let elements = answer.elements();
    let element = elements.first().ok_or_else(|| LogError::fatal(what(), "the brokers left it out"))?;
    element.error().map_err(refuse)?;
    Ok(match element.offset() {
        Offset::Offset(next) => Some(Committed { next: next as u64, metadata: element.metadata().to_owned() }),
        _ => None,
    })
}

/// Brokers that are up withhold a committed offset while a transaction that commits it is open; if its end marker
/// was lost, they withhold it until an operator ends the transaction.
fn with_remedy(mut error: LogError) -> LogError {
    if matches!(error.class, ErrorClass::Retry { .. }) {
        error.message.push_str(
            "; if the brokers are up and this lasts for more than a minute, a transaction has lost its end: \
             `kafka-transactions.sh find-hanging` names it, `custody doctor` says how to keep it from happening",
        );
    }
    error
}

/// A consumer's progress from an offset to the end that its partition had at the start.
pub(super) struct Reading {
    wire: String,
    number: i32,
    /// Offset after the last record received.
    pub(super) next: u64,
    end: u64,
    has_looked_again: bool,
}

impl Reading {
    pub(super) fn begin<C: ConsumerContext>(
        consumer: &BaseConsumer<C>,
        wire: String,
        number: u32,
        range: Range<u64>,
    ) -> KafkaResult<Self> {
        let reading = Self { wire, number: number as i32, next: range.start, end: range.end, has_looked_again: false };
        reading.assign(consumer).map(|()| reading)
    }

    fn assign<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.wire, self.number, Offset::Offset(self.next as i64))?;
        consumer.assign(&list)
    }

    /// Whether nothing but control records is left where librdkafka reports the end of the partition. If more than
    /// one record may be left, the rest is fetched once more: a newly elected leader reports an earlier end until
    /// it has heard from its followers, and until then does not answer for its bounds (KIP-207).
    pub(super) fn is_over<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>) -> KafkaResult<bool> {
        // At most one control record can be left, which librdkafka does not deliver; asking again would find
        // nothing.
        if self.next + 1 >= self.end || self.has_looked_again {
            return Ok(true);
        }
        self.has_looked_again = true;
        watermarks(consumer, &self.wire, self.number)?;
        self.assign(consumer).map(|()| false)
    }
}

/// Committed records from `offset` on, one step's worth at most.
pub(super) fn read(inner: &Inner, partition: PartitionId, offset: u64) -> Result<(Vec<Record>, u64), LogError> {
    inner.held(partition)?;
    let consumer = client(inner, "outside")?;
    let bounds = bounds_by(inner, &consumer, partition)?;
    // Retention may have moved the start: a reader from outside begins at what is left.
    let offset = offset.max(bounds.start);
    if offset >= bounds.end {
        return Ok((Vec::new(), offset));
    }
    let what = || format!("read of {} at {offset}", name(partition));
    let refuse = |e: KafkaError| failed(what(), &e, consumer.client());
    let wire = inner.topic(partition.topic);
    let reading = Reading::begin(&consumer, wire, partition.index(), offset..bounds.end);
    let mut reading = reading.map_err(refuse)?;
    let (mut records, mut bytes) = (Vec::new(), 0);
    let mut silent_since = Instant::now();
    while reading.next < bounds.end && records.len() < STEP_RECORDS_MAX {
        let polled = consumer.poll(Duration::from_millis(100));
        if let Some(Err(KafkaError::PartitionEOF(_))) = polled {
            if reading.is_over(&consumer).map_err(refuse)? {
                return Ok((records, bounds.end.max(reading.next)));
            }
            continue;
        }
        match polled {
            Some(Ok(message)) => {
                silent_since = Instant::now();
                bytes += message.payload_len();
                // The record that is too much is read again by the next call, which begins at `next`.
                if !records.is_empty() && bytes > STEP_BYTES_MAX {
                    return Ok((records, reading.next));
                }
                reading.next = message.offset() as u64 + 1;
                records.push(record(&message, partition));
            }
            Some(Err(error)) => {
                let failure = failed(what(), &error, consumer.client());
                // What passes by itself is bounded by the silence below.
                if !matches!(failure.class, ErrorClass::Retry { .. }) {
                    return Err(failure);
                }
            }
            None => {}
        }
        if silent_since.elapsed() > ANSWER_WAIT {
            return Err(LogError::new(ErrorClass::Retry { after_ms: 1_000 }, what(), "the brokers do not answer"));
        }
    }
    Ok((records, reading.next))
}
