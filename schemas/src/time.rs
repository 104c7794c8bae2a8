//! Time as a number. There is no `now()` here: time is an input (invariant I1).

use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimestampMicros(pub i64);

impl TimestampMicros {
    /// From milliseconds since the epoch, saturating.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// Milliseconds since the epoch, rounded down.
    pub const fn ms(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Start of the window of `width_ms` that holds this time; `div_euclid` keeps times before 1970 right.
    pub const fn floor_to_ms(self, width_ms: i64) -> Self {
        let width = width_ms * 1_000;
        Self(self.0.div_euclid(width) * width)
    }

    /// This time moved by `ms`, saturating.
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000)))
    }

    /// UTC calendar date and hour: (year, month, day, hour). Civil-from-days after Howard Hinnant,
    /// "chrono-Compatible Low-Level Date Algorithms".
    pub const fn utc_hour(self) -> (i64, u8, u8, u8) {
        let hours = self.0.div_euclid(3_600_000_000);
        let z = hours.div_euclid(24) + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + (month <= 2) as i64;
        (year, month as u8, (doy - (153 * mp + 2) / 5 + 1) as u8, hours.rem_euclid(24) as u8)
    }

    /// Day of the week, 0 = Monday.
    pub const fn weekday(self) -> u8 {
        (self.0.div_euclid(86_400_000_000) + 3).rem_euclid(7) as u8
    }
}
