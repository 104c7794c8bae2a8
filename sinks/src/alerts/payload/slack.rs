//! Slack's incoming webhooks: a text for notifications and for servers without blocks, and blocks.
//!
//! Limits: header 150 characters, section text 3 000, field 2 000, 10 fields (Slack, "Block Kit").
//! Text from alerts is escaped, so that a subject named `<!channel>` notifies nobody.

use schemas::event::Alert;
use serde_json::{Value, json};

use crate::alerts::text::{Links, clipped, is_resolved, number, rfc3339, summary};

/// Longest header, characters.
const HEADER_CHARS_MAX: usize = 150;
/// Longest sentence, characters; escaping makes five of one at most, and 3 000 are allowed.
const SENTENCE_CHARS_MAX: usize = 600;
/// Longest value of a field, characters.
const FIELD_CHARS_MAX: usize = 300;

/// The body for one alert.
pub fn body(alert: &Alert, links: &Links) -> Vec<u8> {
    let title = title(alert);
    let why = escaped(&clipped(&summary(alert), SENTENCE_CHARS_MAX));
    let mut blocks = vec![
        json!({"type": "header", "text": {"type": "plain_text", "text": clipped(&title, HEADER_CHARS_MAX)}}),
        json!({"type": "section", "text": {"type": "mrkdwn", "text": why}}),
        json!({"type": "section", "fields": fields(alert)}),
    ];
    let links: Vec<String> = links.of(alert).iter().map(|(name, url)| format!("<{}|{name}>", escaped(url))).collect();
    if !links.is_empty() {
        blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": links.join("  ·  ")}]}));
    }
    let text = format!("{}: {why}", escaped(&clipped(&title, HEADER_CHARS_MAX)));
    serde_json::to_vec(&json!({"text": text, "blocks": blocks})).unwrap_or_default()
}

fn title(alert: &Alert) -> String {
    let what = format!("{} of {} {}", alert.alert_class, alert.subject_kind, alert.subject);
    match is_resolved(alert) {
        true => format!("Resolved: {what}"),
        false => format!("{}: {what}", alert.severity.to_uppercase()),
    }
}

fn fields(alert: &Alert) -> Vec<Value> {
    let seen = [alert.observed, alert.expected].map(|v| v.map_or("unknown".to_owned(), number));
    let measured = alert.observed.map(|_| format!("{}, expected {}", seen[0], seen[1]));
    let all = [
        ("Tenant", Some(alert.tenant_id.clone())),
        ("Environment", Some(alert.environment.clone())),
        ("Metric", Some(alert.metric.clone())),
        ("Observed", measured),
        ("Since", Some(rfc3339(alert.starts_at))),
        ("Until", alert.ends_at.filter(|_| is_resolved(alert)).map(rfc3339)),
    ];
    let present = all.into_iter().filter_map(|(name, value)| Some((name, value?))).filter(|(_, v)| !v.is_empty());
    let field = |(name, value): (&str, String)| json!({"type": "mrkdwn", "text": format!("*{name}*\n{}", escaped(&clipped(&value, FIELD_CHARS_MAX)))});
    present.map(field).collect()
}

/// Slack's three control characters.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
