//! librdkafka's own lines on their way to ours: it repeats one many times a second while a broker is
//! away, from every client and connection.
//!
//! One line of a kind is enough for a while. Nothing is decided here: what an error means for a step
//! is told by its class.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// One line of a kind in this time.
const QUIET: Duration = Duration::from_secs(30);

/// When a kind of line was let through last, and how many were not since.
#[derive(Debug, Default)]
struct Quiet(BTreeMap<String, (Instant, u64)>);

impl Quiet {
    /// Whether to say it; with how many were kept back since the last time.
    fn pass(&mut self, kind: &str, now: Instant) -> Option<u64> {
        match self.0.get_mut(kind) {
            Some((last, held)) if now.duration_since(*last) < QUIET => {
                *held += 1;
                None
            }
            Some((last, held)) => {
                *last = now;
                Some(std::mem::take(held))
            }
            None => {
                self.0.insert(kind.to_owned(), (now, 0));
                Some(0)
            }
        }
    }
}

static QUIET_LINES: LazyLock<Mutex<Quiet>> = LazyLock::new(Mutex::default);

/// Warns unless a line of this kind has been written a moment ago. `kind` is one of a small set.
pub(super) fn warn(kind: &str, line: impl FnOnce() -> String) {
    let passed = QUIET_LINES.lock().unwrap_or_else(PoisonError::into_inner).pass(kind, Instant::now());
    match passed {
        Some(0) => tracing::warn!(target: "librdkafka", "{}", line()),
        Some(held) => tracing::warn!(target: "librdkafka", "{} ({held} more like it)", line()),
        None => {}
    }
}

/// An error of a client. The end of a partition is an event that consumers ask for, not a fault.
pub(super) fn error_line(error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(Code::PartitionEOF) => tracing::trace!(target: "librdkafka", "{reason}"),
        code => warn(&format!("{code:?}"), || format!("{error}: {reason}")),
    }
}

/// A line of librdkafka's own log; the facility is one of a few dozen words.
pub(super) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", "{facility}: {message}");
        }
        _ => warn(facility, || format!("{facility}: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_a_kind_passes_and_says_later_how_many_did_not() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.pass("FAIL", start), Some(0));
        assert_eq!(quiet.pass("FAIL", start), None);
        assert_eq!(quiet.pass("FAIL", start + QUIET / 2), None);
        assert_eq!(quiet.pass("AllBrokersDown", start), Some(0));
        assert_eq!(quiet.pass("FAIL", start + QUIET), Some(2));
        assert_eq!(quiet.pass("FAIL", start + QUIET * 2), Some(0));
    }
}
