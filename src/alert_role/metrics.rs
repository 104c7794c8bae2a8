//! Counters of the alert role. The registry belongs to the caller.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of request times, seconds; the last lies above the default request timeout.
const SECONDS: [f64; 9] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sent {
    receiver: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    receiver: String,
}

/// What became of an alert at a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Taken.
    Accepted,
    /// Refused for good.
    Refused,
    /// Not taken this time; it is sent again.
    Retried,
    /// Posted again because it still fires, and taken.
    Resent,
    /// Left out: a newer record of the alert came first, or the receiver knows it already.
    Skipped,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Retried => "retried",
            Self::Resent => "resent",
            Self::Skipped => "skipped",
        }
    }
}

/// The metrics of all receivers of this process.
#[derive(Debug, Clone)]
pub struct AlertMetrics {
    sent: Family<Sent, Counter>,
    seconds: Family<To, Histogram, fn() -> Histogram>,
    pending: Family<To, Gauge>,
}

impl Default for AlertMetrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        Self { sent: Family::default(), seconds: Family::new_with_constructor(histogram), pending: Family::default() }
    }
}

impl AlertMetrics {
    /// Adds them to `registry`, which has no prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("custody_alerts_sent", "Alerts by receiver and outcome", self.sent.clone());
        let help = "Time of one request to a receiver";
        registry.register_with_unit("custody_alert_send", help, Unit::Seconds, self.seconds.clone());
        let help = "Alerts read from the log that the receiver has not taken yet";
        registry.register("custody_alerts_pending", help, self.pending.clone());
    }

    pub(super) fn sent(&self, receiver: &str, outcome: Outcome, alerts: usize) {
        let labels = Sent { receiver: receiver.to_owned(), outcome: outcome.name() };
        self.sent.get_or_create(&labels).inc_by(alerts as u64);
    }

    pub(super) fn took(&self, receiver: &str, seconds: f64) {
        self.seconds.get_or_create(&To { receiver: receiver.to_owned() }).observe(seconds);
    }

    pub(super) fn pending(&self, receiver: &str, alerts: usize) {
        let alerts = i64::try_from(alerts).unwrap_or(i64::MAX);
        self.pending.get_or_create(&To { receiver: receiver.to_owned() }).set(alerts);
    }
}
