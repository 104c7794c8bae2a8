//! Changes of API keys, as data.
//!
//! A change is written into the key file together with what it changes, and leaves the file once the log
//! has its event ([`super::change_event`]): neither a crash nor an unavailable log loses the record of it.

use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

/// What was done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was made.
    Created,
    /// It replaced another one.
    Rotated,
    /// It was revoked.
    Revoked,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// What was done.
    pub kind: ChangeKind,
    /// The key, for a rotation the new one.
    pub key_id: String,
    /// For a rotation: the old key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_id: Option<String>,
    /// When, microseconds since 1970.
    pub at: TimestampMicros,
    /// Who did it.
    pub by: String,
    /// Why; may be empty.
    #[serde(default)]
    pub reason: String,
}
