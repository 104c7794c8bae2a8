//! The status of a local log and a local store, and its text.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;

use ingest::log::local::LocalBroker;
use ingest::log::{Appender as _, Broker};
use schemas::record::{OutRecord, Record};
use sinks::parquet::archive::ArchiveConfig;
use sinks::parquet::testing::fixture::{NINE, event, tick};

use super::archive::{ObjectStatus, TopicArchive};
use super::*;
use crate::archive_role::ArchiveRole;
use crate::roles;
use crate::runner::control::Control;

const PARTITIONS: u32 = 2;

fn at(ms: i64) -> TimestampMicros {
    TimestampMicros::from_ms(NINE + ms)
}

/// Appends records to the clean topic as they stand.
async fn append(broker: &LocalBroker, partition: u32, records: impl IntoIterator<Item = Record>) {
    let out = |record: Record| OutRecord {
        topic: Topic::Clean,
        partition: Some(partition),
        timestamp: record.timestamp,
        key: Some("k".into()),
        value: record.value,
        headers: record.headers,
    };
    let records = records.into_iter().map(out).collect();
    broker.appender().await.expect("appender").append(records).await.expect("appended");
}

async fn installed(dir: &Path) -> LocalBroker {
    let broker = LocalBroker::open(dir.join("log"), None).expect("log");
    roles::create_topics(&broker, PARTITIONS).await.expect("topics");
    broker
}

/// Archives what the clean topic holds, to its end.
async fn archive(broker: &LocalBroker, store: &Store) {
    let role = ArchiveRole::open(store.clone(), ArchiveConfig::default()).await.expect("archive");
    let control = Control::default();
    control.upstream_done.raise();
    roles::sink(broker.clone(), "custody-archive", Topic::Clean, role, control).await.expect("archived");
}

fn sources(store: Result<Store, String>) -> Sources {
    Sources { clickhouse: None, store, receivers: Vec::new() }
}

fn clean(status: &Status) -> &TopicArchive {
    status.archive.topics.iter().find(|t| t.topic == Topic::Clean.name()).expect("the clean topic")
}

#[tokio::test]
async fn the_archive_shows_its_newest_object_and_what_waits_behind_it() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    let sources = sources(Ok(Store::local(&dir.path().join("store")).expect("store")));
    let store = sources.store.clone().expect("a store");

    let empty = gather(&broker, &sources, at(0)).await.expect("status");
    let nothing =
        TopicArchive { topic: Topic::Clean.name().to_owned(), last_object: None, oldest_unflushed_seconds: Some(0.0) };
    assert_eq!(clean(&empty), &nothing);
    assert_eq!((empty.archive.topics.len(), empty.archive.error.as_str()), (3, ""));

    append(&broker, 0, (0..5).map(|offset| event(offset, 1_000, 10))).await;
    let waiting = gather(&broker, &sources, at(4_000)).await.expect("status");
    assert_eq!(clean(&waiting), &TopicArchive { oldest_unflushed_seconds: Some(3.0), ..nothing });
    archive(&broker, &store).await;
    append(&broker, 1, (0..7).map(|offset| event(offset, 2_000, 10))).await;
    archive(&broker, &store).await;
    // Ticks wait for nobody; the oldest of two partitions counts.
    append(&broker, 0, [tick(5, 3_000), event(6, 5_000, 10)]).await;
    append(&broker, 1, [tick(7, 3_000), event(8, 6_000, 10)]).await;

    let now = crate::clock::now();
    let status = gather(&broker, &sources, at(9_000)).await.expect("status");
    assert_eq!(clean(&status).oldest_unflushed_seconds, Some(4.0));
    let last = clean(&status).last_object.clone().expect("an object");
    assert_eq!(last.rows, 7, "the object of partition 1 was published last");
    assert!(dir.path().join("store").join(&last.key).exists(), "{}", last.key);
    let status = gather(&broker, &sources, now.plus_ms(60_000)).await.expect("status");
    let age = clean(&status).last_object.as_ref().expect("an object").seal_age_seconds;
    assert!((60.0..120.0).contains(&age), "{age}");
}

#[tokio::test]
async fn a_store_that_is_away_leaves_the_rest_of_the_answer() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    append(&broker, 0, [event(0, 1_000, 10)]).await;
    let config = crate::config::Config { data_dir: dir.path().to_owned(), ..crate::config::Config::default() };
    let store = crate::operate::connect::store(&config);
    let status = gather(&broker, &sources(store), at(3_000)).await.expect("status");
    assert!(status.archive.error.contains("there is no archive in"), "{}", status.archive.error);
    assert!(!dir.path().join("store").exists(), "asking makes nothing");
    assert_eq!(clean(&status).oldest_unflushed_seconds, Some(2.0));
    assert_eq!(status.readers.len(), pipeline_readers().len());

    let store = Store::local(&dir.path().join("store")).expect("store");
    archive(&broker, &store).await;
    let manifest = "store/archive/_manifest/custody.clean.v1/00000/00000000000000000000.json";
    std::fs::write(dir.path().join(manifest), "{}").expect("damaged");
    let status = gather(&broker, &sources(Ok(store)), at(3_000)).await.expect("status");
    assert!(status.archive.error.contains("custody verify"), "{}", status.archive.error);
    assert_eq!(clean(&status).last_object, None);
}

#[tokio::test]
async fn every_receivers_group_is_listed_with_its_lag() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    let record = OutRecord {
        topic: Topic::Alerts,
        partition: Some(1),
        timestamp: at(0),
        key: Some("f".into()),
        value: Some("alert".into()),
        headers: Vec::new(),
    };
    broker.appender().await.expect("appender").append(vec![record]).await.expect("appended");
    let receivers = vec!["ops".to_owned(), "pager".to_owned()];
    let sources = Sources { receivers, ..sources(Err("not asked".to_owned())) };
    let status = gather(&broker, &sources, at(2_000)).await.expect("status");
    let alerts: Vec<_> = status.readers.iter().filter(|r| r.role == "alert").collect();
    let seen: Vec<_> = alerts.iter().map(|r| (r.group.as_str(), r.lag_records, r.lag_seconds)).collect();
    assert_eq!(seen, [("custody-alert-ops", 1, 2.0), ("custody-alert-pager", 1, 2.0)]);
    assert!(status.to_text().contains("\nalert pager        custody.alerts.v1                     1          2.0\n"));
}

#[test]
fn the_text_shows_what_is_known_and_why_the_rest_is_not() {
    let topic = |last_object: Option<ObjectStatus>, oldest_unflushed_seconds| TopicArchive {
        topic: "custody.clean.v1".to_owned(),
        last_object,
        oldest_unflushed_seconds,
    };
    let object =
        ObjectStatus { key: "archive/x.parquet".to_owned(), rows: 1_234, published_at_ms: 0, seal_age_seconds: 12.34 };
    let check = |topic: TopicArchive, error: &str, expected: &[&str]| {
        let archive = ArchiveStatus { topics: vec![topic], error: error.to_owned() };
        let status = Status {
            asked_at_ms: 0,
            readers: Vec::new(),
            archive,
            dead_letters: BTreeMap::new(),
            clickhouse: None,
            clickhouse_error: "not configured".to_owned(),
        };
        let text = status.to_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(&lines[1..lines.len() - 2], expected);
        // A newer build reads the answer of an older one.
        let mut json = serde_json::to_value(&status).expect("JSON");
        assert_eq!(serde_json::from_value::<Status>(json.clone()).expect("status"), status);
        json.as_object_mut().expect("an object").remove("archive");
        assert_eq!(serde_json::from_value::<Status>(json).expect("status").archive, ArchiveStatus::default());
    };
    let head = "archived                   unflushed s seal age s      rows  last object";
    check(
        topic(Some(object), Some(0.0)),
        "",
        &[head, "custody.clean.v1                   0.0       12.3      1234  archive/x.parquet"],
    );
    check(topic(None, Some(3.25)), "", &[head, "custody.clean.v1                   3.2          -         -  none"]);
    check(
        topic(None, None),
        "no answer within 10 s",
        &[
            head,
            "custody.clean.v1               unknown          -         -  none",
            "archive's store: no answer within 10 s",
        ],
    );
}
