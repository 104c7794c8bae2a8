//! Writes what the scanner finds, for a scorer: JSON lines `{"id", "text", "media_type"?}` in,
//! `{"id", "spans": [{"start", "end", "type"}]}` out, offsets in Unicode code points. With `--speed`
//! it prints megabytes per second of CPU-bound scanning instead. It knows no gold labels.

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use processors::pii::{Kind, ScanContext, scan};
use serde_json::{Value, json};

/// The scorer's name of a kind, where it differs from ours.
fn scorer_name(kind: Kind) -> &'static str {
    match kind {
        Kind::DateOfBirth => "DOB",
        Kind::Zip => "ZIP_CODE",
        Kind::DrivingLicence => "US_DRIVER_LICENSE",
        kind => kind.name(),
    }
}

fn main() -> std::io::Result<()> {
    let speed = std::env::args().any(|argument| argument == "--speed");
    let lines: Vec<String> = std::io::stdin().lock().lines().collect::<Result<_, _>>()?;
    let documents: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if speed {
        return measure(&documents);
    }
    let mut out = std::io::stdout().lock();
    for document in &documents {
        let (text, media_type) = content(document);
        let spans: Vec<Value> = scan(text, media_type, &ScanContext::default())
            .iter()
            .map(|span| {
                let points = |bytes: usize| text[..bytes].chars().count();
                json!({"start": points(span.start), "end": points(span.end), "type": scorer_name(span.kind)})
            })
            .collect();
        writeln!(out, "{}", json!({"id": document["id"], "spans": spans}))?;
    }
    Ok(())
}

fn content(document: &Value) -> (&str, &str) {
    (document["text"].as_str().unwrap_or_default(), document["media_type"].as_str().unwrap_or("text/plain"))
}

/// CPU time of this thread where Linux tells it, else wall time: other load must not count.
struct Clock {
    cpu: Option<f64>,
    wall: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { cpu: cpu_seconds(), wall: Instant::now() }
    }

    fn seconds(&self) -> f64 {
        let cpu = self.cpu.zip(cpu_seconds()).map(|(start, end)| end - start);
        cpu.unwrap_or_else(|| self.wall.elapsed().as_secs_f64())
    }
}

/// The first field of schedstat: nanoseconds on a CPU (Linux, Documentation/scheduler/sched-stats).
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse::<f64>().ok().map(|ns| ns / 1e9)
}

fn measure(documents: &[Value]) -> std::io::Result<()> {
    let documents: Vec<(&str, &str)> = documents.iter().map(content).collect();
    let bytes: usize = documents.iter().map(|(text, _)| text.len()).sum();
    let rounds = (200_000_000 / bytes.max(1)).clamp(1, 2_000);
    let mut best = f64::MAX;
    let mut spans = 0;
    for _ in 0..3 {
        let start = Clock::start();
        spans = 0;
        for _ in 0..rounds {
            for (text, media_type) in &documents {
                spans += scan(text, media_type, &ScanContext::default()).len();
            }
        }
        best = best.min(start.seconds());
    }
    let rate = (bytes * rounds) as f64 / best / 1e6;
    println!("{} texts, {bytes} bytes, {} spans, {rate:.0} MB/s", documents.len(), spans / rounds);
    Ok(())
}
