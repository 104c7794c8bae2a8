//! The demo on a real Apache Kafka: the same totals as on the embedded log, and other people's clients
//! read the topics with the published schemas.
//!
//! `CUSTODY_TEST_KAFKA` names the broker (`docker/kafka-local.sh start` runs one); its absence is a
//! failure. What one log must do is in `kafka_log.rs`.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{assert_same_totals, custody, demo, demo_with};

fn broker() -> String {
    std::env::var("CUSTODY_TEST_KAFKA")
        .expect("CUSTODY_TEST_KAFKA=host:port: docker/kafka-local.sh start runs a broker")
}

/// A namespace that no earlier run on this broker used.
fn namespace() -> String {
    format!("test{}-", std::process::id())
}

#[test]
fn kafka_gives_the_totals_of_the_embedded_log_and_is_readable_by_others() {
    let (embedded, on_kafka) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let expected = demo(embedded.path());
    let (log, namespace) = (format!("kafka://{}", broker()), namespace());
    let arguments = ["--log".as_ref(), log.as_ref(), "--kafka-namespace".as_ref(), namespace.as_ref()];
    let found = demo_with(on_kafka.path(), &arguments);
    assert_same_totals(&found, &expected);
    assert_eq!(alert_classes(&found), alert_classes(&expected));
    let again = demo_with(on_kafka.path(), &arguments);
    assert_eq!(again["clickhouse_rows"], found["clickhouse_rows"], "a second run adds nothing");

    let refused =
        custody().args(["demo", "--json", "--data-dir"]).arg(embedded.path().join("other")).args(arguments).output();
    let refused = refused.expect("custody demo");
    assert_eq!(refused.status.code(), Some(2), "a foreign log is refused");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--kafka-namespace"));

    if std::env::var_os("CUSTODY_TEST_CLIENTS").is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI must have kcat and the Python clients");
        eprintln!("\n!!! NOT RUN: reading the topics with other clients (tests/run says what they need)\n");
        return;
    }
    read_with_python(&namespace, &found);
    read_with_kcat(&namespace);
}

#[test]
fn a_range_goes_into_another_namespace_once_and_never_into_its_own() {
    let dir = tempfile::tempdir().expect("directory");
    let summary = demo(dir.path());
    let (live, past) = (format!("{}live-", namespace()), format!("{}past-", namespace()));
    let configuration = |namespace: &str| {
        let text = format!("[log]\nurl = \"kafka://{}\"\nnamespace = \"{namespace}\"\n", broker());
        std::fs::write(dir.path().join("custody.toml"), text).expect("configuration");
    };
    let run = |arguments: &[&str]| {
        let mut command = custody();
        command.args(arguments).arg("--json").arg("--data-dir").arg(dir.path()).current_dir(dir.path());
        let output = command.output().expect("custody");
        let said = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    configuration(&live);
    let (code, _, error) = run(&["replay", "--kafka-namespace", &live]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("the installation's own log"), "{error}");

    let range = ["replay", "--kafka-namespace", &past, "--from", "2026-01-12T10:00:00Z"];
    let (code, replayed, error) = run(&range);
    assert_eq!(code, Some(0), "{error}");
    let number = |name: &str| replayed[name].as_u64().expect("a number");
    assert!(number("appended") > 0 && number("appended") < summary["clean"].as_u64().expect("a number"), "{replayed}");
    let (code, _, error) = run(&range);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("would be there twice"), "{error}");

    // Nobody has read it: its lag is what was appended.
    configuration(&past);
    let (code, status, error) = run(&["status"]);
    assert_eq!(code, Some(0), "{error}");
    let readers = status["readers"].as_array().expect("readers");
    let lag = readers.iter().find(|r| r["role"] == "completeness").map(|r| r["lag_records"].clone());
    assert_eq!(lag, Some((number("appended") + number("ticks")).into()), "{status}");
}

fn alert_classes(summary: &Value) -> Vec<(String, String)> {
    let text = |alert: &Value, name: &str| alert[name].as_str().unwrap_or_default().to_owned();
    let alerts = summary["alerts"].as_array().expect("alerts");
    let mut classes: Vec<_> = alerts.iter().map(|a| (text(a, "alert_class"), text(a, "subject"))).collect();
    classes.sort();
    classes
}

fn read_with_python(namespace: &str, summary: &Value) {
    let schemas = tempfile::tempdir().expect("directory");
    let exported = custody().args(["schemas", "export"]).arg(schemas.path()).status().expect("custody schemas export");
    assert!(exported.success());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/kafka_clients.py");
    let output = Command::new("python3")
        .arg(script)
        .args(["--bootstrap", &broker(), "--topic", &format!("{namespace}custody.clean.v1"), "--schemas"])
        .arg(schemas.path())
        .output()
        .expect("python3");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let by_type = report["by_type"].as_object().expect("counts by type");
    let events: u64 =
        by_type.iter().filter(|(name, _)| *name != "custody.v1.Tick").filter_map(|(_, n)| n.as_u64()).sum();
    assert_eq!(Some(events), summary["clean"].as_u64(), "{report}");
}

fn read_with_kcat(namespace: &str) {
    let topic = format!("{namespace}custody.alerts.v1");
    let output = Command::new("kcat")
        .args(["-b", &broker(), "-C", "-e", "-q", "-f", "%o %s\\n", "-t", &topic])
        .output()
        .expect("kcat");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stdout.is_empty(), "kcat reads alerts");
}
