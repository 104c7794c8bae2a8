//! The outcome of what a record reports: status, error type, whether a provider throttled.

use super::attributes::Attributes;
use super::record::OtlpRecord;
use super::table::{Field, OtlpKind};
use super::value;

/// An outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// ok, error, timeout, denied, cancelled.
    pub(super) status: &'static str,
    /// Whether the provider refused for its limits.
    pub(super) is_throttled: bool,
    /// The provider's advice; -1 none.
    pub(super) retry_after_ms: i64,
    /// `http_<status>` where no attribute names the error.
    code: Option<i64>,
}

/// Parts of error types, in lower case, and the status that they mean.
const STATUSES: [(&str, &str); 4] =
    [("timeout", "timeout"), ("timed_out", "timeout"), ("deadline", "timeout"), ("cancel", "cancelled")];
/// Parts of error types of throttled requests, in lower case.
const THROTTLED: [&str; 5] = ["ratelimit", "rate_limit", "resourceexhausted", "toomanyrequests", "throttl"];
/// Parts of what tools answer where a person or a policy refused, in lower case.
const DENIED: [&str; 4] = ["rejected by user", "denied by user", "user rejected", "user doesn't want"];

impl Outcome {
    /// Reads it. A record that says no failure is ok.
    pub(super) fn of(record: &OtlpRecord<'_>, a: &Attributes) -> Self {
        let error_type = a.peek_text(Field::ErrorType).unwrap_or_default().to_ascii_lowercase();
        // A status below 400 is no error even if the span is marked as failed for another reason.
        let code = value::as_int(a.peek(Field::StatusCode)).filter(|code| *code >= 400);
        let success = a.peek_text(Field::Success);
        let failed = record.failed || !error_type.is_empty() || code.is_some() || success.as_deref() == Some("false");
        let decided = a.peek_text(Field::ToolDecided);
        // A tool that a person stopped reports a failure, and only its text says that it was refused; words in
        // the result of a call that succeeded are the tool's own content.
        let denied = failed && is_denied(a) || decided.is_some_and(|d| allows(&d) == Some(false));
        let status = match STATUSES.iter().find(|(part, _)| error_type.contains(part)) {
            // Before the error type: a refused call often brings one as well.
            _ if denied => "denied",
            _ if !failed => "ok",
            Some((_, status)) => status,
            None => "error",
        };
        let throttled = |text: &str| text == "429" || text == "http_429" || THROTTLED.iter().any(|p| text.contains(p));
        let retry_after_s = value::as_number(a.peek(Field::RetryAfter)).filter(|s| (0.0..=86_400.0).contains(s));
        Self {
            status,
            is_throttled: code == Some(429) || throttled(&error_type),
            retry_after_ms: retry_after_s.map_or(-1, |s| (s * 1e3).round() as i64),
            code,
        }
    }

    /// The error's type, taken from its attribute; empty where there is none.
    pub(super) fn into_error_type(self, a: &mut Attributes) -> String {
        let named = a.text(Field::ErrorType);
        match (named.is_empty(), self.code) {
            // An error type must be groupable; the status is the best one that is left.
            (true, Some(code)) => format!("http_{code}"),
            _ => named,
        }
    }
}

/// Whether a tool's own text says that it was not allowed to run.
fn is_denied(a: &Attributes) -> bool {
    let says = |text: &str| DENIED.iter().any(|part| text.to_ascii_lowercase().contains(part));
    value::as_str(a.peek(Field::ToolResult)).is_some_and(says) || a.str("error").is_some_and(says)
}

/// Whether a decision allows a tool to run; `None` for an unknown word.
pub(super) fn allows(decision: &str) -> Option<bool> {
    const YES: [&str; 5] = ["accept", "approved", "auto_accept", "allow", "modify"];
    const NO: [&str; 5] = ["reject", "denied", "deny", "abort", "timed_out"];
    let says = |words: [&str; 5]| words.iter().any(|word| decision.starts_with(word));
    match (says(YES), says(NO)) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// Whether an evaluation's label means that what it judged is right.
pub(super) fn passed(label: &str) -> Option<bool> {
    match label.to_ascii_lowercase().as_str() {
        "pass" | "passed" | "true" | "correct" | "supported" | "yes" | "factual" => Some(true),
        "fail" | "failed" | "false" | "incorrect" | "unsupported" | "no" | "hallucinated" => Some(false),
        _ => None,
    }
}

/// Whether a log record of this name reports a failure by its name.
pub(super) fn fails_by_name(name: &str, kind: OtlpKind) -> bool {
    kind == OtlpKind::Model && (name.ends_with("_error") || name.ends_with(".exception"))
}
