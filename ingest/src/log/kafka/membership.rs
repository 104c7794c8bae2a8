//! How a consumer takes part in its group, and as whom. What follows from an assignment is `consumer`'s.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use rdkafka::bindings::{rd_kafka_mem_free, rd_kafka_memberid};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use serde::{Deserialize, Serialize};

use crate::log::{ErrorClass, LogError};

/// The protocol between a group's members and its coordinator. All members of a group use the same one, except while
/// the group is migrated to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// Static members, cooperative-sticky: one that rejoins within its session keeps its partitions.
    #[default]
    Classic,
    /// KIP-848: the brokers assign. Members are dynamic, as a static one that died would be refused
    /// (`UNRELEASED_INSTANCE_ID`) until its session has ended; one that stops leaves the group at once.
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
                ("heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS),
            ],
            GroupProtocol::Consumer => vec![("group.protocol", "consumer")],
        }
    }
}

/// How long until a dead member's partitions are assigned to others. A closed member's take as long, because a static
/// member does not leave the group when it stops.
const SESSION_TIMEOUT_MS: &str = "10000";
/// A member learns of a rebalance with its next heartbeat: with librdkafka's default of 3 s, each of the two steps of
/// a cooperative rebalance would wait that long for the slowest member.
const HEARTBEAT_INTERVAL_MS: &str = "500";

/// The member id that the group's coordinator assigned: with the classic protocol a new one each time that the group
/// has removed the member and it rejoins. Empty while it is not a member.
#[allow(unsafe_code, reason = "rdkafka does not offer this call of librdkafka")]
pub(super) fn member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Arc<str> {
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as its borrow; what it answers is a C string that is ours to free.
    unsafe {
        let id = rd_kafka_memberid(client);
        // Before it has joined, and without a group.
        if id.is_null() {
            return Arc::from("");
        }
        let copy = Arc::from(CStr::from_ptr(id).to_string_lossy());
        rd_kafka_mem_free(client, id.cast::<c_void>());
        copy
    }
}

/// Refuses what was begun under the member id `joined_as` once the member has another: others may have read the
/// partitions that it held then, and the brokers check only the generation of the member.
///
/// It asks librdkafka's main thread, which handles requests in order: a commit that follows the answer is sent before
/// the member rejoins.
pub(super) fn check_member<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    joined_as: &str,
    what: String,
) -> Result<(), LogError> {
    // Fail closed: an empty id is no membership, and two empty ids are not the same one.
    if *member_id(consumer) == *joined_as && !joined_as.is_empty() {
        Ok(())
    } else {
        Err(LogError::new(ErrorClass::AbortTxn, what, "the group has removed this member since"))
    }
}
