//! One receiver, ready to be written to: its address and secrets read, its requests made.
//!
//! It sends nothing itself (`http` does) and decides nothing about retries (`answer` does).

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemas::secret::Secret;
use schemas::time::TimestampMicros;

use super::board::Rules;
use super::config::{AlertConfig, ReceiverConfig, ReceiverKind, Start, group_of};
use super::payload::{Item, alertmanager, cloudevents, pagerduty, slack};
use super::route::{Route, Severity};
use super::text::Links;
use crate::error::{ErrorClass, SinkError};

/// Most alerts in one request to Alertmanager.
const BATCH_MAX: usize = 64;
/// Media type of everything but CloudEvents.
const JSON: &str = "application/json";

/// A request, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// Address; may be a credential.
    pub url: Secret,
    /// Header names and values.
    pub headers: Vec<(&'static str, Secret)>,
    /// Body.
    pub body: Vec<u8>,
}

/// What differs between receivers.
#[derive(Debug, Clone)]
enum Format {
    Alertmanager { hold_ms: i64 },
    PagerDuty { routing_key: Secret, severity_map: BTreeMap<Severity, Severity> },
    CloudEvents { signing_key: Option<SigningKey> },
    Slack,
}

/// Bytes of a key; shows none of them.
#[derive(Clone)]
struct SigningKey(Vec<u8>);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(********)")
    }
}

/// A receiver.
#[derive(Debug, Clone)]
pub struct Receiver {
    name: String,
    url: Secret,
    authorization: Secret,
    format: Format,
    links: Links,
    rules: Rules,
    start: Start,
    resend_interval_ms: Option<u64>,
}

impl Receiver {
    /// Every receiver of the section, by name.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: what is missing or cannot be read, and what to change.
    pub fn open_all(config: &AlertConfig) -> Result<Vec<Self>, SinkError> {
        config.check()?;
        config.receivers.iter().map(|(name, receiver)| Self::open(name, receiver, config)).collect()
    }

    fn open(name: &str, own: &ReceiverConfig, config: &AlertConfig) -> Result<Self, SinkError> {
        let kind = own.check(name)?;
        let read = |field, value, file| secret(name, field, value, file);
        let url = read("url", &own.url, &own.url_file)?;
        let url = if url.is_empty() { Secret::new(ReceiverConfig::default_url(kind)) } else { url };
        let format = match kind {
            ReceiverKind::Alertmanager => Format::Alertmanager { hold_ms: own.hold_ms },
            ReceiverKind::PagerDuty => Format::PagerDuty {
                routing_key: read("routing_key", &own.routing_key, &own.routing_key_file)?,
                severity_map: own.severity_map.clone(),
            },
            ReceiverKind::CloudEvents => {
                let key = read("signing_key", &own.signing_key, &own.signing_key_file)?;
                Format::CloudEvents { signing_key: signing_key(name, &key)? }
            }
            ReceiverKind::Slack => Format::Slack,
        };
        let route = Route {
            severity_min: own.severity_min,
            tenants: own.tenants.clone(),
            alert_classes: own.alert_classes.clone(),
        };
        Ok(Self {
            name: name.to_owned(),
            url: full_url(name, kind, &url)?,
            authorization: read("authorization", &own.authorization, &own.authorization_file)?,
            format,
            links: Links {
                generator: config.generator_url.clone(),
                runbook: config.runbook_url.clone(),
                dashboard: config.dashboard_url.clone(),
            },
            rules: Rules { route, repeat_interval_ms: (kind == ReceiverKind::Slack).then_some(own.repeat_interval_ms) },
            start: own.start,
            resend_interval_ms: (kind == ReceiverKind::Alertmanager).then_some(own.resend_interval_ms),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The consumer group whose position is this receiver's.
    pub fn group(&self) -> String {
        group_of(&self.name)
    }

    /// How it chooses.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Where it begins if it was never served.
    pub fn start(&self) -> Start {
        self.start
    }

    /// How often it wants to hear again of what is firing, milliseconds; `None`: it remembers.
    pub fn resend_interval_ms(&self) -> Option<u64> {
        self.resend_interval_ms
    }

    /// Most alerts of one request.
    pub fn batch_max(&self) -> usize {
        if matches!(self.format, Format::Alertmanager { .. }) { BATCH_MAX } else { 1 }
    }

    /// The request for `items`, which are at most [`Receiver::batch_max`]; `None` for none.
    pub fn post(&self, items: &[Item<'_>], now: TimestampMicros) -> Option<Post> {
        let first = *items.first()?;
        let mut headers = vec![("content-type", Secret::new(JSON))];
        let body = match &self.format {
            Format::Alertmanager { hold_ms } => alertmanager::body(items, &self.links, *hold_ms, now),
            Format::PagerDuty { routing_key, severity_map } => {
                pagerduty::body(first.alert, &self.links, routing_key.expose(), severity_map)
            }
            Format::CloudEvents { signing_key } => {
                let body = cloudevents::body(first, &self.links);
                headers = vec![("content-type", Secret::new(cloudevents::CONTENT_TYPE))];
                if let Some(SigningKey(key)) = signing_key {
                    let signed = cloudevents::signature(key, &first.id.to_string(), now, &body);
                    headers.extend(signed.into_iter().map(|(name, value)| (name, Secret::new(value))));
                }
                body
            }
            Format::Slack => slack::body(first.alert, &self.links),
        };
        if !self.authorization.is_empty() {
            headers.push(("authorization", self.authorization.clone()));
        }
        Some(Post { url: self.url.clone(), headers, body })
    }
}

/// A configured value, or the first line of the file that holds it.
fn secret(name: &str, field: &str, value: &Secret, file: &Option<PathBuf>) -> Result<Secret, SinkError> {
    let Some(path) = file else { return Ok(value.clone()) };
    let what = format!("alert.receivers.{name}.{field}_file");
    if !value.is_empty() {
        return Err(SinkError::new(ErrorClass::Config, what, format!("{field} is set too; keep one of the two")));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| SinkError::new(ErrorClass::Config, &what, format!("{}: {error}", path.display())))?;
    match text.lines().next().map(str::trim).unwrap_or_default() {
        "" => Err(SinkError::new(ErrorClass::Config, what, format!("{} is empty", path.display()))),
        line => Ok(Secret::new(line)),
    }
}

fn signing_key(name: &str, key: &Secret) -> Result<Option<SigningKey>, SinkError> {
    if key.is_empty() {
        return Ok(None);
    }
    let bad = || {
        let what = format!("alert.receivers.{name}.signing_key");
        SinkError::new(ErrorClass::Config, what, "what follows whsec_ is not base64")
    };
    cloudevents::signing_key(key.expose()).map(|key| Some(SigningKey(key))).ok_or_else(bad)
}

/// The address that requests go to; the message on a bad one does not show it.
fn full_url(name: &str, kind: ReceiverKind, url: &Secret) -> Result<Secret, SinkError> {
    let text = url.expose().trim_end_matches('/');
    let full = match kind {
        ReceiverKind::Alertmanager if !text.ends_with(alertmanager::PATH) => format!("{text}{}", alertmanager::PATH),
        ReceiverKind::Alertmanager => text.to_owned(),
        _ => url.expose().to_owned(),
    };
    let parsed = reqwest::Url::parse(&full);
    if parsed.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        return Ok(Secret::new(full));
    }
    let what = format!("alert.receivers.{name}.url");
    Err(SinkError::new(ErrorClass::Config, what, "it is no address of the form http://host:port or https://host"))
}
