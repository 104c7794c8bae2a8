//! Streaming baselines of fixed size: rates, counts, gauges, tool mix, and the calibration of their
//! tail probabilities.
//!
//! Each is O(1) per window and knows neither events nor alerts. A baseline is not taught by a
//! window that looks abnormal, until abnormal has lasted [`HABITUATION_WINDOWS`].

mod count;
mod gauge;
mod mix;
mod rate;
mod ring;
pub mod special;
mod tail;

pub use count::Count;
pub use gauge::{Gauge, GaugeView};
pub use mix::Mix;
pub use rate::{Rate, RateView};
pub(super) use ring::Ring;
pub use tail::Tail;

/// Abnormal windows after which a baseline accepts the new level as normal.
pub const HABITUATION_WINDOWS: u32 = 60;
/// Windows in which a baseline learns whatever it sees and reports nothing: it has no past yet.
const YOUNG_WINDOWS: u32 = 10;
/// Below this tail probability a window does not teach the baseline.
const SUSPECT_P: f64 = 1e-3;

/// Decides whether a window teaches its baseline of `windows` windows; `frozen` counts the windows in
/// a row that looked abnormal.
fn learns(frozen: &mut u32, p: f64, windows: u32) -> bool {
    // A window that looks abnormal would teach the baseline to expect it: an outage of an hour would hide the next
    // one.
    *frozen = if p < SUSPECT_P && windows >= YOUNG_WINDOWS { frozen.saturating_add(1) } else { 0 };
    *frozen == 0 || *frozen > HABITUATION_WINDOWS
}
