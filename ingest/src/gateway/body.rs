//! The bodies of `POST /v1/events`: bytes and their media type to events, all of them or none.
//!
//! Pure. It reads no clock, gives no numbers, decompresses nothing and asks nobody who sent them.

use schemas::time::TimestampMicros;

use super::intake::Arrived;
use super::problem::{Code, Refusal};

/// Most events that one request may hold.
pub const REQUEST_EVENTS_MAX: usize = 10_000;

/// What a request says about all of its events.
#[derive(Debug, Clone, Copy)]
pub struct IntakeContext<'a> {
    /// The tenant that the API key is bound to; `None`: any tenant, and each event must name it.
    pub tenant_id: Option<&'a str>,
    /// When the request arrived, by the gateway's clock.
    pub arrived_at: TimestampMicros,
}

/// How a body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`: one event, or an array of events.
    Json,
    /// `application/x-ndjson`: one event to a line.
    Ndjson,
    /// `application/cloudevents+json`: one CloudEvent.
    CloudEvent,
    /// `application/cloudevents-batch+json`: an array of CloudEvents.
    CloudEventBatch,
    /// `ce-*` headers: the body is the data of one CloudEvent.
    CloudEventBinary,
}

impl MediaType {
    /// The form of a body, by its `content-type` and whether a `ce-specversion` header came with it.
    /// Without a content type it is taken for `application/json`.
    ///
    /// # Errors
    /// [`Code::UnsupportedMediaType`] for any other type or a charset that is not UTF-8.
    pub fn of(content_type: Option<&str>, has_ce_specversion: bool) -> Result<Self, Refusal> {
        let (essence, parameters) = content_type.unwrap_or("application/json").split_once(';').unwrap_or_default();
        let _ = (essence, parameters, has_ce_specversion);
        Err(Code::UnsupportedMediaType.problem("send application/json").into())
    }
}

/// The events of a body. `headers` are those of the request whose name begins with `ce-`, names in
/// lower case; they matter to [`MediaType::CloudEventBinary`] only.
///
/// # Errors
/// Why nothing of the request may be appended: up to
/// [`PROBLEMS_LISTED_MAX`](super::problem::PROBLEMS_LISTED_MAX) problems, the events' in their order.
pub fn parse(
    media: MediaType,
    headers: &[(&str, &str)],
    body: &[u8],
    context: &IntakeContext<'_>,
) -> Result<Vec<Arrived>, Refusal> {
    let _ = (media, headers, context);
    match body.is_empty() {
        true => Err(Code::EmptyBody.problem("send at least one event").into()),
        false => Err(Code::UnsupportedMediaType.problem("this form is not read yet").into()),
    }
}
