//! Which keys exist, and which of them a mistyped one may have meant.
//!
//! Pure: the known keys are those of the default configuration. A table that is empty there is open
//! (names of other programs, tenants); what stands in a list is checked when it is read.

use figment::value::{Dict, Value};

/// A key that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unknown {
    /// The key, dotted.
    pub(super) key: String,
    /// The known key that it is closest to.
    pub(super) nearest: Option<String>,
}

/// The keys of `given` that `known` does not have.
pub(super) fn unknown(given: &Dict, known: &Dict) -> Vec<Unknown> {
    let mut found = Vec::new();
    walk("", given, known, &mut found);
    if !found.is_empty() {
        let mut all = Vec::new();
        leaves("", known, &mut all);
        for one in &mut found {
            one.nearest = nearest(&one.key, &all);
        }
    }
    found
}

fn joined(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

fn walk(prefix: &str, given: &Dict, known: &Dict, found: &mut Vec<Unknown>) {
    for (key, value) in given {
        match (value, known.get(key)) {
            (_, None) => found.push(Unknown { key: joined(prefix, key), nearest: None }),
            (Value::Dict(_, given), Some(Value::Dict(_, known))) if !known.is_empty() => {
                walk(&joined(prefix, key), given, known, found);
            }
            _ => {}
        }
    }
}

/// Every key below `known`, dotted, tables too.
fn leaves(prefix: &str, known: &Dict, all: &mut Vec<String>) {
    for (key, value) in known {
        let key = joined(prefix, key);
        if let Value::Dict(_, dict) = value {
            leaves(&key, dict, all);
        }
        all.push(key);
    }
}

/// The known key of the fewest edits (Damerau-Levenshtein). Its last part counts by itself too, so that
/// a key under the wrong section finds its own; at most a third of the letters may differ.
pub(super) fn nearest(key: &str, known: &[String]) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let edits = |known: &String| {
        let whole = strsim::damerau_levenshtein(key, known);
        // One more than nothing: a key at its right place goes before one elsewhere.
        let moved = 1 + strsim::damerau_levenshtein(&last(key), &last(known));
        let moved_max = last(key).len() / 3;
        let is_near = whole <= (key.len() / 3).max(1) || moved <= moved_max;
        is_near.then_some(whole.min(moved))
    };
    known.iter().filter_map(|k| Some((edits(k)?, k))).min().map(|(_, k)| k.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_finds_the_one_that_was_meant() {
        let known: Vec<String> =
            ["data_dir", "log", "log.url", "log.partitions", "archive.flush_interval_ms", "archive"]
                .map(str::to_owned)
                .into();
        let check = |key: &str, expected: Option<&str>| assert_eq!(nearest(key, &known).as_deref(), expected, "{key}");
        check("log.ulr", Some("log.url"));
        check("lgo", Some("log"));
        check("log.partition", Some("log.partitions"));
        check("flush_interval_ms", Some("archive.flush_interval_ms"));
        check("log.flush_interval_ms", Some("archive.flush_interval_ms"));
        check("datadir", Some("data_dir"));
        check("completely.different", None);
    }
}
