//! Topic names, record keys and the partitioner: the only place where a topic name is made.
//!
//! It does not create topics and knows no broker.

use std::fmt;

use crate::id::{Sha256, Uuid};

/// Declares the topics: the variant, its name on the wire, and what is special about it. A topic is one line here
/// and nowhere else.
macro_rules! topics {
    ($($(#[doc = $doc:literal])+ $topic:ident = $name:literal $(, $special:ident)?;)+) => {
        /// The topics of the pipeline.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Topic {
            $($(#[doc = $doc])+ $topic,)+
        }

        impl Topic {
            /// Every topic.
            pub const ALL: &'static [Topic] = &[$(Topic::$topic),+];

            /// The topic's name on the wire.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Topic::$topic => $name,)+
                }
            }

            /// Whether the log keeps only the newest record of a key.
            pub const fn is_compacted(self) -> bool {
                match self {
                    $(Topic::$topic => topics!(@is compacted $($special)?),)+
                }
            }

            /// Whether every stage that writes to it has partitions of its own there, a *slot*. Its partitions are
            /// never chosen by key, so that a slot may be added behind the others while the topic is in use.
            pub const fn has_slots(self) -> bool {
                match self {
                    $(Topic::$topic => topics!(@is slots $($special)?),)+
                }
            }

            /// Whether it carries ticks, so that time passes in it while nothing else happens.
            pub const fn has_ticks(self) -> bool {
                match self {
                    $(Topic::$topic => topics!(@is ticks $($special)?),)+
                }
            }
        }
    };
    (@is compacted compacted) => { true };
    (@is slots slots) => { true };
    (@is ticks ticks) => { true };
    (@is $what:ident $($other:ident)?) => { false };
}

topics! {
    /// What agents send; key tenant/session, dense offsets, short retention.
    Events = "custody.events.v1", ticks;
    /// Events after redaction; partition numbers as in [`Topic::Events`].
    Clean = "custody.clean.v1", ticks;
    /// What processors found: `detection.raised`, `data.classified`, control totals.
    Findings = "custody.findings.v1", slots;
    /// Per-window measures, key tenant/subject.
    Signals = "custody.signals.v1";
    /// Producer sequence numbers, key tenant/producer.
    Writers = "custody.writers.v1";
    /// Alerts, key fingerprint.
    Alerts = "custody.alerts.v1", slots;
    /// Dead letters with reason and original bytes.
    Dlq = "custody.dlq.v1";
    /// State of the `completeness` stage.
    StateCompleteness = "custody.state.completeness.v1", compacted;
    /// State of the `writers` stage.
    StateWriters = "custody.state.writers.v1", compacted;
    /// State of the `features` stage.
    StateFeatures = "custody.state.features.v1", compacted;
    /// State of the `score` stage.
    StateScore = "custody.state.score.v1", compacted;
    /// State of the `pii` stage.
    StatePii = "custody.state.pii.v1", compacted;
}

impl Topic {
    /// The topic's name on the wire in a generation of the topics: its version. What is archived and derived
    /// keeps the name of the first; partition numbers distinguish generations.
    pub fn name_of(self, generation: u32) -> String {
        // The 1 at the end of the name is the generation; no other digit ends a name.
        format!("{}{generation}", self.name().trim_end_matches('1'))
    }

    /// What sets its name apart: `findings` of `custody.findings.v1`.
    pub fn short_name(self) -> &'static str {
        self.name().trim_start_matches("custody.").trim_end_matches(".v1")
    }

    /// The topic of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        // Twelve names: a search is as fast as a map.
        Self::ALL.iter().copied().find(|t| t.name() == name)
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
