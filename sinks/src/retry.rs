//! How long to wait before the next try.
//!
//! A pure schedule: the random part comes from a number that the caller draws. It does not sleep and
//! never gives up: an outage is not a data fault (invariant I10).

use std::time::Duration;

/// Exponential back-off with bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Wait before the second try, milliseconds.
    pub initial_ms: u64,
    /// Longest wait, milliseconds.
    pub max_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial_ms: 100, max_ms: 30_000 }
    }
}

impl Backoff {
    /// Waits without end: the n-th lies between half of `initial_ms · 2^n`, capped at `max_ms`, and all of it
    /// ("equal jitter": spreads a fleet that lost the same server, and never retries at once).
    pub fn delays(self, seed: u64) -> impl Iterator<Item = Duration> + Send {
        (0u64..).map(move |attempt| {
            let factor = 1u64.checked_shl(u32::try_from(attempt).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
            let whole = self.initial_ms.max(1).saturating_mul(factor).min(self.max_ms.max(1));
            let half = whole / 2;
            Duration::from_millis(half + split_mix(seed.wrapping_add(attempt)) % (whole - half + 1))
        })
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): one well-mixed number from another.
fn split_mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_wait_lies_between_half_and_all_of_the_doubling_bound(
            seed: u64, initial_ms in 1u64..5_000, max_ms in 1u64..100_000,
        ) {
            let backoff = Backoff { initial_ms, max_ms };
            for (attempt, wait) in backoff.delays(seed).take(80).enumerate() {
                let whole = (u128::from(initial_ms) << attempt.min(60)).min(u128::from(max_ms));
                prop_assert!(wait.as_millis() <= whole);
                prop_assert!(wait.as_millis() >= whole / 2);
            }
        }

        #[test]
        fn the_same_seed_gives_the_same_waits(seed: u64) {
            let waits = |seed| Backoff::default().delays(seed).take(20).collect::<Vec<_>>();
            prop_assert_eq!(waits(seed), waits(seed));
        }
    }

    #[test]
    fn different_seeds_spread() {
        let firsts: std::collections::BTreeSet<_> =
            (0..100u64).filter_map(|seed| Backoff::default().delays(seed).nth(9)).collect();
        assert!(firsts.len() > 90, "only {} different waits", firsts.len());
    }
}
