//! Rate limit for librdkafka's log lines: while a broker is unavailable it repeats the same line many
//! times a second, from every client and connection.
//!
//! One line of a kind per 30 s. It decides nothing: an error's class says what it means for a step.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// One line of a kind in this time.
const QUIET: Duration = Duration::from_secs(30);

/// By kind of line: when one was logged last, and how many were suppressed since.
#[derive(Debug, Default)]
struct Quiet(BTreeMap<String, (Instant, u64)>);

impl Quiet {
    /// Whether to log it, and how many were suppressed since the last one.
    fn pass(&mut self, kind: &str, now: Instant) -> Option<u64> {
        match self.0.get_mut(kind) {
            // By kind and not by text: librdkafka's lines hold times and connection numbers, so that no two
            // are equal.
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
        // `enable.partition.eof` reports it as an error.
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
