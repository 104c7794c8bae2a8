//! A measure per call, such as latency or cost: its logarithm against its own past.
//!
//! Three channels: z of the window's and of three windows' mean log against the long average
//! (variance within and between windows), CUSUM of the winsorised z (Page 1954), and a
//! peak: a rise below what was already seen is not reported. Only rises are reported.

use super::special::normal_upper;
use super::{Ring, Tail, YOUNG_WINDOWS, learns};
use crate::anomaly::wire::wire_fields;

/// Smallest weight of a new window.
const STEP: f64 = 0.02;
/// CUSUM allowance, in standard deviations: half of the smallest shift worth finding.
const ALLOWANCE: f64 = 0.5;
/// CUSUM ceiling, so that it falls back after an alarm.
const CUSUM_MAX: f64 = 40.0;
/// Evidence per unit of CUSUM: half of what independent Gaussian windows would allow (Wald), since
/// levels of neighbouring windows depend on each other.
const CUSUM_EVIDENCE: f64 = ALLOWANCE;
/// Smallest variance of a log: 10 %.
const VARIANCE_MIN: f64 = 0.01;
/// Most that one window's squared deviation counts, in variances: an outlier must not blunt the rest.
const OUTLIER: f64 = 9.0;
/// Fewest calls in a window whose level is a peak.
const PEAK_CALLS_MIN: f64 = 3.0;
/// Share of the height of a peak that is kept per window: half of it for 69 windows.
const PEAK_KEEP: f64 = 0.99;
/// Windows of the short average.
const SHORT: usize = 3;

/// Baseline of a gauge.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gauge {
    mean: f64,
    /// Variance of the log of one call.
    within: f64,
    /// Variance of a window's level beyond that of its calls; an estimate, so it may be below 0.
    between: f64,
    cusum: f64,
    peak: f64,
    windows: u32,
    frozen: u32,
    tail: Tail,
    recent: Ring<SHORT>,
}

wire_fields!(Gauge { mean, within, between, cusum, peak, windows, frozen, tail, recent });

/// What a window looks like against a [`Gauge`]; levels are means of ln(1 + x).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaugeView {
    /// Calibrated tail probability; 1 where nothing is new.
    pub p: f64,
    /// Level of this window.
    pub level: f64,
    /// Level of the last three windows.
    pub short: f64,
    /// Expected level.
    pub expected: f64,
    /// Windows with data before this one.
    pub windows: u32,
}

impl Gauge {
    /// Scores window number `window` with the sums of ln(1 + x) and of its square over `calls` > 0
    /// calls, then learns from it.
    pub fn observe(&mut self, window: i64, calls: f64, sum: f64, sum_of_squares: f64) -> GaugeView {
        self.recent.add(window, [calls, sum]);
        let [short_calls, short_sum] = self.recent.sum(SHORT);
        let (level, short) = (sum / calls, short_sum / short_calls.max(1.0));
        let (z, z_short) = (self.z(level, calls), self.z(short, short_calls));
        // Winsorised at 4: one outlier must not raise an alarm for a shift.
        let step = if self.windows < YOUNG_WINDOWS { 0.0 } else { z.clamp(-4.0, 4.0) - ALLOWANCE };
        self.cusum = (self.cusum + step).clamp(0.0, CUSUM_MAX);
        // Twice the smaller of two tails (Bonferroni), and once more below for tail and drift.
        let nominal = (2.0 * normal_upper(z).min(normal_upper(z_short))).min(1.0);
        let drift = (-CUSUM_EVIDENCE * self.cusum).exp();
        let is_news = level.max(short) > self.peak && self.windows >= YOUNG_WINDOWS;
        let unusual = (2.0 * self.tail.calibrated(nominal).min(drift)).min(1.0);
        let p = if is_news { unusual } else { 1.0 };
        let view = GaugeView { p, level, short, expected: self.mean, windows: self.windows };
        if learns(&mut self.frozen, unusual, self.windows) {
            self.learn(calls, level, sum_of_squares, nominal);
        }
        view
    }

    /// Expected level.
    pub fn expected(&self) -> f64 {
        self.mean
    }

    /// Sets the CUSUM back, once an alarm is over.
    pub fn reset(&mut self) {
        self.cusum = 0.0;
    }

    fn z(&self, level: f64, calls: f64) -> f64 {
        // An average of few windows is itself uncertain: five times the spread at first, a tenth more after 40.
        let young = 1.0 + 4.0 / (1.0 + f64::from(self.windows));
        let variance = self.within.max(VARIANCE_MIN) / calls.max(1.0) + self.between.max(0.0);
        (level - self.mean) / (variance.sqrt() * young)
    }

    fn learn(&mut self, calls: f64, level: f64, sum_of_squares: f64, nominal: f64) {
        let step = STEP.max(1.0 / (1.0 + f64::from(self.windows)));
        let delta = level - self.mean;
        let spread = (sum_of_squares / calls - level * level).max(0.0);
        if calls >= 2.0 {
            let unbiased = spread * calls / (calls - 1.0);
            let first = self.within == 0.0;
            self.within += if first { unbiased } else { step * (unbiased - self.within) };
        }
        if self.windows > 0 {
            let sampling = self.within.max(VARIANCE_MIN) / calls;
            // What calls explain by themselves is taken off; what is left is how much levels differ from window to
            // window.
            let excess = (delta * delta).min(OUTLIER * (sampling + self.between.max(0.0))) - sampling;
            self.between += step * (excess - self.between);
        }
        self.mean += step * delta;
        // A level of one or two calls is too noisy to be a peak that hides later rises; a lasting
        // level stays above its own peak, which is kept below it.
        let top = if calls >= PEAK_CALLS_MIN { level - self.mean } else { 0.0 };
        self.peak = self.mean + PEAK_KEEP * (self.peak - self.mean).max(top).max(0.0);
        self.windows = self.windows.saturating_add(1);
        self.tail.learn(nominal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(values: &[f64]) -> (f64, f64, f64) {
        let logs: Vec<f64> = values.iter().map(|x| x.ln_1p()).collect();
        (logs.len() as f64, logs.iter().sum(), logs.iter().map(|l| l * l).sum())
    }

    fn taught() -> Gauge {
        let mut gauge = Gauge::default();
        for window in 0..120 {
            let wobble = 100.0 + f64::from((window as i32 * 37) % 60);
            let (calls, sum, squares) = sums(&[wobble, 2.0 * wobble, 90.0]);
            gauge.observe(window, calls, sum, squares);
        }
        gauge
    }

    #[test]
    fn eight_times_the_cost_shows_in_one_window() {
        let (calls, sum, squares) = sums(&[900.0, 1_500.0, 1_000.0]);
        let view = taught().observe(120, calls, sum, squares);
        assert!(view.p < 1e-5, "{view:?}");
    }

    #[test]
    fn a_small_lasting_rise_shows_by_its_cusum() {
        let mut gauge = taught();
        let (calls, sum, squares) = sums(&[260.0, 260.0, 260.0]);
        let found = (120..150).map(|window| gauge.observe(window, calls, sum, squares).p).fold(1.0, f64::min);
        assert!(found < 1e-4, "{found}");
    }

    #[test]
    fn what_was_seen_before_is_not_news() {
        let mut gauge = taught();
        let (calls, sum, squares) = sums(&[150.0, 300.0, 90.0]);
        assert!(gauge.observe(120, calls, sum, squares).p > 1e-3);
    }
}
