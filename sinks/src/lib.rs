//! Where events end: immutable Parquet in object storage and rows in ClickHouse.
//!
//! It knows no Kafka and no raw text (invariant I9); positions follow from what is published (I8).
//!
//! A clean event becomes a row; a raw one does not compile (invariant I9):
//!
//! ```
//! fn row(event: &schemas::event::CleanEvent, meta: &schemas::table::RowMeta) -> schemas::table::EventRow {
//!     schemas::table::EventRow::from_event(event, meta)
//! }
//! ```
//!
//! ```compile_fail,E0308
//! fn row(event: &schemas::event::RawEvent, meta: &schemas::table::RowMeta) -> schemas::table::EventRow {
//!     schemas::table::EventRow::from_event(event, meta)
//! }
//! ```

pub mod alerts;
pub mod clickhouse;
pub mod error;
pub mod manifest;
pub mod parquet;
pub mod publication;
pub mod retry;
pub mod roll;
pub mod row;
