//! Anomaly detection: what each agent and each dependency does, window by window, against its own
//! past and against declared rules.
//!
//! Two stages. [`Features`] counts events per subject and window where they happen; [`Score`] reads
//! the counts of all partitions of one subject and decides. Every declared rule and every baseline
//! of an agent lives in `Score`, because there all of an agent's data is in one partition: its
//! inventory entry and its sessions have different keys in the event log. Only two rules page
//! at once, from `Features`: a budget that throttles or stops, and a sensitive tool call after a
//! prompt injection in the same session.
//!
//! Nothing here reads a clock, keeps an event or looks at content. Floating-point sums are folded
//! in record order, so equal logs give equal alerts.

mod alert;
pub mod features;
pub mod score;
pub mod stats;
mod wire;

pub use features::{Features, FeaturesConfig};
pub use score::{Score, ScoreConfig};

#[cfg(test)]
mod tests;
