//! The log conformance suite on real Kafka, at `CUSTODY_TEST_KAFKA` (host:port).
//!
//! Start one with `docker/kafka-local.sh start`. Each check has topics of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/group.rs"]
mod group;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use group::give_up;
use ingest::log::kafka::{GroupProtocol, KafkaBroker, KafkaConfig};
use ingest::log::{Appender as _, Broker as _, Committed, ErrorClass, Log, LogEvent, Txn};
use ingest::log_conformance;
use schemas::record::{OutRecord, PartitionId, Record};
use schemas::testing::until_async;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

/// A broker on topics that nobody has used, whose groups have the classic protocol.
async fn fresh() -> (KafkaBroker, ()) {
    broker(GroupProtocol::Classic, BTreeMap::new())
}

/// A protocol of groups, and settings of the topics.
fn broker(group_protocol: GroupProtocol, topic: BTreeMap<String, String>) -> (KafkaBroker, ()) {
    (named(group_protocol, topic).0, ())
}

fn bootstrap() -> String {
    std::env::var("CUSTODY_TEST_KAFKA")
        .expect("CUSTODY_TEST_KAFKA is not set: start a broker with docker/kafka-local.sh and set it to host:port")
}

/// And with which prefix of its topics and groups.
fn named(group_protocol: GroupProtocol, topic: BTreeMap<String, String>) -> (KafkaBroker, String) {
    let bootstrap = bootstrap();
    let reachable = std::net::TcpStream::connect(&bootstrap);
    assert!(reachable.is_ok(), "no broker answers at CUSTODY_TEST_KAFKA={bootstrap}: {reachable:?}");
    let namespace = format!("test-{}.", uuid::Uuid::new_v4());
    let client_id = "conformance".to_owned();
    let prefix = namespace.clone();
    let config = KafkaConfig { bootstrap, client_id, topic, namespace, group_protocol, ..KafkaConfig::default() };
    (KafkaBroker::new(config).unwrap(), prefix)
}

log_conformance!(fresh);

/// KIP-848: the brokers assign, members are dynamic.
mod consumer_protocol {
    use super::*;

    async fn fresh() -> (KafkaBroker, ()) {
        broker(GroupProtocol::Consumer, BTreeMap::new())
    }

    log_conformance!(dynamic fresh);

    /// Its steps are fenced by its producer's name; once it has gone, the group gives its partitions away.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_successor_fences_the_steps_of_its_predecessor() {
        let (broker, ()) = fresh().await;
        broker.create_topics(Topic::ALL, 1).await.unwrap();
        broker.appender().await.unwrap().append(vec![record(Topic::Events, 1)]).await.unwrap();
        let mut old = broker.consumer("g", Topic::Events, "a").await.unwrap();
        assert_eq!(read_all(&mut old).await.len(), 1);
        let mut new = broker.consumer("g", Topic::Events, "a").await.unwrap();
        let refused = old.commit(step(vec![record(Topic::Clean, 3)])).await.unwrap_err();
        assert_eq!(refused.class, ErrorClass::Fenced, "{refused}");
        old.close().await.unwrap();
        assert_eq!(read_all(&mut new).await.len(), 1, "nothing was committed");
        new.commit(step(vec![record(Topic::Clean, 5)])).await.unwrap();
        let mut clean = broker.consumer("g", Topic::Clean, "a").await.unwrap();
        let seen = read_all(&mut clean).await;
        assert_eq!(seen.iter().map(|r| r.value.as_ref().map_or(0, Bytes::len)).collect::<Vec<_>>(), [5]);
    }
}

/// A member that the group gave up and that does not know it yet has a range in hand, which another has read
/// meanwhile. Once it is a member again, the brokers would take its commit.
///
/// A `load` that does so moves its group back, and inserts rows again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_in_an_earlier_membership_is_not_committed() {
    let (broker, namespace) = named(GroupProtocol::Classic, BTreeMap::new());
    broker.create_topics(Topic::ALL, 1).await.unwrap();
    broker.appender().await.unwrap().append(vec![record(Topic::Events, 1); 4]).await.unwrap();
    let mut old = broker.consumer("g", Topic::Events, "a").await.unwrap();
    assert_eq!(read_all(&mut old).await.len(), 4);
    let group = format!("{namespace}g");
    assert!(give_up(&bootstrap(), &group, "a-custody.events.v1"));
    let mut new = broker.consumer("g", Topic::Events, "b").await.unwrap();
    assert_eq!(read_all(&mut new).await.len(), 4, "nothing was committed");
    new.commit(Txn { consumed: 0..3, ..step(vec![record(Topic::Clean, 3)]) }).await.unwrap();
    // Long enough to hear of it by the next heartbeat, and to join again.
    let rejoined = Instant::now() + Duration::from_secs(8);
    while Instant::now() < rejoined {
        let _event = tokio::time::timeout(Duration::from_millis(200), new.next()).await;
    }
    let intent = Committed { next: 0, metadata: "intent".to_owned() };
    let refused = old.commit_offset(SOURCE, intent).await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::AbortTxn, "{refused}");
    let refused = old.commit(step(vec![record(Topic::Clean, 5)])).await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::AbortTxn, "{refused}");
    let again = Txn { changes: Vec::new(), ..step(Vec::new()) };
    let refused = old.commit(again).await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::AbortTxn, "{refused}");
    let committed = broker.committed("g", SOURCE).await.unwrap().unwrap();
    assert_eq!((committed.next, committed.metadata.as_str()), (3, ""));
    assert!(matches!(old.next().await.unwrap(), LogEvent::Lost(lost) if lost == [SOURCE]));
}

const SOURCE: PartitionId = PartitionId { topic: Topic::Events, partition: 0 };

fn record(topic: Topic, value_bytes: usize) -> OutRecord {
    let (timestamp, value) = (TimestampMicros::from_ms(1), Some(Bytes::from(vec![0; value_bytes])));
    OutRecord { topic, partition: Some(0), timestamp, key: None, value, headers: Vec::new() }
}

fn step(outputs: Vec<OutRecord>) -> Txn {
    let changes = vec![(Bytes::from("k"), Some(Bytes::from("v")))];
    Txn { source: SOURCE, consumed: 0..1, outputs, changes, state_topic: Some(Topic::StatePii) }
}

/// Records until the consumer says that it has read everything.
async fn read_all(log: &mut impl Log) -> Vec<Record> {
    let (mut records, mut assigned) = (Vec::new(), false);
    until_async("read", async || match log.next().await.unwrap() {
        LogEvent::Fetched { records: more, .. } => {
            records.extend(more);
            false
        }
        LogEvent::Assigned(_) => {
            assigned = true;
            false
        }
        event => event == LogEvent::Idle && assigned,
    })
    .await;
    records
}

/// The second record is larger than any broker setting here allows, and the first has been sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_step_is_never_seen_and_leaves_a_gap_in_the_offsets() {
    let (broker, ()) = fresh().await;
    broker.create_topics(Topic::ALL, 1).await.unwrap();
    broker.appender().await.unwrap().append(vec![record(Topic::Events, 1)]).await.unwrap();
    let mut log = broker.consumer("g", Topic::Events, "a").await.unwrap();
    assert_eq!(read_all(&mut log).await.len(), 1);
    let mut outputs = vec![record(Topic::Clean, 1_000); 20_000];
    outputs.push(record(Topic::Clean, 9 << 20));
    let refused = log.commit(step(outputs)).await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::Fatal, "{refused}");
    assert_eq!(log.committed(SOURCE).await.unwrap(), None);
    let state = PartitionId { topic: Topic::StatePii, partition: 0 };
    assert_eq!(log.restore(state).await.unwrap(), []);
    log.commit(step(vec![record(Topic::Clean, 5)])).await.unwrap();
    assert_eq!(log.restore(state).await.unwrap().len(), 1);
    let mut clean = broker.consumer("g", Topic::Clean, "a").await.unwrap();
    let seen = read_all(&mut clean).await;
    assert_eq!(seen.len(), 1, "only the record of the committed step");
    assert!(seen[0].at.offset > 0, "the aborted records and their marker took offsets");
}

/// Brokers end a transaction that nobody aborts after 15 s and more: whoever reads behind it would wait so long.
const ABORT_WAIT: Duration = Duration::from_secs(15);

/// The broker refuses one record of the step while the others are on their way: an abort waits until it
/// has heard of them all. A slow machine has more time, by what a step without the record took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_a_broker_refuses_is_aborted_at_once() {
    let (broker, ()) = broker(GroupProtocol::Classic, [("max.message.bytes".to_owned(), "1000000".to_owned())].into());
    broker.create_topics(Topic::ALL, 1).await.unwrap();
    broker.appender().await.unwrap().append(vec![record(Topic::Events, 1); 2]).await.unwrap();
    let mut log = broker.consumer("g", Topic::Events, "a").await.unwrap();
    assert_eq!(read_all(&mut log).await.len(), 2);
    let clean = vec![record(Topic::Clean, 1_000); 20_000];
    let begun = Instant::now();
    log.commit(Txn { changes: Vec::new(), ..step(clean.clone()) }).await.unwrap();
    let whole = begun.elapsed();
    let mut outputs = vec![record(Topic::Findings, 0)];
    // Nothing that compression could make small enough.
    outputs[0].value = Some((0..1_500_000).map(|_| fastrand::u8(..)).collect());
    outputs.extend(clean);
    let begun = Instant::now();
    let refused = log.commit(Txn { consumed: 1..2, ..step(outputs) }).await.unwrap_err();
    let took = begun.elapsed();
    assert!(took < ABORT_WAIT.max(whole * 3), "aborted in {took:?}, a whole step took {whole:?}: {refused}");
    // A call that is under way when the refusal comes is not told why: the step is tried again then.
    assert!(matches!(refused.class, ErrorClass::Fatal | ErrorClass::AbortTxn), "{refused}");
    let state = PartitionId { topic: Topic::StatePii, partition: 0 };
    assert_eq!(log.restore(state).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_setting_is_refused_and_an_unreachable_broker_is_not_fatal() {
    let extra = [("no.such.setting".to_owned(), "1".to_owned())].into();
    let config = KafkaConfig { bootstrap: "127.0.0.1:9".to_owned(), ..KafkaConfig::default() };
    let refused = KafkaBroker::new(KafkaConfig { extra, ..config.clone() }).map(drop).unwrap_err();
    assert_eq!(refused.class, ErrorClass::Fatal);
    let unreachable = KafkaBroker::new(config).unwrap().partitions(Topic::Events).await.unwrap_err();
    assert!(matches!(unreachable.class, ErrorClass::Retry { .. }), "{unreachable}");
}
