//! What is known of one subject: baselines, declared facts, open alerts; and its whole window.
//!
//! An entry of fixed size but for names: at most 64 declared tools, 16 used tools, 16 models and 32
//! open alerts. It judges nothing.

use std::collections::BTreeMap;

use schemas::event::Signal;
use schemas::id::Uuid;
use schemas::time::TimestampMicros;

use crate::anomaly::alert::SAMPLES_MAX;
use crate::anomaly::stats::{Count, Gauge, Mix, Rate, Ring};
use crate::anomaly::wire::wire_fields;

/// Class and metric: what distinguishes the alerts of a subject.
pub(super) type AlertKey = (String, String);

/// Everything that is remembered of a subject.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subject {
    /// Number of the last active window; `i64::MIN` for none.
    pub(super) last: i64,
    /// Active windows.
    pub(super) windows: u32,
    /// Longest pause between active windows, forgotten by 2 % per pause.
    pub(super) pause: f64,
    pub(super) rates: BTreeMap<u8, Rate>,
    pub(super) gauges: BTreeMap<u8, Gauge>,
    pub(super) calls: Count,
    pub(super) mix: Mix,
    /// Model calls and those that failed by a dependency's fault, last five windows.
    pub(super) dependency: Ring<5>,
    pub(super) declared: Option<Declared>,
    /// Model values in use, with what is known of them.
    pub(super) models: BTreeMap<String, u8>,
    pub(super) model_calls: i64,
    pub(super) open: BTreeMap<AlertKey, Open>,
    pub(super) habits: BTreeMap<AlertKey, Habit>,
}

wire_fields!(Subject {
    last,
    windows,
    pause,
    rates,
    gauges,
    calls,
    mix,
    dependency,
    declared,
    models,
    model_calls,
    open,
    habits,
});

impl Default for Subject {
    fn default() -> Self {
        Self {
            last: i64::MIN,
            windows: 0,
            pause: 0.0,
            rates: BTreeMap::new(),
            gauges: BTreeMap::new(),
            calls: Count::default(),
            mix: Mix::default(),
            dependency: Ring::default(),
            declared: None,
            models: BTreeMap::new(),
            model_calls: 0,
            open: BTreeMap::new(),
            habits: BTreeMap::new(),
        }
    }
}

/// An agent's entry in the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Declared {
    /// Empty: not declared.
    pub(super) tools: Vec<String>,
    /// Empty: always.
    pub(super) hours: String,
}

wire_fields!(Declared { tools, hours });

/// An alert that is firing.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Open {
    pub(super) starts_at: TimestampMicros,
    /// End of the last window that showed it.
    pub(super) last: TimestampMicros,
    /// When it was last reported.
    pub(super) reported_at: TimestampMicros,
    pub(super) windows: u32,
    /// Trials and hits since it began.
    pub(super) trials: f64,
    pub(super) hits: f64,
    pub(super) observed: Option<f64>,
    pub(super) expected: Option<f64>,
    pub(super) p: Option<f64>,
    pub(super) score: Option<f64>,
    pub(super) severity: String,
    pub(super) detail: String,
    pub(super) contributing: Vec<String>,
    pub(super) event_ids: Vec<Uuid>,
}

wire_fields!(Open {
    starts_at,
    last,
    reported_at,
    windows,
    trials,
    hits,
    observed,
    expected,
    p,
    score,
    severity,
    detail,
    contributing,
    event_ids,
});

/// How much an alert that has fired before is discounted.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Habit {
    pub(super) level: f64,
    pub(super) at: TimestampMicros,
}

wire_fields!(Habit { level, at });

/// All contributions to one window of one subject.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Window {
    pub(super) first: TimestampMicros,
    pub(super) next: TimestampMicros,
    pub(super) number: i64,
    pub(super) values: BTreeMap<String, f64>,
    pub(super) counts: BTreeMap<String, i64>,
    pub(super) event_ids: Vec<Uuid>,
}

impl Window {
    /// Adds a contribution; the order of calls is the order of the sums.
    pub(super) fn merge(&mut self, signal: Signal, window_ms: i64) {
        (self.first, self.next) = (signal.window_first, signal.window_next);
        // Euclidean, so that numbers ascend through 1970 without a window of double width.
        self.number = signal.window_first.0.div_euclid(window_ms.saturating_mul(1_000));
        for (name, value) in signal.values {
            *self.values.entry(name).or_default() += value;
        }
        for (name, count) in signal.counts {
            let sum = self.counts.entry(name).or_default();
            *sum = sum.saturating_add(count);
        }
        // The first ones in slot order: samples must not depend on which partition came first (I6).
        let room = SAMPLES_MAX.saturating_sub(self.event_ids.len());
        self.event_ids.extend(signal.event_ids.into_iter().take(room));
    }

    /// A measure; 0 where there is none.
    pub(super) fn value(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(0.0)
    }

    /// Categories of a count, `prefix` without its slash.
    pub(super) fn categories<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, i64)> {
        // The slash is compared as well: `tool` is also the beginning of `tool_done`.
        let own = move |(name, count): (&'a String, &i64)| {
            name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).map(|value| (value, *count))
        };
        self.counts.range(prefix.to_owned()..).take_while(move |(name, _)| name.starts_with(prefix)).filter_map(own)
    }

    /// Tools of the window with their calls.
    pub(super) fn tools(&self) -> BTreeMap<&str, i64> {
        let mut tools = BTreeMap::new();
        // An attempt and its completion are one call, and either may be all that an agent reports: the larger count
        // is the number of calls, the sum would be twice it.
        for (tool, calls) in self.categories("tool").chain(self.categories("tool_done")) {
            let most = tools.entry(tool).or_insert(0);
            *most = calls.max(*most);
        }
        tools
    }

    /// Whether the subject did anything, beyond being declared.
    pub(super) fn is_active(&self) -> bool {
        // Counts do not make a subject active: a declaration has only those.
        !self.values.is_empty()
    }
}
