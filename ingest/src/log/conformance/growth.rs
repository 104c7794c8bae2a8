//! What every log must do when a topic with slots is given more partitions while it is in use.

use schemas::topic::Topic;

use super::{GROUP, assigned, class, join, partition, read, ready, record, values};
use crate::log::{Appender as _, Broker, Committed, ErrorClass, Log as _};

/// Records, positions and numbers of the partitions before stay; those that are new take records and are given
/// out to a group that joins; fewer partitions than there are change nothing.
pub async fn a_topic_grows_and_keeps_what_it_holds<B: Broker>(broker: B) {
    ready(&broker, 2).await;
    let (old, new) = (partition(Topic::Findings, 1), partition(Topic::Findings, 3));
    let mut appender = broker.appender().await.expect("appender");
    appender.append(vec![record(Topic::Findings, 1, "before")]).await.expect("append");
    let refused = appender.append(vec![record(Topic::Findings, 3, "too early")]).await;
    assert_eq!(class(refused), ErrorClass::Fatal, "the topic has two partitions");
    let (mut log, _) = join(&broker, Topic::Findings, "a").await;
    read(&mut log, old, 1).await;
    log.commit_offset(old, Committed { next: 1, metadata: String::new() }).await.expect("commit");
    log.close().await.expect("close");

    for _ in 0..2 {
        broker.grow_topic(Topic::Findings, 4).await.expect("grows");
        broker.grow_topic(Topic::Findings, 3).await.expect("fewer are no error");
    }
    assert_eq!(broker.partitions_now(Topic::Findings).await.expect("asked"), Some(4));
    assert_eq!(broker.numbers(Topic::Findings).await.expect("numbers"), 0..4);
    // Kafka's producers that were opened before refuse the partition, to be retried, until they refresh their metadata.
    let mut appender = broker.appender().await.expect("appender");
    appender.append(vec![record(Topic::Findings, 3, "after")]).await.expect("append");
    let (records, _) = broker.read(old, 0).await.expect("read");
    assert_eq!(values(&records), ["before"]);
    assert_eq!(
        broker.committed(GROUP, old).await.expect("committed").map(|c| c.next),
        Some(1),
        "the group is where it was"
    );
    // Another group: a static member of Kafka's classic protocol that comes back within its session is given what it
    // had, and new partitions only at the next rebalance.
    let mut log = broker.consumer("conformance-after", Topic::Findings, "a").await.expect("consumer");
    let held = assigned(&mut log).await;
    assert_eq!(held.into_iter().collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert_eq!(values(&read(&mut log, new, 1).await), ["after"]);
    log.close().await.expect("close");
}

/// A position that was committed for a group without members is the one that its first member starts at.
pub async fn a_first_position_is_where_a_group_begins<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    let id = partition(Topic::Alerts, 0);
    let mut appender = broker.appender().await.expect("appender");
    appender.append(vec![record(Topic::Alerts, 0, "0"), record(Topic::Alerts, 0, "1")]).await.expect("append");
    broker.commit_first(GROUP, id, 1).await.expect("commit");
    assert_eq!(broker.committed(GROUP, id).await.expect("committed").map(|c| c.next), Some(1));
    let (mut log, held) = join(&broker, Topic::Alerts, "a").await;
    assert_eq!(held[&0], 1);
    assert_eq!(values(&read(&mut log, id, 1).await), ["1"]);
    log.close().await.expect("close");
}
