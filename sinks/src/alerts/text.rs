//! Times, numbers, identities and links as receivers want to read them. Pure text, no format of a payload.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemas::event::Alert;
use schemas::time::TimestampMicros;

/// RFC 3986 section 2.3: everything but the unreserved characters is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// RFC 3339 in UTC with microseconds. Years outside 0000 to 9999 have no such form and are clamped.
pub(super) fn rfc3339(at: TimestampMicros) -> String {
    const FIRST: i64 = -62_167_219_200_000_000;
    const LAST: i64 = 253_402_300_799_999_999;
    let at = TimestampMicros(at.0.clamp(FIRST, LAST));
    let (year, month, day, hour) = at.utc_hour();
    let micros = at.0.rem_euclid(3_600_000_000);
    let (minute, second) = (micros / 60_000_000, micros / 1_000_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", micros % 1_000_000)
}

/// A number without a long row of zeros.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-4..1e15).contains(&size) => format!("{value}"),
        _ => format!("{value:e}"),
    }
}

/// At most `chars_max` characters of `text`, with an ellipsis where some are left out.
pub(super) fn clipped(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// One sentence that says why; never empty.
pub(super) fn summary(alert: &Alert) -> String {
    match alert.reason.trim() {
        "" => format!("{} of {} {}", alert.alert_class, alert.subject_kind, alert.subject),
        reason => reason.to_owned(),
    }
}

/// Whether the alert is over.
pub(super) fn is_resolved(alert: &Alert) -> bool {
    alert.status == "resolved"
}

/// Link templates of the `[alert]` section; empty for none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Links {
    /// Page about the alert.
    pub generator: String,
    /// What to do.
    pub runbook: String,
    /// Where the subject is shown.
    pub dashboard: String,
}

impl Links {
    /// The links of one alert as (name, address), those that are configured.
    pub(super) fn of(&self, alert: &Alert) -> Vec<(&'static str, String)> {
        let all = [("Alert", &self.generator), ("Runbook", &self.runbook), ("Dashboard", &self.dashboard)];
        all.into_iter().filter(|(_, t)| !t.is_empty()).map(|(name, t)| (name, filled(t, alert))).collect()
    }

    /// The page about the alert.
    pub(super) fn generator_of(&self, alert: &Alert) -> Option<String> {
        (!self.generator.is_empty()).then(|| filled(&self.generator, alert))
    }
}

/// A template with its placeholders replaced.
fn filled(template: &str, alert: &Alert) -> String {
    let values = [
        ("{fingerprint}", &alert.fingerprint),
        ("{tenant}", &alert.tenant_id),
        ("{environment}", &alert.environment),
        ("{subject_kind}", &alert.subject_kind),
        ("{subject}", &alert.subject),
        ("{alert_class}", &alert.alert_class),
        ("{metric}", &alert.metric),
        ("{severity}", &alert.severity),
    ];
    // Encoded values hold no braces, so that no value is taken for a placeholder.
    values.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(name, &utf8_percent_encode(value, ENCODED).to_string())
    })
}
