//! Checks one object row by row: positions, digest, counts, and every column against `raw`.
//!
//! It holds one batch of rows at a time and performs no I/O; the object is in memory already.

use std::ops::Range;

use arrow::array::{Array, RecordBatch};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::record::{Record, SourceRef};
use schemas::table::Table;
use schemas::time::TimestampMicros;

use crate::manifest::Manifest;
use crate::parquet::encode;
use crate::parquet::rows::{Kind, Positions, RowBuilder};
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

/// Whether every column is recomputed from `raw`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Columns {
    /// Yes: shows that the writer derived every column from the exact bytes beside it.
    #[default]
    Recompute,
    /// No: position, digest and counts only, several times as fast. An object that was changed after
    /// it was written still fails by its SHA-256; a writer that wrote a wrong column does not.
    Trust,
}

/// Compares an object with its manifest and with itself.
pub fn inspect(bytes: &Bytes, manifest: &Manifest, columns: Columns, found: &mut Found) {
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
    if let Err(reason) = inspect_rows(bytes, manifest, columns, found) {
        found.fail(key, reason);
    }
}

/// Names of the fields in which two publications differ.
fn differences(left: &Publication, right: &Publication) -> Vec<String> {
    let (Ok(left), Ok(right)) = (serde_json::to_value(left), serde_json::to_value(right)) else { return Vec::new() };
    let fields = left.as_object().into_iter().flatten();
    fields.filter(|(name, value)| right.get(name.as_str()) != Some(value)).map(|(name, _)| name.clone()).collect()
}

fn inspect_rows(bytes: &Bytes, manifest: &Manifest, columns: Columns, found: &mut Found) -> Result<(), String> {
    let claimed = &manifest.publication;
    let undecodable = |error: &dyn std::fmt::Display| format!("its rows cannot be decoded: {error}");
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).map_err(|error| undecodable(&error))?;
    if columns == Columns::Trust {
        let mask = ProjectionMask::columns(reader.parquet_schema(), Positions::COLUMNS);
        reader = reader.with_projection(mask);
    }
    let reader = reader.with_batch_size(BATCH_ROWS).build().map_err(|error| undecodable(&error))?;
    let opened_at = TimestampMicros(claimed.opened_at_us);
    let table = Table::archive_of(claimed.topic).ok_or_else(|| format!("{} is not archived", claimed.topic))?;
    let mut fold = Fold {
        object: &manifest.object.key,
        table,
        rows: (columns == Columns::Recompute).then(|| RowBuilder::new(table)),
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
    /// `None` where the columns are trusted.
    rows: Option<RowBuilder>,
    publication: Publication,
    digest: RowDigest,
    /// Offsets that the next row may have.
    allowed: Range<u64>,
    differences: usize,
}

impl Fold<'_> {
    fn add(&mut self, batch: &RecordBatch, found: &mut Found) -> Result<(), String> {
        let Some(positions) = Positions::of(self.table, self.publication.partition_id(), batch) else {
            return Err("its columns are not those of this topic".to_owned());
        };
        let mut offsets = Vec::with_capacity(positions.len());
        for index in 0..positions.len() {
            let record = positions.record(index);
            offsets.push(record.at.offset);
            self.add_row(&record, positions.counted_as(index), found)?;
        }
        let Some(rows) = &mut self.rows else { return Ok(()) };
        let expected = rows.finish().map_err(|error| error.to_string())?;
        self.compare(batch, &expected, &offsets, found)
    }

    /// `counted_as` is what the columns say.
    fn add_row(&mut self, record: &Record, counted_as: (&str, &str), found: &mut Found) -> Result<(), String> {
        let (offset, source) = (record.at.offset, SourceRef::from_headers(&record.headers));
        if !self.allowed.contains(&offset) {
            found.fail(self.object, format!("offset {offset} stands where one of {:?} is due", self.allowed));
        }
        self.allowed.start = offset.saturating_add(1);
        let kind = match &mut self.rows {
            Some(rows) => rows.push(record).map_err(|error| format!("offset {offset}: {error}"))?,
            None => Kind::Row { kind: counted_as.0, tenant_id: counted_as.1 },
        };
        match kind {
            Kind::Row { kind, tenant_id } => self.publication.add_row(record, source, kind, tenant_id),
            Kind::Tick => return Err(format!("offset {offset} is a tick, which is no row")),
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
