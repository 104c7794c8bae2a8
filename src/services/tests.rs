//! Lifecycle on the embedded log.
