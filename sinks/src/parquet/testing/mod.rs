//! What every object store must let the archive do, and the records to show it with (feature `testing`).
//!
//! It drives the sink as the root's shell does; it measures no speed.

pub mod conformance;
pub mod fixture;
