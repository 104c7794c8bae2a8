//! Findings about a single event that every ledger makes alike: its clock, its chain, its number.
//!
//! It remembers nothing: whether a finding was made already is for the ledger to know.

use schemas::event::{CleanEvent, EventHeader};
use schemas::limits::EVENT_TIME_MS_MIN;

use super::CompletenessConfig;
use super::finding::{Finding, Subject, label};
use super::seen::Repeat;
use crate::stage::Sourced;

/// What is wrong with an event's clock, as seen from the broker's.
pub(super) fn clock_problem(record: &Sourced<CleanEvent>, config: &CompletenessConfig) -> Option<&'static str> {
    let at = record.value.h().event_time;
    if at > record.broker_time.plus_ms(config.clock_ahead_ms_max) {
        Some("runs ahead of the broker's")
    } else if at.ms() < EVENT_TIME_MS_MIN {
        Some("is before the year 2000")
    } else {
        None
    }
}

/// A finding about an event's clock.
pub(super) fn clock_finding(h: &EventHeader, why: &str) -> Finding {
    let reason = format!("the clock of writer {} {why}", label(&h.producer_id));
    Finding::new(Subject::of(h), "clock_implausible", "warning", reason)
        .target(h.event_id)
        .fact("event_time_ms", h.event_time.ms())
}

/// A finding about an id that stands for two contents.
pub(super) fn equivocation(h: &EventHeader) -> Finding {
    let reason = format!("event {} exists with two contents", h.event_id);
    Finding::new(Subject::of(h), "equivocation", "critical", reason).target(h.event_id).fact("seq", h.seq)
}

/// A finding about an event whose `prev_hash` is not the digest of the event before it.
pub(super) fn chain_broken(h: &EventHeader, why: &str) -> Finding {
    let reason = format!("event {} of session {} {why}", h.seq, h.session_id);
    let finding = Finding::new(Subject::of(h), "chain_broken", "critical", reason);
    finding.target(h.event_id).fact("seq", h.seq).fact("prev_hash", h.prev_hash)
}

/// A finding about a number that came again: of a session, or of a writer outside of sessions.
pub(super) fn repeat_finding(h: &EventHeader, repeat: Repeat) -> Finding {
    let (owner, number) = if h.session_id.is_zero() {
        (format!("writer {}", label(&h.producer_id)), h.producer_seq)
    } else {
        (format!("session {}", h.session_id), h.seq)
    };
    let (kind, severity, reason) = match repeat {
        Repeat::Equivocation => return equivocation(h),
        Repeat::Duplicate => ("duplicate", "info", format!("event {} was delivered again", h.event_id)),
        Repeat::Forked => ("forked", "critical", format!("{owner} has two events with number {number}")),
        // Neither harmless nor a breach: what could tell is older than the 1 024 identities that are kept.
        Repeat::Unknown => (
            "seq_regressed",
            "warning",
            format!("number {number} of {owner} came again too late to tell a redelivery from a restart"),
        ),
    };
    let finding = Finding::new(Subject::of(h), kind, severity, reason).target(h.event_id);
    finding.fact("seq", h.seq).fact("producer_seq", h.producer_seq)
}
