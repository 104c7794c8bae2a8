//! Reads the archive back as log records: what a replay starts from.
//!
//! It trusts the manifests for order and range only; verification is `verify`'s business.

use std::collections::BTreeMap;

use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::record::Record;
use schemas::table::Table;
use schemas::topic::Topic;

use crate::error::{ErrorClass, SinkError};
use crate::manifest::Manifest;
use crate::parquet::rows::record_at;
use crate::parquet::store::Store;

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
            let key = object.location.to_string();
            let bytes = store.get(&key).await?.ok_or_else(|| damaged(&key, "it is gone"))?;
            let manifest = Manifest::from_bytes(&bytes).map_err(|e| damaged(&key, e))?;
            found.insert((manifest.publication.partition_id(), manifest.publication.offset_first), manifest);
        }
    }
    Ok(found.into_values().collect())
}

/// The records of an object, in offset order.
///
/// # Errors
/// As [`manifests`]; the iterator's items fail with [`ErrorClass::Data`] where a row is not readable.
pub async fn records(
    store: &Store,
    manifest: &Manifest,
) -> Result<impl Iterator<Item = Result<Record, SinkError>> + Send + use<>, SinkError> {
    let key = manifest.object.key.clone();
    let partition = manifest.publication.partition_id();
    let table = Table::archive_of(partition.topic).ok_or_else(|| damaged(&key, "its topic is not archived"))?;
    let bytes: Bytes = store.get(&key).await?.ok_or_else(|| damaged(&key, "it is missing"))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| damaged(&key, e))?;
    let batches = builder.build().map_err(|e| damaged(&key, e))?;
    Ok(batches.flat_map(move |batch| -> Vec<Result<Record, SinkError>> {
        match batch {
            Ok(batch) => {
                let row = |index| record_at(table, partition, &batch, index);
                (0..batch.num_rows())
                    .map(|i| row(i).ok_or_else(|| damaged(&key, format!("row {i} is not readable"))))
                    .collect()
            }
            Err(error) => vec![Err(damaged(&key, error))],
        }
    }))
}

fn damaged(key: &str, why: impl std::fmt::Display) -> SinkError {
    SinkError::new(ErrorClass::Data, format!("read {key}"), format!("{why}; run custody verify"))
}
