//! Uses and denials as events: counted, one event per key and minute, never one per request.
//!
//! A flood of requests must not become a flood of events: memory and events are bounded by
//! [`Journal::new`]'s `entries_max`, and everything above it is counted together. It reads no clock and
//! writes nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use schemas::event::{ACCESS_DENIED, ACCESS_USED, Event, Extension, Principal, RawEvent};
use schemas::id::Uuid;
use schemas::time::TimestampMicros;

use super::change_event::{arrived, own_header};
use super::{Caller, DenialCode, Denied, OPERATOR_TENANT};
use crate::gateway::intake::Arrived;

/// Length of the windows that are counted in, milliseconds.
const WINDOW_MS: i64 = 60_000;
/// Key id under which everything above the bound is counted.
const OTHERS: &str = "others";

/// Counts of the uses and denials of the current minutes.
#[derive(Debug)]
pub struct Journal {
    /// Gateway instance and start: ids of two gateways' events differ.
    origin: String,
    entries_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Entry, Count>,
    /// Events made so far: two events of one key and minute differ, if the clock was set back.
    serial: u64,
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    window: TimestampMicros,
    /// `None`: a use.
    denial: Option<DenialCode>,
    /// Empty where the caller is not known.
    key_id: String,
    tenant_id: String,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    requests: u64,
    events: u64,
    last_at: TimestampMicros,
}

impl Journal {
    /// An empty journal of one gateway; `instance` and `started_at` together are its own.
    pub fn new(instance: &str, started_at: TimestampMicros, entries_max: usize) -> Self {
        Self { origin: format!("{instance}/{}", started_at.0), entries_max, state: Mutex::default() }
    }

    /// Counts an accepted request with so many events.
    pub fn used(&self, caller: &Caller, events: u64, now: TimestampMicros) {
        let window = now.floor_to_ms(WINDOW_MS);
        let (key_id, tenant_id) = (caller.identity.key_id.clone(), caller.tenant_id.clone());
        self.count(Entry { window, denial: None, key_id, tenant_id }, events, now);
    }

    /// Counts a denied request.
    pub fn denied(&self, denied: &Denied, now: TimestampMicros) {
        let window = now.floor_to_ms(WINDOW_MS);
        let tenant_id = denied.tenant_id.clone().unwrap_or_else(|| OPERATOR_TENANT.to_owned());
        let key_id = denied.key_id.clone().unwrap_or_default();
        self.count(Entry { window, denial: Some(denied.code), key_id, tenant_id }, 0, now);
    }

    fn count(&self, entry: Entry, events: u64, now: TimestampMicros) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Unknown callers share one entry per code and minute and cannot fill the table, whatever they send.
        // Only keys can, and above the bound they share an entry.
        let is_stranger = entry.key_id.is_empty();
        let entry = if state.entries.len() >= self.entries_max && !is_stranger && !state.entries.contains_key(&entry) {
            Entry { key_id: OTHERS.to_owned(), tenant_id: OPERATOR_TENANT.to_owned(), ..entry }
        } else {
            entry
        };
        let count = state.entries.entry(entry).or_insert(Count { requests: 0, events: 0, last_at: now });
        count.requests = count.requests.saturating_add(1);
        count.events = count.events.saturating_add(events);
        // Requests of several threads arrive out of order, and the clock may be set back.
        count.last_at = count.last_at.max(now);
    }

    /// The events of every minute that has ended at `now`, to be submitted to the writer, and no longer counted
    /// here.
    pub fn due(&self, now: TimestampMicros) -> Vec<Arrived> {
        self.take(|window| window.plus_ms(WINDOW_MS) <= now)
    }

    /// The events of everything counted, the current minute included: for the end of the gateway.
    pub fn drain(&self) -> Vec<Arrived> {
        self.take(|_| true)
    }

    fn take(&self, is_due: impl Fn(TimestampMicros) -> bool) -> Vec<Arrived> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { entries, serial } = &mut *state;
        let mut events = Vec::new();
        entries.retain(|entry, count| {
            let due = is_due(entry.window);
            if due {
                events.push(arrived(self.event(entry, *count, *serial)));
                *serial += 1;
            }
            !due
        });
        events
    }

    fn event(&self, entry: &Entry, count: Count, serial: u64) -> RawEvent {
        let event_type = if entry.denial.is_some() { ACCESS_DENIED } else { ACCESS_USED };
        let parts: [&[u8]; 3] = [event_type.as_bytes(), self.origin.as_bytes(), &serial.to_be_bytes()];
        let principal = Principal {
            r#type: "system".to_owned(),
            id: super::change_event::AGENT_ID.to_owned(),
            ..Principal::default()
        };
        let mut h = own_header(event_type, Uuid::derive(&parts), count.last_at, principal);
        h.tenant_id.clone_from(&entry.tenant_id);
        let mut attributes: BTreeMap<String, String> =
            [("requests", count.requests.to_string()), ("window_ms", WINDOW_MS.to_string())]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
        if !entry.key_id.is_empty() {
            attributes.insert("key_id".to_owned(), entry.key_id.clone());
        }
        match entry.denial {
            Some(code) => attributes.insert("reason".to_owned(), code.name().to_owned()),
            None => attributes.insert("events".to_owned(), count.events.to_string()),
        };
        Event::Extension(Extension { h, attributes, body: None })
    }
}

#[cfg(test)]
mod tests;
