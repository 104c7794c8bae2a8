//! The one column list: what a record looks like in Parquet and in ClickHouse.
//!
//! Arrow schema, ClickHouse DDL and RowBinary all follow from the rows of `rows.rs`; a column is
//! written once. Rows are a pure function of the clean record and its position, so that anybody can
//! recompute the columns from the exact bytes that the archive keeps in `raw`. It does no I/O.

#[cfg(feature = "arrow")]
pub mod arrow;
mod cell;
mod column;
mod ddl;
mod from_record;
pub(crate) mod payload;
mod rows;
#[cfg(test)]
mod tests;

pub use column::{CellType, Column, Flag};
pub use ddl::{ddl, insert_columns};
pub use rows::{AlertRow, ControlTotalRow, EventRow, FindingRow};

use crate::codec::Derived;
use crate::record::{Position, SourceRef};
use crate::time::TimestampMicros;
use crate::topic::Topic;

/// A table of the archive and of ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// One row per event of [`Topic::Clean`].
    Events,
    /// One row per record of [`Topic::Findings`].
    Findings,
    /// One row per record of [`Topic::Alerts`].
    Alerts,
    /// One row per control total in [`Topic::Findings`]; ClickHouse only.
    ControlTotals,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 4] = [Table::Events, Table::Findings, Table::Alerts, Table::ControlTotals];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Events => "events",
            Table::Findings => "findings",
            Table::Alerts => "alerts",
            Table::ControlTotals => "control_totals",
        }
    }

    /// What a row is.
    pub const fn doc(self) -> &'static str {
        match self {
            Table::Events => "Agent events after redaction; one row per log record, duplicates of an event_id included",
            Table::Findings => "What the processors found: completeness findings, detections, results of scans",
            Table::Alerts => "Alerts with every change of their state",
            Table::ControlTotals => "How many records each hop counted per partition and hour",
        }
    }

    /// Its columns in order; the archive's `raw` is last.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Table::Events => EventRow::COLUMNS,
            Table::Findings => FindingRow::COLUMNS,
            Table::Alerts => AlertRow::COLUMNS,
            Table::ControlTotals => ControlTotalRow::COLUMNS,
        }
    }

    /// The table that the archive of a topic holds.
    pub const fn archive_of(topic: Topic) -> Option<Table> {
        match topic {
            Topic::Clean => Some(Table::Events),
            Topic::Findings => Some(Table::Findings),
            Topic::Alerts => Some(Table::Alerts),
            _ => None,
        }
    }
}

/// Where and when a log holds a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowMeta {
    /// Position in the topic that is archived or loaded.
    pub at: Position,
    /// The broker's time of the record.
    pub broker_time: TimestampMicros,
    /// The record of [`Topic::Events`] that it stems from; default for findings and alerts.
    pub source: SourceRef,
}

/// A row of any table.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Row {
    /// Row of [`Table::Events`].
    Event(EventRow),
    /// Row of [`Table::Findings`].
    Finding(FindingRow),
    /// Row of [`Table::Alerts`].
    Alert(AlertRow),
    /// Row of [`Table::ControlTotals`].
    ControlTotal(ControlTotalRow),
}

impl Row {
    /// The row of a record in the archive of its topic; `None` for a tick, and for a record that has
    /// no place there.
    pub fn archived(record: &Derived, meta: &RowMeta) -> Option<Row> {
        match (Table::archive_of(meta.at.partition.topic)?, record) {
            (_, Derived::Event(event)) if event.is_tick() => None,
            (Table::Events, Derived::Event(event)) => Some(Row::Event(EventRow::from_event(event, meta))),
            (Table::Findings, Derived::Event(event)) => Some(Row::Finding(FindingRow::from_event(event, meta))),
            (Table::Findings, Derived::ControlTotal(total)) => {
                Some(Row::Finding(FindingRow::from_control_total(total, meta)))
            }
            (Table::Alerts, Derived::Alert(alert)) => Some(Row::Alert(AlertRow::from_alert(alert, meta))),
            _ => None,
        }
    }

    /// The row of a record in ClickHouse: as in the archive, but control totals have their own table.
    pub fn loaded(record: &Derived, meta: &RowMeta) -> Option<Row> {
        match record {
            Derived::ControlTotal(total) => Some(Row::ControlTotal(ControlTotalRow::from_control_total(total, meta))),
            other => Self::archived(other, meta),
        }
    }

    /// Its table.
    pub const fn table(&self) -> Table {
        match self {
            Row::Event(_) => Table::Events,
            Row::Finding(_) => Table::Findings,
            Row::Alert(_) => Table::Alerts,
            Row::ControlTotal(_) => Table::ControlTotals,
        }
    }

    /// Appends the row in ClickHouse's `RowBinary`: the columns of [`insert_columns`].
    pub fn write_row_binary(&self, out: &mut Vec<u8>) {
        match self {
            Row::Event(row) => row.write_row_binary(out),
            Row::Finding(row) => row.write_row_binary(out),
            Row::Alert(row) => row.write_row_binary(out),
            Row::ControlTotal(row) => row.write_row_binary(out),
        }
    }
}
