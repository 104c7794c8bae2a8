//! What every log must answer to a reader that belongs to no group.

use schemas::topic::Topic;

use super::{GROUP, append, class, events, join, partition, read, ready, record, step, values};
use crate::log::{Broker, ErrorClass, Log as _};

/// From outside any group: bounds, another group's position, records in order up to the end.
pub async fn the_log_can_be_read_from_outside<B: Broker>(broker: B) {
    ready(&broker, 2).await;
    append(&broker, 0, &["0", "1", "2"]).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    read(&mut log, events(0), 3).await;
    log.commit(step(events(0), 0..2, vec![record(Topic::Clean, 0, "x")])).await.expect("commit");
    assert_eq!(broker.bounds(events(0)).await.expect("bounds"), 0..3);
    assert_eq!(broker.committed(GROUP, events(0)).await.expect("committed").map(|c| c.next), Some(2));
    assert_eq!(broker.committed("another", events(0)).await.expect("committed"), None);
    let (records, next) = broker.read(events(0), 1).await.expect("read");
    assert_eq!((values(&records), next), (vec!["1".to_owned(), "2".to_owned()], 3));
    let (records, next) = broker.read(partition(Topic::Clean, 0), 0).await.expect("read");
    let end = broker.bounds(partition(Topic::Clean, 0)).await.expect("bounds").end;
    assert_eq!(values(&records), ["x"]);
    let (rest, _) = broker.read(partition(Topic::Clean, 0), next).await.expect("read");
    assert_eq!((rest.len(), next <= end), (0, true), "nothing behind the last record");
    assert_eq!(broker.read(events(1), 0).await.expect("read"), (Vec::new(), 0));
    for missing in [broker.bounds(events(2)).await.map(drop), broker.read(events(2), 0).await.map(drop)] {
        assert_eq!(class(missing), ErrorClass::Fatal);
    }
    log.commit(step(events(0), 2..3, Vec::new())).await.expect("looking fenced nobody");
}
