//! Records to record batches and back: the archive's use of `schemas::table`.
//!
//! Every row keeps the exact value bytes in `raw`, so that anybody can recompute its columns. Ticks
//! become no rows. Control totals are rows of the findings archive, for they are records of its topic.

use arrow::array::{
    Array as _, AsArray as _, BinaryArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use bytes::Bytes;
use schemas::id::Sha256;
use schemas::record::{PartitionId, Position, Record, SourceRef};
use schemas::table::arrow::RecordBatchBuilder;
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
    let flagged = |flag| -> Vec<String> {
        let columns = table.columns().iter().filter(move |column| column.has(flag));
        columns.filter(|column| !is_nested(column.cell)).map(|column| column.name.to_owned()).collect()
    };
    let (bloom, mut opaque) = (flagged(Flag::Lookup), flagged(Flag::Opaque));
    // Ids are spread over their whole range in every row group: bounds would prune nothing.
    opaque.extend(bloom.iter().cloned());
    Layout { dictionary: flagged(Flag::Category), bloom, opaque, row_group_bytes_max }
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

/// The columns of a batch that are not recomputed: where a row stood, and its exact value.
#[derive(Debug)]
pub struct Positions<'a> {
    partition: PartitionId,
    offsets: &'a Int64Array,
    times: &'a TimestampMicrosecondArray,
    /// Offset and digest of the raw event; events alone have them.
    sources: Option<(&'a Int64Array, &'a FixedSizeBinaryArray)>,
    kinds: Option<&'a StringArray>,
    tenants: &'a StringArray,
    raw: &'a BinaryArray,
}

impl<'a> Positions<'a> {
    /// Names of the columns that it reads.
    pub const COLUMNS: [&'static str; 7] =
        ["src_offset", "broker_time", "event_offset", "event_sha256", "event_type", "tenant_id", "raw"];

    /// The columns of a batch; `None` where one is missing or has another type.
    pub fn of(table: Table, partition: PartitionId, batch: &'a RecordBatch) -> Option<Self> {
        let column = |name| batch.column_by_name(name).map(AsRef::as_ref);
        let number = |name| column(name)?.as_primitive_opt::<Int64Type>();
        let sources = match table {
            Table::Events => Some((number("event_offset")?, column("event_sha256")?.as_fixed_size_binary_opt()?)),
            _ => None,
        };
        let kinds = match table {
            Table::Events | Table::Findings => Some(column("event_type")?.as_string_opt()?),
            _ => None,
        };
        Some(Self {
            partition,
            offsets: number("src_offset")?,
            times: column("broker_time")?.as_primitive_opt::<TimestampMicrosecondType>()?,
            sources,
            kinds,
            tenants: column("tenant_id")?.as_string_opt()?,
            raw: column("raw")?.as_binary_opt()?,
        })
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The record that row `index` stands for, as far as the archive keeps it: position, time,
    /// source, value.
    pub fn record(&self, index: usize) -> Record {
        Record {
            at: Position { partition: self.partition, offset: self.offsets.value(index).cast_unsigned() },
            timestamp: TimestampMicros(self.times.value(index)),
            key: None,
            value: Some(Bytes::copy_from_slice(self.raw.value(index))),
            headers: self.source(index).map(SourceRef::to_headers).unwrap_or_default(),
        }
    }

    /// A record whose headers name no source has zeros there.
    fn source(&self, index: usize) -> Option<SourceRef> {
        let (offsets, digests) = self.sources?;
        let sha256 = Sha256(digests.value(index).try_into().ok()?);
        (!sha256.is_zero()).then(|| SourceRef { offset: offsets.value(index).cast_unsigned(), sha256 })
    }

    /// What the columns say the row is counted as.
    pub fn counted_as(&self, index: usize) -> (&'a str, &'a str) {
        (self.kinds.map_or("alert", |kinds| kinds.value(index)), self.tenants.value(index))
    }
}

/// [`Positions::record`] of one row; `None` where the batch is not one of the table's.
pub fn record_at(table: Table, partition: PartitionId, batch: &RecordBatch, index: usize) -> Option<Record> {
    let positions = Positions::of(table, partition, batch)?;
    (index < positions.len()).then(|| positions.record(index))
}
