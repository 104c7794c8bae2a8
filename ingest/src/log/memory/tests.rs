//! What only the memory log has: scripted faults and control records.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use schemas::record::OutRecord;
use schemas::time::TimestampMicros;

use super::*;
use crate::log::{Appender as _, Broker as _, Log as _, LogEvent, Txn};

const SOURCE: PartitionId = PartitionId { topic: Topic::Events, partition: 0 };
const CLEAN: PartitionId = PartitionId { topic: Topic::Clean, partition: 0 };

fn record(topic: Topic, value: &'static str) -> OutRecord {
    let value = Some(Bytes::from_static(value.as_bytes()));
    OutRecord { topic, partition: Some(0), timestamp: TimestampMicros(0), key: None, value, headers: Vec::new() }
}

fn step(next: u64) -> Txn {
    let outputs = vec![record(Topic::Clean, "c")];
    Txn { source: SOURCE, consumed: 0..next, outputs, changes: Vec::new(), state_topic: None }
}

async fn joined(broker: &MemoryBroker, records: usize) -> crate::log::in_process::InProcessLog<MemoryStore> {
    broker.create_topics(Topic::ALL, 1).await.unwrap();
    broker.appender().await.unwrap().append(vec![record(Topic::Events, "e"); records]).await.unwrap();
    let mut log = broker.consumer("g", Topic::Events, "a").await.unwrap();
    assert_eq!(log.next().await.unwrap(), LogEvent::Assigned(vec![(SOURCE, 0)]));
    log
}

#[tokio::test]
async fn a_scripted_commit_fault_fires_once_before_or_after_the_effect() {
    for (applied, next) in [(false, None), (true, Some(1))] {
        let broker = MemoryBroker::new();
        let mut log = joined(&broker, 2).await;
        let fault = Fault::Commit { group: "g".to_owned(), applied, class: ErrorClass::AbortTxn };
        broker.inject(Fault::Commit { group: "other".to_owned(), applied, class: ErrorClass::Fatal });
        broker.inject(fault.clone());
        assert_eq!(log.commit(step(1)).await.unwrap_err().class, ErrorClass::AbortTxn);
        assert_eq!(log.committed(SOURCE).await.unwrap().map(|c| c.next), next);
        assert_eq!(broker.records(CLEAN).len(), usize::from(applied));
        assert_eq!(broker.faults(), (vec![fault], 1));
        log.commit(step(2)).await.unwrap();
    }
}

#[tokio::test]
async fn an_append_may_be_written_and_still_answer_retry() {
    let broker = MemoryBroker::new();
    joined(&broker, 0).await;
    broker.inject(Fault::Append { applied: true, class: ErrorClass::Retry { after_ms: 5 } });
    let mut appender = broker.appender().await.unwrap();
    let lost = appender.append(vec![record(Topic::Events, "e")]).await.unwrap_err();
    assert_eq!(lost.class, ErrorClass::Retry { after_ms: 5 });
    assert_eq!(appender.append(vec![record(Topic::Events, "e")]).await.unwrap()[0].offset, 1);
}

#[tokio::test]
async fn short_and_failed_fetches_lose_nothing() {
    let broker = MemoryBroker::new();
    let mut log = joined(&broker, 5).await;
    let group = || "g".to_owned();
    broker.inject(Fault::ShortFetch { group: group(), records_max: 2 });
    broker.inject(Fault::Fetch { group: group(), class: ErrorClass::Retry { after_ms: 1 } });
    let LogEvent::Fetched { records, next, .. } = log.next().await.unwrap() else { panic!("no fetch") };
    assert_eq!((records.len(), next), (2, 2));
    assert_eq!(log.next().await.unwrap_err().class, ErrorClass::Retry { after_ms: 1 });
    let LogEvent::Fetched { records, next, .. } = log.next().await.unwrap() else { panic!("no fetch") };
    assert_eq!((records.len(), next), (3, 5));
}

#[tokio::test]
async fn a_revoked_member_may_finish_and_an_expelled_one_may_not() {
    let broker = MemoryBroker::new();
    let mut log = joined(&broker, 5).await;
    broker.revoke("g", Topic::Events, "a");
    assert_eq!(log.next().await.unwrap(), LogEvent::Revoked(vec![SOURCE]));
    log.commit(step(1)).await.unwrap();
    assert_eq!(log.next().await.unwrap(), LogEvent::Assigned(vec![(SOURCE, 1)]));
    broker.expel("g", Topic::Events, "a");
    assert_eq!(log.commit(step(2)).await.unwrap_err().class, ErrorClass::Fenced);
    assert_eq!(log.next().await.unwrap(), LogEvent::Lost(vec![SOURCE]));
    assert_eq!(log.next().await.unwrap(), LogEvent::Assigned(vec![(SOURCE, 1)]));
}

#[tokio::test]
async fn control_records_take_offsets_and_are_never_read() {
    let broker = MemoryBroker::with_control_records();
    let mut log = joined(&broker, 3).await;
    for next in 1..4 {
        log.commit(step(next)).await.unwrap();
    }
    let mut clean = broker.consumer("h", Topic::Clean, "a").await.unwrap();
    clean.next().await.unwrap();
    let LogEvent::Fetched { records, next, .. } = clean.next().await.unwrap() else { panic!("no fetch") };
    assert_eq!(records.iter().map(|r| r.at.offset).collect::<Vec<_>>(), [0, 2, 4]);
    assert_eq!(next, 6);
    assert_eq!(clean.next().await.unwrap(), LogEvent::Idle);
}

mod conformance {
    //! The suite, without and with control records.

    mod dense {
        //! Offsets without gaps.
        crate::log_conformance!(async || (super::super::MemoryBroker::new(), ()));
    }

    mod with_control_records {
        //! Offsets with gaps.
        crate::log_conformance!(async || (super::super::MemoryBroker::with_control_records(), ()));
    }
}
