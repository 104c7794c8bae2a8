//! PagerDuty Events API v2, `POST /v2/enqueue`: trigger and resolve.
//!
//! `dedup_key` is the alert's fingerprint: a second trigger joins the incident, a resolve closes it, a
//! resolve of nothing is taken and does nothing. Limits: summary 1 024 characters, dedup_key 255, event
//! 512 KB (PagerDuty, "Send an Alert Event").

use std::collections::BTreeMap;

use schemas::event::Alert;
use schemas::id::Sha256;
use serde_json::{Value, json};

use crate::alerts::labels::labels;
use crate::alerts::route::Severity;
use crate::alerts::text::{Links, clipped, is_resolved, rfc3339, summary};

/// Longest summary, characters.
const SUMMARY_CHARS_MAX: usize = 1_024;
/// Longest deduplication key, characters.
const DEDUP_KEY_CHARS_MAX: usize = 255;
/// Largest event, bytes.
const EVENT_BYTES_MAX: usize = 512_000;

/// The body for one alert; `severity_map` holds PagerDuty's severity where it differs from ours.
pub fn body(alert: &Alert, links: &Links, routing_key: &str, severity_map: &BTreeMap<Severity, Severity>) -> Vec<u8> {
    let mut event = match is_resolved(alert) {
        true => json!({}),
        false => trigger(alert, links, severity_map),
    };
    event["routing_key"] = routing_key.into();
    event["event_action"] = if is_resolved(alert) { "resolve" } else { "trigger" }.into();
    event["dedup_key"] = dedup_key(alert).into();
    let body = serde_json::to_vec(&event).unwrap_or_default();
    if body.len() <= EVENT_BYTES_MAX {
        return body;
    }
    event["payload"]["custom_details"] = json!({});
    serde_json::to_vec(&event).unwrap_or_default()
}

/// The fingerprint where it fits.
fn dedup_key(alert: &Alert) -> String {
    match alert.fingerprint.chars().count() {
        1..=DEDUP_KEY_CHARS_MAX => alert.fingerprint.clone(),
        _ => Sha256::of(alert.fingerprint.as_bytes()).to_hex(),
    }
}

fn trigger(alert: &Alert, links: &Links, severity_map: &BTreeMap<Severity, Severity>) -> Value {
    let own = Severity::of(&alert.severity);
    let severity = severity_map.get(&own).copied().unwrap_or(own);
    let links_of: Vec<Value> = links.of(alert).iter().map(|(text, href)| json!({"href": href, "text": text})).collect();
    let mut event = json!({
        "client": "Custody",
        "links": links_of,
        "payload": {
            "summary": clipped(&summary(alert), SUMMARY_CHARS_MAX),
            "source": format!("{}/{}/{}", alert.tenant_id, alert.subject_kind, alert.subject),
            "severity": severity.name(),
            "timestamp": rfc3339(alert.starts_at),
            "component": alert.subject,
            "group": alert.tenant_id,
            "class": alert.alert_class,
            "custom_details": {
                "labels": labels(alert),
                "metric": alert.metric,
                "observed": alert.observed,
                "expected": alert.expected,
                "p_value": alert.p_value,
                "score": alert.score,
                "count": alert.count,
                "contributing": alert.contributing,
                "detector": alert.detector,
                "event_ids": alert.event_ids,
            },
        },
    });
    if let Some(url) = links.generator_of(alert) {
        event["client_url"] = url.into();
    }
    event
}
