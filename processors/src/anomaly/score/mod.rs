//! Stage `score`: window measures of all partitions in, alerts out.
//!
//! Contributions wait in the [`Barrier`](crate::watermark::Barrier) until every source partition has
//! passed their window; then each subject's window is whole, and windows are judged in the order of
//! time. What a window produces depends on the contributions alone, not on how the log interleaved
//! them; an alert's record time is its window's end for the same reason.
//!
//! A partition of the signals topic holds all windows of a subject, but not all subjects: a cohort
//! of agents is therefore judged by the *dependency* that they share, whose series has the calls of
//! all agents. While an agent's own calls fail by a dependency's fault, the statistics about that
//! agent report nothing; the dependency's alert does.

mod candidate;
mod decide;
mod evaluate;
mod hours;
mod reason;
mod rules;
mod state;
mod subject;

use std::collections::BTreeMap;

use schemas::codec::Derived;
use schemas::event::{Signal, Watermark};
use schemas::reject::{Reject, RejectReason};
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::alert::{SubjectKey, outgoing};
use crate::stage::{Output, Processor, ProcessorId, Sourced};
use crate::watermark::{Release, Slot};
pub(super) use reason::utc;
use state::Held;
pub use state::ScoreState;
use subject::Window;

/// Name and version on the wire.
const DETECTOR: &str = "score@1";
/// Most alerts that one input may emit; the rest follow with the next inputs.
const ALERTS_PER_INPUT_MAX: usize = 60;

/// Settings of [`Score`]; a change is a new version of the stage's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreConfig {
    /// Width of a window, milliseconds: that of [`super::FeaturesConfig::window_ms`].
    #[serde(skip)]
    pub window_ms: i64,
    /// Windows with data before a series' statistics may alert.
    pub baseline_windows_min: u32,
    /// False discovery rate per window over the series of a partition (Benjamini-Hochberg 1995).
    pub fdr: f64,
    /// Quiet windows after which an alert is resolved.
    pub clear_windows: i64,
    /// Windows after a resolution in which the same statistic stays silent.
    pub refractory_windows: i64,
    /// Windows between two reports of an alert that keeps firing.
    pub update_windows: i64,
    /// Fewest failures for any error-rate alert.
    pub failures_min: f64,
    /// Smallest failure rate of a dependency that is an outage.
    pub outage_rate_min: f64,
    /// Smallest failure rate of an agent or a tool that is reported.
    pub error_rate_min: f64,
    /// Smallest multiple of the expected value that is reported: rates, cost, latency.
    pub ratio_min: f64,
    /// Smallest excess cost in a window, millionths of a US dollar.
    pub cost_micros_min: f64,
    /// Smallest mean latency that is reported, milliseconds.
    pub latency_ms_min: f64,
    /// Smallest number of model calls in a window that is a runaway.
    pub calls_min: f64,
    /// Fewest silent windows that are reported, for an agent never silent so long.
    pub silence_windows_min: i64,
    /// Cap on bytes that an agent takes out in a window.
    pub bytes_out_max: f64,
    /// Cap on rows that an agent touches in a window.
    pub rows_max: f64,
    /// Availability objective of dependencies, for burn rates.
    pub objective: f64,
}

impl Default for ScoreConfig {
    fn default() -> Self {
        Self {
            window_ms: 60_000,
            baseline_windows_min: 20,
            fdr: 1e-3,
            clear_windows: 5,
            refractory_windows: 5,
            update_windows: 10,
            failures_min: 5.0,
            outage_rate_min: 0.25,
            error_rate_min: 0.5,
            ratio_min: 3.0,
            cost_micros_min: 5_000.0,
            latency_ms_min: 500.0,
            calls_min: 60.0,
            silence_windows_min: 30,
            bytes_out_max: 268_435_456.0,
            rows_max: 1_000_000.0,
            objective: 0.99,
        }
    }
}

/// The stage; state per partition of the signals topic is [`ScoreState`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Score {
    config: ScoreConfig,
}

impl Score {
    /// A stage with these settings.
    pub fn new(config: ScoreConfig) -> Self {
        Self { config: ScoreConfig { window_ms: config.window_ms.max(1), ..config } }
    }

    fn step(&self, state: &mut ScoreState, record: &Sourced<Derived>) -> Option<Reject> {
        let refused = match &record.value {
            Derived::Signal(signal) => self.hold(state, signal).err(),
            Derived::Watermark(watermark) => self.advance(state, watermark).err(),
            _ => Some("neither a signal nor a watermark; check what writes this topic".to_owned()),
        };
        refused.map(|detail| Reject { at: record.at, reason: RejectReason::Malformed, detail })
    }

    fn hold(&self, state: &mut ScoreState, signal: &Signal) -> Result<(), String> {
        // Window numbers are times divided by the width: with another width, neighbours would be judged as the same
        // window.
        let width = signal.window_next.0.saturating_sub(signal.window_first.0);
        if width != self.config.window_ms.saturating_mul(1_000) {
            return Err(format!(
                "signal's window is {width} us wide, this stage is set to {} ms",
                self.config.window_ms
            ));
        }
        let source_partition = u32::try_from(signal.source_partition)
            .map_err(|_| format!("signal names source partition {}", signal.source_partition))?;
        let slot = Slot { time: signal.window_next, source_partition, ordinal: signal.ordinal };
        // Repeated or too late is a redelivery: the barrier keeps the first, and there is nothing to report.
        state.barrier.offer(slot, Held::new(signal));
        Ok(())
    }

    fn advance(&self, state: &mut ScoreState, watermark: &Watermark) -> Result<(), String> {
        let mut waiting: BTreeMap<TimestampMicros, BTreeMap<SubjectKey, Window>> = BTreeMap::new();
        for release in state.barrier.mark(watermark).map_err(|e| e.to_string())? {
            match release {
                Release::Contribution(slot, held) => {
                    let (key, signal) = held.keyed();
                    let window = waiting.entry(slot.time).or_default().entry(key).or_default();
                    // In slot order: floating-point sums depend on it (I6).
                    window.merge(signal, self.config.window_ms);
                }
                Release::Complete(at) => {
                    // All windows before any silence: a subject is silent only if none of them is its own.
                    for windows in std::mem::take(&mut waiting).into_values() {
                        decide::judge(state, windows, &self.config);
                    }
                    decide::sweep(state, at, &self.config);
                }
            }
        }
        Ok(())
    }
}

impl Processor for Score {
    type Input = Derived;
    type State = ScoreState;

    fn id(&self) -> ProcessorId {
        ProcessorId { name: "score", version: 1 }
    }

    fn process(&self, state: &mut ScoreState, batch: &[Sourced<Derived>]) -> Output {
        let mut out = Output::default();
        for record in batch {
            out.rejects.extend(self.step(state, record));
            // A watermark may open alerts for every subject at once; what is over the bound stays in the outbox,
            // which is state, and follows with the next input.
            let alerts = (0..ALERTS_PER_INPUT_MAX).map_while(|_| state.next_alert());
            out.derived.extend(alerts.map(outgoing));
        }
        out
    }
}
