//! A log record as a row, and what it is counted as: the same for both kinds of target.
//!
//! Which columns a row has is `schemas::table`'s business.

use arrow::error::ArrowError;
use schemas::codec::{DecodeError, Derived, codec};
use schemas::record::{Record, SourceRef};
use schemas::table::{Row, RowMeta};
use schemas::topic::Topic;

/// Why a record has no row.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// Its bytes are no record.
    #[error("the value cannot be decoded: {0}")]
    Undecodable(#[from] DecodeError),
    /// It is a record that its topic does not carry.
    #[error("the record has no place in {0}")]
    Misplaced(Topic),
    /// A defect.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// The row of a record, as archived; `None` for a tick.
///
/// # Errors
/// The record's writer should have refused it.
pub fn row_of(record: &Record, to_row: fn(&Derived, &RowMeta) -> Option<Row>) -> Result<Option<Row>, RowError> {
    let derived = codec().decode_derived(record.value.as_deref())?;
    let source = SourceRef::from_headers(&record.headers).unwrap_or_default();
    let meta = RowMeta { at: record.at, broker_time: record.timestamp, source };
    match (to_row(&derived, &meta), &derived) {
        (Some(row), _) => Ok(Some(row)),
        (None, Derived::Event(event)) if event.is_tick() => Ok(None),
        (None, _) => Err(RowError::Misplaced(record.at.partition.topic)),
    }
}

/// Kind and tenant that a row is counted under.
pub fn counted_as(row: &Row) -> (&str, &str) {
    match row {
        Row::Event(row) => (&row.event_type, &row.tenant_id),
        Row::Finding(row) => (&row.event_type, &row.tenant_id),
        Row::Alert(row) => ("alert", &row.tenant_id),
        Row::ControlTotal(_) => ("control.total", ""),
    }
}
