//! The whole chain through the command line, on the embedded log and the real ClickHouse engine.
//!
//! What the README promises is run here as a user would run it. Fails, never skips, where the engine
//! cannot be had. Details of stages and sinks are tested in their crates.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use support::{custody, demo, demo_with, until};

fn files_below(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // What is not there yet, or not any more, while somebody writes is no file.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Starts a demo and kills it (SIGKILL) once its log is open and its archive has so many objects.
fn demo_killed_at(dir: &Path, objects: usize) {
    let mut command = custody();
    command.args(["demo", "--json", "--data-dir"]).arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("custody demo");
    let (log, store) = (dir.join("log"), dir.join("store"));
    let is_there = |(): &mut ()| log.exists() && (objects == 0 || files_below(&store, ".parquet").len() >= objects);
    until(&mut (), "killed", is_there, |()| format!("{objects} objects in {}", store.display()));
    child.kill().expect("kill");
    let status = child.wait().expect("wait");
    assert_eq!(status.signal(), Some(9), "it was in the middle of its work");
}

/// Asserts that two summaries agree in everything that is not a time.
fn same_totals(expected: &Value, found: &Value) {
    let without_times = |summary: &Value| {
        let mut summary = summary.clone();
        if let Some(object) = summary.as_object_mut() {
            for name in ["seconds", "events_per_second", "rss_bytes_max", "data_dir", "log", "clickhouse"] {
                object.remove(name);
            }
        }
        summary
    };
    assert_eq!(without_times(expected), without_times(found));
}

fn assert_reconciled(summary: &Value) {
    let number = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"));
    assert_eq!(number("accepted"), number("clean") + number("rejected"), "{summary}");
    assert_eq!(number("archived_rows"), number("clean"), "{summary}");
    assert_eq!(number("clickhouse_rows"), number("clean"), "{summary}");
    assert_eq!(number("missing_reported"), number("withheld"), "{summary}");
    assert_eq!(number("duplicates_reported"), number("duplicated"), "{summary}");
    assert_eq!(number("rejected"), number("malformed"), "{summary}");
    assert!(number("withheld") > 0 && number("duplicated") > 0 && number("pii_values_checked") > 0, "{summary}");
    assert_eq!(number("pii_values_found"), 0, "{summary}");
    assert_eq!(summary["verify"], "ok", "{summary}");
    let classes: Vec<&str> =
        summary["alerts"].as_array().expect("alerts").iter().filter_map(|a| a["alert_class"].as_str()).collect();
    assert!(classes.contains(&"outage"), "no outage among {classes:?}");
    assert!(classes.contains(&"cost_burst"), "no cost burst among {classes:?}");
}

#[test]
fn the_seeded_fleet_reconciles_and_a_second_run_adds_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let first = demo(dir.path());
    assert_reconciled(&first);
    let second = demo(dir.path());
    same_totals(&first, &second);
}

/// Answers ClickHouse#7259: duplicates after a consumer that was killed.
#[test]
fn a_run_that_was_killed_ends_with_the_totals_of_an_undisturbed_one() {
    let calm = tempfile::tempdir().expect("temporary directory");
    let expected = demo(calm.path());
    // Of 70 objects.
    for objects in [0, 1, 30] {
        let dir = tempfile::tempdir().expect("temporary directory");
        demo_killed_at(dir.path(), objects);
        same_totals(&expected, &demo(dir.path()));
    }
}

#[test]
fn one_seed_gives_one_set_of_findings_and_files() {
    let (a, b) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let (first, second) = (demo(a.path()), demo(b.path()));
    assert_eq!(first["findings_sha256"], second["findings_sha256"]);
    let digests = |dir: &Path| -> Vec<(String, Value)> {
        let manifests = files_below(&dir.join("store/archive/_manifest"), ".json");
        let read =
            |m: &PathBuf| -> Value { serde_json::from_slice(&std::fs::read(m).expect("manifest")).expect("JSON") };
        manifests
            .iter()
            .map(|m| {
                (
                    m.file_name().expect("name").to_string_lossy().into_owned(),
                    read(m)["publication"]["row_digest"].clone(),
                )
            })
            .collect()
    };
    assert!(!digests(a.path()).is_empty());
    assert_eq!(digests(a.path()), digests(b.path()));
}

#[test]
fn verify_names_the_object_that_was_tampered_with() {
    let dir = tempfile::tempdir().expect("temporary directory");
    demo(dir.path());
    let verify = |expected: i32| -> String {
        let output = custody().args(["verify".as_ref(), dir.path().as_os_str()]).output().expect("custody verify");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{text}");
        text
    };
    verify(0);
    let victim = files_below(&dir.path().join("store/archive"), ".parquet").remove(0);
    let name = victim.file_name().expect("name").to_string_lossy().into_owned();
    let original = std::fs::read(&victim).expect("object");

    let mut flipped = original.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&victim, &flipped).expect("write");
    assert!(verify(1).contains(&name), "a flipped byte is reported with its object");

    std::fs::remove_file(&victim).expect("remove");
    assert!(verify(1).contains(&name), "a removed object is reported by name");

    std::fs::write(&victim, &original).expect("write");
    verify(0);
}

#[test]
fn replay_rebuilds_clickhouse_from_the_archive() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let summary = demo(dir.path());
    let output = custody().args(["replay", "--json", "--data-dir"]).arg(dir.path()).output().expect("custody replay");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let replayed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(replayed["clickhouse_rows"], summary["clickhouse_rows"]);
    assert_eq!(replayed["findings_rows"], summary["findings_rows"]);
    assert_eq!(replayed["alerts_rows"], summary["alerts_rows"]);
}

#[test]
fn two_ranges_that_meet_hold_every_row_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let summary = demo(dir.path());
    let replay = |arguments: &[&str]| -> Value {
        let mut command = custody();
        command.args(["replay", "--json", "--data-dir"]).arg(dir.path()).args(arguments).current_dir(dir.path());
        let output = command.output().expect("custody replay");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    // The fleet's sessions begin between nine and noon.
    let middle = "2026-01-12T10:30:00Z";
    let first = replay(&["--database", "first_half", "--to", middle]);
    let second = replay(&["--database", "second_half", "--from", middle]);
    for name in ["clickhouse_rows", "findings_rows", "alerts_rows"] {
        let (a, b) = (first[name].as_u64().expect("rows"), second[name].as_u64().expect("rows"));
        assert_eq!(Some(a + b), summary[name].as_u64(), "{name}");
        assert!(name != "clickhouse_rows" || (a > 0 && b > 0), "{first} {second}");
    }
    for half in [&first, &second] {
        assert!(
            half["objects_read"].as_u64() < half["objects"].as_u64(),
            "objects of other hours are not read: {half}"
        );
        assert!(half["rows_kept"].as_u64() <= half["rows_read"].as_u64(), "{half}");
    }
    let kept = |half: &Value| half["rows_kept"].as_u64().expect("rows");
    let rebuilt = replay(&[]);
    assert_eq!(kept(&first) + kept(&second), kept(&rebuilt));
    assert_eq!(rebuilt["clickhouse_rows"], summary["clickhouse_rows"], "the database itself is as it was");
}

#[test]
fn recorded_runs_reconcile_too() {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/trajectories/tau-bench");
    let dir = tempfile::tempdir().expect("temporary directory");
    if !runs.exists() {
        // The recorded runs are not part of the project; the chat format is, so the path is still run.
        eprintln!("\n!!! the recorded tau-bench runs are not at ../shared/data: using tests/fixtures/chat instead\n");
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
        let summary = demo_with(
            dir.path(),
            &["--scale".as_ref(), "40".as_ref(), "--trajectories".as_ref(), fixtures.as_os_str()],
        );
        assert_eq!(summary["archived_rows"], summary["clean"]);
        return;
    }
    let summary = demo_with(dir.path(), &["--trajectories".as_ref(), runs.as_os_str()]);
    assert_reconciled(&summary);
}
