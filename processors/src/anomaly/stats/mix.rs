//! Which tools an agent uses: Space-Saving counts (Metwally et al., 2005) and the Good-Turing mass of
//! what was never seen.
//!
//! The share of calls that went to tools used exactly once estimates the chance that the next call
//! goes to a tool never used (Good 1953). It names tools, so its size depends on their names.

use std::collections::BTreeMap;

use crate::anomaly::wire::wire_fields;
use crate::steps::walked;

/// Most tools that are remembered; the least used one makes room.
const TOOLS_MAX: usize = 16;

/// Tools of one agent with their counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mix {
    tools: BTreeMap<String, i64>,
    calls: i64,
    /// Whether a tool ever had to make room: then "never seen" can no longer be known.
    full: bool,
}

wire_fields!(Mix { tools, calls, full });

impl Mix {
    /// Probability of the tools of a window that were never seen, each with its own; `calls` before.
    pub fn unseen<'a>(&self, window: &BTreeMap<&'a str, i64>) -> Vec<(&'a str, f64)> {
        if self.full {
            return Vec::new();
        }
        walked(self.tools.len());
        // Good-Turing: n1 / n, smoothed by half a tool, so that a settled mix does not claim certainty.
        let once = self.tools.values().filter(|count| **count == 1).count() as f64;
        let mass = (once + 0.5) / (self.calls as f64 + 1.0);
        window.keys().filter(|tool| !self.tools.contains_key(**tool)).map(|tool| (*tool, mass.min(1.0))).collect()
    }

    /// Calls seen.
    pub fn calls(&self) -> i64 {
        self.calls
    }

    /// Learns a window.
    pub fn learn(&mut self, window: &BTreeMap<&str, i64>) {
        for (tool, count) in window {
            self.calls = self.calls.saturating_add(*count);
            let has_room = self.tools.contains_key(*tool) || self.tools.len() < TOOLS_MAX;
            // Space-Saving: a newcomer takes the count of what it displaces, so that a count is never too low.
            let inherited = if has_room { 0 } else { self.evict() };
            *self.tools.entry((*tool).to_owned()).or_insert(inherited) += count;
        }
    }

    /// Drops the least used tool, the last by name among equals; its count passes to the newcomer.
    fn evict(&mut self) -> i64 {
        self.full = true;
        walked(self.tools.len());
        // The name decides between equals (I6).
        let least = self.tools.iter().map(|(tool, count)| (*count, std::cmp::Reverse(tool.clone()))).min();
        least.and_then(|(_, tool)| self.tools.remove(&tool.0)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_tool_is_less_likely_the_longer_the_mix_was_stable() {
        let mut mix = Mix::default();
        mix.learn(&BTreeMap::from([("search", 30), ("book", 20)]));
        let window = BTreeMap::from([("search", 1), ("wire_money", 1)]);
        let early = mix.unseen(&window);
        mix.learn(&BTreeMap::from([("search", 900), ("book", 50)]));
        let late = mix.unseen(&window);
        assert_eq!((early.len(), late.len()), (1, 1));
        assert!(late[0].1 < early[0].1 && late[0].1 < 1e-3, "{late:?}");
    }

    #[test]
    fn memory_stays_bounded_and_then_says_nothing_of_novelty() {
        let mut mix = Mix::default();
        let names: Vec<String> = (0..40).map(|n| format!("tool{n}")).collect();
        names.iter().for_each(|name| mix.learn(&BTreeMap::from([(name.as_str(), 1)])));
        assert_eq!(mix.tools.len(), TOOLS_MAX);
        assert!(mix.unseen(&BTreeMap::from([("new", 1)])).is_empty());
    }
}
