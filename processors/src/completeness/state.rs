//! What the stage `completeness` remembers of one partition, as small state entries.
//!
//! It only stores and finds; the ledgers know their rules.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schemas::id::Uuid;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::finding::{Finding, Subject, label};
use super::key::{self, Key, NOTE, NOW, PRODUCER, Parts, SESSION};
use super::producers::Producer;
use super::rekey;
use super::session::Session;
use super::spans::{self, Range};
use super::totals::{self, Totals};
use crate::rekey::{Change, Rekeyed, StateEntry};
use crate::stage::{PartitionState, StateChange, StateError};
use crate::steps::walked;

/// Most ranges of filled numbers that a note lists; the count is exact in any case.
const FILLED_MAX: usize = 64;
/// Most unknown event types that a note lists.
const TYPES_MAX: usize = 8;

/// What is gathered per session between two ticks, so that a thousand late events are one finding.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Note {
    pub(super) agent: String,
    pub(super) environment: String,
    pub(super) late: i64,
    pub(super) late_ms: i64,
    pub(super) filled: i64,
    pub(super) filled_ranges: Vec<Range>,
    pub(super) unknown: i64,
    pub(super) unknown_types: BTreeSet<String>,
}

impl Note {
    /// One more event that had been reported missing.
    pub(super) fn fill(&mut self, seq: i64) {
        self.filled += 1;
        // Late events mostly arrive in order, so that a range grows in place and 64 are enough.
        if let Some(last) = self.filled_ranges.last_mut().filter(|last| last.1 == seq) {
            last.1 = seq + 1;
        } else if self.filled_ranges.len() < FILLED_MAX {
            self.filled_ranges.push((seq, seq + 1));
        }
    }

    /// One more event of a type that is not in the catalogue.
    pub(super) fn unknown_type(&mut self, event_type: &str) {
        self.unknown += 1;
        if self.unknown_types.len() < TYPES_MAX {
            // As a label: a type may be any text that a producer chose, and notes become reasons.
            self.unknown_types.insert(label(event_type).to_owned());
        }
    }

    /// As findings.
    pub(super) fn findings(&self, tenant: &str, session: Uuid, found: &mut Vec<Finding>) {
        let Note { agent, environment, late, late_ms, filled, unknown, .. } = self;
        let subject =
            || Subject { tenant: tenant.to_owned(), agent: agent.clone(), environment: environment.clone(), session };
        if *filled > 0 {
            // Ranges are in order of arrival; merged for the sentence only, once per note.
            let ranges = spans::print(&spans::merged(self.filled_ranges.clone()).0);
            let reason =
                format!("{filled} events of session {session} that were reported missing arrived (seq {ranges})");
            found.push(Finding::new(subject(), "gap_filled", "info", reason).count(*filled).fact("filled", ranges));
        }
        if *late > 0 {
            let reason = format!("{late} events of session {session} arrived up to {late_ms} ms after they happened");
            found.push(Finding::new(subject(), "late", "warning", reason).count(*late).fact("late_ms_max", late_ms));
        }
        if *unknown > 0 {
            let types = self.unknown_types.iter().cloned().collect::<Vec<_>>().join(", ");
            let reason = format!("{unknown} events of session {session} are of types not in the catalogue: {types}");
            let finding = Finding::new(subject(), "unknown_event_type", "info", reason);
            found.push(finding.count(*unknown).fact("types", types));
        }
    }
}

/// The memory of one partition of the clean topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletenessState {
    /// Log time: the highest time that a tick asserted.
    pub(super) now: TimestampMicros,
    now_changed: bool,
    pub(super) totals: Totals,
    notes: BTreeMap<(String, Uuid), Note>,
    notes_changed: BTreeSet<(String, Uuid)>,
    producers: BTreeMap<String, BTreeMap<String, BTreeMap<i64, Producer>>>,
    producers_changed: Vec<(String, String, i64)>,
    sessions: BTreeMap<String, BTreeMap<Uuid, Box<Session>>>,
    sessions_changed: Vec<(String, Uuid)>,
    /// Entries of what was forgotten.
    gone: BTreeSet<Bytes>,
}

impl Default for CompletenessState {
    fn default() -> Self {
        Self {
            now: TimestampMicros(i64::MIN),
            now_changed: false,
            totals: Totals::default(),
            notes: BTreeMap::new(),
            notes_changed: BTreeSet::new(),
            producers: BTreeMap::new(),
            producers_changed: Vec::new(),
            sessions: BTreeMap::new(),
            sessions_changed: Vec::new(),
            gone: BTreeSet::new(),
        }
    }
}

impl CompletenessState {
    /// Moves log time forward; false where `at` does not.
    pub(super) fn advance(&mut self, at: TimestampMicros) -> bool {
        let forward = at > self.now;
        if forward {
            self.now = at;
            self.now_changed = true;
        }
        forward
    }

    /// The ledger of a session, if it is remembered.
    pub(super) fn has_session(&self, tenant: &str, id: Uuid) -> bool {
        self.sessions.get(tenant).is_some_and(|sessions| sessions.contains_key(&id))
    }

    /// Works on a session's ledger, which is opened if need be.
    pub(super) fn with_session<R>(&mut self, tenant: &str, id: Uuid, work: impl FnOnce(&mut Session) -> R) -> R {
        // `entry` would copy the name of the tenant for every event.
        let sessions = match self.sessions.get_mut(tenant) {
            Some(sessions) => sessions,
            None => self.sessions.entry(tenant.to_owned()).or_default(),
        };
        let session = sessions.entry(id).or_default();
        let before = session.changed;
        let result = work(session);
        // On the first change only: the list is drained once a step and must not grow with the events in it.
        if session.changed && !before {
            self.sessions_changed.push((tenant.to_owned(), id));
        }
        result
    }

    /// Works on every ledger, in order of tenant and session; forgets those for which `work` says so.
    pub(super) fn each_session(&mut self, mut work: impl FnMut(&str, Uuid, &mut Session) -> bool) {
        for (tenant, sessions) in &mut self.sessions {
            walked(sessions.len());
            sessions.retain(|id, session| {
                let before = session.changed;
                let forget = work(tenant, *id, session);
                if forget {
                    // A compacted topic deletes by key, so that every key that may ever have been written is named,
                    // also of parts that are no longer there.
                    self.gone.extend(session_keys(tenant, *id, session));
                } else if session.changed && !before {
                    self.sessions_changed.push((tenant.clone(), *id));
                }
                !forget
            });
        }
        // A restored state has no empty tenant, and must equal this one (law "restart does not matter").
        self.sessions.retain(|_, sessions| !sessions.is_empty());
    }

    /// Sessions to forget so that no more than `sessions_max` are left: finished ones first, then
    /// those silent longest.
    pub(super) fn excess(&self, sessions_max: usize) -> BTreeSet<(String, Uuid)> {
        let count: usize = self.sessions.values().map(BTreeMap::len).sum();
        let excess = count.saturating_sub(sessions_max);
        if excess == 0 {
            return BTreeSet::new();
        }
        walked(count);
        let all = self.sessions.iter().flat_map(|(tenant, sessions)| sessions.iter().map(move |s| (tenant, s)));
        let mut order: Vec<_> =
            // `false` sorts before `true`: those that are over go first. Tenant and id decide between equals (I6).
            all.map(|(tenant, (id, session))| (!session.is_over(), session.head.last_time, tenant, *id)).collect();
        order.sort_unstable();
        order.into_iter().take(excess).map(|(.., tenant, id)| (tenant.clone(), id)).collect()
    }

    /// Works on a writer's ledger, which is opened if need be.
    pub(super) fn with_producer<R>(
        &mut self,
        tenant: &str,
        producer: &str,
        epoch: i64,
        work: impl FnOnce(&mut Producer) -> R,
    ) -> R {
        // Names are copied only when they are new: a writer sends thousands of events.
        if self.producers.get(tenant).is_none_or(|producers| !producers.contains_key(producer)) {
            self.producers.entry(tenant.to_owned()).or_default().insert(producer.to_owned(), BTreeMap::new());
        }
        let epochs = self.producers.get_mut(tenant).and_then(|producers| producers.get_mut(producer));
        #[allow(clippy::expect_used)]
        let ledger = epochs.expect("I4: the writer was inserted above").entry(epoch).or_default();
        let before = ledger.changed;
        let result = work(ledger);
        if ledger.changed && !before {
            self.producers_changed.push((tenant.to_owned(), producer.to_owned(), epoch));
        }
        result
    }

    /// Works on every writer, in order; forgets those for which `work` says so.
    pub(super) fn each_producer(&mut self, mut work: impl FnMut(&str, &str, i64, &mut Producer) -> bool) {
        for (tenant, producers) in &mut self.producers {
            for (name, epochs) in producers.iter_mut() {
                walked(epochs.len());
                epochs.retain(|epoch, producer| {
                    let before = producer.changed;
                    let forget = work(tenant, name, *epoch, producer);
                    if forget {
                        self.gone.extend(producer.keys(&producer_prefix(tenant, name, *epoch)));
                    } else if producer.changed && !before {
                        self.producers_changed.push((tenant.clone(), name.clone(), *epoch));
                    }
                    !forget
                });
            }
            producers.retain(|_, epochs| !epochs.is_empty());
        }
        self.producers.retain(|_, producers| !producers.is_empty());
    }

    /// Adds to the note of a session.
    pub(super) fn note(&mut self, subject: Subject, work: impl FnOnce(&mut Note)) {
        let key = (subject.tenant, subject.session);
        let note = self.notes.entry(key.clone()).or_insert_with(|| Note {
            agent: subject.agent,
            environment: subject.environment,
            ..Note::default()
        });
        work(note);
        self.notes_changed.insert(key);
    }

    /// All notes; starts over.
    pub(super) fn take_notes(&mut self) -> BTreeMap<(String, Uuid), Note> {
        let notes = std::mem::take(&mut self.notes);
        self.notes_changed.extend(notes.keys().cloned());
        notes
    }

    fn load_entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let malformed = || "malformed key".to_owned();
        let (&kind, rest) = key.split_first().ok_or_else(malformed)?;
        let mut parts = Parts(rest);
        match kind {
            totals::SUMS | totals::HOUR | totals::WRITER | totals::INHERITED => self.totals.load(kind, parts, value)?,
            NOW => self.now = key::from_json(value)?,
            NOTE => {
                let key = parts.text().zip(parts.id()).ok_or_else(malformed)?;
                self.notes.insert(key, key::from_json(value)?);
            }
            PRODUCER => {
                let (tenant, name) = parts.text().zip(parts.text()).ok_or_else(malformed)?;
                let epoch = parts.number().ok_or_else(malformed)?;
                let producers = self.producers.entry(tenant).or_default();
                producers.entry(name).or_default().entry(epoch).or_default().load(parts, value)?;
            }
            SESSION => {
                let (tenant, id) = parts.text().zip(parts.id()).ok_or_else(malformed)?;
                let session = self.sessions.entry(tenant).or_default().entry(id).or_default();
                load_session(session, parts, value)?;
            }
            _ => return Err("unknown kind of entry".to_owned()),
        }
        Ok(())
    }
}

fn load_session(session: &mut Session, mut parts: Parts<'_>, value: &[u8]) -> Result<(), String> {
    let malformed = || "malformed entry of a session".to_owned();
    match parts.byte() {
        Some(0) => session.head = key::from_json(value)?,
        Some(1) => session.calls.load(parts.id().ok_or_else(malformed)?, value)?,
        // Numbers of these parts are a stored format; what reads and what writes them must change together.
        Some(2) => {
            let number = parts.number().ok_or_else(malformed)?;
            session.seen.load(number, value).ok_or_else(malformed)?;
        }
        Some(3) => session.best_effort.load(parts.id().ok_or_else(malformed)?, value)?,
        Some(4) => {
            let number = parts.number().ok_or_else(malformed)?;
            session.best_effort.seen.load(number, value).ok_or_else(malformed)?;
        }
        _ => return Err(malformed()),
    }
    Ok(())
}

fn session_prefix(tenant: &str, id: Uuid) -> Key {
    Key::of(SESSION).text(tenant).id(id)
}

fn producer_prefix(tenant: &str, name: &str, epoch: i64) -> Key {
    Key::of(PRODUCER).text(tenant).text(name).number(epoch)
}

fn session_keys(tenant: &str, id: Uuid, session: &Session) -> Vec<Bytes> {
    let prefix = session_prefix(tenant, id);
    let head = std::iter::once(prefix.clone().byte(0).bytes());
    let calls = session.calls.tags().map(|tag| prefix.clone().byte(1).id(tag).bytes());
    let pages = session.seen.numbers().map(|number| prefix.clone().byte(2).number(number).bytes());
    let lanes = session.best_effort.ids().map(|lane| prefix.clone().byte(3).id(lane).bytes());
    // Pages of both kinds of numbering have parts of their own, since their page numbers overlap.
    let best_effort = session.best_effort.seen.numbers();
    let best_effort = best_effort.map(|number| prefix.clone().byte(4).number(number).bytes());
    head.chain(calls).chain(pages).chain(lanes).chain(best_effort).collect()
}

fn session_changes(tenant: &str, id: Uuid, session: &mut Session, out: &mut Vec<StateChange>) {
    let prefix = session_prefix(tenant, id);
    session.changed = false;
    out.push((prefix.clone().byte(0).bytes(), Some(key::json(&session.head))));
    let calls = session.calls.take_changes().into_iter();
    out.extend(calls.map(|(tag, bytes)| (prefix.clone().byte(1).id(tag).bytes(), bytes)));
    let pages = session.seen.take_changes().into_iter();
    out.extend(pages.map(|(number, bytes)| (prefix.clone().byte(2).number(number).bytes(), bytes.map(Bytes::from))));
    let lanes = session.best_effort.take_changes().into_iter();
    out.extend(lanes.map(|(lane, bytes)| (prefix.clone().byte(3).id(lane).bytes(), bytes)));
    let pages = session.best_effort.seen.take_changes().into_iter();
    out.extend(pages.map(|(number, bytes)| (prefix.clone().byte(4).number(number).bytes(), bytes.map(Bytes::from))));
}

impl PartitionState for CompletenessState {
    fn take_changes(&mut self) -> Vec<StateChange> {
        let mut changes = self.totals.take_changes();
        if std::mem::take(&mut self.now_changed) {
            changes.push((Key::of(NOW).bytes(), Some(key::json(&self.now))));
        }
        for note in std::mem::take(&mut self.notes_changed) {
            let bytes = self.notes.get(&note).map(key::json);
            changes.push((Key::of(NOTE).text(&note.0).id(note.1).bytes(), bytes));
        }
        for (tenant, name, epoch) in std::mem::take(&mut self.producers_changed) {
            let epochs = self.producers.get_mut(&tenant).and_then(|producers| producers.get_mut(&name));
            if let Some(producer) = epochs.and_then(|epochs| epochs.get_mut(&epoch)) {
                producer.take_changes(&producer_prefix(&tenant, &name, epoch), &mut changes);
            }
        }
        for (tenant, id) in std::mem::take(&mut self.sessions_changed) {
            let session = self.sessions.get_mut(&tenant).and_then(|sessions| sessions.get_mut(&id));
            if let Some(session) = session.filter(|session| session.changed) {
                session_changes(&tenant, id, session, &mut changes);
            }
        }
        let mut gone = std::mem::take(&mut self.gone);
        // A session that was forgotten and opened again within one step: what it writes now wins over the deletion of
        // its past.
        for (key, _) in &changes {
            gone.remove(key);
        }
        changes.extend(gone.into_iter().map(|key| (key, None)));
        // The contract of `take_changes`: the state topic of two runs is then the same, byte for byte (I6).
        changes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        changes
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.load_entry(key, value).map_err(|reason| key::unreadable(key, reason))
    }

    fn rekey(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
        rekey::completeness(entries, change)
    }
}
