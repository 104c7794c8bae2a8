//! The best-effort events of one session: numbered by the gateways that received them.
//!
//! Their `seq` is gap-free per (session, writer, epoch), not per session: each such line of numbers
//! is a lane. The order is that of arrival, and the only identity that survives a second numbering is
//! the digest of what arrived ([`CONTENT_SHA256_EXT`]). It does not judge order or ends of sessions.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schemas::event::{CONTENT_SHA256_EXT, CleanEvent, EventHeader};
use schemas::id::{Sha256, Uuid};
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::CompletenessConfig;
use super::calls::CallFact;
use super::chain::{Chain, Link, Placement};
use super::finding::{Finding, label};
use super::key;
use super::seen::{Identity, PAGE_SLOTS, PAGES_MAX, Repeat, Seen};
use super::session::{Fact, Session, Taken, chain_broken, clock_finding, clock_problem, repeat_finding, type_hash};
use super::spans::{self, Range};
use crate::stage::Sourced;

/// Most lanes of one session; beyond it the one touched longest ago is reported and forgotten. A
/// session meets a new lane when its gateway restarts or another one takes over.
pub(super) const LANES_MAX: usize = 8;
/// Longest name of a writer that a lane keeps, bytes; with 256 holes of at most 260 bytes a lane
/// stays far below the bound of a state entry.
const NAME_BYTES_MAX: usize = 64;

/// Whether an event was numbered on its way and not where it happened.
pub(super) fn is_best_effort(h: &EventHeader) -> bool {
    h.capture == "best_effort"
}

/// What stays the same when the same event is sent and numbered again.
pub(super) fn identity(record: &Sourced<CleanEvent>) -> Identity {
    let h = record.value.h();
    let content = h.ext.get(CONTENT_SHA256_EXT).and_then(|text| Sha256::from_hex(text));
    Identity::of(h.event_id, &content.unwrap_or(record.source.sha256))
}

/// The numbers that one writer's epoch gave to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lane {
    producer: String,
    chain: Chain,
    /// Numbers below belong to a time that is forgotten: they are not missed.
    first: i64,
    /// Ordinal of the newest event of the lane.
    touched: i64,
}

/// What an event turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Arrival {
    /// What it repeats, if anything.
    pub(super) repeat: Option<Repeat>,
    /// Its number in its lane was not there before.
    pub(super) new_number: bool,
    /// It had been reported missing.
    pub(super) filled: bool,
    /// The digests of neighbours in its lane do not match.
    pub(super) broken: bool,
    /// Numbers that are given up on: the lane's writer, and the range.
    pub(super) given_up: Vec<(String, Range)>,
}

/// The lanes of one session, and which events it had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct BestEffort {
    lanes: BTreeMap<Uuid, Lane>,
    changed: BTreeSet<Uuid>,
    pub(super) seen: Seen,
}

impl BestEffort {
    /// Takes in the `ordinal`-th best-effort event of the session.
    pub(super) fn take(&mut self, record: &Sourced<CleanEvent>, ordinal: i64) -> Arrival {
        let h = record.value.h();
        let mut arrival = Arrival::default();
        self.place(record, ordinal, &mut arrival);
        let identity = identity(record);
        arrival.repeat = match self.seen.known(identity) {
            Some(repeat) => Some(repeat),
            None if arrival.new_number => None,
            None if ordinal < PAGE_SLOTS * PAGES_MAX as i64 => Some(Repeat::Forked),
            None => Some(Repeat::Unknown),
        };
        if arrival.new_number && arrival.repeat != Some(Repeat::Duplicate) {
            self.seen.insert(ordinal, identity);
        }
        debug_assert!(is_best_effort(h), "a lane is for best-effort events");
        arrival
    }

    fn place(&mut self, record: &Sourced<CleanEvent>, ordinal: i64, arrival: &mut Arrival) {
        let h = record.value.h();
        let id = Uuid::derive(&[h.producer_id.as_bytes(), &h.producer_epoch.to_be_bytes()]);
        let lane = self.lanes.entry(id).or_insert_with(|| Lane::starting(h));
        let claims = h.seq == 0 || !h.prev_hash.is_zero();
        let prev = claims.then_some(h.prev_hash);
        let link = Link { seq: h.seq, digest: record.source.sha256, prev, at: record.broker_time };
        match lane.chain.insert(link) {
            Placement::Seen => return,
            Placement::New { broken, filled, given_up } => {
                lane.touched = ordinal;
                arrival.new_number = true;
                arrival.filled = filled && h.seq >= lane.first;
                arrival.broken = broken;
                arrival.given_up.extend(given_up.map(|range| (lane.producer.clone(), range)));
            }
        }
        self.changed.insert(id);
        self.forget(arrival);
    }

    fn forget(&mut self, arrival: &mut Arrival) {
        if self.lanes.len() <= LANES_MAX {
            return;
        }
        let oldest = self.lanes.iter().min_by_key(|(id, lane)| (lane.touched, **id)).map(|(id, _)| *id);
        let Some((id, mut lane)) = oldest.and_then(|id| self.lanes.remove_entry(&id)) else { return };
        self.changed.insert(id);
        let missing = lane.chain.report(TimestampMicros(i64::MAX));
        arrival.given_up.extend(missing.into_iter().map(|range| (lane.producer.clone(), range)));
    }

    /// Holes to report now, by writer: those that opened at or before `opened`.
    pub(super) fn report(&mut self, opened: TimestampMicros) -> Vec<(String, Vec<Range>)> {
        let mut due = Vec::new();
        for (id, lane) in &mut self.lanes {
            let missing = lane.chain.report(opened);
            if !missing.is_empty() {
                self.changed.insert(*id);
                due.push((lane.producer.clone(), missing));
            }
        }
        due
    }

    /// Whether no number is missing in any lane.
    pub(super) fn is_whole(&self) -> bool {
        self.lanes.values().all(|lane| lane.chain.is_whole())
    }

    /// Ids of lanes that changed since the last call, with their entries; `None` is forgotten.
    pub(super) fn take_changes(&mut self) -> Vec<(Uuid, Option<Bytes>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|id| (id, self.lanes.get(&id).map(key::json))).collect()
    }

    /// Ids of lanes, for deleting all of them.
    pub(super) fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.lanes.keys().chain(&self.changed).copied()
    }

    /// Loads one lane.
    pub(super) fn load(&mut self, id: Uuid, value: &[u8]) -> Result<(), String> {
        self.lanes.insert(id, key::from_json(value)?);
        Ok(())
    }
}

impl Lane {
    /// A lane that is met at this event. Where it is not the lane's first number, the session was
    /// silent so long that its ledger was forgotten; whether numbers are missing is then for the
    /// stage `writers` to say.
    fn starting(h: &EventHeader) -> Self {
        let producer = label(&h.producer_id).chars().take(NAME_BYTES_MAX).collect();
        Self { producer, chain: Chain::resumed(h.seq), first: h.seq, touched: 0 }
    }
}

impl Session {
    /// Takes in an event that a gateway numbered.
    pub(super) fn take_best_effort(
        &mut self,
        record: &Sourced<CleanEvent>,
        config: &CompletenessConfig,
        found: &mut Vec<Finding>,
    ) -> Taken {
        let h = record.value.h();
        let ordinal = self.head.best_effort;
        let Arrival { repeat, new_number, filled, broken, given_up } = self.best_effort.take(record, ordinal);
        found.extend(repeat.map(|repeat| repeat_finding(h, repeat)));
        if broken {
            found.push(chain_broken(h, "names another digest than that of the event before it"));
        }
        self.changed |= new_number;
        let repeated_id = matches!(repeat, Some(Repeat::Duplicate | Repeat::Equivocation));
        if new_number && repeat != Some(Repeat::Duplicate) {
            self.head.best_effort = ordinal.saturating_add(1);
            self.accept_best_effort(record, ordinal, config, found);
        }
        found.extend(
            given_up.iter().map(|(writer, range)| self.lane_gap(&h.tenant_id, h.session_id, writer, &[*range])),
        );
        Taken { repeated_id, redelivery: !new_number && repeat == Some(Repeat::Duplicate), filled }
    }

    /// Judges what does not depend on the order in which things happened, which is not known.
    fn accept_best_effort(
        &mut self,
        record: &Sourced<CleanEvent>,
        ordinal: i64,
        config: &CompletenessConfig,
        found: &mut Vec<Finding>,
    ) {
        let h = record.value.h();
        self.meet(h, record.broker_time);
        if let Some(why) = clock_problem(record, config).filter(|_| !self.head.clock_reported) {
            self.head.clock_reported = true;
            found.push(clock_finding(h, why));
        }
        if let Some(call) = CallFact::of(&record.value, &config.decision_required) {
            let fact = Fact { event_id: h.event_id, event_type: type_hash(&h.event_type), call: Some(call) };
            self.judge_fact(&h.tenant_id, h.session_id, ordinal, &fact, config, found);
        }
    }

    fn lane_gap(&self, tenant: &str, id: Uuid, writer: &str, missing: &[Range]) -> Finding {
        let (count, ranges) = (spans::total(missing), spans::print(missing));
        let reason = format!("{count} events that {writer} numbered in session {id} never arrived (seq {ranges})");
        Finding::new(self.subject(tenant, id), "sequence_gap", "error", reason)
            .count(count)
            .fact("missing", ranges)
            .fact("producer_id", writer)
    }

    /// Reports numbers that are missing in lanes.
    pub(super) fn report_lanes(&mut self, tenant: &str, id: Uuid, opened: TimestampMicros, found: &mut Vec<Finding>) {
        for (writer, missing) in self.best_effort.report(opened) {
            self.changed = true;
            found.push(self.lane_gap(tenant, id, &writer, &missing));
        }
    }
}
