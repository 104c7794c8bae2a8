//! ClickHouse's engine as a library: [`binding`] names its C symbols, [`connection`] makes them safe to call.
//!
//! Only the hidden subcommand's process loads it, never the process that holds Custody's own state.

mod binding;
mod connection;

pub(crate) use connection::{Connection, Engine, EngineError, Stats};
