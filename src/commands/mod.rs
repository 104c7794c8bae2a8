//! The small commands: each reads its arguments, calls a crate, and prints.

pub mod api_keys;
pub mod clickhouse;
pub mod config;
pub mod dlq;
pub mod doctor;
pub mod engine;
pub mod manual;
pub mod query;
pub mod replay;
pub mod schemas;
pub mod send;
pub mod status;
pub mod store;
pub mod topics;
pub mod verify;
