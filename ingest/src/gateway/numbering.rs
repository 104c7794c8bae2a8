//! Numbers for events that arrive without: gap-free per (session, gateway, epoch), in order of arrival.
//!
//! A gateway cannot know what other gateways received of a session, nor what it received before its own
//! restart, so its numbers prove that nothing is missing after the gateway and no more; the stage
//! `completeness` judges them that way. Unlike [`crate::agent::sequencer`] it never fills in a session's
//! summary: what a client says about its session is evidence and is not changed, and events after a
//! session's end get further numbers. It reads no clock and writes nothing.
//!
//! Memory is bounded: when more sessions are open than may be remembered, a new epoch begins, in which every
//! session starts at 0 again. That is one fact about all sessions, which `completeness` can check, instead
//! of an exception for every session that was forgotten.

use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::codec::codec;
use schemas::event::{CONTENT_SHA256_EXT, RawEvent};
use schemas::id::{Sha256, Uuid};
use schemas::limits::EVENT_BYTES_MAX;
use schemas::record::OutRecord;
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, session_key};

use super::intake::Arrived;

/// What the next event of a session follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Line {
    next_seq: i64,
    prev_hash: Sha256,
}

/// The numbers of one tenant: the stage `completeness` looks for gaps per tenant and writer, and no
/// tenant can count another's events.
#[derive(Debug, Clone, Default)]
struct Tenant {
    producer_seq: i64,
    sessions: BTreeMap<Uuid, Line>,
}

/// Numbers what arrives at one gateway.
#[derive(Debug, Clone)]
pub struct Numbering {
    producer_id: String,
    epoch: i64,
    tenants: BTreeMap<String, Tenant>,
    sessions: usize,
    sessions_max: usize,
}

/// An event that is larger as a record than a record may be; nothing of its request was numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// 0-based place in the request.
    pub index: usize,
    /// Its size, bytes.
    pub bytes: usize,
}

impl Numbering {
    /// The numbers of the gateway `instance` that started at `epoch`; the same instance must never
    /// start twice at one time. At most `sessions_max` sessions and tenants are remembered.
    pub fn new(instance: &str, epoch: TimestampMicros, sessions_max: usize) -> Self {
        let producer_id = format!("gateway/{instance}");
        Self { producer_id, epoch: epoch.0, tenants: BTreeMap::new(), sessions: 0, sessions_max }
    }

    /// The name of this gateway as a writer.
    pub fn producer_id(&self) -> &str {
        &self.producer_id
    }

    /// Records of one request's events, in order, to be appended at `now` (broker time where the
    /// broker keeps it). Events that are numbered already stay as they are.
    ///
    /// # Errors
    /// One event is too large; all numbers are as before the call.
    pub fn records(&mut self, request: &mut [Arrived], now: TimestampMicros) -> Result<Vec<OutRecord>, TooLarge> {
        let mut records = Vec::with_capacity(request.len());
        for index in 0..request.len() {
            let value = self.stamp(&mut request[index], now);
            // Known only now: numbers, the producer's id and the digest have been added. The brokers would
            // refuse the record, and with it the whole append.
            if value.len() > EVENT_BYTES_MAX {
                let (stamped, bytes) = (&request[..=index], value.len());
                // Newest first: each step restores what its event had followed, so that every session ends
                // where it was before the request.
                stamped.iter().rev().filter(|arrived| !arrived.numbered).for_each(|arrived| self.undo(&arrived.event));
                return Err(TooLarge { index, bytes });
            }
            let h = request[index].event.h();
            let key = Bytes::from(session_key(&h.tenant_id, h.session_id));
            records.push(OutRecord {
                topic: Topic::Events,
                partition: None,
                timestamp: now,
                key: Some(key),
                value: Some(value),
                headers: Vec::new(),
            });
        }
        Ok(records)
    }

    fn stamp(&mut self, arrived: &mut Arrived, now: TimestampMicros) -> Bytes {
        if arrived.numbered {
            // The client's own bytes: the next event's `prev_hash` covers exactly these.
            return arrived.raw.take().unwrap_or_else(|| codec().encode(&arrived.event));
        }
        let (tenant_id, session_id) = (arrived.event.h().tenant_id.clone(), arrived.event.h().session_id);
        // Before the event gets its first number: all numbers of one event must be of one epoch.
        self.make_room(&tenant_id, session_id, now);
        let Self { producer_id, epoch, tenants, sessions, .. } = self;
        let tenant = tenants.entry(tenant_id).or_insert_with(|| {
            *sessions += 1;
            Tenant::default()
        });
        let h = arrived.event.h_mut();
        // A resent event gets new numbers, so that its stored bytes differ. By the digest of what arrived
        // `completeness` recognises it as a duplicate and not as two versions of one event.
        h.ext.insert(CONTENT_SHA256_EXT.to_owned(), arrived.content_sha256.to_hex());
        h.producer_id.clone_from(producer_id);
        h.producer_epoch = *epoch;
        h.producer_seq = tenant.producer_seq;
        tenant.producer_seq += 1;
        if session_id.is_zero() {
            // -1 marks an event outside of sessions: it belongs to no sequence that could have a gap.
            (h.seq, h.prev_hash) = (-1, Sha256::ZERO);
            return codec().encode(&arrived.event);
        }
        let line = tenant.sessions.entry(session_id).or_insert_with(|| {
            *sessions += 1;
            Line::default()
        });
        (h.seq, h.prev_hash) = (line.next_seq, line.prev_hash);
        let value = codec().encode(&arrived.event);
        // The hash chain covers the bytes that are stored, which exist only after the encoding.
        *line = Line { next_seq: line.next_seq + 1, prev_hash: Sha256::of(&value) };
        value
    }

    /// Begins a new epoch where a session or tenant would exceed the limit. Epochs of one writer grow
    /// even where the clock does not.
    fn make_room(&mut self, tenant_id: &str, session_id: Uuid, now: TimestampMicros) {
        let tenant = self.tenants.get(tenant_id);
        let known = tenant.is_some_and(|tenant| session_id.is_zero() || tenant.sessions.contains_key(&session_id));
        if !known && self.sessions >= self.sessions_max {
            // The clock may stand still or be set back; an epoch that began twice would use its numbers twice.
            self.epoch = now.0.max(self.epoch + 1);
            self.tenants.clear();
            self.sessions = 0;
        }
    }

    /// Takes back the numbers of the newest event of its session and tenant, so that the next event gets them. After a
    /// change of epoch nothing is taken back: the unused numbers would have been the last of the old epoch, and
    /// numbers that are missing at the end of an epoch are not a gap.
    fn undo(&mut self, event: &RawEvent) {
        let h = event.h();
        if h.producer_epoch != self.epoch {
            return;
        }
        let Some(tenant) = self.tenants.get_mut(&h.tenant_id) else { return };
        tenant.producer_seq = h.producer_seq;
        if let Some(line) = tenant.sessions.get_mut(&h.session_id) {
            *line = Line { next_seq: h.seq, prev_hash: h.prev_hash };
        }
    }
}

#[cfg(test)]
mod tests;
