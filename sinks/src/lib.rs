//! Where events end: immutable Parquet in object storage and rows in ClickHouse.
//!
//! It knows no Kafka and no raw text (invariant I9); positions follow from what is published (I8).

pub mod clickhouse;
pub mod error;
pub mod manifest;
pub mod parquet;
pub mod publication;
pub mod retry;
pub mod roll;
pub mod row;
