//! Topic names, record keys and the partitioner: the only place where a topic name is made.
//!
//! It does not create topics and knows no broker.

use std::fmt;

use crate::id::{Sha256, Uuid};

/// The topics of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What agents send; key tenant/session, dense offsets, short retention.
    Events,
    /// Events after redaction; partition numbers as in [`Topic::Events`].
    Clean,
    /// What processors found: `detection.raised`, `data.classified`, control totals.
    Findings,
    /// Per-window measures, key tenant/subject.
    Signals,
    /// Producer sequence numbers, key tenant/producer.
    Writers,
    /// Alerts, key fingerprint.
    Alerts,
    /// Dead letters with reason and original bytes.
    Dlq,
    /// Compacted state of the `completeness` stage.
    StateCompleteness,
    /// Compacted state of the `writers` stage.
    StateWriters,
    /// Compacted state of the `features` stage.
    StateFeatures,
    /// Compacted state of the `score` stage.
    StateScore,
    /// Compacted state of the `pii` stage.
    StatePii,
}

impl Topic {
    /// Every topic.
    pub const ALL: &'static [Topic] = &[
        Topic::Events,
        Topic::Clean,
        Topic::Findings,
        Topic::Signals,
        Topic::Writers,
        Topic::Alerts,
        Topic::Dlq,
        Topic::StateCompleteness,
        Topic::StateWriters,
        Topic::StateFeatures,
        Topic::StateScore,
        Topic::StatePii,
    ];

    /// The topic's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::Events => "custody.events.v1",
            Topic::Clean => "custody.clean.v1",
            Topic::Findings => "custody.findings.v1",
            Topic::Signals => "custody.signals.v1",
            Topic::Writers => "custody.writers.v1",
            Topic::Alerts => "custody.alerts.v1",
            Topic::Dlq => "custody.dlq.v1",
            Topic::StateCompleteness => "custody.state.completeness.v1",
            Topic::StateWriters => "custody.state.writers.v1",
            Topic::StateFeatures => "custody.state.features.v1",
            Topic::StateScore => "custody.state.score.v1",
            Topic::StatePii => "custody.state.pii.v1",
        }
    }

    /// The topic's name on the wire in a generation of the topics: its version. What is archived and derived
    /// keeps the name of the first; partition numbers distinguish generations.
    pub fn name_of(self, generation: u32) -> String {
        // The 1 at the end of the name is the generation; no other digit ends a name.
        format!("{}{generation}", self.name().trim_end_matches('1'))
    }

    /// The topic of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        // Twelve names: a search is as fast as a map.
        Self::ALL.iter().copied().find(|t| t.name() == name)
    }

    /// Whether the log keeps only the newest record of a key.
    pub const fn is_compacted(self) -> bool {
        matches!(
            self,
            Topic::StateCompleteness | Topic::StateWriters | Topic::StateFeatures | Topic::StateScore | Topic::StatePii
        )
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Record key of a session's events: one session, one partition, one order.
pub fn session_key(tenant_id: &str, session_id: Uuid) -> Vec<u8> {
    joined_key(tenant_id, &session_id.to_string())
}

/// Record key of anything else that belongs to a tenant.
pub fn joined_key(tenant_id: &str, rest: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(tenant_id.len() + 1 + rest.len());
    key.extend_from_slice(tenant_id.as_bytes());
    // Not unambiguous and need not be: two keys that are equal only share a partition.
    key.push(b'/');
    key.extend_from_slice(rest.as_bytes());
    key
}

/// Partition of a key: the first four bytes of its SHA-256, modulo the partition count. The same on
/// every log, so that a replay on another broker gives the same partitions.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    // A digest and not the broker's own hash: Kafka clients differ in theirs, and the other logs have none.
    let digest = Sha256::of(key).0;
    // A topic has at least one; 0 would panic here (I4).
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % partitions.max(1)
}
