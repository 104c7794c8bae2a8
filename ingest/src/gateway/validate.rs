//! The rules that an event must satisfy before it is numbered, whatever its protocol.
//!
//! The stage `pii` makes dead letters of events that break the header's rules or the size limit. Everything of
//! that which intake can know is refused here, where the sender can still correct it: the header is checked
//! with the function that the stage uses, the size with the bytes that are written. It does not know where a
//! field stood in a request.

use schemas::codec::{HeaderFault, HeaderFaultKind, check_header, codec};
use schemas::event::{EventHeader, EventKind, RawEvent, Scope};
use schemas::id::{Sha256, Uuid};
use schemas::limits::{EVENT_BYTES_MAX, ID_BYTES_MAX};
use schemas::time::TimestampMicros;

use super::intake::{Arrived, IntakeContext, Problem};
use super::problem::Code;

/// Largest event that is accepted, bytes of its Avro record: what numbering adds (a producer's id, three
/// numbers, a digest) must still fit into [`EVENT_BYTES_MAX`].
pub const ARRIVED_BYTES_MAX: usize = EVENT_BYTES_MAX - 1_024;
/// How far the broker's clock may be behind the gateway's, milliseconds: the stages check an event's time against
/// the broker's, and what passes here must pass there.
pub(super) const CLOCK_MARGIN_MS: i64 = 60_000;
/// Key of `ext` that keeps the name of a session whose id was derived from it.
pub const SESSION_NAME: &str = "session.name";
/// The same for the parent session.
pub const PARENT_SESSION_NAME: &str = "session.parent_name";
/// Keys of `ext` that only Custody writes begin with this.
pub(super) const OWN_PREFIX: &str = "custody.";
/// Producer ids of Custody's own writers begin with these: a client that claimed a number of one of them would make
/// a gap or a fork in its sequence.
pub(super) const OWN_PRODUCERS: [&str; 2] = ["custody/", "gateway/"];

/// Which of its writer's numbers an event contains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    bits: u8,
}

impl Numbers {
    const NAMES: [&'static str; 5] = ["seq", "producer_id", "producer_epoch", "producer_seq", "prev_hash"];
    const MANDATORY: u8 = 0b0_1111;

    /// Records that the event has the header field `name`; names of other fields are ignored.
    pub fn note(&mut self, name: &str) {
        if let Some(bit) = Self::NAMES.iter().position(|number| *number == name) {
            self.bits |= 1 << bit;
        }
    }

    /// Whether all mandatory numbers are there; none may be there otherwise.
    fn all(self) -> Result<bool, Problem> {
        match (self.bits, self.bits & Self::MANDATORY) {
            // Half a set of numbers can neither be kept nor be replaced: the client believes that its numbers
            // count.
            (0, _) => Ok(false),
            (_, Self::MANDATORY) => Ok(true),
            (_, some) => {
                let missing = (0..4).find(|bit| some & (1 << bit) == 0).unwrap_or_default();
                let detail = "seq, producer_id, producer_epoch and producer_seq come together or not at all; \
                              prev_hash only with them";
                Err(Code::IncompleteNumbering.problem(detail).at(Self::NAMES[missing]))
            }
        }
    }
}

/// An event as a protocol has read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The event, before the other members are applied. An event id of zeros or a time of 0 means that it had
    /// none.
    pub event: RawEvent,
    /// What it gave as session: a UUID or any name.
    pub session: Option<String>,
    /// What it gave as parent session.
    pub parent_session: Option<String>,
    /// Which numbers it had.
    pub numbers: Numbers,
    /// The header's `source` where the gateway numbers it.
    pub source: &'static str,
}

/// Completes and checks an event.
///
/// # Errors
/// The first rule that it breaks; `field` is the name of the header's field.
pub fn admit(draft: Draft, context: &IntakeContext<'_>) -> Result<Arrived, Problem> {
    let Draft { mut event, session, parent_session, numbers, source } = draft;
    let kind = event.kind();
    let h = event.h_mut();
    check_type(h, kind)?;
    fill_tenant(h, context)?;
    h.session_id = session_id(h, session, SESSION_NAME, "session_id")?.unwrap_or_default();
    h.parent_session_id = session_id(h, parent_session, PARENT_SESSION_NAME, "parent_session_id")?;
    if h.session_id.is_zero() && kind.scope() == Scope::Session {
        return Err(Code::MissingField.problem("events of this type belong to a session").at("session_id"));
    }
    let numbered = numbers.all()?;
    if numbered {
        check_numbers(h)?
    } else {
        forget_numbers(h, source)
    }
    // After the numbers were cleared, and before the id and the time below are filled in: the same event
    // sent twice must have the same digest, whatever it was numbered and whenever it arrived.
    let (content_sha256, bytes) = content_digest(&event);
    if bytes > ARRIVED_BYTES_MAX {
        return Err(Code::EventTooLarge.problem(format!("at most {ARRIVED_BYTES_MAX} bytes as an Avro record")));
    }
    let h = event.h_mut();
    if h.event_id.is_zero() {
        // From the content, so that a client without ids may repeat a request and the events are recognised.
        h.event_id = Uuid::derive(&[b"event", h.tenant_id.as_bytes(), &content_sha256.0]);
    }
    if h.event_time == TimestampMicros::default() {
        // The best time that is known; it is after the event by what the transport took.
        h.event_time = context.arrived_at;
    }
    // Last, on the completed header: it is the one that the stages will check.
    check_header(h, context.arrived_at.plus_ms(-CLOCK_MARGIN_MS)).map_err(header_problem)?;
    Ok(Arrived { event, numbered, content_sha256, raw: None })
}

/// Digest and length of an event's Avro record: two requests that say the same have the same digest,
/// whatever the order of their members.
pub fn content_digest(event: &RawEvent) -> (Sha256, usize) {
    let bytes = codec().encode(event);
    (Sha256::of(&bytes), bytes.len())
}

fn check_type(h: &EventHeader, kind: EventKind) -> Result<(), Problem> {
    if h.event_type.is_empty() {
        return Err(Code::MissingField.problem("event_type is empty").at("event_type"));
    }
    if kind.scope() == Scope::System {
        return Err(Code::Reserved.problem("Custody alone writes events of this type").at("event_type"));
    }
    // A derived event would count as the output of a stage, which it was never computed by.
    let derived = [("source", &h.source), ("capture", &h.capture)].into_iter().find(|(_, text)| *text == "derived");
    if let Some((field, _)) = derived {
        return Err(Code::Reserved.problem("Custody alone writes derived events").at(field));
    }
    if h.ext.keys().any(|key| key.starts_with(OWN_PREFIX)) {
        Err(Code::Reserved.problem("keys that begin with custody. are written by Custody alone").at("ext"))
    } else {
        Ok(())
    }
}

fn fill_tenant(h: &mut EventHeader, context: &IntakeContext<'_>) -> Result<(), Problem> {
    match context.tenant_id {
        Some(tenant) if h.tenant_id.is_empty() => h.tenant_id = tenant.to_owned(),
        Some(tenant) if h.tenant_id != tenant => {
            let detail = "the API key is bound to another tenant: leave tenant_id out or use that tenant's key";
            return Err(Code::WrongTenant.problem(detail).at("tenant_id"));
        }
        None if h.tenant_id.is_empty() => {
            let detail = "the API key is bound to no tenant: each event must name its own";
            return Err(Code::MissingField.problem(detail).at("tenant_id"));
        }
        _ => {}
    }
    Ok(())
}

/// The id of a session given as a UUID, or derived from the name that it was given as, which is kept.
/// `None` where nothing or the UUID of zeros was given.
fn session_id(
    h: &mut EventHeader,
    given: Option<String>,
    key: &str,
    field: &'static str,
) -> Result<Option<Uuid>, Problem> {
    let Some(name) = given.filter(|text| !text.is_empty()) else { return Ok(None) };
    // A UUID is kept as the id itself, so that a session has one id whichever protocol its events arrive
    // by.
    if let Some(id) = Uuid::from_hex(&name) {
        return Ok(Some(id).filter(|id| !id.is_zero()));
    }
    if name.len() > ID_BYTES_MAX {
        return Err(Code::TooLong.problem(format!("{field} is longer than {ID_BYTES_MAX} bytes")).at(field));
    }
    let id = session_of_name(&h.tenant_id, &name);
    // The name in `ext` is the evidence of what the id was derived from; a client must not put another one
    // there.
    if h.ext.get(key).is_some_and(|other| *other != name) {
        return Err(Code::Reserved.problem(format!("{key} is the name that {field} gives")).at("ext"));
    }
    h.ext.insert(key.to_owned(), name);
    Ok(Some(id))
}

/// The id of the session that a tenant calls `name`.
pub fn session_of_name(tenant_id: &str, name: &str) -> Uuid {
    Uuid::derive(&[b"session", tenant_id.as_bytes(), name.as_bytes()])
}

/// The numbers that a client keeps itself.
fn check_numbers(h: &EventHeader) -> Result<(), Problem> {
    let invalid = |field: &str, detail: &str| Err(Code::InvalidValue.problem(detail).at(field));
    if h.producer_id.is_empty() {
        return invalid("producer_id", "producer_id is empty");
    }
    // The sequence of a gateway proves that nothing is missing after it; a client must not write into it.
    if OWN_PRODUCERS.iter().any(|prefix| h.producer_id.starts_with(prefix)) {
        return Err(Code::Reserved.problem("the producer is one of Custody's own").at("producer_id"));
    }
    if h.producer_epoch < 0 || h.producer_seq < 0 {
        let field = if h.producer_seq < 0 { "producer_seq" } else { "producer_epoch" };
        return invalid(field, "numbers of a producer are not negative");
    }
    if !["guaranteed", "best_effort"].contains(&h.capture.as_str()) {
        return invalid("capture", "expected guaranteed or best_effort");
    }
    match (h.session_id.is_zero(), h.seq) {
        (false, ..0) => invalid("seq", "seq is negative"),
        // -1 is what a sequencer gives events outside of sessions.
        (true, -1) | (false, _) => Ok(()),
        (true, _) => invalid("seq", "seq of an event without a session is -1"),
    }
}

/// Clears the numbers, which the gateway assigns later, and sets how the event was captured.
fn forget_numbers(h: &mut EventHeader, source: &str) {
    h.seq = 0;
    h.prev_hash = Sha256::ZERO;
    h.producer_id.clear();
    h.producer_epoch = 0;
    h.producer_seq = 0;
    source.clone_into(&mut h.source);
    "best_effort".clone_into(&mut h.capture);
}

pub(super) fn header_problem(fault: HeaderFault) -> Problem {
    let code = match fault.kind {
        HeaderFaultKind::Missing => Code::MissingField,
        HeaderFaultKind::TooLong => Code::TooLong,
        HeaderFaultKind::Invalid => Code::InvalidValue,
        HeaderFaultKind::Implausible => Code::ImplausibleTime,
    };
    code.problem(fault.detail).at(fault.field)
}
