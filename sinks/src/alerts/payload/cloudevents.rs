//! CloudEvents 1.0.2 in structured JSON mode, one event per request, with the partitioning extension.
//!
//! `source` and `id` together are the event's identity: a receiver that has seen them has seen the event.
//! The signature is that of Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use schemas::time::TimestampMicros;
use serde_json::{Value, json};
use sha2::Sha256;

use super::Item;
use crate::alerts::text::{Links, is_resolved, rfc3339};

/// Media type of a structured event.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// The body for one alert.
pub fn body(item: Item<'_>, links: &Links) -> Vec<u8> {
    let alert = item.alert;
    let state = if is_resolved(alert) { "resolved" } else { "firing" };
    let mut data = serde_json::to_value(alert).unwrap_or_default();
    data["starts_at"] = rfc3339(alert.starts_at).into();
    data["updated_at"] = rfc3339(alert.updated_at).into();
    data["ends_at"] = alert.ends_at.map(rfc3339).into();
    data["links"] = links.of(alert).into_iter().map(|(name, url)| (name.to_lowercase(), Value::from(url))).collect();
    let event = json!({
        "specversion": "1.0",
        "id": item.id.to_string(),
        "source": "urn:custody:alerts",
        "type": format!("custody.alert.{state}.v1"),
        "subject": format!("{}/{}/{}", alert.tenant_id, alert.subject_kind, alert.subject),
        "time": rfc3339(alert.updated_at),
        "datacontenttype": "application/json",
        "partitionkey": alert.fingerprint,
        "data": data,
    });
    serde_json::to_vec(&event).unwrap_or_default()
}

/// A signing key as configured: base64 behind `whsec_`, else the text's own bytes. `None` if what
/// follows `whsec_` is not base64.
pub fn signing_key(text: &str) -> Option<Vec<u8>> {
    match text.strip_prefix("whsec_") {
        Some(encoded) => BASE64_STANDARD.decode(encoded).ok(),
        None => Some(text.as_bytes().to_vec()),
    }
}

/// The three headers of Standard Webhooks for `body`, sent at `now`.
pub fn signature(key: &[u8], id: &str, now: TimestampMicros, body: &[u8]) -> Vec<(&'static str, String)> {
    let seconds = now.0.div_euclid(1_000_000);
    let mut mac = keyed(key);
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(body);
    let signed = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    vec![
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", seconds.to_string()),
        ("webhook-signature", format!("v1,{signed}")),
    ]
}

#[allow(clippy::expect_used)]
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("RFC 2104: HMAC takes a key of any length")
}
