//! Whatever text an agent writes, as text and as JSON: scanning and redacting it end, findings are
//! disjoint and in order, JSON stays JSON, and what the scanner was certain of is gone.
//!
//! It says nothing about recall: a value that was not found is no failure here.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use processors::pii::{Action, Grade, Policy, ScanContext, Span, TenantKeys, TokenKeys, redact, scan};

/// Shorter values stand in ordinary words and in the digits of a token.
const VALUE_BYTES_MIN: usize = 14;

fn keys() -> &'static TenantKeys {
    static KEYS: OnceLock<TenantKeys> = OnceLock::new();
    KEYS.get_or_init(|| TokenKeys::new([7; 32]).tenant("acme"))
}

/// The text between findings that are replaced.
fn left_over<'t>(text: &'t str, replaced: &[Span]) -> Vec<&'t str> {
    let starts = std::iter::once(0).chain(replaced.iter().map(|span| span.end));
    let ends = replaced.iter().map(|span| span.start).chain([text.len()]);
    starts.zip(ends).map(|(start, end)| &text[start..end]).collect()
}

fn check(text: &str, media_type: &str) {
    let policy = Policy::default();
    let spans = scan(text, media_type, &ScanContext::default());
    assert!(spans.iter().all(|span| span.start < span.end && text.get(span.start..span.end).is_some()), "{spans:?}");
    assert!(spans.is_sorted_by(|a, b| a.end <= b.start), "findings overlap: {spans:?}");

    let clean = redact(text, &spans, &policy, keys()).text;
    let replaced: Vec<Span> = spans.into_iter().filter(|s| policy.action(s.kind, s.grade) != Action::Keep).collect();
    let left = left_over(text, &replaced);
    for span in replaced.iter().filter(|s| s.grade == Grade::Certain && s.end - s.start >= VALUE_BYTES_MIN) {
        // Where a value stands again in a place that says nothing of it, it is not a finding there.
        let value = &text[span.start..span.end];
        if !left.iter().any(|part| part.contains(value)) {
            assert!(!clean.contains(value), "{:?} is left in {clean:?}", span.kind);
        }
    }
    // A lone number or word is JSON too, but as plain text it is text.
    let as_json = media_type == "application/json" || text.trim_start().starts_with(['{', '[']);
    assert!(!(as_json && is_json(text)) || is_json(&clean), "{clean:?} is no JSON any more");
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

fuzz_target!(|text: &str| {
    check(text, "text/plain");
    check(text, "application/json");
});
