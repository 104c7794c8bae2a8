//! Records to record batches and back: the archive's use of `schemas::table`.
//!
//! Every row keeps the exact value bytes in `raw`, so that anybody can recompute its columns. Ticks
//! become no rows. Control totals are rows of the findings archive, for they are records of its topic.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use schemas::record::{PartitionId, Position, Record, SourceRef};
use schemas::table::arrow::{RecordBatchBuilder, row_at};
use schemas::table::{CellType, Flag, Row, Table};
use schemas::time::TimestampMicros;

use crate::parquet::encode::Layout;
use crate::row::{RowError, counted_as, row_of};

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Time: counted, not archived.
    Tick,
    /// A row.
    Row {
        /// Event type, `control.total` or `alert`.
        kind: &'a str,
        /// Tenant; empty where there is none.
        tenant_id: &'a str,
    },
}

/// Encoding of a table's objects.
pub fn layout_of(table: Table, row_group_bytes_max: usize) -> Layout {
    let flagged = |flag| {
        let columns = table.columns().iter().filter(move |column| column.has(flag));
        columns.filter(|column| !is_nested(column.cell)).map(|column| column.name.to_owned()).collect()
    };
    Layout {
        dictionary: flagged(Flag::Category),
        bloom: flagged(Flag::Lookup),
        opaque: flagged(Flag::Opaque),
        row_group_bytes_max,
    }
}

/// Whether Parquet stores the type under another path than the column's name.
fn is_nested(cell: CellType) -> bool {
    matches!(cell, CellType::TextList | CellType::UuidList | CellType::TextMap | CellType::CountMap)
}

/// Gathers records of one topic into batches.
#[derive(Debug)]
pub struct RowBuilder {
    batch: RecordBatchBuilder,
    raw_bytes: usize,
    kind: String,
    tenant_id: String,
}

impl RowBuilder {
    /// No rows.
    pub fn new(table: Table) -> Self {
        Self { batch: RecordBatchBuilder::new(table), raw_bytes: 0, kind: String::new(), tenant_id: String::new() }
    }

    /// Columns.
    pub fn schema(&self) -> SchemaRef {
        self.batch.schema()
    }

    /// Rows gathered.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Raw value bytes gathered.
    pub fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    /// Adds a record, unless it is a tick.
    ///
    /// # Errors
    /// As [`row_of`]; `Arrow` is a defect.
    pub fn push(&mut self, record: &Record) -> Result<Kind<'_>, RowError> {
        let Some(row) = row_of(record, Row::archived)? else { return Ok(Kind::Tick) };
        let raw = record.value.as_deref().unwrap_or_default();
        self.batch.push(&row, raw)?;
        self.raw_bytes += raw.len();
        let (kind, tenant_id) = counted_as(&row);
        kind.clone_into(&mut self.kind);
        tenant_id.clone_into(&mut self.tenant_id);
        Ok(Kind::Row { kind: &self.kind, tenant_id: &self.tenant_id })
    }

    /// The rows gathered, as a batch; starts anew.
    ///
    /// # Errors
    /// A defect.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.raw_bytes = 0;
        self.batch.finish()
    }
}

/// The record that a row stands for, as far as its archive keeps it: position, time, source, value.
pub fn record_at(table: Table, partition: PartitionId, batch: &RecordBatch, index: usize) -> Option<Record> {
    let (row, raw) = row_at(table, batch, index)?;
    let (offset, timestamp, source) = match row {
        Row::Event(row) => (row.src_offset, row.broker_time, row_source(row.event_offset, row.event_sha256)),
        Row::Finding(row) => (row.src_offset, row.broker_time, None),
        Row::Alert(row) => (row.src_offset, row.broker_time, None),
        Row::ControlTotal(row) => (row.src_offset, row.broker_time, None),
    };
    Some(Record {
        at: Position { partition, offset },
        timestamp: TimestampMicros(timestamp.0),
        key: None,
        value: Some(Bytes::copy_from_slice(raw)),
        headers: source.map(SourceRef::to_headers).unwrap_or_default(),
    })
}

/// A record whose headers name no source has zeros there.
fn row_source(offset: u64, sha256: schemas::id::Sha256) -> Option<SourceRef> {
    (!sha256.is_zero()).then_some(SourceRef { offset, sha256 })
}
