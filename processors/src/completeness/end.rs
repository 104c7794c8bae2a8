//! What a session says at its end, held against what is there.
//!
//! It does not judge what came after the end; the ledger does.

use schemas::event::SessionEnded;
use schemas::id::Uuid;
use serde::{Deserialize, Serialize};

use super::finding::{Finding, Subject};

/// Most event types that are counted per session.
pub(super) const TYPES_MAX: usize = 64;

/// What `session.ended` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) seq: i64,
    pub(super) event_id: Uuid,
    event_count: i64,
    /// By hash of the type, ascending.
    counts: Vec<(u64, i64)>,
}

/// FNV-1a, 64 bits: names an event type in a count. Colliding types only confuse the session that
/// uses both.
pub(super) fn type_hash(event_type: &str) -> u64 {
    event_type.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// What is known of a session when it is over.
#[derive(Debug)]
pub(super) struct Actual<'a> {
    /// Events that its start announced; negative where it announced none.
    pub(super) expected_steps: i64,
    /// Events by hash of the type, ascending; `None` where they cannot be compared.
    pub(super) counts: Option<&'a [(u64, i64)]>,
}

impl End {
    /// What the event says.
    pub(super) fn of(ended: &SessionEnded) -> Self {
        let mut counts: Vec<(u64, i64)> = ended.counts_by_type.iter().map(|(t, n)| (type_hash(t), *n)).collect();
        counts.sort_unstable();
        // One more than a ledger counts, so that an end with too many types never equals what was counted.
        counts.truncate(TYPES_MAX + 1);
        Self { seq: ended.h.seq, event_id: ended.h.event_id, event_count: ended.event_count, counts }
    }

    /// The finding where the session has another number of events than it says.
    pub(super) fn mismatch(&self, subject: Subject, actual: &Actual<'_>) -> Option<Finding> {
        let (events, expected, id) = (self.seq.saturating_add(1), actual.expected_steps, subject.session);
        // Unknown is negative. Saturating, since both numbers are a producer's.
        let off = |claim: i64| if claim < 0 { 0 } else { claim.saturating_sub(events).saturating_abs() };
        // An end without counts makes no claim about types.
        let types_differ = !self.counts.is_empty() && actual.counts.is_some_and(|counts| counts != self.counts);
        let count = off(self.event_count).max(off(expected)).max(i64::from(types_differ));
        if count == 0 {
            return None;
        }
        let reason = if off(expected) > off(self.event_count) {
            format!("session {id} declared {expected} events at its start and has {events}")
        } else if off(self.event_count) > 0 {
            format!("session {id} says at its end that it has {} events and has {events}", self.event_count)
        } else {
            format!("session {id} says at its end how many events of each type it has, and has others")
        };
        let finding = Finding::new(subject, "steps_mismatch", "error", reason)
            .count(count)
            .target(self.event_id)
            .fact("events", events)
            .fact("event_count", self.event_count)
            .fact("expected_steps", expected)
            .fact("counts_by_type_differ", types_differ);
        Some(finding)
    }
}
