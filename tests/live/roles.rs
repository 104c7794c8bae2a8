//! The roles as processes of their own on real servers: Apache Kafka, S3, ClickHouse's engine.
//!
//! `CUSTODY_TEST_KAFKA` and `CUSTODY_TEST_S3` name the servers; their absence is a failure. What one role
//! does is tested elsewhere; here six of them together give the numbers of the one-process demo, and a
//! record that nobody could read is repaired by configuration.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::path::{Path, PathBuf};

use ingest::log::kafka::{KafkaBroker, KafkaConfig};
use ingest::log::{Appender as _, Broker as _};
use schemas::codec::codec;
use schemas::event::{Event, EventHeader, ModelCall, RawEvent};
use schemas::id::Uuid;
use schemas::record::OutRecord;
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, session_key};
use serde_json::Value;
use support::installation::{Installation, Running, run, variable};
use support::{assert_same_totals, custody, demo};

#[test]
fn six_processes_give_the_totals_of_one() {
    let s3 = variable("CUSTODY_TEST_S3", "docker/s3-local.sh start runs a server");
    let expected = {
        let dir = tempfile::tempdir().expect("directory");
        demo(dir.path())
    };
    let installation = Installation::start("roles");
    let base = installation.dir.path();
    let bucket = format!("s3://custody/{}", installation.namespace.trim_end_matches('-'));
    let common: Vec<String> = [
        ("--log", installation.log()),
        ("--kafka-namespace", installation.namespace.clone()),
        ("--clickhouse", installation.clickhouse.clone()),
        ("--store", bucket),
        ("--store-endpoint", s3),
        ("--data-dir", base.join("demo").display().to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    let (code, text) = run(custody().arg("demo").args(&common).arg("--write-config").arg(base));
    assert_eq!(code, Some(0), "{text}");
    let config = base.join("custody.toml");
    let (code, text) = run(custody().args(["topics", "create", "--config"]).arg(&config));
    assert_eq!(code, Some(0), "{text}");
    let roles: Vec<Running> =
        [&["process", "pii"][..], &["process", "completeness"], &["process", "anomaly"], &["archive"], &["load"]]
            .iter()
            .map(|role| installation.role(role, &config))
            .collect();
    // The tables are the loader's to make.
    installation.until("migrated", || installation.count("1") == "0");
    let output = custody().args(["demo", "--json", "--external-roles"]).args(&common).output().expect("custody demo");
    let errors = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {errors}"));
    assert_same_totals(&found, &expected);
    for role in roles {
        assert_eq!(role.drained(), Some(0));
    }
}

/// A valid event behind a Confluent frame, whose schema id nobody configured.
fn poison(session: Uuid) -> OutRecord {
    let h = EventHeader {
        event_id: Uuid::derive(&[b"poison", &session.0]),
        event_time: TimestampMicros::from_ms(1_768_208_400_000),
        tenant_id: "acme".to_owned(),
        agent_id: "poisoned".to_owned(),
        session_id: session,
        producer_id: "foreign".to_owned(),
        ..EventHeader::of_type("model.call")
    };
    let event: RawEvent = Event::ModelCall(ModelCall { h, call_id: "c".to_owned(), ..ModelCall::default() });
    // A single-object frame is ten bytes, a Confluent frame five.
    let body = codec().encode(&event).slice(10..);
    let value = [&[0, 0, 0, 0, 17][..], &body].concat();
    OutRecord {
        topic: Topic::Events,
        partition: None,
        timestamp: TimestampMicros::from_ms(1_768_208_400_000),
        key: Some(session_key("acme", session).into()),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

fn write_config(installation: &Installation, schemas: Option<&Path>) -> PathBuf {
    let base = installation.dir.path();
    std::fs::write(base.join("pii.key"), [7; 32]).expect("a key");
    let mut text = format!(
        "[log]\nurl = \"{}\"\nnamespace = \"{}\"\npartitions = 1\n[clickhouse]\nurl = \"{}\"\n[pii]\nkeys_file = \"{}\"\n\
         [telemetry]\nlisten = \"127.0.0.1:0\"\n",
        installation.log(),
        installation.namespace,
        installation.clickhouse,
        base.join("pii.key").display()
    );
    if let Some(schemas) = schemas {
        text.push_str(&format!("[schemas.registry_ids]\n17 = \"{}\"\n", schemas.join("ModelCall.avsc").display()));
    }
    let config = base.join("custody.toml");
    std::fs::write(&config, text).expect("a configuration");
    config
}

/// Answers vector#1772 and snuba#8167: a dead-letter queue with reasons, and a way back from it.
#[test]
fn a_poison_record_is_shown_repaired_by_configuration_replayed_and_counted_once() {
    let installation = Installation::start("poison");
    let config = write_config(&installation, None);
    let dlq = |arguments: &[&str]| run(custody().arg("dlq").args(arguments).arg("--config").arg(&config));
    let (code, text) = run(custody().args(["topics", "create", "--config"]).arg(&config));
    assert_eq!(code, Some(0), "{text}");
    let append = KafkaConfig {
        bootstrap: installation.kafka.clone(),
        namespace: installation.namespace.clone(),
        ..KafkaConfig::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let broker = KafkaBroker::new(append).expect("a broker");
        let mut appender = broker.appender().await.expect("an appender");
        appender.append(vec![poison(Uuid([9; 16]))]).await.expect("appended");
    });
    let (pii, load) = (installation.role(&["process", "pii"], &config), installation.role(&["load"], &config));
    installation.until("refused", || dlq(&["list"]).1.contains("unknown_schema"));
    let (_, shown) = dlq(&["show", "0/0"]);
    assert!(shown.contains("unknown_schema") && shown.contains("00 00 00 00 11"), "{shown}");
    let (code, text) = dlq(&["replay", "--all"]);
    assert_eq!(code, Some(1), "nothing is repaired yet: {text}");
    assert_eq!(pii.drained(), Some(0));

    let schemas = installation.dir.path().join("schemas");
    let (code, text) = run(custody().args(["schemas", "export"]).arg(&schemas));
    assert_eq!(code, Some(0), "{text}");
    write_config(&installation, Some(&schemas));
    let pii = installation.role(&["process", "pii"], &config);
    let (code, text) = dlq(&["replay", "--reason", "unknown_schema"]);
    assert_eq!(code, Some(0), "{text}");
    installation.until("loaded", || installation.count("agent_id = 'poisoned'") == "1");
    let (code, text) = dlq(&["replay", "0/0"]);
    assert!(code == Some(1) && text.contains("replayed already"), "{text}");
    assert!(dlq(&["list"]).1.contains("open: none"));
    assert_eq!((pii.drained(), load.drained()), (Some(0), Some(0)));
    assert_eq!(installation.count("agent_id = 'poisoned'"), "1");
}
