//! Bodies of `application/vnd.custody.avro`: records that a client stamped, kept byte for byte.
//!
//! Pure. Records are decoded to check them and to find their key; what is appended is [`Arrived::raw`],
//! because the client's hash chain covers exactly these bytes. It assigns no numbers.

use bytes::Bytes;
use schemas::codec::{DecodeError, check_header, codec, is_system_type};
use schemas::event::{EventHeader, EventKind, RawEvent, Scope};
use schemas::id::Sha256;
use schemas::reject::RejectReason;

use super::intake::{Arrived, IntakeContext, Problem, REQUEST_EVENTS_MAX};
use super::problem::{Code, Refusal};
use super::validate::{CLOCK_MARGIN_MS, OWN_PREFIX, OWN_PRODUCERS, header_problem};
use crate::agent::avro_body::Records;

/// Key of `ext` with which a writer closes its epoch: the one of Custody's own keys that a client sets.
const CLOSED_EXT: &str = "custody.producer_closed";

/// The records of a body, all numbered.
///
/// # Errors
/// Why nothing of the request may be appended, the events' problems in their order; fields are JSON
/// pointers into the record.
pub fn parse(body: &Bytes, context: &IntakeContext<'_>) -> Result<Vec<Arrived>, Refusal> {
    let mut arrived = Vec::new();
    let mut problems = Vec::new();
    for (index, record) in Records::new(body.clone()).enumerate() {
        // Checked before the record is decoded: an 8 MiB body holds two million empty records, and a problem
        // for each of them would cost far more memory than the body.
        if index == REQUEST_EVENTS_MAX {
            let detail = format!("send at most {REQUEST_EVENTS_MAX} events in one request");
            return Err(Code::TooManyEvents.problem(detail).into());
        }
        match record.map_err(|cut| Code::MalformedAvro.problem(cut.to_string())).and_then(|raw| one(raw, context)) {
            Ok(event) => arrived.push(event),
            Err(problem) => problems.push(problem.in_event(index)),
        }
    }
    match Refusal::of(problems) {
        Some(refusal) => Err(refusal),
        None if arrived.is_empty() => Err(Code::EmptyBody.problem("send at least one record").into()),
        None => Ok(arrived),
    }
}

fn one(raw: Bytes, context: &IntakeContext<'_>) -> Result<Arrived, Problem> {
    let event: RawEvent = codec().decode(Some(&raw)).map_err(undecodable)?;
    let h = event.h();
    let wrong_tenant = |tenant: &str| tenant != h.tenant_id;
    if context.tenant_id.is_some_and(wrong_tenant) {
        let detail = "tenant_id is not the tenant that the API key is bound to";
        return Err(Code::WrongTenant.problem(detail).at("/h/tenant_id"));
    }
    // Checked against an earlier time than ours: the stages use the broker's time, which may be behind the
    // gateway's, and would make a dead letter of an event that seems to come from the future.
    check_header(h, context.arrived_at.plus_ms(-CLOCK_MARGIN_MS)).map_err(|fault| {
        let field = format!("/h/{}", fault.field);
        header_problem(fault).at(field)
    })?;
    check_type(&event)?;
    check_origin(h)?;
    check_numbers(h)?;
    // The digest covers the numbers as well: a record that is sent again is a duplicate, while the same
    // content that was stamped twice is two events.
    Ok(Arrived { content_sha256: Sha256::of(&raw), event, numbered: true, raw: Some(raw) })
}

fn undecodable(error: DecodeError) -> Problem {
    let code = match error.reason {
        RejectReason::TooLarge => Code::EventTooLarge,
        RejectReason::WrongTopic => Code::Reserved,
        _ => Code::MalformedAvro,
    };
    code.problem(error.to_string())
}

fn check_type(event: &RawEvent) -> Result<(), Problem> {
    let (h, kind) = (event.h(), event.kind());
    // By record and by name: readers select by `event_type`, so that an extension which calls itself a
    // tick would be taken for one.
    if kind.scope() == Scope::System || is_system_type(&h.event_type) {
        return Err(Code::Reserved.problem("Custody alone writes events of this type").at("/h/event_type"));
    }
    // The record's schema decides how the bytes are read, `event_type` how the event is used: the two must
    // agree.
    if kind != EventKind::Extension && !event.is_known_type() {
        return Err(Code::InvalidValue.problem("event_type is not that of the record").at("/h/event_type"));
    }
    if h.session_id.is_zero() && kind.scope() == Scope::Session {
        return Err(Code::MissingField.problem("events of this type belong to a session").at("/h/session_id"));
    }
    // `custody.producer_closed` is the one exception: only the writer itself knows that its epoch has
    // ended, and says so in its last heartbeat.
    let is_own = |key: &String| key.starts_with(OWN_PREFIX) && !(kind == EventKind::Heartbeat && key == CLOSED_EXT);
    if h.ext.keys().any(is_own) {
        Err(Code::Reserved.problem("keys that begin with custody. are written by Custody alone").at("/h/ext"))
    } else {
        Ok(())
    }
}

fn check_origin(h: &EventHeader) -> Result<(), Problem> {
    let reserved = |field: &str, detail: &str| Err(Code::Reserved.problem(detail).at(field));
    if OWN_PRODUCERS.iter().any(|prefix| h.producer_id.starts_with(prefix)) {
        return reserved("/h/producer_id", "the producer is one of Custody's own");
    }
    match (h.source.as_str(), h.capture.as_str()) {
        ("derived", _) => reserved("/h/source", "Custody alone writes derived events"),
        (_, "derived") => reserved("/h/capture", "Custody alone writes derived events"),
        (_, "guaranteed" | "best_effort") => Ok(()),
        _ => Err(Code::InvalidValue.problem("expected guaranteed or best_effort").at("/h/capture")),
    }
}

fn check_numbers(h: &EventHeader) -> Result<(), Problem> {
    // The client's numbers are appended as they are, so that a value that no sequencer produces would be a
    // gap or a fork for the stage `completeness`.
    let rules = [
        ("/h/producer_id", h.producer_id.is_empty(), "producer_id is empty"),
        ("/h/producer_epoch", h.producer_epoch <= 0, "producer_epoch is not a time"),
        ("/h/producer_seq", h.producer_seq < 0, "producer_seq is not given"),
        ("/h/seq", h.session_id.is_zero() != (h.seq < 0), "seq is given within a session, and only there"),
    ];
    match rules.into_iter().find(|(_, is_broken, _)| *is_broken) {
        Some((field, _, detail)) => Err(Code::IncompleteNumbering.problem(detail).at(field)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;
    use schemas::event::{Event, Heartbeat, Tick};
    use schemas::id::Uuid;
    use schemas::testing::{BROKER_TIME, typical};

    use super::*;
    use crate::agent::avro_body;
    use crate::agent::sequencer::Sequencer;

    const TENANT: &str = "t";

    fn context() -> IntakeContext<'static> {
        IntakeContext { tenant_id: Some(TENANT), arrived_at: BROKER_TIME.plus_ms(60_000) }
    }

    fn stamped(count: u64) -> Vec<Bytes> {
        let mut sequencer = Sequencer::new("sdk/1", BROKER_TIME);
        let stamp = |index| {
            let mut event = typical(index);
            event.h_mut().tenant_id = TENANT.to_owned();
            sequencer.stamp(&mut event)
        };
        (0..count).map(stamp).collect()
    }

    fn body(records: &[Bytes]) -> Bytes {
        let mut body = Vec::new();
        records.iter().for_each(|record| avro_body::put(record, &mut body));
        body.into()
    }

    #[test]
    fn records_are_kept_to_the_byte() {
        let records = stamped(30);
        let arrived = parse(&body(&records), &context()).unwrap();
        let kept: Vec<Bytes> = arrived.iter().map(|event| event.raw.clone().unwrap()).collect();
        assert_eq!(kept, records);
        assert!(arrived.iter().all(|event| event.numbered));
        assert_eq!(arrived[7].content_sha256, Sha256::of(&records[7]));
        assert_eq!(arrived[7].event, codec().decode(Some(&records[7])).unwrap());
    }

    fn check(spoil: impl FnOnce(&mut RawEvent), expected: (&str, Option<&str>)) {
        let mut records = stamped(3);
        let mut event: RawEvent = codec().decode(Some(&records[1])).unwrap();
        spoil(&mut event);
        records[1] = codec().encode(&event);
        let refusal = parse(&body(&records), &context()).unwrap_err();
        let first = &refusal.first;
        assert_eq!((first.code, first.field.as_deref(), first.index), (expected.0, expected.1, Some(1)));
        assert!(refusal.rest.is_empty(), "{refusal:?}");
    }

    #[test]
    fn each_rule_names_the_field_and_the_event() {
        let numbering = |field| ("incomplete_numbering", Some(field));
        check(|e| e.h_mut().tenant_id = "other".to_owned(), ("wrong_tenant", Some("/h/tenant_id")));
        check(|e| e.h_mut().agent_id = String::new(), ("missing_field", Some("/h/agent_id")));
        check(|e| e.h_mut().event_time = BROKER_TIME.plus_ms(90_000_000), ("implausible_time", Some("/h/event_time")));
        check(|e| e.h_mut().event_type = "tick".to_owned(), ("reserved", Some("/h/event_type")));
        check(|e| e.h_mut().event_type = "claim.verified".to_owned(), ("invalid_value", Some("/h/event_type")));
        check(|e| e.h_mut().source = "derived".to_owned(), ("reserved", Some("/h/source")));
        check(|e| e.h_mut().capture = "derived".to_owned(), ("reserved", Some("/h/capture")));
        check(|e| e.h_mut().producer_id = "gateway/1".to_owned(), ("reserved", Some("/h/producer_id")));
        check(|e| e.h_mut().producer_id = String::new(), numbering("/h/producer_id"));
        check(|e| e.h_mut().producer_epoch = 0, numbering("/h/producer_epoch"));
        check(|e| e.h_mut().producer_seq = -1, numbering("/h/producer_seq"));
        check(|e| e.h_mut().seq = -1, numbering("/h/seq"));
        check(|e| e.h_mut().session_id = Uuid::ZERO, ("missing_field", Some("/h/session_id")));
        check(|e| e.h_mut().capture = String::new(), ("invalid_value", Some("/h/capture")));
        let own = |e: &mut RawEvent| drop(e.h_mut().ext.insert(CLOSED_EXT.to_owned(), "true".to_owned()));
        check(own, ("reserved", Some("/h/ext")));
        let tick = |e: &mut RawEvent| *e = Event::Tick(Tick { h: e.h().clone(), ..Tick::default() });
        check(tick, ("reserved", Some("/h/event_type")));
    }

    #[test]
    fn a_heartbeat_stands_outside_of_sessions() {
        let mut sequencer = Sequencer::new("sdk/1", BROKER_TIME);
        let mut heartbeat = Heartbeat::default();
        heartbeat.h.ext.insert(CLOSED_EXT.to_owned(), "true".to_owned());
        let (h, like) = (&mut heartbeat.h, typical(0));
        (h.tenant_id, h.agent_id) = (TENANT.to_owned(), "a".to_owned());
        (h.event_id, h.event_time) = (like.h().event_id, like.h().event_time);
        let record = sequencer.stamp(&mut RawEvent::Heartbeat(heartbeat));
        assert_eq!(parse(&body(&[record]), &context()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let whole = body(&stamped(2));
        let cases: [(Bytes, &str, Option<usize>); 5] = [
            (Bytes::new(), "empty_body", None),
            (whole.slice(..whole.len() - 1), "malformed_avro", Some(1)),
            (Bytes::from_static(b"{\"event_type\":\"model.call\"}"), "malformed_avro", Some(0)),
            (body(&[Bytes::from_static(b"{}")]), "malformed_avro", Some(0)),
            (body(&[Bytes::from(vec![0xC3; (1 << 20) + 1])]), "event_too_large", Some(0)),
        ];
        for (body, code, index) in cases {
            let first = parse(&body, &context()).unwrap_err().first;
            assert_eq!((first.code, first.index), (code, index));
        }
        let many = body(&vec![stamped(1)[0].clone(); REQUEST_EVENTS_MAX + 1]);
        assert_eq!(parse(&many, &context()).unwrap_err().first.code, "too_many_events");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_is_taken_came_with_them(
            mut bytes in Just(body(&stamped(3)).to_vec()),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        ) {
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let body = Bytes::from(bytes);
            if let Ok(arrived) = parse(&body, &context()) {
                let raw: Vec<Bytes> = arrived.into_iter().filter_map(|event| event.raw).collect();
                prop_assert_eq!(self::body(&raw), body);
            }
        }
    }
}
