//! Runs the `custody` binary as a user would and reads its summaries.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The binary under test.
pub fn custody() -> Command {
    Command::new(env!("CARGO_BIN_EXE_custody"))
}

/// `custody demo --json` on a data directory; its summary.
pub fn demo(dir: &Path) -> Value {
    demo_with(dir, &[])
}

/// As [`demo`] with more arguments.
pub fn demo_with(dir: &Path, arguments: &[&OsStr]) -> Value {
    let output =
        custody().args(["demo", "--json", "--data-dir"]).arg(dir).args(arguments).output().expect("custody demo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "custody demo failed: {errors}");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e} in {}", String::from_utf8_lossy(&output.stdout)))
}

/// Starts a demo and kills it (SIGKILL) once its log holds data and so many milliseconds have passed.
#[allow(dead_code)]
pub fn demo_killed_after(dir: &Path, milliseconds: u64) {
    let mut command = custody();
    command.args(["demo", "--json", "--data-dir"]).arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("custody demo");
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(milliseconds);
    while std::time::Instant::now() < deadline && child.try_wait().expect("wait").is_none() {
        std::thread::yield_now();
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// Asserts that two summaries agree in everything that is not a time.
pub fn same_totals(expected: &Value, found: &Value) {
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
