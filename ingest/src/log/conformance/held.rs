//! Held partitions: which records are withheld, and which partitions are read as before.

use std::collections::BTreeMap;

use schemas::topic::Topic;

use super::{IDLE_MAX, append, events, join, read, ready, values};
use crate::log::{Broker, Log, LogEvent};

/// Records by partition until the log has nothing more to give.
async fn given<L: Log>(log: &mut L, wanted: usize) -> BTreeMap<u32, Vec<String>> {
    let mut given: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for _ in 0..IDLE_MAX {
        match log.next().await.expect("next") {
            LogEvent::Fetched { partition, records, .. } => {
                given.entry(partition.partition).or_default().extend(values(&records));
            }
            LogEvent::Idle if given.values().flatten().count() >= wanted => break,
            _ => {}
        }
    }
    given
}

/// A held partition gives nothing, what was read ahead of it included, while others are read on and the
/// log is idle at their ends; a seek ends that, and so does a new assignment.
pub async fn a_held_partition_waits_until_it_is_sought<B: Broker>(broker: B) {
    ready(&broker, 2).await;
    append(&broker, 0, &["a0", "a1", "a2"]).await;
    append(&broker, 1, &["b0"]).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    log.hold(events(0)).await.expect("hold");
    assert_eq!(given(&mut log, 1).await, BTreeMap::from([(1, vec!["b0".to_owned()])]));
    append(&broker, 0, &["a3"]).await;
    append(&broker, 1, &["b1"]).await;
    assert_eq!(given(&mut log, 1).await, BTreeMap::from([(1, vec!["b1".to_owned()])]));
    log.hold(events(0)).await.expect("holding twice is holding once");
    log.seek(events(0), 1).await.expect("seek");
    assert_eq!(values(&read(&mut log, events(0), 3).await), ["a1", "a2", "a3"]);
    log.hold(events(0)).await.expect("hold at the end");
    append(&broker, 0, &["a4"]).await;
    append(&broker, 1, &["b2"]).await;
    assert_eq!(given(&mut log, 1).await, BTreeMap::from([(1, vec!["b2".to_owned()])]));
    drop(log);
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    assert_eq!(values(&read(&mut log, events(0), 5).await), ["a0", "a1", "a2", "a3", "a4"]);
}
