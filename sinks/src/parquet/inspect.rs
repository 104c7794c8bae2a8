//! Checks one object row by row: positions, digest, counts, and every column against `raw`.
//!
//! It holds one batch of rows at a time and performs no I/O; the object is in memory already.

use std::ops::Range;

use arrow::array::{Array, RecordBatch};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::record::{Record, SourceRef};
use schemas::table::Table;
use schemas::time::TimestampMicros;

use crate::manifest::Manifest;
use crate::parquet::encode;
use crate::parquet::rows::{Kind, RowBuilder, record_at};
use crate::parquet::verify::Failure;
use crate::publication::{Publication, RowDigest};

/// Rows that are decoded and compared at a time.
const BATCH_ROWS: usize = 2_048;
/// Differing rows that are named per object; the rest would say the same.
const DIFFERENCES_MAX: usize = 8;

/// What an inspection found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// What is wrong.
    pub failures: Vec<Failure>,
    /// Bytes of the object.
    pub bytes: u64,
    /// Raw value bytes of its rows.
    pub raw_bytes: u64,
}

impl Found {
    /// One failure.
    pub fn failed(object: &str, reason: impl Into<String>) -> Self {
        let mut found = Self::default();
        found.fail(object, reason);
        found
    }

    /// Adds a failure.
    pub fn fail(&mut self, object: &str, reason: impl Into<String>) {
        self.failures.push(Failure { object: object.to_owned(), reason: reason.into() });
    }
}

/// Compares an object with its manifest and with itself.
pub fn inspect(bytes: &Bytes, manifest: &Manifest, found: &mut Found) {
    let key = &manifest.object.key;
    let read = encode::metadata_of(bytes).and_then(|metadata| encode::publication_of(&metadata));
    match read {
        Ok(footer) => {
            for field in differences(&footer, &manifest.publication) {
                found.fail(key, format!("its footer and its manifest differ in {field}"));
            }
        }
        Err(error) => found.fail(key, format!("its footer cannot be read: {error}")),
    }
    if let Err(reason) = inspect_rows(bytes, manifest, found) {
        found.fail(key, reason);
    }
}

/// Names of the fields in which two publications differ.
fn differences(left: &Publication, right: &Publication) -> Vec<String> {
    let (Ok(left), Ok(right)) = (serde_json::to_value(left), serde_json::to_value(right)) else { return Vec::new() };
    let fields = left.as_object().into_iter().flatten();
    fields.filter(|(name, value)| right.get(name.as_str()) != Some(value)).map(|(name, _)| name.clone()).collect()
}

fn inspect_rows(bytes: &Bytes, manifest: &Manifest, found: &mut Found) -> Result<(), String> {
    let claimed = &manifest.publication;
    let undecodable = |error: &dyn std::fmt::Display| format!("its rows cannot be decoded: {error}");
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).map_err(|error| undecodable(&error))?;
    let reader = reader.with_batch_size(BATCH_ROWS).build().map_err(|error| undecodable(&error))?;
    let opened_at = TimestampMicros(claimed.opened_at_us);
    let table = Table::archive_of(claimed.topic).ok_or_else(|| format!("{} is not archived", claimed.topic))?;
    let mut fold = Fold {
        object: &manifest.object.key,
        table,
        rows: RowBuilder::new(table),
        publication: Publication::open(claimed.partition_id(), claimed.offset_first, opened_at),
        digest: RowDigest::default(),
        allowed: claimed.offset_first..claimed.offset_next,
        differences: 0,
    };
    for batch in reader {
        fold.add(&batch.map_err(|error| undecodable(&error))?, found)?;
    }
    found.raw_bytes = fold.publication.raw_bytes;
    let actual = Publication {
        row_digest: fold.digest.finish(),
        // Ticks are not rows: their number and what lies behind the last row rest on the manifest
        // and on the evidence log.
        ticks: claimed.ticks,
        offset_next: claimed.offset_next,
        ..fold.publication
    };
    for field in differences(&actual, claimed) {
        found.fail(&manifest.object.key, format!("its rows and its manifest differ in {field}"));
    }
    Ok(())
}

/// What the rows add up to.
struct Fold<'a> {
    object: &'a str,
    table: Table,
    rows: RowBuilder,
    publication: Publication,
    digest: RowDigest,
    /// Offsets that the next row may have.
    allowed: Range<u64>,
    differences: usize,
}

impl Fold<'_> {
    fn add(&mut self, batch: &RecordBatch, found: &mut Found) -> Result<(), String> {
        let mut offsets = Vec::with_capacity(batch.num_rows());
        for index in 0..batch.num_rows() {
            let partition = self.publication.partition_id();
            let Some(record) = record_at(self.table, partition, batch, index) else {
                return Err("its columns are not those of this topic".to_owned());
            };
            offsets.push(record.at.offset);
            self.add_row(&record, found)?;
        }
        let expected = self.rows.finish().map_err(|error| error.to_string())?;
        self.compare(batch, &expected, &offsets, found)
    }

    fn add_row(&mut self, record: &Record, found: &mut Found) -> Result<(), String> {
        let (offset, source) = (record.at.offset, SourceRef::from_headers(&record.headers));
        if !self.allowed.contains(&offset) {
            found.fail(self.object, format!("offset {offset} stands where one of {:?} is due", self.allowed));
        }
        self.allowed.start = offset.saturating_add(1);
        match self.rows.push(record) {
            Ok(Kind::Row { kind, tenant_id }) => self.publication.add_row(record, source, kind, tenant_id),
            Ok(Kind::Tick) => return Err(format!("offset {offset} is a tick, which is no row")),
            Err(error) => return Err(format!("offset {offset}: {error}")),
        }
        self.digest.add(offset, record.timestamp, source, record.value.as_deref().unwrap_or_default());
        Ok(())
    }

    /// Every column must be what `raw` and the position give.
    fn compare(
        &mut self,
        actual: &RecordBatch,
        expected: &RecordBatch,
        offsets: &[u64],
        found: &mut Found,
    ) -> Result<(), String> {
        let names = |batch: &RecordBatch| -> Vec<String> {
            batch.schema().fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
        };
        if names(actual) != names(expected) {
            return Err("its columns are not those of this topic".to_owned());
        }
        for ((field, left), right) in actual.schema().fields().iter().zip(actual.columns()).zip(expected.columns()) {
            if left == right || self.differences >= DIFFERENCES_MAX {
                continue;
            }
            self.differences += 1;
            let row = (0..left.len()).find(|row| left.slice(*row, 1) != right.slice(*row, 1)).unwrap_or_default();
            let offset = offsets.get(row).copied().unwrap_or_default();
            found.fail(self.object, format!("column {} at offset {offset} is not what raw says", field.name()));
        }
        Ok(())
    }
}
