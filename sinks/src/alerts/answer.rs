//! What a receiver's answer means. Pure: a status and a header in, what to do out.

use std::time::{Duration, UNIX_EPOCH};

use schemas::time::TimestampMicros;

/// Longest wait that a receiver may ask for, milliseconds. A header that asks for days would look like
/// a receiver that is gone.
const RETRY_AFTER_MS_MAX: u64 = 3_600_000;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The receiver has it.
    Taken,
    /// It may or may not have it: send the same again.
    Again {
        /// Shortest wait that it asked for, milliseconds.
        after_ms: Option<u64>,
        /// What happened, free of addresses and content.
        why: String,
    },
    /// It will never take it.
    Refused {
        /// HTTP status.
        status: u16,
    },
}

/// The meaning of a status (RFC 9110 section 15) with its `Retry-After` header. 408, 425, 429 and 5xx
/// pass, and so do 401 and 403: they are about our key, which somebody will renew, and not about the
/// alert. Every other status but success is an answer for good, redirections too: following one would
/// turn the POST into a GET.
pub fn answer_of(status: u16, retry_after: Option<&str>, now: TimestampMicros) -> Answer {
    match status {
        200..=299 => Answer::Taken,
        408 | 425 | 429 | 500..=599 => Answer::Again {
            after_ms: retry_after.and_then(|text| retry_after_ms(text, now)),
            why: format!("it answered {status}"),
        },
        401 | 403 => {
            Answer::Again { after_ms: None, why: format!("it answered {status}: renew the receiver's key or password") }
        }
        _ => Answer::Refused { status },
    }
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date.
fn retry_after_ms(text: &str, now: TimestampMicros) -> Option<u64> {
    let text = text.trim();
    let ms = match text.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1_000),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            let now = Duration::from_micros(u64::try_from(now.0).ok()?);
            u64::try_from(at.saturating_sub(now).as_millis()).ok()?
        }
    };
    Some(ms.min(RETRY_AFTER_MS_MAX))
}
