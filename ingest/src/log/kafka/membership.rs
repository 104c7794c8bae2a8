//! How a consumer takes part in its group, and as whom. What follows from an assignment is `consumer`'s.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use rdkafka::bindings::{rd_kafka_mem_free, rd_kafka_memberid};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use serde::{Deserialize, Serialize};

use crate::log::{ErrorClass, LogError};

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
                ("heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS),
            ],
            GroupProtocol::Consumer => vec![("group.protocol", "consumer")],
        }
    }
}

/// A dead member's partitions move after so long; also how long a closed member's do, as static members
/// do not sign off.
const SESSION_TIMEOUT_MS: &str = "10000";
/// A member hears of a change of its group with the next heartbeat: with librdkafka's 3 s each of the two steps
/// of a cooperative rebalance waits so long for the slowest member.
const HEARTBEAT_INTERVAL_MS: &str = "500";

/// What the group's coordinator calls the member: another name, with the classic protocol, each time that it
/// has given the member up and takes it in again. Empty while it is none.
#[allow(unsafe_code, reason = "rdkafka does not offer this call of librdkafka")]
pub(super) fn member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Arc<str> {
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as its borrow; what it answers is a C string that is ours to free.
    unsafe {
        let id = rd_kafka_memberid(client);
        if id.is_null() {
            return Arc::from("");
        }
        let copy = Arc::from(CStr::from_ptr(id).to_string_lossy());
        rd_kafka_mem_free(client, id.cast::<c_void>());
        copy
    }
}

/// Refuses what was begun as `joined_as` once the member is another: partitions that it held then others may
/// have read on, and the brokers ask for the member's generation alone.
///
/// It asks librdkafka's own thread, which sends a commit that comes after the answer before it joins anew.
pub(super) fn check_member<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    joined_as: &str,
    what: String,
) -> Result<(), LogError> {
    match *member_id(consumer) == *joined_as && !joined_as.is_empty() {
        true => Ok(()),
        false => Err(LogError::new(ErrorClass::AbortTxn, what, "the group has given this member up since")),
    }
}
