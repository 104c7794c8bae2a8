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

use super::chain::{Chain, Link, Placement};
use super::finding::{Finding, Subject, label};
use super::key;
use super::seen::{Identity, PAGE_SLOTS, PAGES_MAX, Repeat, Seen};
use super::spans::{self, Range};
use crate::stage::Sourced;
use crate::steps::walked;

/// Most lanes of one session; beyond it the one touched longest ago is reported and forgotten. A
/// session gets a new lane when its gateway restarts or another one takes over.
pub(super) const LANES_MAX: usize = 8;
/// Longest name of a writer that a lane keeps, bytes; with 256 holes of at most 260 bytes a lane
/// stays far below the bound of a state entry.
const NAME_BYTES_MAX: usize = 64;

/// Whether an event was numbered in transit, by a gateway, and not where it happened.
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
            // Until the first page is dropped every identity is remembered: a number that is there with an unknown
            // identity is another event. Later it may be one that was forgotten.
            None if ordinal < PAGE_SLOTS * PAGES_MAX as i64 => Some(Repeat::Forked),
            None => Some(Repeat::Unknown),
        };
        // By ordinal and not by number: lanes share one memory, and their numbers overlap.
        if arrival.new_number && arrival.repeat != Some(Repeat::Duplicate) {
            self.seen.insert(ordinal, identity);
        }
        debug_assert!(is_best_effort(h), "a lane is for best-effort events");
        arrival
    }

    fn place(&mut self, record: &Sourced<CleanEvent>, ordinal: i64, arrival: &mut Arrival) {
        let h = record.value.h();
        // A fixed-size name for a lane: writers choose their names, and keys of entries must stay bounded.
        let id = Uuid::derive(&[h.producer_id.as_bytes(), &h.producer_epoch.to_be_bytes()]);
        let lane = self.lanes.entry(id).or_insert_with(|| Lane::starting(h));
        // A gateway that took the session over does not know the digest before; zeros are a claim only at the first
        // number.
        let claims = h.seq == 0 || !h.prev_hash.is_zero();
        let prev = claims.then_some(h.prev_hash);
        let link = Link { seq: h.seq, digest: record.source.sha256, prev, at: record.broker_time };
        match lane.chain.insert(link) {
            // A repeat does not touch the lane: an old one that is sent again must not outlive lanes in use.
            Placement::Seen => return,
            Placement::New { broken, filled, given_up } => {
                lane.touched = ordinal;
                arrival.new_number = true;
                // Below `first` nothing was reported missing; such an event is not taken back from any report.
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
        walked(self.lanes.len());
        // The id decides between equals, so that state follows from the log alone (I6).
        let oldest = self.lanes.iter().min_by_key(|(id, lane)| (lane.touched, **id)).map(|(id, _)| *id);
        let Some((id, mut lane)) = oldest.and_then(|id| self.lanes.remove_entry(&id)) else { return };
        self.changed.insert(id);
        // Reported now: once the lane is forgotten nobody would.
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
        walked(self.lanes.len());
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
    /// A lane that begins with this event. Where it is not the lane's first number, the session was
    /// silent so long that its ledger was forgotten; whether numbers are missing is then for the
    /// stage `writers` to say.
    fn starting(h: &EventHeader) -> Self {
        let producer = label(&h.producer_id).chars().take(NAME_BYTES_MAX).collect();
        Self { producer, chain: Chain::resumed(h.seq), first: h.seq, touched: 0 }
    }
}

/// A finding about numbers that `writer` gave to events of the session and that are missing.
pub(super) fn gap(subject: Subject, writer: &str, missing: &[Range]) -> Finding {
    let (count, ranges, id) = (spans::total(missing), spans::print(missing), subject.session);
    let reason = format!("{count} events that {writer} numbered in session {id} never arrived (seq {ranges})");
    Finding::new(subject, "sequence_gap", "error", reason)
        .count(count)
        .fact("missing", ranges)
        .fact("producer_id", writer)
}
