//! Tail probabilities of the few distributions that the baselines use.
//!
//! All are deterministic sums of fixed order with a fixed number of terms; arguments outside of the
//! domain give 1, the harmless answer.

/// Most terms of a tail sum; what is left is bounded by a geometric series.
const TERMS_MAX: u32 = 512;

/// Natural logarithm of the gamma function for `x` > 0: Lanczos' approximation (g = 7, nine
/// coefficients, Godfrey), relative error below 1e-13.
pub fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    // The reflection formula: the approximation holds for x >= 0.5.
    if x < 0.5 {
        return std::f64::consts::PI.ln() - (std::f64::consts::PI * x).sin().ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let mut sum = 0.999_999_999_999_809_9;
    for (index, coefficient) in COEFFICIENTS.iter().enumerate() {
        sum += coefficient / (x + index as f64 + 1.0);
    }
    let t = x + 7.5;
    0.918_938_533_204_672_8 + (x + 0.5) * t.ln() - t + sum.ln()
}

fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Sums `term`, `term * ratio(0)`, ... and bounds the rest; `half` weighs the first term by 1/2.
fn tail_sum(first: f64, ratio: impl Fn(f64) -> f64, terms: f64) -> f64 {
    let (mut term, mut sum, mut step) = (first, 0.5 * first, 0.0);
    while step < terms && step < f64::from(TERMS_MAX) {
        let by = ratio(step);
        term *= by;
        sum += term;
        step += 1.0;
        // Below the accuracy of the sum. The order of the terms is fixed, so that equal logs give equal bits (I6).
        if term < sum * 1e-12 {
            return sum.min(1.0);
        }
        // Ratios fall along the tail, so that the rest is at most a geometric series with the last one.
        if step >= f64::from(TERMS_MAX) && by < 1.0 {
            sum += term * by / (1.0 - by);
        }
    }
    sum.min(1.0)
}

/// Mid-p upper tail `P(X > k) + P(X = k) / 2` of the Beta-binomial with `n` trials and Beta(a, b):
/// the predictive distribution of failures where a + b trials with a failures were seen.
pub fn beta_binomial_upper(k: f64, n: f64, a: f64, b: f64) -> f64 {
    if !(k > 0.0 && n >= k && a > 0.0 && b > 0.0) || k <= n * a / (a + b) {
        return 1.0;
    }
    let ln_choose = ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0);
    let first = (ln_choose + ln_beta(k + a, n - k + b) - ln_beta(a, b)).exp();
    let ratio = |step: f64| {
        let j = k + step;
        (n - j) / (j + 1.0) * (j + a) / (n - j - 1.0 + b)
    };
    tail_sum(first, ratio, (n - k).floor())
}

/// Mid-p upper tail of the negative binomial with `mean` and shape `r` (variance mean + mean²/r):
/// the predictive distribution of a Poisson count with a Gamma rate.
pub fn negative_binomial_upper(x: f64, mean: f64, r: f64) -> f64 {
    if !(x > 0.0 && mean > 0.0 && r > 0.0) || x <= mean {
        return 1.0;
    }
    let p = mean / (r + mean);
    let first = ln_gamma(r + x) - ln_gamma(r) - ln_gamma(x + 1.0) + r * (r / (r + mean)).ln() + x * p.ln();
    tail_sum(first.exp(), |step| (r + x + step) / (x + step + 1.0) * p, f64::INFINITY)
}

/// Upper tail of the standard normal: Chebyshev fit of erfc, relative error below 1.2e-7 for every
/// `z` >= 0 (Numerical Recipes, 2nd edition, section 6.2).
pub fn normal_upper(z: f64) -> f64 {
    if z <= 0.0 {
        return 1.0;
    }
    const COEFFICIENTS: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let x = z * std::f64::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let series = COEFFICIENTS.iter().rev().fold(0.0, |sum, coefficient| sum * t + coefficient);
    0.5 * t * (series - x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1e-300), "{found} is not {expected}");
    }

    #[test]
    fn values_agree_with_tables() {
        check(ln_gamma(5.0), 24_f64.ln());
        check(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln());
        check(ln_gamma(100.0), 359.134_205_369_575_4);
        check(normal_upper(1.959_963_984_540_054), 0.025);
        check(normal_upper(6.0), 9.865_876_450_376_98e-10);
        // Beta(1, 1): every count is equally likely, 1/11 each.
        check(beta_binomial_upper(10.0, 10.0, 1.0, 1.0), 0.5 / 11.0);
        check(beta_binomial_upper(9.0, 10.0, 1.0, 1.0), 1.5 / 11.0);
        // r = 1: geometric with q = 3/4; P(X > 8) = q^9, P(X = 8) = q^8 / 4.
        check(negative_binomial_upper(8.0, 3.0, 1.0), 0.75_f64.powi(9) + 0.75_f64.powi(8) / 8.0);
    }

    #[test]
    fn arguments_out_of_domain_are_harmless() {
        for x in [f64::NAN, -1.0, 0.0] {
            assert_eq!(beta_binomial_upper(x, 10.0, 1.0, 1.0), 1.0);
            assert_eq!(negative_binomial_upper(x, 3.0, 1.0), 1.0);
        }
        assert_eq!(beta_binomial_upper(11.0, 10.0, 1.0, 1.0), 1.0);
    }
}
