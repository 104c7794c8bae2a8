//! Events per window: a discounted Gamma-Poisson model and its predictive tail.
//!
//! Mean and variance are exponentially weighted, silent windows included; where the variance
//! exceeds the mean, the negative binomial of those moments is used, else nearly a Poisson.

use super::special::negative_binomial_upper;
use super::{Tail, learns};
use crate::anomaly::wire::wire_fields;

/// Smallest weight of a new window: a memory of about 100.
const STEP: f64 = 0.02;
/// Most silent windows that are replayed after a pause; more change the mean by under e^-10.
const SILENT_MAX: i64 = 500;

/// Baseline of a count.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Count {
    mean: f64,
    variance: f64,
    windows: u32,
    frozen: u32,
    tail: Tail,
}

wire_fields!(Count { mean, variance, windows, frozen, tail });

impl Count {
    /// Tail probability of `x` events in a window after `silent` windows without any, then learns.
    pub fn observe(&mut self, x: f64, silent: i64) -> f64 {
        // Silent windows have no signal, so that they are learned when the subject speaks again.
        (0..silent.clamp(0, SILENT_MAX)).for_each(|_| self.learn(0.0));
        // Never quite a Poisson: its shape r would be infinite. 1e-4 gives r = 10 000.
        let excess = (self.variance - self.mean).max(self.mean * self.mean * 1e-4);
        let nominal = negative_binomial_upper(x, self.mean, self.mean * self.mean / excess.max(1e-9));
        let p = self.tail.calibrated(nominal);
        if learns(&mut self.frozen, p, self.windows) {
            self.learn(x);
            self.tail.learn(nominal);
        }
        p
    }

    /// Expected events per window.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Windows seen, silent ones included.
    pub fn windows(&self) -> u32 {
        self.windows
    }

    fn learn(&mut self, x: f64) {
        // The plain mean until 50 windows, exponential after: a first window must not weigh for a hundred.
        let step = STEP.max(1.0 / (1.0 + f64::from(self.windows)));
        let delta = x - self.mean;
        self.mean += step * delta;
        self.variance = (1.0 - step) * (self.variance + step * delta * delta);
        self.windows = self.windows.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_stands_out_of_a_steady_series_and_not_of_a_bursty_one() {
        let (mut steady, mut bursty) = (Count::default(), Count::default());
        for window in 0..300 {
            steady.observe(f64::from(8 + window % 5), 0);
            bursty.observe(if window % 10 == 0 { 100.0 } else { 0.0 }, 0);
        }
        assert!(steady.observe(60.0, 0) < 1e-9);
        assert!(bursty.observe(120.0, 0) > 1e-3);
    }

    #[test]
    fn silent_windows_pull_the_mean_down() {
        let mut count = Count::default();
        (0..100).for_each(|_| _ = count.observe(10.0, 0));
        count.observe(10.0, 100);
        assert!(count.mean() < 2.0, "{}", count.mean());
    }
}
