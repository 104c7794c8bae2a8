//! What an operator asks of a running installation, as pure decisions over gathered facts.
//!
//! `topics` judges topics, `status` says how far everything is, `doctor` says what is wrong and what
//! helps. Printing and arguments are in `commands`.

pub mod connect;
pub mod doctor;
pub mod migrate;
pub mod status;
pub mod topics;
