//! Runs the `custody` binary as a user would and reads its summaries.
#![allow(clippy::expect_used, reason = "a test fails where the binary cannot be run")]
#![allow(dead_code, reason = "each suite uses a part of it")]

pub(crate) mod agent;
pub(crate) mod installation;
pub(crate) mod proxy;
pub(crate) mod up;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The binary under test.
pub(crate) fn custody() -> Command {
    Command::new(env!("CARGO_BIN_EXE_custody"))
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
