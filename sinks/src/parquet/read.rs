//! Reads the archive back as log records, what a replay starts from; and finds its newest objects.
//!
//! It trusts the manifests for order and range only; verification is `verify`'s business.

use std::collections::BTreeMap;

use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::object_key;
use schemas::record::{PartitionId, Record};
use schemas::table::Table;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use crate::error::{ErrorClass, SinkError};
use crate::manifest::Manifest;
use crate::parquet::range;
use crate::parquet::rows::record_at;
use crate::parquet::store::Store;

/// Offsets that the first listing of [`newest`] goes back. A quiet partition's objects have some forty (a
/// minute of ticks): a listing of a thousand keys, which is one request, holds as many of them.
const LOOK_BACK_FIRST: u64 = 1 << 12;
/// How much further each next listing goes back: 2^64 offsets are passed in fourteen.
const LOOK_BACK_FACTOR: u64 = 16;

/// The manifests of some topics: per partition in order of offset.
///
/// # Errors
/// [`ErrorClass::Retry`] or [`ErrorClass::Config`]: the store cannot be read. [`ErrorClass::Data`]: a
/// manifest cannot be understood; run `verify`.
pub async fn manifests(store: &Store, topics: &[Topic]) -> Result<Vec<Manifest>, SinkError> {
    let mut found = BTreeMap::new();
    for topic in topics {
        let prefix = format!("archive/_manifest/{}", topic.name());
        for object in store.list(&prefix, None).await? {
            let manifest = manifest(store, object.location.as_ref()).await?;
            found.insert((manifest.publication.partition_id(), manifest.publication.offset_first), manifest);
        }
    }
    Ok(found.into_values().collect())
}

/// The records of an object, in offset order, each with the time that a
/// [`TimeRange`](crate::parquet::range::TimeRange) chooses it by.
///
/// # Errors
/// As [`manifests`]; the iterator's items fail with [`ErrorClass::Data`] where a row is not readable.
pub async fn rows(
    store: &Store,
    manifest: &Manifest,
) -> Result<impl Iterator<Item = Result<(TimestampMicros, Record), SinkError>> + Send + use<>, SinkError> {
    let key = manifest.object.key.clone();
    let partition = manifest.publication.partition_id();
    let table = Table::archive_of(partition.topic).ok_or_else(|| damaged(&key, "its topic is not archived"))?;
    let bytes: Bytes = store.get(&key).await?.ok_or_else(|| damaged(&key, "it is missing"))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| damaged(&key, e))?;
    let batches = builder.build().map_err(|e| damaged(&key, e))?;
    Ok(batches.flat_map(move |batch| -> Vec<Result<(TimestampMicros, Record), SinkError>> {
        match batch {
            Ok(batch) => {
                let times = range::times(table, &batch);
                let row =
                    |index| Some((TimestampMicros(times?.value(index)), record_at(table, partition, &batch, index)?));
                (0..batch.num_rows())
                    .map(|i| row(i).ok_or_else(|| damaged(&key, format!("row {i} is not readable"))))
                    .collect()
            }
            Err(error) => vec![Err(damaged(&key, error))],
        }
    }))
}

/// The newest manifest of a partition: what is published stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Key of the manifest.
    pub key: String,
    /// When the store took it: since then the object counts as published.
    pub published_at: TimestampMicros,
}

/// Finds the newest manifest without reading one. Keys hold the first offset, so that a listing may start
/// at any offset: it starts a little before `near`, an offset close to the end of what is archived, and
/// further back where nothing is found. It is as cheap for a million objects as for ten.
///
/// # Errors
/// As [`manifests`].
pub async fn newest(store: &Store, partition: PartitionId, near: u64) -> Result<Option<Newest>, SinkError> {
    let prefix = object_key::manifest_prefix(partition);
    let mut back = LOOK_BACK_FIRST;
    loop {
        let after = near
            .checked_sub(back)
            .filter(|offset| *offset > 0)
            .map(|offset| object_key::manifest_key(partition, offset));
        let listed = store.list(&prefix, after.as_deref()).await?;
        if let Some(last) = listed.last() {
            let published_at = TimestampMicros(last.last_modified.timestamp_micros());
            return Ok(Some(Newest { key: last.location.to_string(), published_at }));
        }
        if after.is_none() {
            return Ok(None);
        }
        back = back.saturating_mul(LOOK_BACK_FACTOR);
    }
}

/// Reads one manifest.
///
/// # Errors
/// As [`manifests`].
pub async fn manifest(store: &Store, key: &str) -> Result<Manifest, SinkError> {
    let bytes = store.get(key).await?.ok_or_else(|| damaged(key, "it is gone"))?;
    Manifest::from_bytes(&bytes).map_err(|error| damaged(key, error))
}

pub(crate) fn damaged(key: &str, why: impl std::fmt::Display) -> SinkError {
    SinkError::new(ErrorClass::Data, format!("read {key}"), format!("{why}; run custody verify"))
}
