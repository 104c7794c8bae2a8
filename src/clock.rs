//! The only clock (invariant I3). Everything else is given the time.

use schemas::time::TimestampMicros;

/// The time now.
#[allow(clippy::disallowed_methods)]
pub fn now() -> TimestampMicros {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let micros = since_epoch.map_or(0, |d| d.as_micros());
    TimestampMicros(i64::try_from(micros).unwrap_or(i64::MAX))
}
