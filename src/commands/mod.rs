//! The small commands: each reads its arguments, calls a crate, and prints.

pub mod clickhouse;
pub mod engine;
pub mod query;
pub mod replay;
pub mod schemas;
pub mod send;
pub mod verify;
