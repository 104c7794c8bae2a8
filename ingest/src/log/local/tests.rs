//! What only the durable log has: reopening, the lock, and damage that must stop it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use schemas::record::OutRecord;
use tempfile::TempDir;

use super::*;
use crate::log::{Appender as _, Broker as _, ErrorClass, Log as _, LogEvent, Txn};

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(dir: &TempDir) -> LocalBroker {
    LocalBroker::open(dir.path(), None).unwrap()
}

fn record(topic: Topic, value: impl Into<Bytes>) -> OutRecord {
    let (timestamp, value) = (TimestampMicros(7_000), Some(value.into()));
    OutRecord { topic, partition: Some(0), timestamp, key: None, value, headers: Vec::new() }
}

const EVENTS: PartitionId = PartitionId { topic: Topic::Events, partition: 0 };
const STATE: PartitionId = PartitionId { topic: Topic::StatePii, partition: 0 };

async fn filled(dir: &TempDir) -> LocalBroker {
    let broker = open(dir);
    broker.create_topics(Topic::ALL, 2).await.unwrap();
    let records = (0..10).map(|i| record(Topic::Events, format!("event {i}"))).collect();
    broker.appender().await.unwrap().append(records).await.unwrap();
    let mut log = broker.consumer("g", Topic::Events, "a").await.unwrap();
    log.next().await.unwrap();
    let txn = Txn {
        source: EVENTS,
        consumed: 0..4,
        outputs: vec![record(Topic::Clean, "clean")],
        changes: vec![(Bytes::from("k"), Some(Bytes::from("v")))],
        state_topic: Some(Topic::StatePii),
    };
    log.commit(txn).await.unwrap();
    broker
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_reopening() {
    let dir = dir();
    drop(filled(&dir).await);
    let broker = open(&dir);
    assert_eq!(broker.partitions(Topic::Clean).await.unwrap(), 2);
    let mut log = broker.consumer("g", Topic::Events, "a").await.unwrap();
    assert!(matches!(log.next().await.unwrap(), LogEvent::Assigned(p) if p[0] == (EVENTS, 4)));
    let LogEvent::Fetched { records, next, .. } = log.next().await.unwrap() else { panic!("no fetch") };
    assert_eq!((records.len(), next), (6, 10));
    assert_eq!(records[0].value.as_deref(), Some(b"event 4".as_slice()));
    assert_eq!(log.restore(STATE).await.unwrap(), [(Bytes::from("k"), Bytes::from("v"))]);
    assert_eq!(log.bounds(STATE).await.unwrap(), 0..1);
    let appended = broker.appender().await.unwrap().append(vec![record(Topic::Events, "x")]).await.unwrap();
    assert_eq!(appended[0].offset, 10);
}

#[tokio::test]
async fn a_second_open_is_refused_and_says_why() {
    let dir = dir();
    let _held = open(&dir);
    let refused = LocalBroker::open(dir.path(), None).unwrap_err();
    assert_eq!(refused.class, ErrorClass::Fatal);
    assert!(refused.to_string().contains("another process has it open"), "{refused}");
}

#[tokio::test]
async fn a_clock_stamps_appends_and_not_steps() {
    let dir = dir();
    let broker = LocalBroker::open(dir.path(), Some(Arc::new(|| TimestampMicros(99_999)))).unwrap();
    broker.create_topics(Topic::ALL, 1).await.unwrap();
    broker.appender().await.unwrap().append(vec![record(Topic::Events, "x")]).await.unwrap();
    let mut log = broker.consumer("g", Topic::Events, "a").await.unwrap();
    log.next().await.unwrap();
    let outputs = vec![record(Topic::Events, "y")];
    let txn = Txn { source: EVENTS, consumed: 0..1, outputs, changes: Vec::new(), state_topic: None };
    log.commit(txn).await.unwrap();
    let LogEvent::Fetched { records, .. } = log.next().await.unwrap() else { panic!("no fetch") };
    assert_eq!(records.iter().map(|r| r.timestamp.0).collect::<Vec<_>>(), [99_000, 7_000]);
}

fn only_file(dir: &TempDir, extension: &str) -> PathBuf {
    let mut stack = vec![dir.path().to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = stack.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Damages the journal by `damage` and checks that opening stops with an error that says so.
async fn check_damage(damage: impl FnOnce(&mut Vec<u8>, usize)) {
    let dir = dir();
    drop(filled(&dir).await);
    let journal = only_file(&dir, "jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    let at = bytes.windows(7).position(|w| w == b"event 5").unwrap();
    damage(&mut bytes, at);
    std::fs::write(&journal, bytes).unwrap();
    let refused = LocalBroker::open(dir.path(), None).map(drop).unwrap_err();
    assert_eq!(refused.class, ErrorClass::Fatal, "{refused}");
}

#[tokio::test]
async fn a_journal_cut_in_acknowledged_data_stops_the_log() {
    check_damage(|bytes, at| bytes.truncate(at)).await;
}

#[tokio::test]
async fn a_journal_overwritten_in_acknowledged_data_stops_the_log() {
    check_damage(|bytes, at| bytes[at - 40..at + 40].fill(0xee)).await;
    check_damage(|bytes, at| bytes[at] = b'E').await;
    check_damage(|bytes, at| bytes[at..].fill(0)).await;
}

#[tokio::test]
async fn a_missing_count_of_commits_stops_the_log() {
    let dir = dir();
    drop(filled(&dir).await);
    std::fs::remove_file(dir.path().join("answered-commits")).unwrap();
    assert_eq!(LocalBroker::open(dir.path(), None).map(drop).unwrap_err().class, ErrorClass::Fatal);
}

#[tokio::test]
async fn a_missing_record_stops_the_reader() {
    let dir = dir();
    let broker = filled(&dir).await;
    let inner = &broker.store().inner;
    inner.records.remove(layout::record_key(inner.key(EVENTS).unwrap(), 6)).unwrap();
    let missing = inner.read(EVENTS, 4, 100, 1 << 20).unwrap_err();
    assert_eq!(missing.class, ErrorClass::Fatal);
    assert!(missing.to_string().contains("offset 6 is missing"), "{missing}");
}

mod conformance {
    //! The suite.
    crate::log_conformance!(async || {
        let dir = super::dir();
        (super::open(&dir), dir)
    });
}
