//! Runs stages and sinks on a log: a sans-I/O core that decides, and a loop that does.
//!
//! `core` and `input` are pure; `drive` owns the only loop that talks to a log for a stage. What a
//! stage finds is none of its business.

pub mod control;
pub mod core;
pub mod drive;
pub mod input;
pub mod sink;
mod waiting;
