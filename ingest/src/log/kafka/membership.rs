//! How a consumer takes part in its group. Settings only; what follows from an assignment is `consumer`'s.

use serde::{Deserialize, Serialize};

/// The protocol between a group's members and its coordinator. All members of a group have the same, but
/// for the time in which a group goes over to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// Static members, cooperative-sticky: one that comes back within its session keeps its partitions.
    #[default]
    Classic,
    /// KIP-848: the brokers assign. Members are dynamic, as a static one that died would be refused
    /// (`UNRELEASED_INSTANCE_ID`) until its session has ended; one that stops signs off at once.
    Consumer,
}

impl GroupProtocol {
    /// Settings of the consumer that is `member` of its group.
    pub(super) fn settings(self, member: &str) -> Vec<(&'static str, &str)> {
        match self {
            GroupProtocol::Classic => vec![
                ("group.instance.id", member),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("session.timeout.ms", SESSION_TIMEOUT_MS),
            ],
            GroupProtocol::Consumer => vec![("group.protocol", "consumer")],
        }
    }
}

/// A dead member's partitions move after so long; also how long a closed member's do, as static members
/// do not sign off.
const SESSION_TIMEOUT_MS: &str = "10000";
