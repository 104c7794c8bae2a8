//! Scenarios, laws and counts of both stages over made-up fleets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod best_effort;
mod fleet;
mod laws;
mod random;
mod scenarios;
mod totals;
mod writers;
