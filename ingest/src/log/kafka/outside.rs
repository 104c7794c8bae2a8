//! Looking at the log from outside any group: bounds, positions, records.
//!
//! For tools and metrics. Nothing here joins a group, fences a member or commits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::limits::{STEP_BYTES_MAX, STEP_RECORDS_MAX};
use schemas::record::{PartitionId, Record};

use super::consumer::record;
use super::context::{Common, Context, serve};
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
    serve(&client);
    Ok(client)
}

/// Clients that only ask, one per group, made at the first question and kept: connecting takes longer
/// than a hundred answers.
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
    let marks = consumer.fetch_watermarks(&inner.topic(partition.topic), partition.index() as i32, ANSWER_WAIT);
    let (first, next) = marks.map_err(|e| failed(name(partition), &e, consumer.client()))?;
    Ok(first as u64..next as u64)
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

/// Brokers that are up do not tell a committed offset while a transaction holds it open, and one whose
/// end they lost does so for ever.
fn with_remedy(mut error: LogError) -> LogError {
    if matches!(error.class, ErrorClass::Retry { .. }) {
        error.message.push_str(
            "; if the brokers are up and this lasts for more than a minute, a transaction has lost its end: \
             `kafka-transactions.sh find-hanging` names it, `custody doctor` says how to keep it from happening",
        );
    }
    error
}

/// Committed records from `offset` on, one step's worth at most.
pub(super) fn read(inner: &Inner, partition: PartitionId, offset: u64) -> Result<(Vec<Record>, u64), LogError> {
    inner.held(partition)?;
    let consumer = client(inner, "outside")?;
    let bounds = bounds_by(inner, &consumer, partition)?;
    let offset = offset.max(bounds.start);
    if offset >= bounds.end {
        return Ok((Vec::new(), offset));
    }
    let what = || format!("read of {} at {offset}", name(partition));
    let refuse = |e: KafkaError| failed(what(), &e, consumer.client());
    let mut list = TopicPartitionList::new();
    let (wire, number) = (inner.topic(partition.topic), partition.index() as i32);
    list.add_partition_offset(&wire, number, Offset::Offset(offset as i64)).map_err(refuse)?;
    consumer.assign(&list).map_err(refuse)?;
    let (mut records, mut bytes, mut next) = (Vec::new(), 0, offset);
    let mut silent_since = Instant::now();
    while next < bounds.end && records.len() < STEP_RECORDS_MAX {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                silent_since = Instant::now();
                bytes += message.payload_len();
                if !records.is_empty() && bytes > STEP_BYTES_MAX {
                    return Ok((records, next));
                }
                next = message.offset() as u64 + 1;
                records.push(record(&message, partition));
            }
            // What is left up to the end are control records.
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok((records, bounds.end.max(next))),
            Some(Err(error)) => {
                let failure = failed(what(), &error, consumer.client());
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
    Ok((records, next))
}
