//! Calibration of nominal tail probabilities by what the series itself shows.
//!
//! Streaming peaks over threshold with an exponential tail (after SPOT, Siffer et al., KDD 2017): the
//! 95 % quantile of the evidence -ln p by Robbins-Monro steps, and the mean excess above it. It only
//! ever makes a probability larger: a model that is wrong loses its power to page, never gains it.

use crate::anomaly::wire::wire_fields;

/// Share of windows above the threshold.
const TAIL_SHARE: f64 = 0.05;
/// Windows before the estimate is used.
const WINDOWS_MIN: u32 = 50;
/// Largest excess that is learned from: one outlier must not blunt the series for days.
const EXCESS_MAX: f64 = 5.0;

/// Threshold and mean excess of a series' evidence.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tail {
    threshold: f64,
    /// Mean excess minus one: a fresh tail is that of a calibrated model, mean excess 1.
    excess_over_one: f64,
    windows: u32,
}

wire_fields!(Tail { threshold, excess_over_one, windows });

impl Tail {
    /// The calibrated probability, never below `p`.
    pub fn calibrated(&self, p: f64) -> f64 {
        let evidence = evidence(p);
        if self.windows < WINDOWS_MIN || evidence <= self.threshold {
            return p;
        }
        // A floor, or a series without excesses would give any larger one the probability 0.
        let excess = (1.0 + self.excess_over_one).max(0.1);
        p.max(TAIL_SHARE * (-(evidence - self.threshold) / excess).exp())
    }

    /// Learns from one normal window.
    pub fn learn(&mut self, p: f64) {
        let evidence = evidence(p);
        let over = evidence > self.threshold;
        // Robbins-Monro steps that stop shrinking at a tenth, so that the threshold still follows a series that
        // changes.
        let step = 1.0 / (1.0 + f64::from(self.windows)).min(100.0).sqrt();
        if over {
            let excess = (evidence - self.threshold).min(EXCESS_MAX);
            self.excess_over_one += 0.05 * (excess - 1.0 - self.excess_over_one);
        }
        self.threshold = (self.threshold + step * (f64::from(u8::from(over)) - TAIL_SHARE)).max(0.0);
        self.windows = self.windows.saturating_add(1);
    }
}

/// -ln p, at most 700.
fn evidence(p: f64) -> f64 {
    -p.max(1e-304).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evidence of a model whose probabilities are the `power`-th power of true ones.
    fn taught(power: f64) -> Tail {
        let (mut tail, mut seed) = (Tail::default(), 7_u64);
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = ((seed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            tail.learn(uniform.powf(power));
        }
        tail
    }

    #[test]
    fn an_overconfident_model_is_corrected_within_a_factor_of_five() {
        let tail = taught(2.0);
        let p = tail.calibrated(1e-4_f64.powf(2.0));
        assert!((2e-5..5e-4).contains(&p), "{p}");
    }

    #[test]
    fn a_calibrated_model_keeps_its_probabilities_within_a_factor_of_five() {
        let p = taught(1.0).calibrated(1e-4);
        assert!((1e-4..5e-4).contains(&p), "{p}");
    }
}
