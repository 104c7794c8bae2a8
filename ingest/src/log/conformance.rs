//! What every log must do, as checks over any [`Broker`]; each panics with the claim that failed.
//!
//! Each check takes a broker whose topics and groups nobody has used. A caller makes one test per
//! check with [`log_conformance!`](crate::log_conformance). It checks no speed and no faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::record::{OutRecord, PartitionId, Position, Record};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, partition_of};

use super::{Appender, Broker, Committed, ErrorClass, Log, LogError, LogEvent, METADATA_BYTES_MAX, Txn};

mod growth;
mod held;
mod outside;

pub use growth::{a_first_position_is_where_a_group_begins, a_topic_grows_and_keeps_what_it_holds};
pub use held::a_held_partition_waits_until_it_is_sought;
pub use outside::the_log_can_be_read_from_outside;

/// Most `Idle` answers before a check gives up: about a minute on a log that waits 100 ms.
const IDLE_MAX: usize = 600;
const GROUP: &str = "conformance";
const PARTITIONS: u32 = 4;

fn partition(topic: Topic, partition: u32) -> PartitionId {
    PartitionId { topic, partition }
}

fn events(number: u32) -> PartitionId {
    partition(Topic::Events, number)
}

fn record(topic: Topic, partition: u32, value: &str) -> OutRecord {
    OutRecord {
        topic,
        partition: Some(partition),
        timestamp: TimestampMicros::from_ms(1_700_000_000_000),
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Vec::new(),
    }
}

fn step(source: PartitionId, consumed: std::ops::Range<u64>, outputs: Vec<OutRecord>) -> Txn {
    Txn { source, consumed, outputs, changes: Vec::new(), state_topic: None }
}

fn change(key: &str, value: Option<&str>) -> super::StateChange {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    (bytes(key), value.map(bytes))
}

fn values(records: &[Record]) -> Vec<String> {
    let text = |r: &Record| String::from_utf8_lossy(r.value.as_deref().unwrap_or(b"<tombstone>")).into_owned();
    records.iter().map(text).collect()
}

fn class<T: std::fmt::Debug>(result: Result<T, LogError>) -> ErrorClass {
    result.expect_err("an error").class
}

async fn ready<B: Broker>(broker: &B, partitions: u32) {
    broker.create_topics(Topic::ALL, partitions).await.expect("topics are created");
}

async fn append<B: Broker>(broker: &B, partition: u32, texts: &[&str]) -> Vec<Position> {
    let records = texts.iter().map(|t| record(Topic::Events, partition, t)).collect();
    broker.appender().await.expect("appender").append(records).await.expect("append")
}

async fn join<B: Broker>(broker: &B, topic: Topic, instance: &str) -> (B::Log, BTreeMap<u32, u64>) {
    let mut log = broker.consumer(GROUP, topic, instance).await.expect("consumer");
    let assigned = assigned(&mut log).await;
    (log, assigned)
}

async fn assigned<L: Log>(log: &mut L) -> BTreeMap<u32, u64> {
    for _ in 0..IDLE_MAX {
        match log.next().await.expect("next") {
            LogEvent::Assigned(partitions) => return partitions.iter().map(|(p, o)| (p.partition, *o)).collect(),
            LogEvent::Idle => {}
            other => panic!("expected an assignment, got {other:?}"),
        }
    }
    panic!("no assignment");
}

/// The next `count` records of one partition; fetches of others are dropped.
async fn read<L: Log>(log: &mut L, from: PartitionId, count: usize) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    let mut idle = 0;
    while records.len() < count && idle < IDLE_MAX {
        match log.next().await.expect("next") {
            LogEvent::Fetched { partition, records: more, next } if partition == from => {
                assert!(!more.is_empty(), "a fetch is never empty");
                assert!(more.last().is_some_and(|r| r.at.offset < next), "next lies behind the last record");
                records.extend(more);
            }
            LogEvent::Idle => idle += 1,
            _ => {}
        }
    }
    assert!(records.len() >= count, "{} of {count} records of {from:?}", records.len());
    records
}

/// Everything in a partition, read by a group of its own.
async fn contents<B: Broker>(broker: &B, of: PartitionId) -> Vec<Record> {
    let mut log = broker.consumer(&format!("{GROUP}-oracle"), of.topic, "oracle").await.expect("consumer");
    let held = assigned(&mut log).await;
    assert!(held.contains_key(&of.partition), "the only member owns every partition");
    log.seek(of, 0).await.expect("seek");
    let mut records = Vec::new();
    loop {
        match log.next().await.expect("next") {
            LogEvent::Fetched { partition, records: more, .. } if partition == of => records.extend(more),
            LogEvent::Idle => break,
            _ => {}
        }
    }
    log.close().await.expect("close");
    records
}

/// Offsets that an appender gets are dense from 0, and answered in order.
pub async fn appended_offsets_are_dense<B: Broker>(broker: B) {
    ready(&broker, PARTITIONS).await;
    let mut appender = broker.appender().await.expect("appender");
    for round in 0..3_u64 {
        let records = (0..10).map(|i| record(Topic::Events, i % 2, "x")).collect();
        let positions = appender.append(records).await.expect("append");
        let expected: Vec<Position> =
            (0..10).map(|i| Position { partition: events(i % 2), offset: round * 5 + u64::from(i / 2) }).collect();
        assert_eq!(positions, expected, "round {round}");
    }
}

/// Records of a partition arrive in the order of their offsets, each once.
pub async fn records_arrive_in_order_and_once<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    let texts: Vec<String> = (0..1_000).map(|i| i.to_string()).collect();
    for chunk in texts.chunks(137) {
        append(&broker, 0, &chunk.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    let records = read(&mut log, events(0), 1_000).await;
    assert_eq!(values(&records), texts);
    assert!(records.iter().enumerate().all(|(i, r)| r.at.offset == i as u64));
}

/// A record without a partition goes where its key says.
pub async fn the_key_chooses_the_partition<B: Broker>(broker: B) {
    ready(&broker, PARTITIONS).await;
    let keys: Vec<Bytes> = (0..20).map(|i| Bytes::from(format!("key-{i}"))).collect();
    let keyed = |key: &Bytes| OutRecord { partition: None, key: Some(key.clone()), ..record(Topic::Events, 0, "x") };
    let records = keys.iter().map(keyed).collect();
    let positions = broker.appender().await.expect("appender").append(records).await.expect("append");
    let got: Vec<u32> = positions.iter().map(|p| p.partition.partition).collect();
    assert_eq!(got, keys.iter().map(|k| partition_of(k, PARTITIONS)).collect::<Vec<_>>());
}

/// Outputs, state and position of a step are there together.
pub async fn a_step_is_outputs_state_and_position_together<B: Broker>(broker: B) {
    ready(&broker, 2).await;
    append(&broker, 1, &["a", "b"]).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    read(&mut log, events(1), 2).await;
    let outputs = vec![record(Topic::Clean, 1, "A"), record(Topic::Clean, 1, "B"), record(Topic::Findings, 0, "F")];
    let txn = Txn {
        changes: vec![change("s", Some("1"))],
        state_topic: Some(Topic::StatePii),
        ..step(events(1), 0..2, outputs)
    };
    log.commit(txn).await.expect("commit");
    assert_eq!(log.committed(events(1)).await.expect("committed").map(|c| c.next), Some(2));
    let state = log.restore(partition(Topic::StatePii, 1)).await.expect("restore");
    assert_eq!(state, [(Bytes::from("s"), Bytes::from("1"))]);
    assert_eq!(values(&contents(&broker, partition(Topic::Clean, 1)).await), ["A", "B"]);
    assert_eq!(values(&contents(&broker, partition(Topic::Findings, 0)).await), ["F"]);
}

/// A step that is refused leaves nothing behind.
pub async fn a_refused_step_leaves_nothing<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    append(&broker, 0, &["a"]).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    read(&mut log, events(0), 1).await;
    let outputs = vec![record(Topic::Clean, 0, "whole"), record(Topic::Clean, 7, "no such partition")];
    let txn = Txn {
        changes: vec![change("s", Some("1"))],
        state_topic: Some(Topic::StatePii),
        ..step(events(0), 0..1, outputs)
    };
    log.commit(txn).await.expect_err("partition 7 of 1 is refused");
    assert_eq!(log.committed(events(0)).await.expect("committed"), None);
    assert_eq!(log.restore(partition(Topic::StatePii, 0)).await.expect("restore"), []);
    assert_eq!(contents(&broker, partition(Topic::Clean, 0)).await, []);
}

/// Restore gives the newest value of each live key, in key order, of that partition only.
pub async fn restore_gives_the_live_entries<B: Broker>(broker: B) {
    ready(&broker, 2).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    let rounds: [&[super::StateChange]; 3] = [
        &[change("a", Some("1")), change("b", Some("1")), change("empty", Some(""))],
        &[change("a", Some("2")), change("b", None), change("c", Some("1"))],
        &[change("d", Some("1")), change("d", None), change("never", None)],
    ];
    for (i, changes) in (0_u64..).zip(rounds) {
        let txn = step(events(0), i..i + 1, Vec::new());
        let txn = Txn { changes: changes.to_vec(), state_topic: Some(Topic::StateScore), ..txn };
        log.commit(txn).await.expect("commit");
    }
    let entry = |k: &'static str, v: &'static str| (Bytes::from(k), Bytes::from(v));
    let state = log.restore(partition(Topic::StateScore, 0)).await.expect("restore");
    assert_eq!(state, [entry("a", "2"), entry("c", "1"), entry("empty", "")]);
    assert_eq!(log.restore(partition(Topic::StateScore, 1)).await.expect("restore"), []);
}

/// After a seek, reading resumes there, forwards or backwards.
pub async fn seek_moves_the_position<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    append(&broker, 0, &["0", "1", "2", "3", "4"]).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    assert_eq!(values(&read(&mut log, events(0), 5).await), ["0", "1", "2", "3", "4"]);
    log.seek(events(0), 3).await.expect("seek back");
    assert_eq!(values(&read(&mut log, events(0), 2).await), ["3", "4"]);
    log.seek(events(0), 0).await.expect("seek to the start");
    assert_eq!(values(&read(&mut log, events(0), 5).await).len(), 5);
}

/// Metadata of up to 4096 bytes comes back as it was committed; more is refused.
pub async fn committed_metadata_round_trips<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    append(&broker, 0, &["a", "b"]).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    assert_eq!(log.committed(events(0)).await.expect("committed"), None, "nothing was committed yet");
    let long = "é".repeat(METADATA_BYTES_MAX / 2);
    for metadata in ["", "i1;last=9;tok=x", long.as_str()] {
        let committed = Committed { next: 1, metadata: metadata.to_owned() };
        log.commit_offset(events(0), committed.clone()).await.expect("commit");
        assert_eq!(log.committed(events(0)).await.expect("committed"), Some(committed));
    }
    let too_long = Committed { next: 2, metadata: "x".repeat(METADATA_BYTES_MAX + 1) };
    log.commit_offset(events(0), too_long).await.expect_err("4097 bytes are refused");
    assert_eq!(log.committed(events(0)).await.expect("committed").map(|c| c.next), Some(1));
}

/// A new member starts where the group committed, not where the old one had read to.
pub async fn a_restart_continues_at_the_committed_offset<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    append(&broker, 0, &["0", "1", "2", "3"]).await;
    let (mut log, start) = join(&broker, Topic::Events, "a").await;
    assert_eq!(start, BTreeMap::from([(0, 0)]));
    read(&mut log, events(0), 4).await;
    log.commit(step(events(0), 0..2, vec![record(Topic::Clean, 0, "x")])).await.expect("commit");
    log.close().await.expect("close");
    let (mut log, start) = join(&broker, Topic::Events, "a").await;
    assert_eq!(start, BTreeMap::from([(0, 2)]));
    assert_eq!(values(&read(&mut log, events(0), 2).await), ["2", "3"]);
}

/// A successor of the same instance fences the older handle: it can commit nothing any more.
pub async fn a_successor_fences_its_predecessor<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    append(&broker, 0, &["0", "1"]).await;
    let (mut old, _) = join(&broker, Topic::Events, "a").await;
    read(&mut old, events(0), 2).await;
    let (mut new, start) = join(&broker, Topic::Events, "a").await;
    assert_eq!(start, BTreeMap::from([(0, 0)]));
    let zombie = step(events(0), 0..2, vec![record(Topic::Clean, 0, "zombie")]);
    assert_eq!(class(old.commit(zombie).await), ErrorClass::Fenced);
    let position = Committed { next: 2, metadata: String::new() };
    assert_eq!(class(old.commit_offset(events(0), position).await), ErrorClass::Fenced);
    read(&mut new, events(0), 2).await;
    new.commit(step(events(0), 0..1, vec![record(Topic::Clean, 0, "new")])).await.expect("the successor commits");
    assert_eq!(new.committed(events(0)).await.expect("committed").map(|c| c.next), Some(1));
    assert_eq!(values(&contents(&broker, partition(Topic::Clean, 0)).await), ["new"]);
}

/// With a second member, partitions are revoked from the first and assigned to the second, which
/// starts where the first one committed last; when the second leaves, they come back.
///
/// Answers vector#22006: a consumer that stalls after a rebalance.
pub async fn a_rebalance_hands_partitions_over<B: Broker>(broker: B) {
    ready(&broker, PARTITIONS).await;
    for number in 0..PARTITIONS {
        append(&broker, number, &["0", "1", "2"]).await;
    }
    let (mut a, held) = join(&broker, Topic::Events, "a").await;
    assert_eq!(held.len(), PARTITIONS as usize);
    let mut b = broker.consumer(GROUP, Topic::Events, "b").await.expect("consumer");
    let mut parts = Parts { a: held.into_keys().collect(), b: Vec::new(), revoked: 0 };
    for _ in 0..IDLE_MAX {
        parts.turn(&mut a, &mut b).await;
        if parts.a.len() == 2 && parts.b.len() == 2 {
            break;
        }
    }
    assert_eq!((parts.a.len(), parts.b.len(), parts.revoked), (2, 2, 2), "two partitions moved");
    let all: std::collections::BTreeSet<u32> = parts.a.iter().chain(&parts.b).copied().collect();
    assert_eq!(all.len(), PARTITIONS as usize, "no partition has two owners");
    b.close().await.expect("close");
    for _ in 0..IDLE_MAX {
        if parts.a.len() == PARTITIONS as usize {
            return;
        }
        if let LogEvent::Assigned(back) = a.next().await.expect("next") {
            assert!(back.iter().all(|(_, next)| *next == 1), "both start where the other committed");
            parts.a.extend(back.iter().map(|(p, _)| p.partition));
        }
    }
    panic!("the partitions did not come back: {:?}", parts.a);
}

/// What two members own during a rebalance.
struct Parts {
    a: Vec<u32>,
    b: Vec<u32>,
    revoked: usize,
}

impl Parts {
    /// One event of each; a revoked partition is committed at 1 before it is released.
    async fn turn<L: Log>(&mut self, a: &mut L, b: &mut L) {
        match a.next().await.expect("next of a") {
            LogEvent::Revoked(gone) => {
                for id in &gone {
                    a.commit(step(*id, 0..1, vec![record(Topic::Clean, id.partition, "x")]))
                        .await
                        .expect("last commit");
                }
                self.revoked += gone.len();
                self.a.retain(|p| !gone.iter().any(|id| id.partition == *p));
            }
            LogEvent::Assigned(more) => self.a.extend(more.iter().map(|(p, _)| p.partition)),
            LogEvent::Lost(gone) => panic!("{gone:?} lost in a rebalance in good order"),
            LogEvent::Fetched { .. } | LogEvent::Idle => {}
        }
        match b.next().await.expect("next of b") {
            LogEvent::Assigned(more) => {
                assert!(more.iter().all(|(_, next)| *next == 1), "starts behind the last commit: {more:?}");
                self.b.extend(more.iter().map(|(p, _)| p.partition));
            }
            LogEvent::Revoked(gone) | LogEvent::Lost(gone) => panic!("b has lost {gone:?}"),
            LogEvent::Fetched { .. } | LogEvent::Idle => {}
        }
    }
}

/// Times (to the millisecond), keys, headers, tombstones, empty values and values of 1 MiB arrive as they were sent.
pub async fn every_part_of_a_record_survives<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    let headers = vec![
        ("h".to_owned(), Bytes::from_static(b"1")),
        ("h".to_owned(), Bytes::from_static(&[0, 255])),
        ("empty".to_owned(), Bytes::new()),
    ];
    let at = |ms| TimestampMicros::from_ms(ms);
    let base = record(Topic::Events, 0, "value");
    let sent = [
        OutRecord { headers, timestamp: TimestampMicros(1_700_000_000_123_999), ..base.clone() },
        OutRecord { key: None, timestamp: at(1), ..base.clone() },
        OutRecord { key: Some(Bytes::new()), value: Some(Bytes::new()), ..base.clone() },
        OutRecord { value: None, ..base.clone() },
        OutRecord { value: Some(Bytes::from(vec![7; 1 << 20])), ..base },
    ];
    broker.appender().await.expect("appender").append(sent.to_vec()).await.expect("append");
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    let got = read(&mut log, events(0), sent.len()).await;
    for (i, (got, sent)) in got.iter().zip(&sent).enumerate() {
        assert_eq!(got.timestamp, at(sent.timestamp.ms()), "time of record {i}");
        assert_eq!((&got.key, &got.headers), (&sent.key, &sent.headers), "record {i}");
        assert_eq!(got.value, sent.value, "value of record {i}");
    }
}

/// Bounds are the first and the next offset.
pub async fn bounds_are_first_and_next<B: Broker>(broker: B) {
    ready(&broker, 2).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    assert_eq!(log.bounds(events(0)).await.expect("bounds"), 0..0);
    append(&broker, 0, &["0", "1", "2"]).await;
    assert_eq!(log.bounds(events(0)).await.expect("bounds"), 0..3);
    assert_eq!(log.bounds(events(1)).await.expect("bounds"), 0..0);
}

/// Topics can be created again; another partition count is refused and changes nothing.
pub async fn create_topics_is_idempotent<B: Broker>(broker: B) {
    assert_eq!(class(broker.partitions(Topic::Events).await), ErrorClass::Fatal);
    assert_eq!(broker.topic_settings(Topic::Events).await.expect("settings"), None);
    ready(&broker, 3).await;
    append(&broker, 2, &["kept"]).await;
    ready(&broker, 3).await;
    assert_eq!(class(broker.create_topics(&[Topic::Events], 4).await), ErrorClass::Fatal);
    assert_eq!(broker.partitions(Topic::Events).await.expect("partitions"), 3);
    assert!(broker.topic_settings(Topic::Events).await.expect("settings").is_some());
    assert_eq!(values(&contents(&broker, events(2)).await), ["kept"]);
}

/// A step without outputs commits its position; one that consumed nothing is fine, too.
pub async fn an_empty_step_is_fine<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    append(&broker, 0, &["0", "1"]).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    for next in [1, 2, 2] {
        log.commit(step(events(0), 0..next, Vec::new())).await.expect("commit");
        assert_eq!(log.committed(events(0)).await.expect("committed").map(|c| c.next), Some(next));
    }
    assert_eq!(broker.appender().await.expect("appender").append(Vec::new()).await.expect("append"), []);
}

/// A consumer at the end says so, and sees what is written afterwards.
pub async fn a_consumer_at_the_end_is_idle<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    append(&broker, 0, &["0"]).await;
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    read(&mut log, events(0), 1).await;
    assert_eq!(log.next().await.expect("next"), LogEvent::Idle);
    append(&broker, 0, &["1"]).await;
    assert_eq!(values(&read(&mut log, events(0), 1).await), ["1"]);
    assert_eq!(log.next().await.expect("next"), LogEvent::Idle);
}

/// Groups do not see each other's positions.
pub async fn groups_are_independent<B: Broker>(broker: B) {
    ready(&broker, 1).await;
    append(&broker, 0, &["0", "1"]).await;
    let (mut one, _) = join(&broker, Topic::Events, "a").await;
    one.commit(step(events(0), 0..2, vec![record(Topic::Clean, 0, "x")])).await.expect("commit");
    let mut two = broker.consumer("another", Topic::Events, "a").await.expect("consumer");
    assert_eq!(assigned(&mut two).await, BTreeMap::from([(0, 0)]));
    assert_eq!(two.committed(events(0)).await.expect("committed"), None);
    assert_eq!(values(&read(&mut two, events(0), 2).await), ["0", "1"]);
}

/// One fetch is bounded in records and bytes, and nothing is lost between fetches.
pub async fn fetches_are_bounded<B: Broker>(broker: B) {
    use schemas::limits::{STEP_BYTES_MAX, STEP_RECORDS_MAX};
    ready(&broker, 1).await;
    let big = OutRecord { value: Some(Bytes::from(vec![1; 1 << 20])), ..record(Topic::Events, 0, "") };
    let mut appender = broker.appender().await.expect("appender");
    appender.append(vec![record(Topic::Events, 0, "small"); STEP_RECORDS_MAX + 10]).await.expect("append");
    for _ in 0..12 {
        appender.append(vec![big.clone()]).await.expect("append");
    }
    let (mut log, _) = join(&broker, Topic::Events, "a").await;
    let mut next_offset = 0;
    let mut idle = 0;
    while next_offset < STEP_RECORDS_MAX as u64 + 22 && idle < IDLE_MAX {
        let LogEvent::Fetched { records, .. } = log.next().await.expect("next") else {
            idle += 1;
            continue;
        };
        let bytes: usize = records.iter().map(|r| r.value.as_ref().map_or(0, Bytes::len)).sum();
        assert!(records.len() <= STEP_RECORDS_MAX && bytes <= STEP_BYTES_MAX, "{} records, {bytes} B", records.len());
        for got in records {
            assert_eq!(got.at.offset, next_offset, "no gap between fetches");
            next_offset += 1;
        }
    }
    assert_eq!(next_offset, STEP_RECORDS_MAX as u64 + 22);
}

/// One test per check. `$fresh` is an async closure or function without arguments that gives a fresh
/// broker and something to keep alive beside it (a directory), or `()`. `dynamic` is for groups whose
/// members have no name that stays: a successor does not take their partitions while they live.
#[macro_export]
macro_rules! log_conformance {
    ($fresh:expr) => {
        $crate::log_conformance!(dynamic $fresh);
        $crate::log_conformance!(@each $fresh, a_successor_fences_its_predecessor);
    };
    (dynamic $fresh:expr) => {
        $crate::log_conformance!(@each $fresh,
            appended_offsets_are_dense, records_arrive_in_order_and_once, the_key_chooses_the_partition,
            a_step_is_outputs_state_and_position_together, a_refused_step_leaves_nothing,
            restore_gives_the_live_entries, seek_moves_the_position, committed_metadata_round_trips,
            a_restart_continues_at_the_committed_offset,
            a_rebalance_hands_partitions_over, every_part_of_a_record_survives, bounds_are_first_and_next,
            the_log_can_be_read_from_outside, a_held_partition_waits_until_it_is_sought,
            create_topics_is_idempotent, an_empty_step_is_fine, a_consumer_at_the_end_is_idle,
            groups_are_independent, fetches_are_bounded,
            a_topic_grows_and_keeps_what_it_holds, a_first_position_is_where_a_group_begins);
    };
    (@each $fresh:expr, $($check:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let (broker, _keep) = ($fresh)().await;
                $crate::log::conformance::$check(broker).await;
            }
        )+
    };
}
