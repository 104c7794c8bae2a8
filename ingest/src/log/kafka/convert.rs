//! Our records as librdkafka's messages, and back.
//!
//! It resolves no partition and changes nothing but the form.

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::util::IntoOpaque;
use schemas::record::{OutRecord, PartitionId, Position, Record};
use schemas::time::TimestampMicros;

/// A message as a record; copies it out of librdkafka's buffers.
pub(super) fn record(message: &BorrowedMessage<'_>, partition: PartitionId) -> Record {
    // librdkafka owns the message and frees it with the fetch buffer: a slice that outlives the poll would
    // hold the whole buffer.
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

/// A record as a message to send; librdkafka copies it.
pub(super) fn message<'a, D: IntoOpaque>(
    record: &'a OutRecord,
    to: PartitionId,
    wire: &'a str,
    opaque: D,
) -> Message<'a, D> {
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
    // Most records have none, and an empty header list would still be allocated.
    if record.headers.is_empty() {
        return message;
    }
    let headers = OwnedHeaders::new_with_capacity(record.headers.len());
    message.headers(
        record.headers.iter().fold(headers, |h, (key, value)| h.insert(Header { key, value: Some(value.as_ref()) })),
    )
}

pub(super) type Message<'a, D> = BaseRecord<'a, [u8], [u8], D>;
