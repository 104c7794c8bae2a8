//! How events get into the log, and the log itself.
//!
//! It does not know what is found in events (`processors`) or where they end (`sinks`).

pub mod agent;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod log;
