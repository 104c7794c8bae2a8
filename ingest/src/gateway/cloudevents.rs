//! CloudEvents 1.0 over HTTP: structured, batched and binary mode.
//!
//! Attributes become the header's fields, `data` the type's own ones; `docs/intake.md` has the table.
//! Whatever has no field is kept in `ext`. Other event formats than JSON are not read.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use schemas::event::{Event, EventHeader, EventKind, Extension, RawEvent, Scope};
use schemas::id::{Sha256, SpanId, TraceId, Uuid};
use schemas::text::Content;
use schemas::time::TimestampMicros;
use serde_json::value::RawValue;

use super::event_json::{self, Reader, collect, split_array};
use super::intake::{Arrived, IntakeContext, Problem, essence};
use super::problem::{Code, Refusal};
use super::validate::{self, Draft, Numbers};

/// The version that is read here.
const SPECVERSION: &str = "1.0";
/// Before an event type, where a sender wants types to begin with a name of their own.
const TYPE_PREFIX: &str = "custody.";
/// Ends the part of a source that stands before an agent's id.
const AGENT_PATH: &str = "/agents/";

/// Where a value goes in a header.
type Place = fn(&mut EventHeader) -> &mut String;

/// Attributes that are texts in the header: attribute, field, place.
const TEXTS: [(&str, &str, Place); 14] = [
    ("tenantid", "tenant_id", |h| &mut h.tenant_id),
    ("agentid", "agent_id", |h| &mut h.agent_id),
    ("agentversion", "agent_version", |h| &mut h.agent_version),
    ("agentinstanceid", "agent_instance_id", |h| &mut h.agent_instance_id),
    ("environment", "environment", |h| &mut h.environment),
    ("releasestage", "release_stage", |h| &mut h.release_stage),
    ("dataclass", "data_class", |h| &mut h.data_class),
    ("jurisdiction", "jurisdiction", |h| &mut h.jurisdiction),
    ("capture", "capture", |h| &mut h.capture),
    ("producerid", "producer_id", |h| &mut h.producer_id),
    ("principaltype", "principal", |h| &mut h.principal.r#type),
    ("principalid", "principal", |h| &mut h.principal.id),
    ("principalauthmethod", "principal", |h| &mut h.principal.auth_method),
    ("principalauthneventid", "principal", |h| &mut h.principal.authn_event_id),
];

/// Reads one CloudEvent in structured mode.
pub(super) fn read(body: &[u8], context: &IntakeContext<'_>) -> Result<Vec<Arrived>, Refusal> {
    Ok(vec![structured(body, &mut Reader::new(context), context)?])
}

/// Reads an array of CloudEvents.
pub(super) fn read_batch(body: &[u8], context: &IntakeContext<'_>) -> Result<Vec<Arrived>, Refusal> {
    let mut reader = Reader::new(context);
    collect(split_array(body)?.into_iter().map(|event| structured(event.get().as_bytes(), &mut reader, context)))
}

/// Reads one CloudEvent in binary mode: attributes from headers, data from the body.
pub(super) fn read_binary(
    headers: &[(&str, &str)],
    body: &[u8],
    context: &IntakeContext<'_>,
) -> Result<Vec<Arrived>, Refusal> {
    let in_header = |name: &str| format!("ce-{name}");
    let mut attributes = Attributes::default();
    for (name, value) in headers {
        let Some(name) = name.strip_prefix("ce-") else { continue };
        // In binary mode `content-type` is that attribute (HTTP binding 3.1.1); a second value could
        // contradict it.
        if name == "datacontenttype" || attributes.0.contains_key(name) {
            let detail = "an attribute is there twice: content-type alone gives datacontenttype";
            return Err(Code::DuplicateField.problem(detail).into());
        }
        let Some(text) = header_text(value) else {
            return Err(Code::InvalidValue.problem("a header is not percent-encoded UTF-8").into());
        };
        attributes.0.insert(name.to_owned(), Attribute { text, is_text: true });
    }
    let content_type = headers.iter().find(|(name, _)| *name == "content-type").map(|(_, value)| *value);
    let data = Data::of_bytes(body, content_type.unwrap_or(JSON))?;
    Ok(vec![admit(attributes, data, &mut Reader::new(context), context, in_header)?])
}

/// A header's value: quotes taken off, then percent-decoded. `None` where that is not UTF-8.
fn header_text(value: &str) -> Option<String> {
    // The HTTP binding (3.1.3.2) has receivers take quotes off before they decode percent sequences, as
    // senders may quote values with spaces.
    let unquoted = match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        None => Cow::Borrowed(value),
        Some(quoted) => {
            let mut escaped = false;
            let keep = |c: &char| {
                escaped = *c == '\\' && !escaped;
                !escaped
            };
            Cow::Owned(quoted.chars().filter(keep).collect())
        }
    };
    percent_decode_str(&unquoted).decode_utf8().ok().map(Cow::into_owned)
}

fn structured(json: &[u8], reader: &mut Reader<'_>, context: &IntakeContext<'_>) -> Result<Arrived, Problem> {
    let mut attributes = Attributes::default();
    let (mut data, mut data_base64) = (None, None);
    for (name, value) in event_json::object(json)? {
        match &*name {
            "data" => data = Some(value),
            "data_base64" => data_base64 = Some(value),
            _ => attributes.put(name, value)?,
        }
    }
    let media_type = attributes.take("datacontenttype");
    let media_type = media_type.as_deref().unwrap_or(JSON);
    let decoded;
    let data = match (data, data_base64) {
        // The JSON format allows one of them. With both it is ambiguous which is the data.
        (Some(_), Some(_)) => {
            return Err(Code::DuplicateField.problem("data and data_base64 exclude each other").at("/data_base64"));
        }
        (data, None) => Data::of_value(data, media_type)?,
        (None, Some(value)) => {
            let problem = || Code::InvalidValue.problem("expected text in base64").at("/data_base64");
            let text = event_json::string(value).ok_or_else(problem)?;
            decoded = STANDARD.decode(text.as_bytes()).map_err(|_| problem())?;
            Data::of_bytes(&decoded, media_type).map_err(|problem| problem.at("/data_base64"))?
        }
    };
    admit(attributes, data, reader, context, |name| format!("/{name}"))
}

const JSON: &str = "application/json";

fn is_json(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence == JSON || essence == "text/json" || essence.ends_with("+json")
}

/// The data of a CloudEvent.
enum Data<'a> {
    Absent,
    Json(&'a RawValue),
    Text(Cow<'a, str>, &'a str),
}

impl<'a> Data<'a> {
    fn of_value(value: Option<&'a RawValue>, media_type: &'a str) -> Result<Self, Problem> {
        match value {
            None => Ok(Data::Absent),
            // A JSON value that is not a string can only be JSON, whatever the media type says; a string is
            // text unless the media type is JSON.
            Some(value) if is_json(media_type) || !value.get().starts_with('"') => Ok(Data::Json(value)),
            Some(value) => {
                let detail = "a string has an escape that stands for no character";
                let text = event_json::string(value).ok_or_else(|| Code::MalformedJson.problem(detail).at("/data"))?;
                Ok(Data::Text(text, media_type))
            }
        }
    }

    fn of_bytes(bytes: &'a [u8], media_type: &'a str) -> Result<Self, Problem> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Data::Absent);
        }
        if is_json(media_type) {
            let value = serde_json::from_slice(bytes).map_err(|error| Code::MalformedJson.problem(error.to_string()));
            return value.map(Data::Json);
        }
        let detail = "data that is neither JSON nor text in UTF-8 has no place in an event";
        let text = std::str::from_utf8(bytes).map_err(|_| Code::UnsupportedMediaType.problem(detail))?;
        Ok(Data::Text(Cow::Borrowed(text), media_type))
    }

    fn event(self, event_type: &str, reader: &mut Reader<'_>) -> Result<RawEvent, Problem> {
        match (self, EventKind::of_event_type(event_type)) {
            (Data::Absent, _) => reader.of_data(event_type, None),
            (Data::Json(value), _) => reader.of_data(event_type, Some(value)),
            (Data::Text(..), Some(_)) => {
                let detail = "the data of a type of the catalogue is a JSON object: send it as application/json";
                Err(Code::UnsupportedMediaType.problem(detail).at("/data"))
            }
            (Data::Text(text, media_type), None) => {
                let content = Content { media_type: media_type.to_owned(), ..Content::plain(text) };
                let h = EventHeader::of_type(event_type);
                Ok(Event::Extension(Extension { h, body: Some(content), ..Extension::default() }))
            }
        }
    }
}

/// The value of an attribute.
struct Attribute {
    text: String,
    is_text: bool,
}

/// Attributes by name.
#[derive(Default)]
struct Attributes(BTreeMap<String, Attribute>);

impl Attributes {
    /// Adds a member of a structured event; `null` is none.
    fn put(&mut self, name: Cow<'_, str>, value: &RawValue) -> Result<(), Problem> {
        let json = value.get();
        let (text, is_text) = match json.as_bytes().first() {
            Some(b'"') => {
                let detail = "a string has an escape that stands for no character";
                (event_json::string(value).ok_or_else(|| Code::MalformedJson.problem(detail))?.into_owned(), true)
            }
            Some(b'{' | b'[') => return Err(Code::WrongType.problem("an attribute is text, a number or a boolean")),
            _ => (json.to_owned(), false),
        };
        // The JSON format treats `null` as an absent attribute.
        if json != "null" {
            self.0.insert(name.into_owned(), Attribute { text, is_text });
        }
        Ok(())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).map(|attribute| attribute.text)
    }

    /// A text that must be there and not be empty.
    fn mandatory(&mut self, name: &'static str) -> Result<String, Problem> {
        match self.0.remove(name) {
            Some(Attribute { text, is_text: true }) if !text.is_empty() => Ok(text),
            Some(Attribute { is_text: false, .. }) => Err(Code::WrongType.problem("expected text").at(name)),
            _ => Err(Code::MissingField.problem(format!("{name} is missing")).at(name)),
        }
    }

    fn parsed<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let refused = || Code::InvalidValue.problem(format!("expected {expected}")).at(name);
        parse(&text).map(Some).ok_or_else(refused)
    }
}

/// The event that attributes and data make. `place` names an attribute as the request does.
fn admit(
    mut attributes: Attributes,
    data: Data<'_>,
    reader: &mut Reader<'_>,
    context: &IntakeContext<'_>,
    place: impl Fn(&str) -> String,
) -> Result<Arrived, Problem> {
    let at_place = |problem: Problem| match &problem.field {
        Some(name) => {
            let field = place(name);
            problem.at(field)
        }
        None => problem,
    };
    let core = Core::take(&mut attributes).map_err(at_place)?;
    let event = data.event(&core.event_type, reader)?;
    let draft = draft(event, core, attributes, context).map_err(at_place)?;
    validate::admit(draft, context).map_err(|problem| match &problem.field {
        Some(field) => {
            let field = place(attribute_of(field));
            problem.at(field)
        }
        None => problem,
    })
}

/// The attribute that gives a header's field.
fn attribute_of(field: &str) -> &str {
    const OTHERS: [(&str, &str); 11] = [
        ("id", "event_id"),
        ("type", "event_type"),
        ("time", "event_time"),
        ("sessionid", "session_id"),
        ("parentsessionid", "parent_session_id"),
        ("causationid", "causation_id"),
        ("seq", "seq"),
        ("producerepoch", "producer_epoch"),
        ("producerseq", "producer_seq"),
        ("prevhash", "prev_hash"),
        ("principalid", "principal"),
    ];
    let texts = TEXTS.iter().map(|(attribute, field, _)| (*attribute, *field));
    OTHERS.into_iter().chain(texts).find(|(_, name)| *name == field).map_or(field, |(attribute, _)| attribute)
}

/// The attributes that every CloudEvent has.
struct Core {
    id: String,
    source: String,
    event_type: String,
}

impl Core {
    fn take(attributes: &mut Attributes) -> Result<Self, Problem> {
        let specversion = attributes.mandatory("specversion")?;
        if specversion != SPECVERSION {
            let detail = format!("only specversion {SPECVERSION} is read");
            return Err(Code::UnsupportedSpecversion.problem(detail).at("specversion"));
        }
        let (id, source) = (attributes.mandatory("id")?, attributes.mandatory("source")?);
        let event_type = attributes.mandatory("type")?;
        let event_type = event_type.strip_prefix(TYPE_PREFIX).unwrap_or(&event_type).to_owned();
        Ok(Self { id, source, event_type })
    }
}

fn draft(
    mut event: RawEvent,
    core: Core,
    mut attributes: Attributes,
    context: &IntakeContext<'_>,
) -> Result<Draft, Problem> {
    let kind = event.kind();
    let h = event.h_mut();
    for (name, _, place) in TEXTS {
        if let Some(text) = attributes.take(name) {
            *place(h) = text;
        }
    }
    let numbers = take_numbers(h, &mut attributes)?;
    // A time without a zone would be read as another instant wherever the sender is not in UTC.
    let time = attributes.parsed("time", "a time of RFC 3339 with a zone", TimestampMicros::from_rfc3339)?;
    h.event_time = time.unwrap_or_default();
    h.causation_id = attributes.parsed("causationid", "a UUID", Uuid::from_hex)?;
    take_trace(h, &mut attributes);
    let mut kept: Vec<(String, String)> = Vec::new();
    identify(h, core, context, &mut kept);
    let mut session = attributes.take("sessionid");
    let parent_session = attributes.take("parentsessionid");
    match attributes.take("subject") {
        subject @ Some(_) if session.is_none() && kind.scope() == Scope::Session => session = subject,
        // A subject names the session only where a session is needed and none was given: on other types it may
        // be anything.
        Some(subject) => kept.push(("cloudevents.subject".to_owned(), subject)),
        None => {}
    }
    let dataschema = attributes.take("dataschema").map(|text| ("cloudevents.dataschema".to_owned(), text));
    let rest = attributes.0.into_iter().map(|(name, attribute)| (name, attribute.text));
    for (name, text) in kept.into_iter().chain(dataschema).chain(rest) {
        if h.ext.insert(name, text).is_some() {
            return Err(Code::DuplicateField.problem("an attribute has the name of another member that is kept"));
        }
    }
    Ok(Draft { event, session, parent_session, numbers, source: "adapter" })
}

/// Event id and agent, and what they were made of.
fn identify(h: &mut EventHeader, core: Core, context: &IntakeContext<'_>, kept: &mut Vec<(String, String)>) {
    let Core { id, source, .. } = core;
    match Uuid::from_hex(&id).filter(|id| !id.is_zero()) {
        Some(id) => h.event_id = id,
        None => {
            let tenant = if h.tenant_id.is_empty() { context.tenant_id.unwrap_or_default() } else { &h.tenant_id };
            // CloudEvents makes source and id together unique, and only within a tenant: two tenants may use
            // the same source.
            h.event_id = Uuid::derive(&[b"cloudevent", tenant.as_bytes(), source.as_bytes(), id.as_bytes()]);
            kept.push(("cloudevents.id".to_owned(), id));
        }
    }
    if h.agent_id.is_empty() {
        // A source is a URI; the agent is the part after `/agents/`, or all of it where there is no such part.
        let agent = source.rsplit_once(AGENT_PATH).map_or(&*source, |(_, agent)| agent);
        agent.clone_into(&mut h.agent_id);
    }
    kept.push(("cloudevents.source".to_owned(), source));
}

fn take_numbers(h: &mut EventHeader, attributes: &mut Attributes) -> Result<Numbers, Problem> {
    let mut numbers = Numbers::default();
    let number = |text: &str| text.parse::<i64>().ok();
    let whole = "a whole number of 64 bits";
    if let Some(value) = attributes.parsed("seq", whole, number)? {
        numbers.note("seq");
        h.seq = value;
    }
    if let Some(value) = attributes.parsed("producerepoch", whole, number)? {
        numbers.note("producer_epoch");
        h.producer_epoch = value;
    }
    if let Some(value) = attributes.parsed("producerseq", whole, number)? {
        numbers.note("producer_seq");
        h.producer_seq = value;
    }
    if let Some(value) = attributes.parsed("prevhash", "64 hexadecimal digits", Sha256::from_hex)? {
        numbers.note("prev_hash");
        h.prev_hash = value;
    }
    if !h.producer_id.is_empty() {
        numbers.note("producer_id");
    }
    // Otherwise the schema's default, which is the source of events that no adapter made.
    "adapter".clone_into(&mut h.source);
    Ok(numbers)
}

/// Trace and span of a W3C `traceparent`; one that is not valid is left where it is and kept.
fn take_trace(h: &mut EventHeader, attributes: &mut Attributes) {
    let Some(text) = attributes.0.get("traceparent").map(|attribute| attribute.text.as_str()) else { return };
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
    let hex = |part: Option<&str>, digits: usize| {
        part.is_some_and(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    // W3C trace context: version ff is invalid, and later versions may append parts, so that only the
    // first four are looked at.
    if !hex(version, 2) || version == Some("ff") || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
        return;
    }
    let trace = trace.and_then(TraceId::from_hex).filter(|id| !id.is_zero());
    let span = span.and_then(SpanId::from_hex).filter(|id| !id.is_zero());
    if let (Some(trace), Some(span)) = (trace, span) {
        (h.trace_id, h.span_id) = (Some(trace), Some(span));
        // Only what is understood leaves the attributes; the rest is kept in `ext` as it came.
        attributes.0.remove("traceparent");
    }
}
