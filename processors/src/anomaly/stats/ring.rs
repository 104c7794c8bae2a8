//! Sums over the last few windows.
//!
//! Cells are addressed by window number; windows without data count as zero.

use crate::anomaly::wire::wire_fields;

/// Pairs of sums for each of the last `N` window numbers.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::anomaly) struct Ring<const N: usize> {
    last: i64,
    cells: [[f64; 2]; N],
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self { last: i64::MIN, cells: [[0.0; 2]; N] }
    }
}

impl<const N: usize> Ring<N> {
    /// Adds to the cell of `window`; numbers never go back.
    pub(in crate::anomaly) fn add(&mut self, window: i64, pair: [f64; 2]) {
        let steps = window.saturating_sub(self.last).clamp(0, N as i64);
        // Cells of the windows passed over are cleared, at most all of them once.
        for step in 0..steps {
            self.cells[Self::cell(window - step)] = [0.0; 2];
        }
        self.last = self.last.max(window);
        // An older number counts in the newest cell, as late records count in the open window.
        let cell = &mut self.cells[Self::cell(self.last)];
        cell[0] += pair[0];
        cell[1] += pair[1];
    }

    /// Sums over the `windows` newest numbers up to the last one added.
    pub(in crate::anomaly) fn sum(&self, windows: usize) -> [f64; 2] {
        let mut sums = [0.0; 2];
        for back in 0..windows.min(N) {
            let cell = self.cells[Self::cell(self.last.wrapping_sub(back as i64))];
            sums[0] += cell[0];
            sums[1] += cell[1];
        }
        sums
    }

    fn cell(window: i64) -> usize {
        window.rem_euclid(N as i64) as usize
    }
}

wire_fields!(Ring<3> { last, cells });
wire_fields!(Ring<5> { last, cells });
wire_fields!(Ring<12> { last, cells });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_windows_count_as_zero_and_old_ones_fall_out() {
        let mut ring = Ring::<3>::default();
        ring.add(10, [1.0, 10.0]);
        ring.add(10, [1.0, 0.0]);
        ring.add(11, [4.0, 0.0]);
        assert_eq!(ring.sum(3), [6.0, 10.0]);
        ring.add(13, [8.0, 0.0]);
        assert_eq!(ring.sum(3), [12.0, 0.0]);
        assert_eq!(ring.sum(1), [8.0, 0.0]);
        ring.add(1_000_000, [1.0, 1.0]);
        assert_eq!(ring.sum(3), [1.0, 1.0]);
    }
}
