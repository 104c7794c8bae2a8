//! A record of a log, its position and its headers, independent of any broker.

use bytes::Bytes;

use crate::id::{Sha256, Uuid};
use crate::time::TimestampMicros;
use crate::topic::Topic;

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// Topic.
    pub topic: Topic,
    /// Partition number: the broker's, above those of all earlier generations of the topics.
    pub partition: u32,
}

/// Distance between the partition numbers of two generations of the topics; more than any topic has.
pub const GENERATION_STRIDE: u32 = 100_000;

impl PartitionId {
    /// Which partition it is within its generation, 0-based: what a key is mapped to, and the broker's own
    /// number. [`PartitionId::partition`] is never used twice in an installation: generation 2 of the topics
    /// begins at [`GENERATION_STRIDE`], generation 3 at twice that, so that a position, an object key and a
    /// derived id always mean the same record, though offsets begin again.
    pub const fn index(self) -> u32 {
        // Keys are mapped within a generation, whose partitions count from 0.
        self.partition % GENERATION_STRIDE
    }

    /// Generation of the topics that it belongs to, from 1.
    pub const fn generation(self) -> u32 {
        self.partition / GENERATION_STRIDE + 1
    }
}

/// Number of the first partition of a generation, which counts from 1.
pub const fn first_partition(generation: u32) -> u32 {
    generation.saturating_sub(1) * GENERATION_STRIDE
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Partition.
    pub partition: PartitionId,
    /// Offset, 0-based. Offsets of transactional topics have legal gaps (invariant I11).
    pub offset: u64,
}

impl Position {
    /// The id of the `ordinal`-th record that `processor` ("name@version") derives from here:
    /// deterministic, so that deriving it again is a duplicate and not a new fact.
    pub fn derived_id(&self, processor: &str, ordinal: u32) -> Uuid {
        let PartitionId { topic, partition } = self.partition;
        Uuid::derive(&[
            processor.as_bytes(),
            topic.name().as_bytes(),
            &partition.to_be_bytes(),
            &self.offset.to_be_bytes(),
            // One source record may lead to several: the ordinal is their order in the stage's output.
            &ordinal.to_be_bytes(),
        ])
    }
}

/// Names of the record headers that Custody writes.
pub mod header {
    /// Offset of the source record in [`crate::topic::Topic::Events`], decimal.
    pub const SOURCE_OFFSET: &str = "custody-source-offset";
    /// SHA-256 of the source record's exact value bytes, 32 bytes.
    pub const SOURCE_SHA256: &str = "custody-source-sha256";
    /// Reject code of a dead letter.
    pub const DLQ_REASON: &str = "dlq.reason";
    /// Kafka Connect's dead-letter headers, which existing tools know.
    pub const DLQ_TOPIC: &str = "__connect.errors.topic";
    /// Source partition, decimal.
    pub const DLQ_PARTITION: &str = "__connect.errors.partition";
    /// Source offset, decimal.
    pub const DLQ_OFFSET: &str = "__connect.errors.offset";
    /// Stage that rejected it.
    pub const DLQ_STAGE: &str = "__connect.errors.stage";
    /// One sentence, free of the record's content.
    pub const DLQ_MESSAGE: &str = "__connect.errors.exception.message";
    /// Receiver that refused an alert.
    pub const DLQ_RECEIVER: &str = "dlq.receiver";
    /// HTTP status that it refused it with, decimal.
    pub const DLQ_STATUS: &str = "dlq.receiver.status";
}

/// Record headers, in order.
pub type Headers = Vec<(String, Bytes)>;

/// The value of the last header called `name`.
pub fn header_value<'a>(headers: &'a Headers, name: &str) -> Option<&'a Bytes> {
    // Kafka allows a name twice; the last one is the one that was added last.
    headers.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v)
}

/// A record as it was read from a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub at: Position,
    /// The broker's time.
    pub timestamp: TimestampMicros,
    /// Key.
    pub key: Option<Bytes>,
    /// Exact value bytes; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers.
    pub headers: Headers,
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutRecord {
    /// Topic.
    pub topic: Topic,
    /// Partition, or by [`crate::topic::partition_of`] the key.
    pub partition: Option<u32>,
    /// Time of the record: the source record's broker time, so that a replay writes the same.
    pub timestamp: TimestampMicros,
    /// Key.
    pub key: Option<Bytes>,
    /// Value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers.
    pub headers: Headers,
}

/// Where a clean record came from: the headers that `pii` adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceRef {
    /// Offset in the same partition of [`crate::topic::Topic::Events`].
    pub offset: u64,
    /// SHA-256 of the exact value bytes there.
    pub sha256: Sha256,
}

impl SourceRef {
    /// As record headers.
    pub fn to_headers(self) -> Headers {
        vec![
            (header::SOURCE_OFFSET.to_owned(), Bytes::from(self.offset.to_string())),
            (header::SOURCE_SHA256.to_owned(), Bytes::copy_from_slice(&self.sha256.0)),
        ]
    }

    /// From record headers; `None` where they are absent or malformed.
    pub fn from_headers(headers: &Headers) -> Option<Self> {
        let offset = std::str::from_utf8(header_value(headers, header::SOURCE_OFFSET)?).ok()?.parse().ok()?;
        // Another length is no digest: the caller decides, nothing is padded.
        let sha256 = Sha256(header_value(headers, header::SOURCE_SHA256)?.as_ref().try_into().ok()?);
        Some(Self { offset, sha256 })
    }
}
