//! The `[alert]` section: which receivers there are and which alerts each one gets.
//!
//! Plain data and its checks. It reads no file: secrets in files are read when a receiver is opened.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemas::secret::Secret;
use serde::{Deserialize, Serialize};

use super::route::Severity;
use crate::error::{ErrorClass, SinkError};

/// Longest receiver name, bytes; with the prefix it is a consumer group's name.
const NAME_BYTES_MAX: usize = 64;
/// PagerDuty where nothing else is configured.
const PAGERDUTY_URL: &str = "https://events.pagerduty.com/v2/enqueue";

/// Alerting: links that every alert carries, times, and the receivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertConfig {
    /// Page about one alert: the source link of Alertmanager and PagerDuty. `{fingerprint}`, `{tenant}`,
    /// `{environment}`, `{subject_kind}`, `{subject}`, `{alert_class}`, `{metric}` and `{severity}` are replaced,
    /// percent-encoded. Empty for none. The same holds for the other two.
    pub generator_url: String,
    /// What to do about it.
    pub runbook_url: String,
    /// Where the subject is shown.
    pub dashboard_url: String,
    /// Longest time of one request to a receiver, milliseconds.
    pub request_timeout_ms: u64,
    /// Wait after the first failure of a receiver, milliseconds; doubles with each further one.
    pub retry_delay_ms: u64,
    /// Longest wait between two tries, milliseconds; a receiver's `Retry-After` may be longer.
    pub retry_delay_ms_max: u64,
    /// Records before the committed position that a start reads back, per partition, to know which alerts
    /// are firing. It bounds the time of a start.
    pub lookback_records: u64,
    /// Age of an alert's newest record after which it no longer counts as firing, milliseconds. The
    /// detectors repeat a firing alert every few minutes; one that is never resolved ends here.
    pub firing_age_ms_max: i64,
    /// Receivers by name: letters, digits and `-`. The name is part of the consumer group
    /// `custody-alert-<name>`: a new name starts at the log's beginning.
    pub receivers: BTreeMap<String, ReceiverConfig>,
}

/// The consumer group of the receiver with that name.
pub fn group_of(name: &str) -> String {
    format!("custody-alert-{name}")
}

impl Default for AlertConfig {
    fn default() -> Self {
        Self {
            generator_url: String::new(),
            runbook_url: String::new(),
            dashboard_url: String::new(),
            request_timeout_ms: 10_000,
            retry_delay_ms: 500,
            retry_delay_ms_max: 60_000,
            lookback_records: 10_000,
            firing_age_ms_max: 86_400_000,
            receivers: BTreeMap::new(),
        }
    }
}

/// What a receiver speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiverKind {
    /// Prometheus Alertmanager, API v2.
    Alertmanager,
    /// PagerDuty Events API v2.
    PagerDuty,
    /// CloudEvents 1.0 over HTTP, structured JSON.
    CloudEvents,
    /// Slack's incoming webhooks and what is compatible with them (Mattermost, Rocket.Chat).
    Slack,
}

/// Where a receiver that has never been served begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// At the oldest alert that the log still has: nothing is lost.
    #[default]
    Earliest,
    /// Behind the newest one: for a receiver that is added to a log with history.
    Latest,
}

/// One receiver. Which of the optional fields it needs depends on `type`; [`AlertConfig::check`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReceiverConfig {
    /// `alertmanager`, `pagerduty`, `cloudevents` or `slack`.
    #[serde(rename = "type")]
    pub kind: Option<ReceiverKind>,
    /// Address. Alertmanager: its base, as `http://alertmanager:9093`. PagerDuty: only where it is not
    /// the public one. Masked when shown, because Slack's address is its credential.
    pub url: Secret,
    /// File with the address, in place of `url`.
    pub url_file: Option<PathBuf>,
    /// Value of the `Authorization` header, e.g. `Bearer …`; empty for none.
    pub authorization: Secret,
    /// File with it.
    pub authorization_file: Option<PathBuf>,
    /// PagerDuty's integration key of 32 characters.
    pub routing_key: Secret,
    /// File with it.
    pub routing_key_file: Option<PathBuf>,
    /// Key that signs CloudEvents as Standard Webhooks 1.0 does: `whsec_` and base64. Empty: unsigned.
    pub signing_key: Secret,
    /// File with it.
    pub signing_key_file: Option<PathBuf>,
    /// Least severity: `info`, `warning`, `error` or `critical`.
    pub severity_min: Severity,
    /// Tenants; empty for all.
    pub tenants: Vec<String>,
    /// Alert classes; empty for all.
    pub alert_classes: Vec<String>,
    /// Where to begin if it was never served.
    pub start: Start,
    /// Alertmanager: how often firing alerts are posted again, milliseconds.
    pub resend_interval_ms: u64,
    /// Alertmanager: how long a post keeps an alert firing (`endsAt`), milliseconds; more than
    /// `resend_interval_ms`, so that one lost post does not resolve it.
    pub hold_ms: i64,
    /// Slack: least time between two messages about an alert that goes on unchanged, milliseconds.
    pub repeat_interval_ms: i64,
    /// PagerDuty: its severity for ours, where they differ.
    pub severity_map: BTreeMap<Severity, Severity>,
}

impl Default for ReceiverConfig {
    fn default() -> Self {
        Self {
            kind: None,
            url: Secret::default(),
            url_file: None,
            authorization: Secret::default(),
            authorization_file: None,
            routing_key: Secret::default(),
            routing_key_file: None,
            signing_key: Secret::default(),
            signing_key_file: None,
            severity_min: Severity::Info,
            tenants: Vec::new(),
            alert_classes: Vec::new(),
            start: Start::Earliest,
            resend_interval_ms: 60_000,
            hold_ms: 300_000,
            repeat_interval_ms: 14_400_000,
            severity_map: BTreeMap::new(),
        }
    }
}

impl AlertConfig {
    /// The consumer groups of the receivers.
    pub fn groups(&self) -> Vec<String> {
        self.receivers.keys().map(|name| group_of(name)).collect()
    }

    /// Whether every receiver can be served as configured; files are not looked at.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: names the receiver, the field and what belongs there.
    pub fn check(&self) -> Result<(), SinkError> {
        if self.request_timeout_ms == 0 || self.retry_delay_ms == 0 {
            return Err(refuse("alert", "request_timeout_ms and retry_delay_ms must be above 0"));
        }
        if self.firing_age_ms_max <= 0 {
            return Err(refuse("alert", "firing_age_ms_max must be above 0"));
        }
        for (field, url) in [
            ("generator_url", &self.generator_url),
            ("runbook_url", &self.runbook_url),
            ("dashboard_url", &self.dashboard_url),
        ] {
            if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
                return Err(refuse(&format!("alert.{field}"), "it must begin with http:// or https://"));
            }
        }
        self.receivers.iter().try_for_each(|(name, receiver)| receiver.check(name).map(drop))
    }
}

impl ReceiverConfig {
    /// As [`AlertConfig::check`] for one receiver.
    pub(super) fn check(&self, name: &str) -> Result<ReceiverKind, SinkError> {
        let fail = |message: &str| Err(refuse(&format!("alert.receivers.{name}"), message));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
            return fail("a receiver's name holds 1 to 64 letters, digits and -");
        }
        let Some(kind) = self.kind else {
            return fail("type is missing: alertmanager, pagerduty, cloudevents or slack");
        };
        let is_set = |value: &Secret, file: &Option<PathBuf>| !value.is_empty() || file.is_some();
        if !is_set(&self.url, &self.url_file) && kind != ReceiverKind::PagerDuty {
            return fail("url or url_file is missing: the receiver's address");
        }
        if kind == ReceiverKind::PagerDuty && !is_set(&self.routing_key, &self.routing_key_file) {
            return fail("routing_key or routing_key_file is missing: the integration key of the PagerDuty service");
        }
        if kind == ReceiverKind::Alertmanager && !self.holds_long_enough() {
            return fail("resend_interval_ms must be above 0 and hold_ms more than it, else alerts resolve themselves");
        }
        Ok(kind)
    }

    fn holds_long_enough(&self) -> bool {
        let hold_ms = u64::try_from(self.hold_ms).unwrap_or_default();
        self.resend_interval_ms > 0 && hold_ms > self.resend_interval_ms
    }

    /// The address where none is configured.
    pub(super) fn default_url(kind: ReceiverKind) -> &'static str {
        match kind {
            ReceiverKind::PagerDuty => PAGERDUTY_URL,
            _ => "",
        }
    }
}

fn refuse(what: &str, message: &str) -> SinkError {
    SinkError::new(ErrorClass::Config, what, message)
}
