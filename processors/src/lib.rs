//! Pure stages: what is found in events. Each is a fold over one partition of the log.
//!
//! No async, no I/O, no clock, no randomness (invariant I1). Stages know no broker and no store.

pub mod anomaly;
pub mod completeness;
pub mod pii;
pub mod rekey;
pub mod stage;
mod steps;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod watermark;
