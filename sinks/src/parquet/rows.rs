//! Records to Arrow batches: which topics are archived and what their rows are.
//!
//! The columns come from `schemas::table`; every row also keeps the exact value bytes in `raw`, so
//! that the columns can be checked against them by anybody. Ticks become no rows.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder as _, ArrayRef, BinaryBuilder, FixedSizeBinaryBuilder, StringBuilder, TimestampMicrosecondBuilder,
    UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use schemas::codec::{DecodeError, Derived, codec};
use schemas::record::{Record, SourceRef};
use schemas::topic::Topic;

use crate::parquet::encode::Layout;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Time: counted, not archived.
    Tick,
    /// A row.
    Row {
        /// Event type, or the kind of another record.
        kind: &'a str,
        /// Tenant; empty where there is none.
        tenant_id: &'a str,
    },
}

/// Gathers records of one topic into a batch.
#[derive(Debug)]
pub struct RowBuilder {
    schema: SchemaRef,
    offset: UInt64Builder,
    broker_time: TimestampMicrosecondBuilder,
    source_offset: UInt64Builder,
    source_sha256: FixedSizeBinaryBuilder,
    event_type: StringBuilder,
    tenant_id: StringBuilder,
    raw: BinaryBuilder,
    raw_bytes: usize,
    last: (String, String),
}

/// Columns and encoding of a topic's objects.
pub fn layout_of(_topic: Topic, row_group_bytes_max: usize) -> Layout {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Layout {
        dictionary: names(&["event_type", "tenant_id"]),
        bloom: names(&[]),
        opaque: names(&["raw", "source_sha256"]),
        row_group_bytes_max,
    }
}

impl RowBuilder {
    /// Whether the topic is archived.
    pub fn handles(topic: Topic) -> bool {
        matches!(topic, Topic::Clean | Topic::Findings | Topic::Alerts)
    }

    /// No rows.
    pub fn new(_topic: Topic) -> Self {
        let utc = TimestampMicrosecondBuilder::new().with_timezone("UTC");
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![
            Field::new("offset", DataType::UInt64, false),
            Field::new("broker_time", time, false),
            Field::new("source_offset", DataType::UInt64, true),
            Field::new("source_sha256", DataType::FixedSizeBinary(32), true),
            Field::new("event_type", DataType::Utf8, false),
            Field::new("tenant_id", DataType::Utf8, false),
            Field::new("raw", DataType::Binary, false),
        ]));
        Self {
            schema,
            offset: UInt64Builder::new(),
            broker_time: utc,
            source_offset: UInt64Builder::new(),
            source_sha256: FixedSizeBinaryBuilder::new(32),
            event_type: StringBuilder::new(),
            tenant_id: StringBuilder::new(),
            raw: BinaryBuilder::new(),
            raw_bytes: 0,
            last: (String::new(), String::new()),
        }
    }

    /// Columns.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Rows gathered.
    pub fn len(&self) -> usize {
        self.offset.len()
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Raw value bytes gathered.
    pub fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    /// Adds a record, unless it is a tick.
    ///
    /// # Errors
    /// The value is not a record of the topic: its writer should have refused it.
    pub fn push(&mut self, record: &Record, source: Option<SourceRef>) -> Result<Kind<'_>, DecodeError> {
        let derived = codec().decode_derived(record.value.as_deref())?;
        match &derived {
            Derived::Event(event) if event.is_tick() => return Ok(Kind::Tick),
            Derived::Event(event) => self.last = (event.h().event_type.clone(), event.h().tenant_id.clone()),
            Derived::Alert(alert) => self.last = ("alert".to_owned(), alert.tenant_id.clone()),
            Derived::ControlTotal(_) => self.last = ("control_total".to_owned(), String::new()),
            _ => self.last = ("other".to_owned(), String::new()),
        }
        let value = record.value.as_deref().unwrap_or_default();
        self.offset.append_value(record.at.offset);
        self.broker_time.append_value(record.timestamp.0);
        self.source_offset.append_option(source.map(|s| s.offset));
        match source {
            Some(source) => self.source_sha256.append_value(source.sha256.0).unwrap_or_default(),
            None => self.source_sha256.append_null(),
        }
        self.event_type.append_value(&self.last.0);
        self.tenant_id.append_value(&self.last.1);
        self.raw.append_value(value);
        self.raw_bytes += value.len();
        Ok(Kind::Row { kind: &self.last.0, tenant_id: &self.last.1 })
    }

    /// The rows gathered, as a batch; the builder is empty afterwards.
    ///
    /// # Errors
    /// A defect: columns of different lengths.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.raw_bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.offset.finish()),
            Arc::new(self.broker_time.finish()),
            Arc::new(self.source_offset.finish()),
            Arc::new(self.source_sha256.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.tenant_id.finish()),
            Arc::new(self.raw.finish()),
        ];
        RecordBatch::try_new(self.schema.clone(), columns)
    }
}
