//! Offline tests of the whole: the chain on the in-memory log, and the rules for sources and documents as programs.
//!
//! No server and no network. What one crate can check alone is tested in that crate.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod api_keys;
mod chain;
mod deploy;
mod docs;
mod licences;
mod peers;
mod pipeline_table;
mod registry;
mod replay;
mod send;
mod services;
mod tidy;
