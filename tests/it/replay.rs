//! `custody replay` of a range into a log beside the installation's own, and what it refuses.
//!
//! Without ClickHouse: `tests/live/demo.rs` replays ranges into databases.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use custody::cli::{Cli, Command as Parsed};
use custody::config::Config;
use custody::roles;
use custody::runner::control::Control;
use custody::runner::input::StageInput as _;
use custody::stage_table::{Stage, StageSettings};
use ingest::log::Broker as _;
use ingest::log::local::LocalBroker;
use schemas::codec::{Derived, RegistryFacts, codec};
use schemas::event::CleanEvent;
use schemas::record::{PartitionId, Record};
use schemas::topic::{Topic, session_key};
use serde_json::{Value, json};
use sinks::parquet::store::Store;
use sinks::parquet::testing::fixture::{CLEAN, NINE, log, run};

/// Runs `custody replay` on a data directory with the archive of `log`.
fn replay(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_custody"));
    command.arg("replay").arg("--data-dir").arg(dir).args(arguments).current_dir(dir);
    command.output().expect("custody replay")
}

async fn archived(dir: &Path) {
    let store = Store::local(&dir.join("store")).expect("store");
    run(&store, &log(), true).await;
}

/// Everything that a partition holds.
async fn held(broker: &LocalBroker, partition: u32) -> Vec<Record> {
    let id = PartitionId { topic: Topic::Clean, partition };
    broker.read(id, 0).await.expect("read").0
}

fn is_tick(record: &Record) -> bool {
    CleanEvent::decode(record, &RegistryFacts::new()).expect("a stage can read it").value.is_tick()
}

#[tokio::test]
async fn a_range_of_clean_events_is_appended_as_the_stage_wrote_them() {
    let dir = tempfile::tempdir().expect("directory");
    archived(dir.path()).await;
    let side = format!("local:{}", dir.path().join("side").display());
    // Offsets 5 to 19 lie in it; 10 is a tick and 13 a marker.
    let range =
        ["--from", "2026-11-20T09:00:05Z", "--to", "2026-11-20T10:00:20+01:00", "--into-log", side.as_str(), "--json"];
    let output = replay(dir.path(), &range);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected =
        json!({"objects": 4, "objects_read": 2, "rows_read": 20, "rows_kept": 13, "appended": 13, "ticks": 5});
    assert_eq!(said, expected);

    let broker = LocalBroker::open(dir.path().join("side/log"), None).expect("log");
    for partition in [0, 1, 2] {
        assert!(held(&broker, partition).await.iter().all(is_tick), "only the last tick");
    }
    let held = held(&broker, CLEAN.partition).await;
    let events: Vec<&Record> = held.iter().filter(|record| !is_tick(record)).collect();
    let original: Vec<Record> = log().into_iter().filter(|r| (5..20).contains(&r.at.offset) && !is_tick(r)).collect();
    assert_eq!(events.len(), original.len());
    for (found, wanted) in events.into_iter().zip(&original) {
        let event = CleanEvent::decode(wanted, &RegistryFacts::new()).expect("clean").value;
        let key = session_key(&event.h().tenant_id, event.h().session_id);
        assert_eq!(found.key.as_deref(), Some(key.as_slice()));
        assert_eq!((&found.value, &found.headers), (&wanted.value, &wanted.headers));
        assert_eq!(found.timestamp, wanted.timestamp);
    }
    let sources: Vec<u64> =
        held.iter().map(|r| CleanEvent::decode(r, &RegistryFacts::new()).expect("clean").source.offset).collect();
    assert!(sources.is_sorted_by(|a, b| a < b), "a stage would take others for delivered twice: {sources:?}");
    drop(broker);

    let second = replay(dir.path(), &range);
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(2), "{error}");
    assert!(error.contains("would be there twice") && error.contains("--kafka-namespace"), "{error}");
}

#[tokio::test]
async fn a_stage_closes_windows_on_what_was_replayed() {
    let dir = tempfile::tempdir().expect("directory");
    archived(dir.path()).await;
    let output = replay(dir.path(), &["--into-log", "local:side"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let broker = LocalBroker::open(dir.path().join("side/log"), None).expect("log");
    let mut config = Config::default();
    config.anomaly.features.window_ms = 10_000;
    let settings = StageSettings::of(&config, 4, None);
    let control = Control::default();
    control.upstream_done.raise();
    roles::stage(broker.clone(), Stage::Features, &settings, None, control).await.expect("the stage ends");
    let end = async |topic| {
        let mut end = 0;
        for partition in 0..broker.partitions(topic).await.expect("partitions") {
            end += broker.bounds(PartitionId { topic, partition }).await.expect("bounds").end;
        }
        end
    };
    assert_eq!(end(Topic::Dlq).await, 0, "nothing is refused");
    let mut windows = BTreeSet::new();
    for partition in 0..4 {
        let (records, _) = broker.read(PartitionId { topic: Topic::Signals, partition }, 0).await.expect("read");
        windows.extend(records.iter().filter_map(|record| {
            match codec().decode_derived(record.value.as_deref()).expect("a signal or watermark") {
                Derived::Signal(signal) => Some(signal.window_first.ms() - NINE),
                _ => None,
            }
        }));
    }
    // The events end at 42 s: the window that holds the last one stays open.
    assert_eq!(windows, BTreeSet::from([0, 10_000, 20_000, 30_000]));
}

#[tokio::test]
async fn a_target_with_too_few_partitions_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("directory");
    archived(dir.path()).await;
    std::fs::write(dir.path().join("custody.toml"), "[log]\npartitions = 2\n").expect("configuration");
    let side = format!("local:{}", dir.path().join("side").display());
    let output = replay(dir.path(), &["--into-log", &side]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("log.partitions"), "{error}");
    let broker = LocalBroker::open(dir.path().join("side/log"), None).expect("log");
    assert!(broker.partitions(Topic::Clean).await.is_err(), "no topic was made");
}

#[test]
fn what_would_harm_the_installation_is_refused_with_its_remedy() {
    let dir = tempfile::tempdir().expect("directory");
    std::fs::write(dir.path().join("custody.toml"), "[clickhouse]\ndatabase = \"prod\"\n").expect("configuration");
    let own = format!("local:{}", dir.path().display());
    let check = |arguments: &[&str], expected: &str| {
        let output = replay(dir.path(), arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    };
    let time = "2026-11-20T09:00:05Z";
    check(&["--from", time], "name a database of its own with --database");
    check(&["--to", time, "--database", "prod"], "name a database of its own with --database");
    check(&["--from", time, "--to", time, "--database", "side"], "--from is not before --to");
    check(&["--from", "yesterday"], "RFC 3339");
    check(&["--into-log", &own], "the installation's own log");
    check(&["--into-log", "local"], "kafka://HOST:PORT");
    check(&["--kafka-namespace", "past."], "kafka://HOST:PORT");
    check(&["--into-log", "local:side", "--database", "side"], "cannot be used with");
    check(&["--into-log", "local:side", "--config", "nowhere.toml"], "nowhere.toml");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("directory").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["custody.toml"], "nothing was made");
}

#[test]
fn either_end_of_a_range_may_be_missing() {
    use clap::Parser as _;
    let parsed = |arguments: &[&str]| {
        let line = ["custody", "replay"].into_iter().chain(arguments.iter().copied());
        let Parsed::Replay(args) = Cli::try_parse_from(line).expect("arguments").command else { panic!("replay") };
        (args.from.map(|t| t.0), args.to.map(|t| t.0))
    };
    assert_eq!(parsed(&["--from", "1970-01-01T00:00:01Z"]), (Some(1_000_000), None));
    assert_eq!(parsed(&["--to", "1970-01-01T01:00:01+01:00"]), (None, Some(1_000_000)));
    assert_eq!(parsed(&[]), (None, None));
}
