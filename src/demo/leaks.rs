//! Looks for personal data in what was published: every value that the scanner found in the input,
//! searched for in every column of every Parquet file.
//!
//! It collects from the runs themselves, not from their copies, which bounds the list. ClickHouse is searched
//! by its own SQL, with the same list, in `counts`.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use anyhow::Context;
use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use processors::pii::{Action, Kind, Policy, ScanContext, scan, value_of};
use sinks::parquet::store::Store;

use crate::fleet::{Run, Step};

/// Shorter values ("Li", "77") occur in other words; what is left has a shape of its own.
const VALUE_BYTES_MIN: usize = 6;

/// Values that must not be found again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Values(BTreeSet<String>);

impl Values {
    /// Adds what the scanner finds in a run's texts and the policy does not keep.
    pub(crate) fn collect(&mut self, run: &Run, policy: &Policy) {
        for step in &run.steps {
            let texts: &[&String] = match step {
                Step::Model { input, output, .. } => &[input, output],
                Step::Tool { arguments, result, .. } => &[arguments, result],
                Step::Output { text } => &[text],
            };
            texts.iter().for_each(|text| self.collect_text(text, policy));
        }
    }

    fn collect_text(&mut self, text: &str, policy: &Policy) {
        for span in scan(text, "text/plain", &ScanContext::default()) {
            let value = value_of(text, &span);
            if policy.action(span.kind, span.grade) != Action::Keep && speaks_for_itself(&value, span.kind) {
                self.0.insert(value.into_owned());
            }
        }
    }

    /// Adds a value that the demo planted.
    pub(crate) fn add(&mut self, value: &str) {
        self.0.insert(value.to_owned());
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The values, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// A searcher for all of them.
    ///
    /// # Errors
    /// There are more than the searcher can hold (billions).
    pub(crate) fn searcher(&self) -> anyhow::Result<Searcher> {
        Ok(Searcher { values: self.0.iter().cloned().collect(), automaton: AhoCorasick::new(&self.0)? })
    }
}

/// Whether a value is personal wherever it stands: the scanner finds it without any context. A town
/// or a given name is personal in one field and a word in another; whether those go, session by
/// session, is tested in `processors`.
fn speaks_for_itself(value: &str, kind: Kind) -> bool {
    let alone = scan(value, "text/plain", &ScanContext::default());
    let whole = alone.iter().any(|s| s.kind == kind && s.start == 0 && s.end == value.len());
    let is_one_name = kind == Kind::Person && !value.contains(' ');
    value.len() >= VALUE_BYTES_MIN && whole && !is_one_name
}

/// Finds values as whole words: not inside a longer word or number.
#[derive(Debug)]
pub(crate) struct Searcher {
    values: Vec<String>,
    automaton: AhoCorasick,
}

impl Searcher {
    /// Adds the values that stand in `text` to `found`.
    pub(crate) fn search(&self, text: &[u8], found: &mut BTreeSet<String>) {
        for hit in self.automaton.find_overlapping_iter(text) {
            let is_word = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
            let before = hit.start().checked_sub(1).and_then(|i| text.get(i));
            if !is_word(before) && !is_word(text.get(hit.end())) {
                found.insert(self.values[hit.pattern().as_usize()].clone());
            }
        }
    }

    /// The values found in the text and binary columns of every Parquet file of an archive.
    ///
    /// # Errors
    /// An object cannot be read.
    pub(crate) async fn search_archive(&self, store: &Store) -> anyhow::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for object in store.list("archive", None).await? {
            let key = object.location.to_string();
            if !key.ends_with(".parquet") {
                continue;
            }
            let bytes = store.get(&key).await?.with_context(|| format!("{key} is gone"))?;
            for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
                for column in batch?.columns() {
                    self.search_column(column, &mut found);
                }
            }
        }
        Ok(found)
    }

    fn search_column(&self, column: &dyn Array, found: &mut BTreeSet<String>) {
        match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().iter().flatten().for_each(|v| self.search(v.as_bytes(), found)),
            DataType::Binary => column.as_binary::<i32>().iter().flatten().for_each(|v| self.search(v, found)),
            _ => {}
        }
    }
}
