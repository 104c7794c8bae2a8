//! Schemas that records were written with before; their fingerprints are still in logs and archives.
//!
//! Written by `tests/compatibility.rs`. It holds no logic.

/// Texts, oldest first.
pub(super) const SUPERSEDED: &[&str] = &[];
