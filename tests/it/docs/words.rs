//! Plain words: phrases of our own making that no newcomer would search for.
//!
//! Documents, settings and scripts use none of them. In Rust sources their number may only shrink: each crate's
//! count is written down here, exactly. It says nothing about sentences that are hard to read without them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use super::{none, read, tracked};

/// What to write instead: unavailable, resumes, resume, again, permanently or without end, in flight or held,
/// notified.
const PHRASES: &str = r"\b(is away|are away|in hand|anew|for ever|goes on|go on with|is told|are told)\b";

/// How many of them the Rust sources of each folder hold.
const ALLOWED: [(&str, usize); 7] =
    [("benches", 1), ("ingest", 0), ("processors", 1), ("schemas", 4), ("sinks", 25), ("src", 84), ("tests", 23)];

/// The phrases of a text; a line break, with the marks of a comment, is a space.
fn phrases(text: &str) -> Vec<String> {
    static BREAK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\s*\n\s*(?://[/!]?|#)?\s*").expect("pattern"));
    static BANNED: LazyLock<Regex> = LazyLock::new(|| Regex::new(PHRASES).expect("pattern"));
    let text = BREAK.replace_all(text, " ");
    BANNED.find_iter(&text).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn documents_settings_and_scripts_use_plain_words() {
    let kinds = [".md", ".toml", ".yaml", ".yml", ".sh", ".avsc", ".json", ".py", "tests/run", ".ci/run", "Dockerfile"];
    let is_ours = |name: &String| kinds.iter().any(|kind| name.ends_with(kind)) && !name.contains("test-data/");
    let files: Vec<String> = tracked().into_iter().filter(is_ours).collect();
    assert!(files.len() > 100, "only {} files were read", files.len());
    let found =
        files.iter().flat_map(|name| phrases(&read(name)).into_iter().map(move |what| format!("{name}: {what}")));
    none(&found.collect::<Vec<_>>());
}

#[test]
fn sources_use_fewer_and_fewer_of_these_phrases() {
    let mut counts: BTreeMap<String, usize> = ALLOWED.iter().map(|(folder, _)| ((*folder).to_owned(), 0)).collect();
    for name in tracked().into_iter().filter(|name| name.ends_with(".rs") && name != "tests/it/docs/words.rs") {
        let folder = name.split('/').next().unwrap_or_default().to_owned();
        *counts.entry(folder).or_default() += phrases(&read(&name)).len();
    }
    let allowed: BTreeMap<String, usize> =
        ALLOWED.iter().map(|(folder, count)| ((*folder).to_owned(), *count)).collect();
    assert_eq!(counts, allowed, "more: use plain words; fewer: set ALLOWED in tests/it/docs/words.rs to what there is");
}

#[test]
fn phrases_are_found_across_lines_and_inside_no_word() {
    assert_eq!(phrases("while it is\n    /// away, and go\n# on with it"), ["is away", "go on with"]);
    assert_eq!(phrases("a clean window; renewed; in handlers; forever"), Vec::<String>::new());
}
