//! What a header must say before anything is derived from its event.
//!
//! Pure, and apart from decoding: a stage that trusts its topic need not repeat it. It does not ask
//! whether an agent, a tenant or a value exists.

use crate::event::{EventHeader, EventKind, Principal};
use crate::limits::{CLOCK_AHEAD_MS_MAX, EVENT_TIME_MS_MIN, ID_BYTES_MAX, SPEC_VERSION_MAX, SYSTEM_TENANT};
use crate::reject::RejectReason;
use crate::time::TimestampMicros;

/// Event types that may belong to [`SYSTEM_TENANT`].
const SYSTEM_TYPES: [EventKind; 8] = [
    EventKind::Tick,
    EventKind::KeyCreated,
    EventKind::KeyRevoked,
    EventKind::KeyRotated,
    EventKind::LogClosed,
    EventKind::LogOpened,
    EventKind::SchemaRegistered,
    EventKind::SegmentSealed,
];

/// Checks a header against the broker's time of its record.
///
/// # Errors
/// [`RejectReason::InvalidHeader`] or [`RejectReason::ImplausibleTime`], and one sentence that names
/// the field but not its value. A tick needs neither event id nor agent.
pub fn validate_header(h: &EventHeader, broker_time: TimestampMicros) -> Result<(), (RejectReason, String)> {
    check_mandatory(h)
        .and_then(|()| check_tenant(h))
        .and_then(|()| check_lengths(h))
        .and_then(|()| check_numbers(h))
        .map_err(|detail| (RejectReason::InvalidHeader, detail))?;
    check_time(h, broker_time).map_err(|detail| (RejectReason::ImplausibleTime, detail))
}

fn check_mandatory(h: &EventHeader) -> Result<(), String> {
    let is_tick = h.event_type == EventKind::Tick.event_type();
    let fields = [
        ("event_type", h.event_type.is_empty()),
        ("tenant_id", h.tenant_id.is_empty()),
        ("agent_id", h.agent_id.is_empty() && !is_tick),
        ("event_id", h.event_id.is_zero() && !is_tick),
    ];
    match fields.iter().find(|(_, empty)| *empty) {
        Some((name, _)) => Err(format!("{name} is empty")),
        None => Ok(()),
    }
}

/// The tenant is a prefix of record keys, where `/` ends it.
fn check_tenant(h: &EventHeader) -> Result<(), String> {
    if h.tenant_id.contains(|c: char| c == '/' || c.is_control()) {
        return Err("tenant_id has a slash or a control character".to_owned());
    }
    let is_system = || SYSTEM_TYPES.iter().any(|kind| kind.event_type() == h.event_type);
    match h.tenant_id == SYSTEM_TENANT && !is_system() {
        true => Err(format!("tenant_id {SYSTEM_TENANT} is reserved for events of the system itself")),
        false => Ok(()),
    }
}

fn check_lengths(h: &EventHeader) -> Result<(), String> {
    let fields = [
        ("event_type", &h.event_type),
        ("tenant_id", &h.tenant_id),
        ("environment", &h.environment),
        ("release_stage", &h.release_stage),
        ("agent_id", &h.agent_id),
        ("agent_version", &h.agent_version),
        ("agent_instance_id", &h.agent_instance_id),
        ("producer_id", &h.producer_id),
        ("data_class", &h.data_class),
        ("jurisdiction", &h.jurisdiction),
        ("source", &h.source),
        ("capture", &h.capture),
    ];
    let long = |text: &String| text.len() > ID_BYTES_MAX;
    let long_principal = |p: &Principal| [&p.r#type, &p.id, &p.auth_method, &p.authn_event_id].into_iter().any(long);
    if let Some((name, _)) = fields.into_iter().find(|(_, text)| long(text)) {
        return Err(format!("{name} is longer than {ID_BYTES_MAX} bytes"));
    }
    match std::iter::once(&h.principal).chain(&h.on_behalf_of).any(long_principal) {
        true => Err(format!("a principal has a field longer than {ID_BYTES_MAX} bytes")),
        false => Ok(()),
    }
}

fn check_numbers(h: &EventHeader) -> Result<(), String> {
    if !(1..=SPEC_VERSION_MAX).contains(&h.spec_version) {
        return Err(format!("spec_version {} is not in 1..={SPEC_VERSION_MAX}", h.spec_version));
    }
    match h.seq < -1 || h.producer_seq < -1 {
        true => Err("seq or producer_seq is below -1".to_owned()),
        false => Ok(()),
    }
}

fn check_time(h: &EventHeader, broker_time: TimestampMicros) -> Result<(), String> {
    if h.event_time.ms() < EVENT_TIME_MS_MIN {
        return Err("event_time is before 2000".to_owned());
    }
    match h.event_time > broker_time.plus_ms(CLOCK_AHEAD_MS_MAX) {
        true => Err("event_time is more than a day ahead of the broker".to_owned()),
        false => Ok(()),
    }
}
