//! Scanning text for personal data and secrets, beside the naive way: one regular expression per
//! kind, one after another, with the checksums that the patterns need.
//!
//! Targets: 1 GB/s of prose, 500 MB/s of tool JSON. The peer has no patterns for what only field
//! names and nearby words can decide (names, addresses, dates of birth): it does less and is timed
//! on the same texts. The last case is the whole stage: scan, redact, tokens, what sessions revealed.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use common::cpu_time::{CpuTime, criterion};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use custody::fleet::plant::Planted;
use processors::pii::{PiiState, ScanContext, scan};
use processors::stage::{PartitionState as _, Processor as _};
use regex::Regex;
use schemas::event::RawEvent;
use schemas::text::{CleanText, Content};
use schemas::topic::Topic;

/// A text and whether it says it is JSON.
struct Document {
    text: String,
    media_type: &'static str,
}

impl Document {
    fn is_json(&self) -> bool {
        self.media_type == "application/json"
    }
}

/// Every text of the events, and the values planted in them.
fn documents() -> (Vec<Document>, Vec<Planted>) {
    let (events, planted) = common::planted_events();
    let mut documents = Vec::new();
    for event in events {
        event.clean(&mut |_, content| {
            let text = content.text.expose().to_owned();
            let media_type = if content.media_type == "application/json" { "application/json" } else { "text/plain" };
            documents.push(Document { text, media_type });
            Content::<CleanText> {
                text: CleanText::default(),
                redaction: String::new(),
                media_type: String::new(),
                raw_bytes: 0,
                sealed: None,
            }
        });
    }
    (documents, planted)
}

/// Whether a match is one: a checksum.
type Checksum = fn(&str) -> bool;

/// A kind's pattern and what else must hold of a match.
struct Pattern {
    regex: Regex,
    holds: Checksum,
}

fn patterns() -> Vec<Pattern> {
    let any: Checksum = |_| true;
    let table: [(&str, Checksum); 13] = [
        (r"(?i)\b[a-z0-9._%+-]{1,64}@(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}\b", any),
        (r"(?:\+\d{1,3}[ .-]?)?(?:\(\d{3}\)|\b\d{3})[ .-]\d{3}[ .-]\d{4}\b", any),
        (r"\b(?:\d[ -]?){12,18}\d\b", luhn),
        (r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", iban),
        (r"\b\d{3}-\d{2}-\d{4}\b", any),
        (r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b", any),
        (r"(?i)\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b", any),
        (r"(?i)\b(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b", any),
        (r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b", any),
        (r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|sk-[A-Za-z0-9_-]{20,}|xox[abprs]-[A-Za-z0-9-]{10,})", any),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}", any),
        (r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----", any),
        (r#"\bhttps?://[^\s"<>]+"#, any),
    ];
    table.into_iter().map(|(text, holds)| Pattern { regex: Regex::new(text).expect("pattern"), holds }).collect()
}

/// ISO/IEC 7812-1.
fn luhn(text: &str) -> bool {
    let digits = text.bytes().rev().filter(u8::is_ascii_digit).enumerate();
    let sum: u32 = digits
        .map(|(place, digit)| {
            let value = u32::from(digit - b'0') * if place % 2 == 1 { 2 } else { 1 };
            value / 10 + value % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// ISO/IEC 7064 mod 97-10.
fn iban(text: &str) -> bool {
    let bytes: Vec<u8> = text.bytes().filter(u8::is_ascii_alphanumeric).collect();
    let rest = bytes[4..].iter().chain(&bytes[..4]).fold(0_u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    rest == 1
}

/// Matches of all patterns.
fn naive<'t>(patterns: &[Pattern], text: &'t str) -> Vec<&'t str> {
    let each = |pattern: &Pattern| pattern.regex.find_iter(text).map(|m| m.as_str()).collect::<Vec<_>>();
    let checked = patterns.iter().map(|p| each(p).into_iter().filter(|m| (p.holds)(m)).collect::<Vec<_>>());
    checked.flatten().collect()
}

fn spans(document: &Document) -> usize {
    scan(&document.text, document.media_type, &ScanContext::default()).len()
}

/// Both find every planted value; the scanner also finds the fields that the peer cannot know.
fn check(documents: &[Document], planted: &[Planted], patterns: &[Pattern]) {
    assert!(planted.len() >= 50, "only {} planted values", planted.len());
    for Planted { kind, value } in planted {
        let document = documents.iter().find(|d| d.text.contains(value.as_str())).expect("planted");
        let at = document.text.find(value.as_str()).expect("planted");
        let found = scan(&document.text, document.media_type, &ScanContext::default());
        let covers = |span: &processors::pii::Span| span.start <= at && at + value.len() <= span.end;
        assert!(found.iter().any(covers), "the scanner misses a planted {kind}");
        assert!(
            naive(patterns, &document.text).iter().any(|m| value.contains(m) || m.contains(value.as_str())),
            "the peer misses a planted {kind}"
        );
    }
    let profiles: Vec<&Document> = documents.iter().filter(|d| d.is_json() && d.text.contains("\"dob\"")).collect();
    assert!(!profiles.is_empty(), "no profiles");
    for profile in profiles {
        assert!(spans(profile) >= 6, "e-mail, names, date of birth and address: {}", profile.text);
    }
}

fn bench_scan(c: &mut Criterion<CpuTime>) {
    let (documents, planted) = documents();
    let patterns = patterns();
    check(&documents, &planted, &patterns);
    let mut group = c.benchmark_group("pii");
    let corpora = [("prose", [false].as_slice()), ("tool-json", &[true]), ("mixed", &[false, true])];
    for (name, is_json) in corpora {
        let corpus: Vec<&Document> = documents.iter().filter(|d| is_json.contains(&d.is_json())).collect();
        let bytes: usize = corpus.iter().map(|d| d.text.len()).sum();
        let found: usize = corpus.iter().map(|d| spans(d)).sum();
        println!("{name}: {} texts, {bytes} bytes, {found} findings", corpus.len());
        group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20);
        group.bench_function(format!("{name}/custody"), |b| b.iter(|| corpus.iter().map(|d| spans(d)).sum::<usize>()));
        group.sample_size(10).bench_function(format!("{name}/regex-one-by-one"), |b| {
            b.iter(|| corpus.iter().map(|d| naive(&patterns, &d.text).len()).sum::<usize>());
        });
    }
    group.finish();
}

fn bench_stage(c: &mut Criterion<CpuTime>) {
    let records = common::decoded(&common::log(10_000, 1_000));
    let stage = common::pii();
    let clean = |records: &[processors::stage::Sourced<RawEvent>]| {
        let (mut state, mut count) = (PiiState::default(), 0);
        for batch in records.chunks(common::BATCH) {
            let output = stage.process(&mut state, batch);
            count += output.derived.iter().filter(|out| out.topic == Topic::Clean).count();
            count += state.take_changes().len() & usize::from(!output.rejects.is_empty());
        }
        count
    };
    assert_eq!(clean(&records), records.len(), "one clean event for each event");
    let mut group = c.benchmark_group("pii");
    group.throughput(Throughput::Elements(records.len() as u64)).sample_size(10);
    group.bench_function("stage/custody", |b| b.iter(|| clean(&records)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = bench_scan, bench_stage
}
criterion_main!(benches);
