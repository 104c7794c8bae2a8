//! Canonical object keys of the archive: the only place where a path is made.
//!
//! Keys are a pure function of the first record, never of the last one or of event time: two
//! writers that start at one offset always collide, which is what makes create-only puts safe.

use crate::record::PartitionId;
use crate::time::TimestampMicros;

/// Key of the Parquet object whose first record is at `offset_first`, put there by the broker at
/// `broker_time`.
pub fn data_key(partition: PartitionId, offset_first: u64, broker_time: TimestampMicros) -> String {
    // Of the first record's log time: queries find an hour by its folder, and a writer that starts again finds the
    // same folder.
    let (year, month, day, hour) = broker_time.utc_hour();
    let (topic, number) = (partition.topic.name(), partition.partition);
    format!(
        "archive/{topic}/date={year:04}-{month:02}-{day:02}/hour={hour:02}/{topic}-{number:05}-{offset_first:020}.parquet"
    )
}

/// Prefix of all manifests of a partition.
pub fn manifest_prefix(partition: PartitionId) -> String {
    format!("archive/_manifest/{}/{:05}", partition.topic.name(), partition.partition)
}

/// Key of the manifest of the object whose first record is at `offset_first`.
pub fn manifest_key(partition: PartitionId, offset_first: u64) -> String {
    format!("{}/{offset_first:020}.json", manifest_prefix(partition))
}
