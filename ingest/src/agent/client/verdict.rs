//! What a gateway's answer means for its batch, and how long to wait: pure.
//!
//! Only a problem document that names events, or one about a batch of a single event, removes an event
//! from the spool: a proxy in between, a wrong address or a revoked key must not cost evidence.

use serde::Deserialize;
use std::time::{Duration, UNIX_EPOCH};

use schemas::time::TimestampMicros;

/// Longest wait that a gateway may ask for, milliseconds (an hour).
const RETRY_AFTER_MS_MAX: u64 = 3_600_000;
/// Longest text of an answer that is kept, bytes.
const REASON_BYTES_MAX: usize = 500;

/// The parts of a gateway's answer that matter here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    /// HTTP status.
    pub(super) status: u16,
    /// Header `content-type`.
    pub(super) content_type: &'a str,
    /// Header `retry-after`.
    pub(super) retry_after: Option<&'a str>,
    /// The body, or as much of it as was read.
    pub(super) body: &'a [u8],
}

/// Why an event is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// 0-based place in the batch.
    pub(super) index: usize,
    /// The problem's `code`.
    pub(super) code: String,
    /// Its `detail`.
    pub(super) detail: String,
    /// Its `field`.
    pub(super) field: Option<String>,
}

/// What to do with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The log has it.
    Taken,
    /// Send it again, after the wait that the gateway asked for. `needs_help`: it will not succeed without an operator.
    Again { retry_after_ms: Option<u64>, reason: String, needs_help: bool },
    /// Set these events aside and send the others again; in order, without repetition, never empty.
    Refused(Vec<Refused>),
    /// Send it in two parts.
    Split,
}

/// The members of a problem (RFC 9457) that the gateway sends.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    title: String,
    detail: String,
    field: Option<String>,
    index: Option<usize>,
    errors: Vec<Problem>,
}

impl Problem {
    fn refused(self, index: usize) -> Refused {
        let detail = if self.detail.is_empty() { self.title } else { self.detail };
        Refused { index, code: self.code, detail: shortened(detail), field: self.field }
    }
}

/// Judges the answer to a batch of `events`.
pub(super) fn judge(answer: &Answer<'_>, events: usize, now: TimestampMicros) -> Verdict {
    let again = |needs_help: bool| {
        let reason = shortened(format!("the gateway answers {}{}", answer.status, said(answer)));
        Verdict::Again { retry_after_ms: answer.retry_after.and_then(|text| wait_ms(text, now)), reason, needs_help }
    };
    match answer.status {
        202 => Verdict::Taken,
        // These pass by themselves (RFC 9110, RFC 8470, RFC 6585).
        408 | 425 | 429 | 500..=599 => again(false),
        // Too large as a whole: smaller batches may fit. If the problem names events, they are refused by
        // themselves, see below.
        413 if events > 1 && problem(answer).is_none_or(|problem| named(problem).is_empty()) => Verdict::Split,
        400..=499 => refusal(answer, events).unwrap_or_else(|| again(true)),
        // 2xx other than 202 and 3xx come from something that is not a gateway: they must not take events from
        // the spool.
        _ => again(true),
    }
}

fn refusal(answer: &Answer<'_>, events: usize) -> Option<Verdict> {
    // A problem about the request (credentials, media type, headers) says nothing about its events: the gateway
    // answered before it read them.
    let is_about_request =
        |problem: &Problem| problem.index.is_none() && matches!(answer.status, 401..=407 | 415 | 431);
    let document = problem(answer)?;
    if is_about_request(&document) {
        return None;
    }
    let alone = Problem { errors: Vec::new(), ..problem(answer)? };
    let mut refused = named(document);
    // An index outside of the batch names no event of ours.
    refused.retain(|refused| refused.index < events);
    match (refused.is_empty(), events) {
        (false, _) => Some(Verdict::Refused(refused)),
        (true, 1) => Some(Verdict::Refused(vec![alone.refused(0)])),
        (true, _) => Some(Verdict::Split),
    }
}

fn problem(answer: &Answer<'_>) -> Option<Problem> {
    let is_problem = answer.content_type.split(';').next().is_some_and(|t| t.trim() == "application/problem+json");
    if is_problem { serde_json::from_slice(answer.body).ok() } else { None }
}

/// The events that a problem names.
fn named(mut problem: Problem) -> Vec<Refused> {
    let mut all = std::mem::take(&mut problem.errors);
    all.push(problem);
    let mut refused: Vec<Refused> = all.into_iter().filter_map(|p| p.index.map(|index| p.refused(index))).collect();
    refused.sort_by_key(|refused| refused.index);
    // The first problem is repeated in `errors`.
    refused.dedup_by_key(|refused| refused.index);
    refused
}

fn said(answer: &Answer<'_>) -> String {
    match problem(answer) {
        Some(problem) => format!(": {}: {}", problem.code, problem.detail),
        None => String::new(),
    }
}

fn shortened(mut text: String) -> String {
    if let Some(end) = (0..=REASON_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)) {
        text.truncate(end);
    }
    text
}

/// The wait that a `Retry-After` header (RFC 9110 section 10.2.3) asks for, milliseconds.
fn wait_ms(text: &str, now: TimestampMicros) -> Option<u64> {
    let ms = match text.trim().parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1_000),
        Err(_) => {
            let now = UNIX_EPOCH + Duration::from_micros(now.0.unsigned_abs());
            let at = httpdate::parse_http_date(text.trim()).ok()?;
            u64::try_from(at.duration_since(now).unwrap_or_default().as_millis()).ok()?
        }
    };
    // A mistaken header must not stop an agent for days.
    Some(ms.min(RETRY_AFTER_MS_MAX))
}

/// Wait before try number `attempt` (1 is the first repetition), milliseconds: it doubles from
/// `ms_min` to `ms_max`, and `random` picks a value in the upper half, so that agents that lost the gateway
/// together do not all return together. A `Retry-After` is the minimum, with jitter on top.
pub(super) fn backoff_ms(attempt: u32, retry_after_ms: Option<u64>, (ms_min, ms_max): (u64, u64), random: u64) -> u64 {
    let doubled = ms_min.saturating_mul(1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX)).min(ms_max);
    let half = doubled / 2;
    let jitter = random % (doubled - half + 1);
    match retry_after_ms {
        Some(ms) => ms + jitter.min(ms / 10 + ms_min),
        None => half + jitter,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    const NOW: TimestampMicros = TimestampMicros::from_ms(784_111_777_000);

    fn judged(status: u16, body: &str, events: usize) -> Verdict {
        let content_type = if body.is_empty() { "text/html" } else { "application/problem+json; charset=utf-8" };
        judge(&Answer { status, content_type, retry_after: None, body: body.as_bytes() }, events, NOW)
    }

    fn refused(index: usize) -> Refused {
        Refused { index, code: "reserved".to_owned(), detail: "no".to_owned(), field: Some("/h/seq".to_owned()) }
    }

    const NAMED: &str = r#"{"code":"reserved","detail":"no","field":"/h/seq","index":2,"errors":[
        {"code":"reserved","detail":"no","field":"/h/seq","index":2},
        {"code":"reserved","detail":"no","field":"/h/seq","index":0}]}"#;
    const UNNAMED: &str = r#"{"code":"reserved","detail":"no","field":"/h/seq"}"#;

    #[test]
    fn an_answer_decides_what_becomes_of_a_batch() {
        assert_eq!(judged(202, "", 3), Verdict::Taken);
        assert_eq!(judged(422, NAMED, 3), Verdict::Refused(vec![refused(0), refused(2)]));
        assert_eq!(judged(413, NAMED, 3), Verdict::Refused(vec![refused(0), refused(2)]));
        assert_eq!(judged(403, NAMED, 3), Verdict::Refused(vec![refused(0), refused(2)]));
        assert_eq!(judged(422, UNNAMED, 1), Verdict::Refused(vec![refused(0)]));
        assert_eq!(judged(413, UNNAMED, 1), Verdict::Refused(vec![refused(0)]));
        assert_eq!(judged(422, UNNAMED, 2), Verdict::Split);
        assert_eq!(judged(413, UNNAMED, 2), Verdict::Split);
        assert_eq!(judged(413, "", 2), Verdict::Split);
    }

    #[test]
    fn what_says_nothing_about_an_event_takes_none_away() {
        let check = |status: u16, body: &str, expected: bool| match judged(status, body, 1) {
            Verdict::Again { needs_help, .. } => assert_eq!(needs_help, expected, "{status}"),
            other => panic!("{status}: {other:?}"),
        };
        for status in [408, 429, 500, 502, 503, 504] {
            check(status, UNNAMED, false);
        }
        for status in [200, 204, 301, 401, 403, 404, 405, 415] {
            check(status, UNNAMED, true);
        }
        for status in [400, 404, 413, 422] {
            check(status, "", true);
        }
    }

    #[test]
    fn a_gateway_may_say_when_to_come_back() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(wait_ms(text, NOW), expected, "{text}");
        check("7", Some(7_000));
        check(" 0", Some(0));
        check("999999999", Some(RETRY_AFTER_MS_MAX));
        check("Sun, 06 Nov 1994 08:49:39 GMT", Some(2_000));
        check("Sun, 06 Nov 1994 08:49:30 GMT", Some(0));
        check("soon", None);
    }

    proptest! {
        #[test]
        fn waits_grow_within_bounds(attempt in 1..200_u32, random: u64, after in prop::option::of(0..100_000_u64)) {
            let wait = backoff_ms(attempt, after, (200, 30_000), random);
            match after {
                Some(ms) => prop_assert!((ms..=ms + ms / 10 + 200).contains(&wait)),
                None if attempt > 8 => prop_assert!((15_000..=30_000).contains(&wait)),
                None => prop_assert!((100 << (attempt - 1)..=(200 << (attempt - 1)).min(30_000)).contains(&wait)),
            }
        }
    }
}
