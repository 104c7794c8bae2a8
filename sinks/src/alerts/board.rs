//! What is firing, as the log says: a fold over alert records, and what it means for the next record.
//!
//! It is a cache and rebuilt from the log at every start. It sends nothing and knows no receiver's
//! format. The order of an alert's records is the order of their times, because the records of one alert
//! may stand in two partitions: rules that page at once write to one, the scoring stage goes on in another.

use std::collections::BTreeMap;

use schemas::event::Alert;
use schemas::record::PartitionId;
use schemas::time::TimestampMicros;

use super::route::{Route, Severity};
use super::text::is_resolved;

/// Most alerts that are remembered; beyond it the ones longest without news are forgotten. At about
/// 1.5 KiB each this is 75 MiB.
const ALERTS_MAX: usize = 50_000;
/// Fewest alerts for which looking for old ones is worth it.
const SWEEP_MIN: usize = 1_024;

/// What becomes of a record at one receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is sent.
    Send,
    /// The receiver's filter leaves it out.
    Unwanted,
    /// A newer record of the same alert, from another partition, has been dealt with already.
    Superseded,
    /// The receiver was told the same not long ago.
    Repeated,
}

/// How a receiver chooses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Its filter.
    pub route: Route,
    /// Least time between two records about an alert that goes on unchanged, milliseconds; `None`:
    /// every record is sent.
    pub repeat_interval_ms: Option<i64>,
}

/// What a receiver was told last about an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    at: TimestampMicros,
    severity: Severity,
    is_resolved: bool,
}

/// One alert.
#[derive(Debug, Clone)]
struct Entry {
    newest: Alert,
    partition: PartitionId,
    told: Option<Told>,
}

/// The alerts that the log has told of.
#[derive(Debug)]
pub struct Board {
    rules: Rules,
    age_ms_max: i64,
    entries: BTreeMap<String, Entry>,
    latest: TimestampMicros,
    sweep_at: usize,
}

/// Position of a record in its alert's history; of two with one time the end is the later.
fn order(alert: &Alert) -> (TimestampMicros, bool) {
    (alert.updated_at, is_resolved(alert))
}

impl Board {
    /// An empty board; an alert without news for `age_ms_max` is forgotten.
    pub fn new(rules: Rules, age_ms_max: i64) -> Self {
        Self { rules, age_ms_max, entries: BTreeMap::new(), latest: TimestampMicros(i64::MIN), sweep_at: SWEEP_MIN }
    }

    /// What becomes of the next record of `partition`.
    pub fn judge(&self, alert: &Alert, partition: PartitionId) -> Verdict {
        let known = self.entries.get(&alert.fingerprint);
        let told = known.and_then(|e| e.told);
        // The end of what was told is told, whatever the filter says of the end's severity.
        let ends_told = is_resolved(alert) && told.is_some_and(|t| !t.is_resolved);
        if !self.rules.route.takes(alert) && !ends_told {
            return Verdict::Unwanted;
        }
        if known.is_some_and(|e| e.partition != partition && order(&e.newest) > order(alert)) {
            return Verdict::Superseded;
        }
        match (self.rules.repeat_interval_ms, told) {
            (Some(interval_ms), Some(told)) if is_repeated(alert, &told, interval_ms) => Verdict::Repeated,
            _ => Verdict::Send,
        }
    }

    /// Takes in a record that somebody else deals with.
    pub fn observe(&mut self, alert: Alert, partition: PartitionId) {
        self.latest = self.latest.max(alert.updated_at);
        match self.entries.get_mut(&alert.fingerprint) {
            Some(entry) if order(&entry.newest) > order(&alert) => {}
            Some(entry) => (entry.newest, entry.partition) = (alert, partition),
            None => {
                self.entries.insert(alert.fingerprint.clone(), Entry { newest: alert, partition, told: None });
                self.sweep();
            }
        }
    }

    /// Takes in a record that has been dealt with here, now or before a restart.
    pub fn settle(&mut self, alert: Alert, partition: PartitionId) {
        let verdict = self.judge(&alert, partition);
        let (fingerprint, severity) = (alert.fingerprint.clone(), Severity::of(&alert.severity));
        let told = Told { at: alert.updated_at, severity, is_resolved: is_resolved(&alert) };
        self.observe(alert, partition);
        if let (Verdict::Send, Some(entry)) = (verdict, self.entries.get_mut(&fingerprint)) {
            entry.told = Some(told);
        }
    }

    /// Fingerprints of what is firing at `now` by a record of one of `partitions`, and is wanted.
    pub fn firing(&self, now: TimestampMicros, partitions: impl Fn(PartitionId) -> bool) -> Vec<String> {
        let is_firing = |e: &Entry| {
            let age_ms = now.ms().saturating_sub(e.newest.updated_at.ms());
            !is_resolved(&e.newest) && age_ms <= self.age_ms_max && self.rules.route.takes(&e.newest)
        };
        let held = self.entries.iter().filter(|(_, e)| partitions(e.partition) && is_firing(e));
        held.map(|(fingerprint, _)| fingerprint.clone()).collect()
    }

    /// The newest record of an alert that is still firing.
    pub fn still_firing(&self, fingerprint: &str) -> Option<&Alert> {
        self.entries.get(fingerprint).map(|e| &e.newest).filter(|alert| !is_resolved(alert))
    }

    /// Forgets an alert.
    pub fn forget(&mut self, fingerprint: &str) {
        self.entries.remove(fingerprint);
    }

    /// Forgets what is old by the log's own time; if that is not enough, what is oldest.
    fn sweep(&mut self) {
        if self.entries.len() < self.sweep_at {
            return;
        }
        let oldest = self.latest.plus_ms(-self.age_ms_max);
        self.entries.retain(|_, e| e.newest.updated_at >= oldest);
        if self.entries.len() >= ALERTS_MAX {
            let mut times: Vec<TimestampMicros> = self.entries.values().map(|e| e.newest.updated_at).collect();
            times.sort_unstable();
            let median = times[times.len() / 2];
            self.entries.retain(|_, e| e.newest.updated_at > median);
        }
        self.sweep_at = (self.entries.len() * 2).clamp(SWEEP_MIN, ALERTS_MAX);
    }
}

/// Whether the receiver knows it: same state, no worse, and told not long ago.
fn is_repeated(alert: &Alert, told: &Told, interval_ms: i64) -> bool {
    let age_ms = alert.updated_at.ms().saturating_sub(told.at.ms());
    is_resolved(alert) == told.is_resolved && Severity::of(&alert.severity) <= told.severity && age_ms < interval_ms
}
