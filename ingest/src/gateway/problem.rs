//! The stable codes of refusals and their form on the wire: `application/problem+json` of RFC 9457.
//!
//! Every code is defined once in the table below; `docs/intake.md` lists the same table. Nothing here
//! repeats the content of an event: a detail names rules and limits, a field holds names of our own
//! schemas. It does not decide when something is refused.

use serde::Serialize;

use super::intake::Problem;

/// Media type of [`Refusal::to_json`].
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Most problems that one answer lists.
pub const PROBLEMS_LISTED_MAX: usize = 20;

/// Defines [`Code`] and its table.
macro_rules! codes {
    ($($variant:ident $status:literal $code:literal $title:literal,)*) => {
        /// Why a request or an event is refused; what clients and metrics may rely on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code, by status.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// The code's stable text.
            pub const fn text(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }

            /// The same sentence for every problem of this code.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }
        }
    };
}

codes! {
    MalformedRequest 400 "malformed_request" "the request is not one that HTTP allows",
    EmptyBody 400 "empty_body" "the body holds no event",
    MalformedJson 400 "malformed_json" "the body is not JSON",
    MalformedProtobuf 400 "malformed_protobuf" "the body is not a protobuf message of its type",
    MalformedAvro 400 "malformed_avro" "the body is not a sequence of Avro records",
    MalformedEncoding 400 "malformed_encoding" "the body cannot be decompressed",
    TooDeep 400 "too_deep" "the JSON nests too deep",
    DuplicateField 400 "duplicate_field" "an object names a member twice",
    Unauthenticated 401 "unauthenticated" "no valid API key came with the request",
    ForbiddenRole 403 "forbidden_role" "the role of the API key may not do this",
    WrongTenant 403 "wrong_tenant" "the API key is bound to another tenant",
    NotFound 404 "not_found" "there is nothing at this path",
    MethodNotAllowed 405 "method_not_allowed" "the path does not take this method",
    NotAcceptable 406 "not_acceptable" "the answer is of none of the media types that are accepted",
    RequestTimeout 408 "request_timeout" "the request took too long to arrive",
    LengthRequired 411 "length_required" "the request does not say how long its body is",
    BodyTooLarge 413 "body_too_large" "the body is too large",
    TooManyEvents 413 "too_many_events" "the request holds too many events",
    TooManyItems 413 "too_many_items" "the request holds too many array items",
    EventTooLarge 413 "event_too_large" "the event is too large",
    UnsupportedMediaType 415 "unsupported_media_type" "the media type is not one that is read here",
    UnsupportedEncoding 415 "unsupported_encoding" "the content encoding is not one that is read here",
    MissingField 422 "missing_field" "a mandatory field is missing",
    WrongType 422 "wrong_type" "a field has a value of another type",
    InvalidValue 422 "invalid_value" "a field has a value that it cannot take",
    TooLong 422 "too_long" "a field is too long",
    ImplausibleTime 422 "implausible_time" "the event's time cannot be right",
    IncompleteNumbering 422 "incomplete_numbering" "some numbers of the event's writer are missing",
    Reserved 422 "reserved" "the event claims what only Custody itself may write",
    UnsupportedSpecversion 422 "unsupported_specversion" "the CloudEvents version is not one that is read here",
    QuotaExceeded 429 "quota_exceeded" "the tenant sends more than its quota",
    Overloaded 429 "overloaded" "more events are waiting than the gateway may hold",
    LogUnavailable 503 "log_unavailable" "the log has not acknowledged the events in time",
    Draining 503 "draining" "the gateway is shutting down",
}

impl Code {
    /// A problem of this code; the field and the event are added with [`Problem::at`] and
    /// [`Problem::in_event`].
    pub fn problem(self, detail: impl Into<String>) -> Problem {
        Problem {
            status: self.status(),
            code: self.text(),
            title: self.title(),
            detail: detail.into(),
            field: None,
            index: None,
        }
    }
}

/// The refusal of a request that arrives while the queue is full.
pub(super) fn overloaded() -> Problem {
    Code::Overloaded.problem("send the events again after the time in Retry-After")
}

impl Problem {
    /// The problem, at a field: a JSON pointer or the name of an attribute.
    #[must_use]
    pub fn at(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    /// The problem, in the event at that 0-based place of its batch.
    #[must_use]
    pub fn in_event(self, index: usize) -> Self {
        Self { index: Some(index), ..self }
    }
}

/// Why a request is refused as a whole: nothing of it may be appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first}")]
pub struct Refusal {
    /// What is wrong with the first event that is wrong, or with the request.
    pub first: Problem,
    /// What is wrong with the events after it; with the first at most [`PROBLEMS_LISTED_MAX`].
    pub rest: Box<[Problem]>,
}

impl From<Problem> for Refusal {
    fn from(first: Problem) -> Self {
        Self { first, rest: Box::default() }
    }
}

impl Refusal {
    /// The refusal for `problems`, of which only so many are kept as are listed; `None` without any.
    pub fn of(problems: impl IntoIterator<Item = Problem>) -> Option<Self> {
        // A batch of 10 000 bad events must not be answered with 10 000 problems: the first ones show what is
        // wrong.
        let mut problems = problems.into_iter().take(PROBLEMS_LISTED_MAX);
        let first = problems.next()?;
        Some(Self { first, rest: problems.collect() })
    }

    /// HTTP status of the answer.
    pub fn status(&self) -> u16 {
        self.first.status
    }

    /// Every problem, in the order of the events.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(&self.first).chain(self.rest.iter())
    }

    /// The body of the answer ([`PROBLEM_JSON`]): the members of the first problem, and under `errors`
    /// every problem.
    pub fn to_json(&self) -> String {
        let Problem { status, code, title, .. } = &self.first;
        let document = Document {
            r#type: format!("urn:custody:problem:{code}"),
            title,
            status: *status,
            first: Item::of(&self.first),
            errors: self.problems().map(Item::of).collect(),
        };
        // Keys are texts and writing to memory does not fail, so there is always a document.
        serde_json::to_string(&document).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    #[serde(flatten)]
    first: Item<'a>,
    errors: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
}

impl<'a> Item<'a> {
    fn of(problem: &'a Problem) -> Self {
        Self { code: problem.code, detail: &problem.detail, field: problem.field.as_deref(), index: problem.index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_code_and_no_other() {
        let page = include_str!("../../../docs/intake.md");
        let (_, table) = page.split_once("| status | code | meaning |\n|---|---|---|\n").expect("table");
        let listed: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
        let row = |code: &Code| format!("| {} | `{}` | {} |", code.status(), code.text(), code.title());
        assert_eq!(listed, Code::ALL.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn codes_are_distinct_and_sorted_by_status() {
        let mut texts: Vec<&str> = Code::ALL.iter().map(|code| code.text()).collect();
        assert!(Code::ALL.is_sorted_by_key(|code| code.status()));
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| matches!(code.status(), 400..500 | 503)));
    }

    #[test]
    fn a_refusal_is_a_problem_of_rfc_9457() {
        let refusal = Refusal::of([
            Code::WrongType.problem("expected text").at("/agent_id").in_event(2),
            Code::MissingField.problem("event_type is missing").in_event(4),
        ])
        .expect("two problems");
        let expected = serde_json::json!({
            "type": "urn:custody:problem:wrong_type",
            "title": "a field has a value of another type",
            "status": 422,
            "code": "wrong_type",
            "detail": "expected text",
            "field": "/agent_id",
            "index": 2,
            "errors": [
                {"code": "wrong_type", "detail": "expected text", "field": "/agent_id", "index": 2},
                {"code": "missing_field", "detail": "event_type is missing", "index": 4},
            ],
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&refusal.to_json()).expect("JSON"), expected);
        assert_eq!(refusal.status(), 422);
    }

    #[test]
    fn no_more_problems_are_kept_than_are_listed() {
        let problems = (0..50).map(|index| Code::WrongType.problem("x").in_event(index));
        assert_eq!(Refusal::of(problems).expect("problems").problems().count(), PROBLEMS_LISTED_MAX);
        assert_eq!(Refusal::of([]), None);
    }
}
