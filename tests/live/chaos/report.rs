//! What was run and what came of it: one line of JSON a round, so that a series goes on where it stopped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::faults::{Outside, Plan};

/// A round that held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Round {
    seed: u64,
    round: u64,
    /// Every fault of the round by name.
    faults: Vec<String>,
    events: u64,
    seconds: f64,
}

impl Round {
    pub(crate) fn new(seed: u64, round: u64, plan: &Plan, events: u64, took: Duration) -> Self {
        let point = |armed: &String| armed.split(':').next().unwrap_or_default().to_owned();
        let mut faults: Vec<String> = plan.points.iter().map(point).collect();
        faults.push(point(&plan.send));
        faults.extend(plan.outside.iter().map(|kind| kind.name().to_owned()));
        Self { seed, round, faults, events, seconds: took.as_secs_f64() }
    }
}

/// All rounds so far.
#[derive(Debug)]
pub(crate) struct Report {
    rounds: Vec<Round>,
    file: Option<File>,
}

impl Report {
    /// Goes on with the file, if one is named.
    pub(crate) fn open(path: Option<String>) -> Self {
        let Some(path) = path else { return Self { rounds: Vec::new(), file: None } };
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let rounds = text.lines().map(|line| serde_json::from_str(line).expect("a round of an earlier run")).collect();
        let file = File::options().create(true).append(true).open(path).expect("the report");
        Self { rounds, file: Some(file) }
    }

    pub(crate) fn next_round(&self) -> u64 {
        self.rounds.last().map_or(0, |last| last.round + 1)
    }

    pub(crate) fn add(&mut self, round: Round) {
        if let Some(file) = &mut self.file {
            writeln!(file, "{}", serde_json::to_string(&round).expect("JSON")).expect("written");
        }
        self.rounds.push(round);
    }

    /// Faults of all rounds.
    pub(crate) fn faults(&self) -> u64 {
        self.rounds.iter().map(|round| round.faults.len() as u64).sum()
    }

    fn by_fault(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for fault in self.rounds.iter().flat_map(|round| &round.faults) {
            *counts.entry(fault.as_str()).or_default() += 1;
        }
        counts
    }

    /// A kind that never came proves nothing.
    pub(crate) fn assert_every_kind_fired(&self, outside: &[Outside]) {
        let counts = self.by_fault();
        for kind in custody::fault::FAULT_POINTS.into_iter().chain(outside.iter().map(|kind| kind.name())) {
            assert!(counts.contains_key(kind), "{kind} never fired");
        }
    }

    pub(crate) fn summary(&self) -> String {
        let (events, seconds) =
            (self.rounds.iter().map(|r| r.events).sum::<u64>(), self.rounds.iter().map(|r| r.seconds).sum::<f64>());
        let mut text = format!(
            "chaos: {} faults in {} rounds, {events} events, 0 lost, 0 doubled, {seconds:.0} s\n",
            self.faults(),
            self.rounds.len()
        );
        for (fault, count) in self.by_fault() {
            // Writing to memory does not fail.
            let _written = writeln!(text, "  {fault:<24} {count}");
        }
        text
    }
}
