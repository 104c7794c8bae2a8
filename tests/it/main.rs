//! Offline tests of the whole: rules as programs, and the command line on a data directory.
//!
//! No server and no network. What one crate can check alone is tested in that crate.

mod tidy;
