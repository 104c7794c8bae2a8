//! One span or log record while it becomes events: identity, times, outcome, and the header they share.
//!
//! Ids are derived from the record alone, so that a record that is sent again gives the same events.

use std::collections::BTreeMap;

use schemas::codec::codec;
use schemas::event::{EventHeader, Principal, RawEvent};
use schemas::id::{Sha256, SpanId, TraceId, Uuid};
use schemas::limits::{CLOCK_AHEAD_MS_MAX, EVENT_BYTES_MAX, EVENT_TIME_MS_MIN};
use schemas::time::TimestampMicros;

use super::Context;
use super::attributes::{Attributes, Ext, short};
use super::source::{MAPPING_EXT, Source};
use super::table::{Dialect, Field};
use crate::gateway::intake::Arrived;

/// `ext` key of a session's name where its id is derived from it.
const SESSION_NAME_EXT: &str = "session.name";
/// Room for what the gateway adds to an event, bytes: numbers, writer, digest.
const NUMBERING_BYTES_MAX: usize = 1_024;

/// Which of a record's events an id is for. Numbers are part of ids: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The event that has the record's attributes.
    Main,
    /// What precedes it: an attempt, a start.
    Before,
    /// A policy's decision.
    Decision,
    /// A person's answer.
    Approval,
    /// A provider's limit.
    Limit,
    /// What an agent answered.
    Output,
    /// The span event of this index.
    Event(u32),
}

impl Part {
    fn bytes(self) -> [u8; 4] {
        let number = match self {
            Self::Main => 0,
            Self::Before => 1,
            Self::Decision => 2,
            Self::Approval => 3,
            Self::Limit => 4,
            Self::Output => 5,
            // From 16 on: the numbers below are left for further parts, because an id must never change its
            // meaning.
            Self::Event(index) => index.saturating_add(16),
        };
        number.to_be_bytes()
    }
}

/// What identifies a record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// A span.
    Span(TraceId, SpanId),
    /// The digest of a log record: it has no id of its own.
    Log(Sha256),
}

impl Origin {
    /// The id of an event that the record stands for.
    pub(super) fn event_id(&self, tenant: &str, part: Part) -> Uuid {
        match self {
            Self::Span(trace, span) => {
                Uuid::derive(&[b"otlp.span", tenant.as_bytes(), &trace.0, &span.0, &part.bytes()])
            }
            Self::Log(digest) => Uuid::derive(&[b"otlp.log", tenant.as_bytes(), &digest.0, &part.bytes()]),
        }
    }
}

/// Where a span stands in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It began the trace.
    Root,
    /// Its parent is in another process.
    Entry,
    /// Its parent is in its own process.
    Inner,
}

/// A session: an id, and the name that it is derived from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) id: Uuid,
    name: Option<String>,
}

impl Session {
    /// From a name of an agent's own: a UUID is the id itself, any other text is hashed with the tenant.
    pub(super) fn named(tenant: &str, name: &str) -> Self {
        match Uuid::from_hex(name).filter(|id| !id.is_zero()) {
            Some(id) => Self { id, name: None },
            None => {
                let id = Uuid::derive(&[b"session", tenant.as_bytes(), name.as_bytes()]);
                Self { id, name: Some(name.to_owned()) }
            }
        }
    }

    /// The session of a trace that names none: its id is the trace's.
    pub(super) fn of_trace(trace: TraceId) -> Self {
        Self { id: Uuid(trace.0), name: None }
    }
}

/// A span or log record.
#[derive(Debug)]
pub(super) struct OtlpRecord<'a> {
    pub(super) source: &'a Source,
    pub(super) origin: Origin,
    pub(super) parent_id: Option<SpanId>,
    pub(super) place: Place,
    /// Span name or event name.
    pub(super) name: String,
    pub(super) vendor: Option<Dialect>,
    pub(super) start: TimestampMicros,
    pub(super) end: TimestampMicros,
    /// Where the record has no time of its own: when it arrived. Its times are then relative to it.
    pub(super) arrived_at: Option<TimestampMicros>,
    /// -1 unknown.
    pub(super) duration_ms: i64,
    pub(super) failed: bool,
    /// Whether an attribute of its own names the agent.
    pub(super) is_agent_named: bool,
    /// A session that another span of the trace names.
    pub(super) inherited: Option<Session>,
    /// Whether the record, or another of its trace, names a session.
    pub(super) is_named: bool,
    /// For `ext` of the main event.
    pub(super) ext: Ext,
    header: EventHeader,
}

/// Facts of a record that its attributes do not hold.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) source: &'a Source,
    pub(super) origin: Origin,
    pub(super) trace_id: Option<TraceId>,
    pub(super) span_id: Option<SpanId>,
    pub(super) parent_id: Option<SpanId>,
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) vendor: Option<Dialect>,
    pub(super) start: TimestampMicros,
    pub(super) end: TimestampMicros,
    pub(super) arrived_at: Option<TimestampMicros>,
    pub(super) failed: bool,
}

impl<'a> OtlpRecord<'a> {
    /// Reads session, agent and user; `names` are the sessions that the request's traces name.
    pub(super) fn new(
        facts: Facts<'a>,
        attributes: &mut Attributes,
        names: &BTreeMap<TraceId, String>,
    ) -> Result<Self, &'static str> {
        let mut header = facts.source.header.clone();
        let tenant = facts.source.header.tenant_id.as_str();
        // Looked at and not taken: the attribute stays in `ext` as the evidence for the session.
        let named = attributes.peek_text(Field::Session).or_else(|| facts.source.session.clone());
        let own = match (&named, facts.trace_id) {
            (Some(name), _) => Session::named(tenant, name),
            (None, Some(trace)) => Session::of_trace(trace),
            (None, None) => Session { id: Uuid::ZERO, name: None },
        };
        let inherited = || names.get(&facts.trace_id?).map(|name| Session::named(tenant, name));
        // A span's own word goes before what other spans of its trace say.
        let inherited = if named.is_some() { None } else { inherited() };
        if let Some(user) = attributes.peek_text(Field::UserId) {
            header.principal = principal(tenant, &user);
        }
        let agent = attributes.name(Field::AgentId);
        let is_agent_named = agent.is_some();
        header.agent_id = agent.unwrap_or(header.agent_id);
        if let Some(version) = attributes.name(Field::AgentVersion) {
            header.agent_version = version;
        }
        (header.trace_id, header.span_id, header.session_id) = (facts.trace_id, facts.span_id, own.id);
        if let Some(name) = own.name {
            header.ext.insert(SESSION_NAME_EXT.to_owned(), name);
        }
        header.ext.insert(MAPPING_EXT.to_owned(), super::MAPPING.to_owned());
        let Facts { source, origin, parent_id, place, name, vendor, start, end, arrived_at, failed, .. } = facts;
        let is_named = named.is_some() || inherited.is_some();
        // Rounded to the nearest millisecond: cutting would turn calls of 0.9 ms into calls of 0.
        let duration_ms = (end.0.saturating_sub(start.0).saturating_add(500) / 1_000).max(0);
        let ext = Ext::default();
        Ok(Self {
            source,
            origin,
            parent_id,
            place,
            name,
            vendor,
            start,
            end,
            arrived_at,
            duration_ms,
            failed,
            is_agent_named,
            inherited,
            is_named,
            ext,
            header,
        })
    }

    /// The agent that the record names, or its resource.
    pub(super) fn agent_id(&self) -> &str {
        &self.header.agent_id
    }

    /// Names the agent.
    pub(super) fn set_agent(&mut self, agent: &str) {
        self.header.agent_id = short(agent);
    }

    /// Whose authority the record says it acted on.
    pub(super) fn principal(&self) -> &Principal {
        &self.header.principal
    }

    /// Tenant.
    pub(super) fn tenant(&self) -> &str {
        &self.header.tenant_id
    }

    /// The id of one of its events.
    pub(super) fn event_id(&self, part: Part) -> Uuid {
        self.origin.event_id(self.tenant(), part)
    }

    /// What names the record where it has no id of its own: its span's id, or its event's.
    pub(super) fn own_id(&self) -> String {
        match self.origin {
            Origin::Span(_, span) => span.to_hex(),
            Origin::Log(_) => self.event_id(Part::Main).to_string(),
        }
    }

    /// The header of one of its events, with an `ext` that holds what all of them have.
    pub(super) fn header(&self, part: Part, event_type: &str, time: TimestampMicros) -> EventHeader {
        let mut h = self.header.clone();
        h.event_id = self.event_id(part);
        event_type.clone_into(&mut h.event_type);
        h.event_time = time;
        h
    }

    /// The header of its main event: `ext` has the attributes that no field took, the resource's and
    /// the record's own facts. Call it last.
    pub(super) fn main_header(&mut self, event_type: &str, attributes: Attributes) -> EventHeader {
        let mut h = self.header(Part::Main, event_type, self.end);
        let mut ext = self.facts(h.ext);
        attributes.rest(&mut ext);
        h.ext = ext.into_map();
        h
    }

    /// `ext` with the resource's attributes and the record's own facts.
    pub(super) fn facts(&mut self, ext: BTreeMap<String, String>) -> Ext {
        let mut all = self.source.ext.clone();
        all.extend(ext);
        let mut all = Ext::of(all);
        for (key, value) in std::mem::take(&mut self.ext).into_map() {
            all.put(key, value);
        }
        all
    }

    /// Completes the events: digest, then what depends on more than the record itself.
    pub(super) fn finish(&self, mut events: Vec<RawEvent>, out: &mut Vec<Arrived>) -> Result<(), &'static str> {
        let mut arrived = Vec::with_capacity(events.len());
        for mut event in events.drain(..) {
            let bytes = codec().encode(&event);
            // Checked for the event as it will be stored. One that is too large is refused here with its span,
            // and not after the request was numbered, where it would cost the others.
            if bytes.len() > EVENT_BYTES_MAX - NUMBERING_BYTES_MAX {
                return Err("an event would be larger than 1 MiB");
            }
            let content_sha256 = Sha256::of(&bytes);
            let h = event.h_mut();
            // After the digest: what other requests said of the trace is not part of this span. The same span
            // that is sent again, when its trace is known, must have the same digest, or it would count as
            // another version of the event.
            if let Some(session) = &self.inherited {
                h.session_id = session.id;
                h.ext.insert("custody.session_from".to_owned(), "trace".to_owned());
                if let Some(name) = &session.name {
                    h.ext.insert(SESSION_NAME_EXT.to_owned(), name.clone());
                }
            }
            // After the digest as well, for the same reason: a record without a time arrives at another one
            // each time.
            if let Some(at) = self.arrived_at {
                h.event_time = TimestampMicros(h.event_time.0.saturating_add(at.0));
            }
            arrived.push(Arrived { event, numbered: false, content_sha256, raw: None });
        }
        // All or none: half of what a span stands for, an attempt without its end, would be a false finding.
        out.append(&mut arrived);
        Ok(())
    }
}

/// A user. What looks like a name or an address is replaced: header fields are not scanned for
/// personal data. The attribute itself is in `ext`, which is.
fn principal(tenant: &str, user: &str) -> Principal {
    // Letters, digits and a few separators without spaces and `@`: an account number or a UUID passes, an
    // address or a full name does not.
    let opaque = user.len() <= 64 && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:|".contains(&b));
    let id =
        if opaque { user.to_owned() } else { Uuid::derive(&[b"user", tenant.as_bytes(), user.as_bytes()]).to_string() };
    Principal { r#type: "user".to_owned(), id, ..Principal::default() }
}

/// Whether the stages would accept a record of this time.
pub(super) fn check_time(time: TimestampMicros, context: &Context<'_>) -> Result<(), &'static str> {
    if time.ms() < EVENT_TIME_MS_MIN {
        Err("its time is missing or before 2000")
    } else if time > context.arrived_at.plus_ms(CLOCK_AHEAD_MS_MAX) {
        Err("its time is more than a day ahead")
    } else {
        Ok(())
    }
}

/// Nanoseconds as microseconds.
pub(super) fn micros(nanos: u64) -> TimestampMicros {
    TimestampMicros(i64::try_from(nanos / 1_000).unwrap_or(i64::MAX))
}

/// A trace id of the right length that is not zero.
pub(super) fn trace_id(bytes: &[u8]) -> Option<TraceId> {
    <[u8; 16]>::try_from(bytes).ok().map(TraceId).filter(|id| !id.is_zero())
}

/// A span id of the right length that is not zero.
pub(super) fn span_id(bytes: &[u8]) -> Option<SpanId> {
    <[u8; 8]>::try_from(bytes).ok().map(SpanId).filter(|id| !id.is_zero())
}
