//! Rows in ClickHouse: tables, views, and inserts that a retry cannot double.
//!
//! `client` alone names the ClickHouse crate (invariant I3); the rest is SQL text and decisions.

pub mod client;
pub mod ddl;
pub mod insert;
pub mod intent;
pub mod migrate;
mod transport;
pub mod views;
