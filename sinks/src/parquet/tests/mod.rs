//! The archive on an in-memory store and on a directory, with faults, restarts and corruption.

mod conformance;
mod corruption;
