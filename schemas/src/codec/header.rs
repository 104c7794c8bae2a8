//! What a header must say before anything is derived from its event.
//!
//! Pure, and apart from decoding: a stage that trusts its topic need not repeat it. It does not ask
//! whether an agent, a tenant or a value exists.

use crate::event::{EventHeader, EventKind, Principal, Scope};
use crate::limits::{CLOCK_AHEAD_MS_MAX, EVENT_TIME_MS_MIN, ID_BYTES_MAX, SPEC_VERSION_MAX, SYSTEM_TENANT};
use crate::reject::RejectReason;
use crate::time::TimestampMicros;

/// Why a header is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderFault {
    /// Class.
    pub kind: HeaderFaultKind,
    /// Name of the header's field.
    pub field: &'static str,
    /// One sentence that names the field but not its value.
    pub detail: String,
}

/// Classes of [`HeaderFault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFaultKind {
    /// A mandatory field is empty.
    Missing,
    /// A field is longer than [`ID_BYTES_MAX`].
    TooLong,
    /// A field has a value that it cannot take.
    Invalid,
    /// The time cannot be right.
    Implausible,
}

impl HeaderFault {
    /// The reason that the dead letter of such a record gives.
    pub fn reason(&self) -> RejectReason {
        match self.kind {
            HeaderFaultKind::Implausible => RejectReason::ImplausibleTime,
            _ => RejectReason::InvalidHeader,
        }
    }

    fn new(kind: HeaderFaultKind, field: &'static str, rest: impl std::fmt::Display) -> Self {
        Self { kind, field, detail: format!("{field} {rest}") }
    }
}

/// [`check_header`] for a stage: the reason of the dead letter and its sentence.
///
/// # Errors
/// [`RejectReason::InvalidHeader`] or [`RejectReason::ImplausibleTime`].
pub fn validate_header(h: &EventHeader, broker_time: TimestampMicros) -> Result<(), (RejectReason, String)> {
    check_header(h, broker_time).map_err(|fault| (fault.reason(), fault.detail))
}

/// Checks a header against the broker's time of its record. A tick needs neither event id nor agent.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_header(h: &EventHeader, broker_time: TimestampMicros) -> Result<(), HeaderFault> {
    check_mandatory(h)?;
    check_tenant(h)?;
    check_lengths(h)?;
    check_numbers(h)?;
    check_time(h, broker_time)
}

fn check_mandatory(h: &EventHeader) -> Result<(), HeaderFault> {
    let is_tick = h.event_type == EventKind::Tick.event_type();
    let fields = [
        ("event_type", h.event_type.is_empty()),
        ("tenant_id", h.tenant_id.is_empty()),
        ("agent_id", h.agent_id.is_empty() && !is_tick),
        ("event_id", h.event_id.is_zero() && !is_tick),
    ];
    match fields.iter().find(|(_, empty)| *empty) {
        Some((name, _)) => Err(HeaderFault::new(HeaderFaultKind::Missing, name, "is empty")),
        None => Ok(()),
    }
}

/// The tenant is a prefix of record keys, where `/` ends it.
fn check_tenant(h: &EventHeader) -> Result<(), HeaderFault> {
    let invalid = |rest: &str| Err(HeaderFault::new(HeaderFaultKind::Invalid, "tenant_id", rest));
    if h.tenant_id.contains(|c: char| c == '/' || c.is_control()) {
        return invalid("has a slash or a control character");
    }
    if h.tenant_id == SYSTEM_TENANT && !is_system_type(&h.event_type) {
        return invalid(&format!("{SYSTEM_TENANT} is reserved for events of the system itself"));
    }
    Ok(())
}

/// Whether Custody alone writes events of that type. By the name, since a header may stand in a record of another
/// type.
pub fn is_system_type(event_type: &str) -> bool {
    EventKind::ALL.iter().any(|kind| kind.scope() == Scope::System && kind.event_type() == event_type)
}

fn check_lengths(h: &EventHeader) -> Result<(), HeaderFault> {
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
    let too_long = |field, what| Err(HeaderFault::new(HeaderFaultKind::TooLong, field, what));
    if let Some((name, _)) = fields.into_iter().find(|(_, text)| long(text)) {
        return too_long(name, format!("is longer than {ID_BYTES_MAX} bytes"));
    }
    let what = || format!("has a field longer than {ID_BYTES_MAX} bytes");
    if long_principal(&h.principal) {
        return too_long("principal", what());
    }
    match h.on_behalf_of.iter().any(long_principal) {
        true => too_long("on_behalf_of", what()),
        false => Ok(()),
    }
}

fn check_numbers(h: &EventHeader) -> Result<(), HeaderFault> {
    let invalid = |field, rest: &str| Err(HeaderFault::new(HeaderFaultKind::Invalid, field, rest));
    if !(1..=SPEC_VERSION_MAX).contains(&h.spec_version) {
        return invalid("spec_version", &format!("{} is not in 1..={SPEC_VERSION_MAX}", h.spec_version));
    }
    match (h.seq < -1, h.producer_seq < -1) {
        (true, _) => invalid("seq", "is below -1"),
        (_, true) => invalid("producer_seq", "is below -1"),
        _ => Ok(()),
    }
}

fn check_time(h: &EventHeader, broker_time: TimestampMicros) -> Result<(), HeaderFault> {
    let implausible = |rest: &str| Err(HeaderFault::new(HeaderFaultKind::Implausible, "event_time", rest));
    if h.event_time.ms() < EVENT_TIME_MS_MIN {
        return implausible("is before 2000");
    }
    match h.event_time > broker_time.plus_ms(CLOCK_AHEAD_MS_MAX) {
        true => implausible("is more than a day ahead of the broker"),
        false => Ok(()),
    }
}
