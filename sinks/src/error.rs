//! What went wrong at a sink and what the caller must do about it.
//!
//! There is no "ignore" (invariant I10): every class names an action. It wraps no foreign error type,
//! so that callers do not depend on the libraries below.

/// What the caller must do; mirrors `ingest::log::ErrorClass` without importing a sibling (I2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// The target is away or overloaded, or the answer was lost: the batch is kept; try again, for ever.
    Retry,
    /// Another writer published this range with other bounds: drop what is in hand, ask for the
    /// position again and seek there.
    Restart,
    /// The data or what is stored contradicts an invariant: stop the partition, offset uncommitted.
    Data,
    /// Configuration, permission or a target that lacks a guarantee: stop the process and say what to change.
    Config,
}

/// A failed sink operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {message}")]
pub struct SinkError {
    /// What to do.
    pub class: ErrorClass,
    /// The operation and its object, e.g. `put archive/custody.clean.v1/…`.
    pub what: String,
    /// What happened and, where there is one, the remedy.
    pub message: String,
}

impl SinkError {
    /// An error of `class` on `what`.
    pub fn new(class: ErrorClass, what: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self { class, what: what.into(), message: message.to_string() }
    }
}
