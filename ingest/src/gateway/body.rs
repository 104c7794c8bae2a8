//! The bodies of `POST /v1/events`: bytes and their media type to events, all of them or none.
//!
//! Pure. It reads no clock, assigns no numbers, and neither decompresses nor authenticates.

use bytes::Bytes;

use super::intake::{Arrived, IntakeContext, essence};
use super::problem::{Code, Refusal};
use super::{avro_batch, cloudevents, event_json};
use crate::agent::avro_body;

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
    /// `application/vnd.custody.avro`: records that the client stamped, kept to the byte.
    Avro,
}

impl MediaType {
    /// The form of a body, by its `content-type` and the presence of a `ce-specversion` header.
    /// Without a content type it is read as `application/json`.
    ///
    /// # Errors
    /// [`Code::UnsupportedMediaType`] for any other type or a charset that is not UTF-8.
    pub fn of(content_type: Option<&str>, has_ce_specversion: bool) -> Result<Self, Refusal> {
        let content_type = content_type.unwrap_or("application/json");
        if !is_utf8(content_type) {
            return Err(Code::UnsupportedMediaType.problem("send the body in UTF-8").into());
        }
        match essence(content_type).as_str() {
            "application/cloudevents+json" => Ok(Self::CloudEvent),
            "application/cloudevents-batch+json" => Ok(Self::CloudEventBatch),
            // In binary mode the body is the data of an event. Another event format (CloudEvents in Avro or protobuf)
            // would be an event inside of that data, and is not read.
            other if has_ce_specversion && !other.starts_with("application/cloudevents") => Ok(Self::CloudEventBinary),
            avro_body::MEDIA_TYPE => Ok(Self::Avro),
            "application/json" => Ok(Self::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                Ok(Self::Ndjson)
            }
            _ => Err(Code::UnsupportedMediaType.problem(SUPPORTED).into()),
        }
    }
}

const SUPPORTED: &str = "send application/json, application/x-ndjson, application/cloudevents+json, \
    application/cloudevents-batch+json, a CloudEvent in binary mode or application/vnd.custody.avro";

/// Whether a content type names no charset but UTF-8, of which ASCII is a part.
fn is_utf8(content_type: &str) -> bool {
    let charset = |parameter: &str| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    };
    content_type.split(';').skip(1).filter_map(charset).all(|name| name == "utf-8" || name == "us-ascii")
}

/// The events of a body. `headers` are the request's `content-type` and those whose name begins with
/// `ce-`, names in lower case; they matter to [`MediaType::CloudEventBinary`] only.
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
    // Only a CloudEvent in binary mode may have no data.
    let is_text = !matches!(media, MediaType::CloudEventBinary | MediaType::Avro);
    if is_text && body.iter().all(u8::is_ascii_whitespace) {
        return Err(Code::EmptyBody.problem("send at least one event").into());
    }
    match media {
        MediaType::Json => event_json::read(body, context),
        MediaType::Ndjson => event_json::read_lines(body, context),
        MediaType::CloudEvent => cloudevents::read(body, context),
        MediaType::CloudEventBatch => cloudevents::read_batch(body, context),
        MediaType::CloudEventBinary => cloudevents::read_binary(headers, body, context),
        // The records are slices of one allocation, and the caller only lends the body.
        MediaType::Avro => avro_batch::parse(&Bytes::copy_from_slice(body), context),
    }
}
