//! Failures among trials: a discounted Beta posterior, its predictive tail, and burn rates.
//!
//! Trials of one run fail together; the posterior is therefore deflated by the over-dispersion that
//! the series itself shows. One of one is not an alarm: the tail knows how little that says.

use super::special::beta_binomial_upper;
use super::{Ring, Tail, learns};
use crate::anomaly::wire::wire_fields;

/// Weight that a window keeps per later window with data: half of it after 138.
const KEEP: f64 = 0.995;
/// Prior of one failure in twenty trials.
const PRIOR: [f64; 2] = [0.5, 9.5];
/// Most trials that enter a tail sum; larger windows are scaled down.
const TRIALS_MAX: f64 = 400.0;
/// Windows of the short sum.
const SHORT: usize = 5;

/// Baseline of a failure rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    failures: f64,
    successes: f64,
    /// Over-dispersion: mean squared standardised residual, at least 1.
    dispersion: f64,
    windows: u32,
    frozen: u32,
    tail: Tail,
    recent: Ring<SHORT>,
    hour: Ring<12>,
}

wire_fields!(Rate { failures, successes, dispersion, windows, frozen, tail, recent, hour });

impl Default for Rate {
    fn default() -> Self {
        Self {
            failures: 0.0,
            successes: 0.0,
            dispersion: 1.0,
            windows: 0,
            frozen: 0,
            tail: Tail::default(),
            recent: Ring::default(),
            hour: Ring::default(),
        }
    }
}

/// What a window looks like against a [`Rate`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateView {
    /// Calibrated tail probability.
    pub p: f64,
    /// Expected rate.
    pub expected: f64,
    /// Windows with data before this one.
    pub windows: u32,
    /// How many windows the more telling sum spans: 1 or 5.
    pub span: usize,
    /// Trials and failures of that span.
    pub spanned: [f64; 2],
}

impl Rate {
    /// Scores window number `window` with `trials` > 0 and `failures`, then learns from it.
    pub fn observe(&mut self, window: i64, trials: f64, failures: f64) -> RateView {
        let failures = failures.min(trials);
        self.recent.add(window, [trials, failures]);
        // Cells of five windows: twelve of them are the hour of the burn rate.
        self.hour.add(window.div_euclid(SHORT as i64), [trials, failures]);
        let spans = [(1, [trials, failures]), (SHORT, self.recent.sum(SHORT))];
        let (nominal, span, spanned) = spans
            .map(|(span, sums)| (self.upper(sums), span, sums))
            .into_iter()
            // The shorter span among equals: it dates the start better.
            .reduce(|best, other| if other.0 < best.0 { other } else { best })
            .unwrap_or((1.0, 1, [trials, failures]));
        // Two spans were looked at, and the better one taken.
        let nominal = (2.0 * nominal).min(1.0);
        let p = self.tail.calibrated(nominal);
        let view = RateView { p, expected: self.expected(), windows: self.windows, span, spanned };
        if learns(&mut self.frozen, p, self.windows) {
            self.learn(trials, failures, nominal);
        }
        view
    }

    /// Posterior mean.
    pub fn expected(&self) -> f64 {
        let [a, b] = [self.failures + PRIOR[0], self.successes + PRIOR[1]];
        a / (a + b)
    }

    /// Whether the error budget of `objective` burns at least `factor` times too fast over the last
    /// 5 to 10 windows and over the last 60 (Google SRE workbook, chapter 5: 14.4 pages).
    pub fn burns(&self, objective: f64, factor: f64) -> bool {
        let limit = factor * (1.0 - objective);
        [2, 12].iter().all(|cells| {
            let [trials, failures] = self.hour.sum(*cells);
            // Below ten trials one failure is over any limit: an agent with little traffic has no burn rate.
            trials >= 10.0 && failures >= limit * trials
        })
    }

    fn upper(&self, [trials, failures]: [f64; 2]) -> f64 {
        // Trials that fail together are fewer than they look: those of the window and those of the past are divided
        // by the over-dispersion alike.
        let scale = (TRIALS_MAX / trials.max(1.0)).min(1.0 / self.dispersion);
        let keep = 1.0 / self.dispersion;
        let [a, b] = [self.failures * keep + PRIOR[0], self.successes * keep + PRIOR[1]];
        beta_binomial_upper(failures * scale, trials * scale, a, b)
    }

    fn learn(&mut self, trials: f64, failures: f64, nominal: f64) {
        let mean = self.expected();
        // At most 20 and with a floor below: one window must not make the series deaf.
        let residual = (failures - trials * mean).powi(2) / (trials * mean * (1.0 - mean)).max(0.1);
        self.dispersion = (self.dispersion + 0.02 * (residual.min(20.0) - self.dispersion)).max(1.0);
        self.failures = self.failures * KEEP + failures;
        self.successes = self.successes * KEEP + (trials - failures);
        self.windows = self.windows.saturating_add(1);
        self.tail.learn(nominal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taught(trials: f64, every: i64) -> Rate {
        let mut rate = Rate::default();
        for window in 0..200 {
            rate.observe(window, trials, f64::from(u8::from(window % every == 0)));
        }
        rate
    }

    #[test]
    fn one_of_one_is_no_alarm_and_nine_of_ten_is() {
        assert!(taught(3.0, 20).observe(200, 1.0, 1.0).p > 1e-3);
        assert!(taught(3.0, 20).observe(200, 10.0, 9.0).p < 1e-7);
    }

    #[test]
    fn failures_spread_over_five_windows_add_up() {
        let mut rate = taught(3.0, 50);
        let last = (200..205).map(|window| rate.observe(window, 2.0, 1.0)).last();
        let view = last.unwrap();
        assert_eq!((view.span, view.spanned), (5, [10.0, 5.0]));
        assert!(view.p < 1e-3, "{view:?}");
    }

    #[test]
    fn a_lasting_change_becomes_normal() {
        let mut rate = taught(10.0, 5);
        (200..800).for_each(|window| _ = rate.observe(window, 10.0, 8.0));
        assert!(rate.observe(800, 10.0, 8.0).p > 0.01 && rate.expected() > 0.6);
    }

    #[test]
    fn a_burning_budget_needs_both_windows() {
        let mut rate = taught(10.0, 100);
        assert!(!rate.burns(0.99, 14.4));
        (200..203).for_each(|window| _ = rate.observe(window, 10.0, 9.0));
        assert!(!rate.burns(0.99, 14.4), "the hour is still below 14.4 %");
        (203..215).for_each(|window| _ = rate.observe(window, 10.0, 9.0));
        assert!(rate.burns(0.99, 14.4));
    }
}
