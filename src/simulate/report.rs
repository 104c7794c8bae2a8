//! What a series of simulated runs came to, for people and as JSON.
//!
//! A series proves something only about faults that happened: the report counts each kind, and a kind
//! that never happened is a failure of the series.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::ValueEnum as _;
use serde::Serialize;

use super::Broken;
use super::chaos::{Fired, Operation};

/// Runs from which on every kind of fault must have happened. Fewer may miss one by chance: a seed has
/// ten faults on average, of 35 kinds.
pub const COVERAGE_RUNS_MIN: u64 = 100;
/// Findings of the auditor that are kept of the first failing seed.
const FAILURES_MAX: usize = 20;

/// The report.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// First seed.
    pub first_seed: u64,
    /// Runs made.
    pub runs: u64,
    /// Wall clock.
    pub seconds: f64,
    /// Which defect was built in; none in an honest series.
    pub broken: Option<String>,
    /// Seeds in whose runs the auditor found something.
    pub failed_seeds: Vec<u64>,
    /// What it found in the first of them.
    pub first_failures: Vec<String>,
    /// `operation/fault` and how often it happened; every kind is listed.
    pub fired: BTreeMap<String, u64>,
    /// Kinds of fault that never happened.
    pub never_fired: Vec<String>,
}

impl Report {
    pub(super) fn new(first_seed: u64, broken: Option<Broken>) -> Self {
        let name = |how: Broken| how.to_possible_value().map(|value| value.get_name().to_owned());
        // Every kind from the start, at zero: what never happens could not be listed otherwise.
        let kinds = Operation::ALL.iter().flat_map(|operation| operation.faults().iter().map(|f| (*operation, *f)));
        let fired: BTreeMap<String, u64> = kinds.map(|(operation, fault)| (kind(operation, fault), 0)).collect();
        let never_fired = fired.keys().cloned().collect();
        Self { first_seed, broken: broken.and_then(name), fired, never_fired, ..Self::default() }
    }

    pub(super) fn add(&mut self, seed: u64, wrong: Vec<String>, fired: &Fired) {
        self.runs += 1;
        for ((operation, fault), count) in fired {
            *self.fired.entry(kind(*operation, *fault)).or_default() += count;
        }
        self.never_fired = self.fired.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name.clone()).collect();
        if wrong.is_empty() {
            return;
        }
        if self.failed_seeds.is_empty() {
            // Of the first seed only: later ones mostly repeat it, and each can be run by itself.
            self.first_failures = wrong.into_iter().take(FAILURES_MAX).collect();
        }
        self.failed_seeds.push(seed);
    }

    /// The seed of the last run.
    pub(super) fn last_seed(&self) -> u64 {
        self.first_seed + self.runs.saturating_sub(1)
    }

    /// The command that repeats a seed.
    pub(super) fn command(&self, seed: u64) -> String {
        let broken = self.broken.as_ref().map(|how| format!(" --broken {how}")).unwrap_or_default();
        format!("custody simulate --seed {seed}{broken}")
    }

    /// Whether nothing is wrong, and, in a series long enough to tell, every kind of fault happened.
    pub fn is_good(&self) -> bool {
        // A short series proves less and is not blamed for it.
        let is_covered = self.runs < COVERAGE_RUNS_MIN || self.never_fired.is_empty();
        self.failed_seeds.is_empty() && is_covered
    }

    /// The report as text or as JSON.
    ///
    /// # Errors
    /// It has no JSON form, which is a defect.
    pub fn print(&self, json: bool) -> anyhow::Result<String> {
        if json {
            return Ok(serde_json::to_string_pretty(self)? + "\n");
        }
        let Self { runs, first_seed, seconds, .. } = self;
        let mut text = String::new();
        let faults: u64 = self.fired.values().sum();
        let failed = self.failed_seeds.len();
        writeln!(text, "{runs} runs from seed {first_seed} in {seconds:.1} s: {failed} failed, {faults} faults")?;
        for (kind, count) in &self.fired {
            writeln!(text, "  {kind:<28} {count:>8}")?;
        }
        if self.runs >= COVERAGE_RUNS_MIN && !self.never_fired.is_empty() {
            // Said aloud: an absent kind reads as a passed one.
            writeln!(text, "never happened, so nothing is shown about it: {}", self.never_fired.join(", "))?;
        }
        if let Some(seed) = self.failed_seeds.first() {
            writeln!(text, "first failure: {}", self.command(*seed))?;
            for line in &self.first_failures {
                writeln!(text, "  {line}")?;
            }
        }
        Ok(text)
    }
}

fn kind(operation: Operation, fault: super::chaos::FaultKind) -> String {
    format!("{operation:?}/{fault:?}")
}
