//! The whole chain as a user runs it: `custody demo` as a process, its summary checked, its events
//! per second and peak memory kept for the record.
//!
//! Wall time on the whole machine, log, archive and ClickHouse included. One run, no peer: nothing
//! else does the same. `CUSTODY_BENCH_SCALE` copies of the fleet (default 5). The figures go to
//! `end_to_end_SCALE.json` in cargo's directory for temporary files, where `record.py` finds them.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

fn scale() -> u32 {
    let text = std::env::var("CUSTODY_BENCH_SCALE").unwrap_or_else(|_| "5".to_owned());
    text.parse().expect("CUSTODY_BENCH_SCALE is a number of copies of the fleet, from 1 to 10000")
}

fn demo(dir: &Path, scale: u32) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_custody"))
        .args(["demo", "--json", "--scale", &scale.to_string(), "--data-dir"])
        .arg(dir)
        .stderr(Stdio::inherit())
        .output()
        .expect("custody runs");
    assert!(
        output.status.success(),
        "custody demo ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    serde_json::from_slice(&output.stdout).expect("custody demo --json prints one object")
}

fn main() {
    // `cargo bench` passes this; `cargo test --all-targets` does not, and the demo has tests of its own.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (dir, scale) = (tempfile::tempdir().expect("temporary directory"), scale());
    let summary = demo(dir.path(), scale);
    let number = |name: &str| summary[name].as_f64().unwrap_or_else(|| panic!("no {name} in {summary}"));
    assert_eq!(number("accepted"), number("clean") + number("rejected"), "{summary}");
    assert_eq!(number("archived_rows"), number("clean"), "{summary}");
    assert_eq!(number("clickhouse_rows"), number("clean"), "{summary}");
    assert!(number("clean") > 0.0, "{summary}");
    let figures = json!({
        "scale": scale,
        "accepted": summary["accepted"],
        "seconds": summary["seconds"],
        "events_per_second": summary["events_per_second"],
        "rss_bytes_max": summary["rss_bytes_max"],
    });
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("end_to_end_{scale}.json"));
    std::fs::write(&path, figures.to_string()).expect("figures");
    println!(
        "scale {scale}: {} events in {:.1} s, {:.0} events/s, peak memory {:.0} MiB",
        number("accepted"),
        number("seconds"),
        number("events_per_second"),
        number("rss_bytes_max") / 1_048_576.0
    );
}
