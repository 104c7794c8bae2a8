//! Sequence numbers as half-open ranges: sorted, merged, printed.
//!
//! It knows nothing of sessions or writers.

use std::fmt::Write as _;

use crate::steps::walked;

/// A half-open range of sequence numbers, `first..next`.
pub(super) type Range = (i64, i64);

/// How many ranges a finding prints; the count is exact in any case.
const RANGES_PRINTED_MAX: usize = 16;

/// Numbers in all ranges, saturating.
pub(super) fn total(ranges: &[Range]) -> i64 {
    ranges.iter().fold(0, |sum: i64, (first, next)| sum.saturating_add(next.saturating_sub(*first)))
}

/// `7-9, 12`: the first ranges, and how many more there are.
pub(super) fn print(ranges: &[Range]) -> String {
    let mut text = String::new();
    for (index, (first, next)) in ranges.iter().take(RANGES_PRINTED_MAX).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let last = next - 1;
        // Writing into a string cannot fail.
        let _ = if *first == last {
            write!(text, "{comma}{first}")
        } else {
            // Operators search for numbers, so that the text names the last one and not the half-open end.
            write!(text, "{comma}{first}-{last}")
        };
    }
    if let Some(more) = ranges.len().checked_sub(RANGES_PRINTED_MAX).filter(|more| *more > 0) {
        let _ = write!(text, " and {more} more ranges");
    }
    text
}

/// Sorts and merges; also returns how many numbers appear more than once, saturating.
pub(super) fn merged(mut ranges: Vec<Range>) -> (Vec<Range>, i64) {
    walked(ranges.len());
    ranges.retain(|(first, next)| first < next);
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    let mut repeated: i64 = 0;
    for (first, next) in ranges {
        match out.last_mut() {
            // Equal is adjacent and not repeated: `min` below then adds nothing.
            Some(last) if first <= last.1 => {
                repeated = repeated.saturating_add(last.1.min(next) - first);
                last.1 = last.1.max(next);
            }
            _ => out.push((first, next)),
        }
    }
    (out, repeated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_and_tell_what_was_repeated() {
        let cases: &[(&[Range], &[Range], i64)] = &[
            (&[], &[], 0),
            (&[(3, 3)], &[], 0),
            (&[(5, 7), (0, 2), (2, 5)], &[(0, 7)], 0),
            (&[(0, 4), (2, 6), (9, 10)], &[(0, 6), (9, 10)], 2),
            (&[(0, 9), (2, 3), (2, 3)], &[(0, 9)], 2),
        ];
        for (ranges, expected, repeated) in cases {
            assert_eq!(merged(ranges.to_vec()), (expected.to_vec(), *repeated), "{ranges:?}");
        }
        assert_eq!(total(&[(0, i64::MAX), (0, 9)]), i64::MAX);
    }

    #[test]
    fn ranges_print_as_inclusive_bounds() {
        assert_eq!(print(&[(7, 10), (12, 13)]), "7-9, 12");
        let many: Vec<Range> = (0..18).map(|n| (2 * n, 2 * n + 1)).collect();
        assert!(print(&many).ends_with("30 and 2 more ranges"), "{}", print(&many));
    }
}
