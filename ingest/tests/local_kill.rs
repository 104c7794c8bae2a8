//! Kills a writing process with SIGKILL and checks that everything it was answered is there.
//!
//! The binary is its own child: with a directory in [`CHILD`] it appends and commits steps until it is killed
//! and prints what was acknowledged. It is no test of power cuts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use bytes::Bytes;
use ingest::log::local::LocalBroker;
use ingest::log::{Appender as _, Broker as _, Log as _, LogEvent, Txn};
use schemas::record::{OutRecord, PartitionId};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

const CHILD: &str = "CUSTODY_LOCAL_KILL_DIR";
const EVENTS: PartitionId = PartitionId { topic: Topic::Events, partition: 0 };
const CLEAN: PartitionId = PartitionId { topic: Topic::Clean, partition: 0 };
const STATE: PartitionId = PartitionId { topic: Topic::StatePii, partition: 0 };

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match std::env::var_os(CHILD) {
        Some(dir) => runtime.block_on(write_for_ever(LocalBroker::open(dir, None).unwrap())),
        None => runtime.block_on(kill_and_check()),
    }
}

fn record(topic: Topic, offset: u64) -> OutRecord {
    let value = Some(Bytes::from(format!("{offset:0>1000}")));
    OutRecord { topic, partition: Some(0), timestamp: TimestampMicros(0), key: None, value, headers: Vec::new() }
}

/// Appends ten records and commits a step over them, again and again; one line per answer.
async fn write_for_ever(broker: LocalBroker) {
    broker.create_topics(Topic::ALL, 1).await.unwrap();
    let mut appender = broker.appender().await.unwrap();
    let mut log = broker.consumer("g", Topic::Events, "a").await.unwrap();
    let mut out = std::io::stdout();
    loop {
        match log.next().await.unwrap() {
            LogEvent::Fetched { partition, records, next } => {
                let outputs = records.iter().map(|r| record(Topic::Clean, r.at.offset)).collect();
                let changes = vec![(Bytes::from("next"), Some(Bytes::from(next.to_string())))];
                let consumed = records[0].at.offset..next;
                let state_topic = Some(Topic::StatePii);
                log.commit(Txn { source: partition, consumed, outputs, changes, state_topic }).await.unwrap();
                writeln!(out, "step {next}").unwrap();
            }
            _ => {
                let start = log.bounds(EVENTS).await.unwrap().end;
                let records = (start..start + 10).map(|offset| record(Topic::Events, offset)).collect();
                let last = appender.append(records).await.unwrap().last().unwrap().offset;
                writeln!(out, "append {}", last + 1).unwrap();
            }
        }
        out.flush().unwrap();
    }
}

async fn kill_and_check() {
    let dir = tempfile::tempdir().unwrap();
    let (mut appended, mut stepped) = (0, 0);
    for lines in [7, 31, 2, 64, 5, 19, 90, 3, 44, 12] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in answers.take(lines) {
            let line = line.unwrap();
            let (kind, next) = line.split_once(' ').unwrap();
            let next: u64 = next.parse().unwrap();
            match kind {
                "append" => appended = next,
                _ => stepped = next,
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        check(dir.path(), appended, stepped).await;
    }
    println!("10 kills, {appended} records appended, {stepped} stepped: all there");
}

async fn check(dir: &std::path::Path, appended: u64, stepped: u64) {
    let broker = LocalBroker::open(dir, None).unwrap();
    let mut log = broker.consumer("g", Topic::Events, "check").await.unwrap();
    let next = log.committed(EVENTS).await.unwrap().map_or(0, |c| c.next);
    assert!(next >= stepped, "a step up to {stepped} was acknowledged, {next} is held");
    let clean = contents(&broker, CLEAN).await;
    assert_eq!(clean, (0..next).collect::<Vec<_>>(), "outputs are those of the committed steps, each once");
    let state: Vec<u64> =
        log.restore(STATE).await.unwrap().iter().map(|(_, v)| String::from_utf8_lossy(v).parse().unwrap()).collect();
    assert_eq!(state, if next == 0 { vec![] } else { vec![next] }, "the state is that of the last step");
    let events = contents(&broker, EVENTS).await;
    assert!(events.len() as u64 >= appended, "{appended} records were acknowledged, {} are held", events.len());
    assert_eq!(events, (0..events.len() as u64).collect::<Vec<_>>());
}

/// The numbers in a partition's records.
async fn contents(broker: &LocalBroker, of: PartitionId) -> Vec<u64> {
    let mut log = broker.consumer("oracle", of.topic, "oracle").await.unwrap();
    let mut numbers = Vec::new();
    loop {
        match log.next().await.unwrap() {
            LogEvent::Fetched { records, .. } => {
                let number = |v: &Bytes| String::from_utf8_lossy(v).parse::<u64>().unwrap();
                numbers.extend(records.iter().map(|r| number(r.value.as_ref().unwrap())));
            }
            LogEvent::Idle => return numbers,
            _ => {}
        }
    }
}
