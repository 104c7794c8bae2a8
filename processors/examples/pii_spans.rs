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

fn measure(documents: &[Value]) -> std::io::Result<()> {
    let bytes: usize = documents.iter().map(|d| content(d).0.len()).sum();
    let rounds = (200_000_000 / bytes.max(1)).clamp(1, 2_000);
    let mut best = f64::MAX;
    let mut spans = 0;
    for _ in 0..3 {
        let start = Instant::now();
        spans = 0;
        for _ in 0..rounds {
            for document in documents {
                let (text, media_type) = content(document);
                spans += scan(text, media_type, &ScanContext::default()).len();
            }
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    let rate = (bytes * rounds) as f64 / best / 1e6;
    println!("{} texts, {bytes} bytes, {} spans, {rate:.0} MB/s", documents.len(), spans / rounds);
    Ok(())
}
