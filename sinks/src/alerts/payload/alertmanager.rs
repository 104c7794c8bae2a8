//! Alertmanager API v2, `POST /api/v2/alerts` (`postableAlerts` of its OpenAPI description).
//!
//! Alertmanager knows an alert by its labels and resolves it at `endsAt`. A firing alert is posted with an
//! `endsAt` a little ahead and posted again before that, as Prometheus does; so nothing depends on
//! Alertmanager's own `resolve_timeout`, and an Alertmanager that lost its memory soon has every alert again.

use std::collections::BTreeMap;

use schemas::event::Alert;
use schemas::time::TimestampMicros;
use serde::Serialize;

use super::Item;
use crate::alerts::labels::labels;
use crate::alerts::text::{Links, clipped, is_resolved, number, rfc3339, summary};

/// Path of the API below the server's address.
pub const PATH: &str = "/api/v2/alerts";
/// Longest annotation, characters. Templates print annotations whole.
const ANNOTATION_CHARS_MAX: usize = 4_096;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PostableAlert {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL", skip_serializing_if = "Option::is_none")]
    generator_url: Option<String>,
}

/// The body for `items`; a firing alert stays so for `hold_ms` from `now`.
pub fn body(items: &[Item<'_>], links: &Links, hold_ms: i64, now: TimestampMicros) -> Vec<u8> {
    let alerts: Vec<PostableAlert> = items.iter().map(|item| postable(item.alert, links, hold_ms, now)).collect();
    serde_json::to_vec(&alerts).unwrap_or_default()
}

fn postable(alert: &Alert, links: &Links, hold_ms: i64, now: TimestampMicros) -> PostableAlert {
    // Log time may run ahead of the wall clock; an end ahead of it would be no end yet.
    let starts_at = alert.starts_at.min(now);
    let ends_at = match is_resolved(alert) {
        true => alert.ends_at.unwrap_or(alert.updated_at).min(now).max(starts_at),
        false => now.plus_ms(hold_ms),
    };
    PostableAlert {
        labels: labels(alert),
        annotations: annotations(alert, links),
        starts_at: rfc3339(starts_at),
        ends_at: rfc3339(ends_at),
        generator_url: links.generator_of(alert),
    }
}

/// What a person reads; nothing here tells alerts apart.
fn annotations(alert: &Alert, links: &Links) -> BTreeMap<&'static str, String> {
    let list = |items: Vec<String>| (!items.is_empty()).then(|| items.join(", "));
    let link = |name: &str| links.of(alert).into_iter().find(|(n, _)| *n == name).map(|(_, url)| url);
    let all = [
        ("summary", Some(summary(alert))),
        ("fingerprint", Some(alert.fingerprint.clone())),
        ("detector", Some(alert.detector.clone())),
        ("observed", alert.observed.map(number)),
        ("expected", alert.expected.map(number)),
        ("p_value", alert.p_value.map(number)),
        ("score", alert.score.map(number)),
        ("count", Some(alert.count.to_string())),
        ("contributing", list(alert.contributing.clone())),
        ("event_ids", list(alert.event_ids.iter().map(ToString::to_string).collect())),
        ("runbook_url", link("Runbook")),
        ("dashboard_url", link("Dashboard")),
    ];
    let present = all.into_iter().filter_map(|(name, value)| Some((name, value?))).filter(|(_, v)| !v.is_empty());
    present.map(|(name, value)| (name, clipped(&value, ANNOTATION_CHARS_MAX))).collect()
}
