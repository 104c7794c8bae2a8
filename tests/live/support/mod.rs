//! Runs the `custody` binary as a user would and reads its summaries.
#![allow(clippy::expect_used, reason = "a test fails where the binary cannot be run")]
#![allow(dead_code, reason = "each suite uses a part of it")]

pub(crate) mod agent;
pub(crate) mod group;
pub(crate) mod installation;
pub(crate) mod proxy;
pub(crate) mod up;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The binary under test; `CUSTODY_TEST_BINARY` names another than the one that was built with the suite.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("CUSTODY_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_custody").into(), PathBuf::from)
}

/// A command of it.
pub(crate) fn custody() -> Command {
    Command::new(binary())
}

/// Longest wait for something that must happen.
pub(crate) use schemas::testing::PATIENCE;
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Lets time pass.
pub(crate) fn pause(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Whether something holds within a time.
pub(crate) fn holds_within<W>(time: Duration, watched: &mut W, mut holds: impl FnMut(&mut W) -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if holds(watched) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        pause(LOOK);
    }
}

/// Waits for what must happen; `said` explains why it has not.
pub(crate) fn until<W>(
    watched: &mut W,
    what: &str,
    holds: impl FnMut(&mut W) -> bool,
    said: impl FnOnce(&mut W) -> String,
) {
    let has_happened = holds_within(PATIENCE, watched, holds);
    assert!(has_happened, "not {what} within {PATIENCE:?}: {}", said(watched));
}

/// `custody demo --json` on a data directory; its summary.
pub(crate) fn demo(dir: &Path) -> Value {
    demo_with(dir, &[])
}

/// As [`demo`] with more arguments.
pub(crate) fn demo_with(dir: &Path, arguments: &[&OsStr]) -> Value {
    let output =
        custody().args(["demo", "--json", "--data-dir"]).arg(dir).args(arguments).output().expect("custody demo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "custody demo failed: {errors}");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e} in {}", String::from_utf8_lossy(&output.stdout)))
}

/// Two demos of one input came to the same numbers, wherever their logs and roles were.
pub(crate) fn assert_same_totals(found: &Value, expected: &Value) {
    for name in [
        "emitted",
        "withheld",
        "duplicated",
        "accepted",
        "clean",
        "rejected",
        "archived_rows",
        "clickhouse_rows",
        "missing_reported",
        "duplicates_reported",
        "pii_values_found",
        "verify",
        "findings",
        "rejected_by_reason",
    ] {
        assert_eq!(found[name], expected[name], "{name}");
    }
}
