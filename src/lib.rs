//! Custody: the chain of custody for AI-agent events.
//!
//! This package only composes: `ingest` brings events into the log, `processors` finds, `sinks`
//! publishes; the runner joins them. See ARCHITECTURE.md for the map.

pub mod alert_role;
pub mod archive_role;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod demo;
pub mod dlq;
pub mod embedded;
pub mod fault;
pub mod fleet;
pub mod load_role;
pub mod memory;
pub mod metrics;
pub mod operate;
pub mod registry;
pub mod replay;
pub mod roles;
pub mod runner;
pub mod services;
pub mod simulate;
pub mod sink_table;
pub mod stage_table;
pub mod telemetry;
