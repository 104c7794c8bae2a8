//! Agent side: what a writer of events does before they reach the log, as pure logic.
//!
//! It does not send, store or retry anything, and reads no clock.

pub mod sequencer;
pub mod tick;
