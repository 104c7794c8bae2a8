//! `custody demo`.

pub mod census;
pub mod intake;
