//! What `features` remembers: open windows, tainted sessions, urgent alerts that were sent.
//!
//! Keys of entries: a letter and the binary form of the key. It makes no records.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schemas::id::Uuid;
use schemas::time::TimestampMicros;
use schemas::topic::session_key;

use super::FeaturesConfig;
use super::measure::Addition;
use crate::anomaly::alert::{SAMPLES_MAX, SubjectKey};
use crate::anomaly::wire::{Wire, decode, encode, wire_fields};
use crate::rekey::{Change, Rekeyed, StateEntry, by_place};
use crate::stage::{PartitionState, StateChange, StateError};
use crate::steps::walked;

/// Most categories that a window of a subject distinguishes; further ones count as `<prefix>/other`.
const CATEGORIES_MAX: usize = 256;
/// Most sessions that are remembered as tainted; the oldest makes room.
const TAINTED_MAX: usize = 4_096;

/// Sums of one subject in one window.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Measures {
    pub(super) values: BTreeMap<String, f64>,
    pub(super) counts: BTreeMap<String, i64>,
    pub(super) event_ids: Vec<Uuid>,
}

wire_fields!(Measures { values, counts, event_ids });

/// Progress of time in the partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clock {
    /// Windows before this time are closed.
    closed_to: TimestampMicros,
    /// Last watermark that was sent.
    marked_to: TimestampMicros,
    /// Window and number of the next signal.
    reporting: TimestampMicros,
    ordinal: i64,
}

wire_fields!(Clock { closed_to, marked_to, reporting, ordinal });

impl Default for Clock {
    fn default() -> Self {
        let never = TimestampMicros(i64::MIN);
        Self { closed_to: never, marked_to: never, reporting: never, ordinal: 0 }
    }
}

/// A state entry by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Clock,
    Window(TimestampMicros, SubjectKey),
    Tainted(String, Uuid),
    Alerted(String),
}

/// State of one partition of the clean topic.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeaturesState {
    clock: Clock,
    windows: BTreeMap<(TimestampMicros, SubjectKey), Measures>,
    /// (tenant, session) to the window of the injection.
    tainted: BTreeMap<(String, Uuid), TimestampMicros>,
    /// The same by window: each of many injections would else look through all of `tainted` for the oldest.
    tainted_by_window: BTreeSet<(TimestampMicros, String, Uuid)>,
    /// Fingerprint of an urgent alert to the window in which it was sent.
    alerted: BTreeMap<String, TimestampMicros>,
    changed: BTreeSet<Entry>,
}

/// Sums are finite by construction (see `FeaturesState::add`), so equality is reflexive.
impl Eq for FeaturesState {}

impl FeaturesState {
    /// The window that a record of this window counts in: never a closed one.
    pub(super) fn window_of(&self, window: TimestampMicros) -> TimestampMicros {
        // A closed window is behind its watermark; what is added there would never be released.
        window.max(self.clock.closed_to)
    }

    /// Closes the windows before `at`; an earlier or equal time changes nothing.
    pub(super) fn close_to(&mut self, at: TimestampMicros, config: &FeaturesConfig) {
        if at <= self.clock.closed_to {
            return;
        }
        self.clock.closed_to = at;
        self.changed.insert(Entry::Clock);
        // What has run out is removed when windows close and not by record: the set is then a function of the clock,
        // in whatever batches it came.
        let alerted_from = at.plus_ms(-config.repeat_windows.saturating_mul(config.window_ms));
        let tainted_from = at.plus_ms(-config.injection_windows.saturating_mul(config.window_ms));
        for fingerprint in expired(&self.alerted, alerted_from) {
            self.alerted.remove(&fingerprint);
            self.changed.insert(Entry::Alerted(fingerprint));
        }
        for (tenant_id, session_id) in expired(&self.tainted, tainted_from) {
            self.clear_taint(&tenant_id, session_id);
        }
    }

    pub(super) fn add(&mut self, window: TimestampMicros, key: SubjectKey, add: &Addition, event_id: Uuid) {
        self.changed.insert(Entry::Window(window, key.clone()));
        let measures = self.windows.entry((window, key)).or_default();
        for (name, value) in &add.values {
            *measures.values.entry((*name).to_owned()).or_default() += value;
        }
        // Before the counts below, which are those of the declaration itself.
        for prefix in add.replaces {
            walked(measures.counts.len());
            measures.counts.retain(|name, _| !name.starts_with(prefix));
        }
        for (name, count) in &add.counts {
            // Names are chosen by producers: 256 of 96 bytes stay within a state entry, and what is folded into
            // `other` still counts.
            let known = measures.counts.contains_key(name) || measures.counts.len() < CATEGORIES_MAX;
            let name = if known { name.clone() } else { format!("{}/other", name.split('/').next().unwrap_or("")) };
            *measures.counts.entry(name).or_default() += count;
        }
        if measures.event_ids.len() < SAMPLES_MAX {
            measures.event_ids.push(event_id);
        }
    }

    /// Takes the next measures of a closed window, with their number in it.
    pub(super) fn next_closed(&mut self) -> Option<(TimestampMicros, i64, SubjectKey, Measures)> {
        // In the order of windows and subjects, which is the order of the ordinals that `score` sorts by.
        let first = self.windows.first_entry().filter(|entry| entry.key().0 < self.clock.closed_to)?;
        let ((window, key), measures) = first.remove_entry();
        self.changed.insert(Entry::Window(window, key.clone()));
        self.changed.insert(Entry::Clock);
        // The number within a window survives a restart in the middle of it: it is part of the slot, and a slot that
        // is used twice is dropped as a repeat.
        if self.clock.reporting != window {
            (self.clock.reporting, self.clock.ordinal) = (window, 0);
        }
        let ordinal = self.clock.ordinal;
        self.clock.ordinal += 1;
        Some((window, ordinal, key, measures))
    }

    /// The watermark to send, once every closed window has been reported.
    pub(super) fn due_watermark(&mut self) -> Option<TimestampMicros> {
        // A watermark promises that nothing earlier follows.
        let drained = self.windows.first_key_value().is_none_or(|((window, _), _)| *window >= self.clock.closed_to);
        let due = drained && self.clock.marked_to < self.clock.closed_to;
        due.then(|| {
            self.clock.marked_to = self.clock.closed_to;
            self.changed.insert(Entry::Clock);
            self.clock.marked_to
        })
    }

    pub(super) fn taint(&mut self, tenant_id: &str, session_id: Uuid, window: TimestampMicros) {
        if self.tainted.len() >= TAINTED_MAX {
            // 4 096 injections in one hour of log time are an attack on the memory; the oldest has had its time, and
            // the key decides between equals (I6).
            if let Some((_, tenant_id, session_id)) = self.tainted_by_window.first().cloned() {
                self.clear_taint(&tenant_id, session_id);
            }
        }
        self.insert_taint(tenant_id.to_owned(), session_id, window);
        self.changed.insert(Entry::Tainted(tenant_id.to_owned(), session_id));
    }

    fn insert_taint(&mut self, tenant_id: String, session_id: Uuid, window: TimestampMicros) {
        if let Some(before) = self.tainted.insert((tenant_id.clone(), session_id), window) {
            self.tainted_by_window.remove(&(before, tenant_id.clone(), session_id));
        }
        self.tainted_by_window.insert((window, tenant_id, session_id));
    }

    pub(super) fn is_tainted(&self, tenant_id: &str, session_id: Uuid) -> bool {
        self.tainted.contains_key(&(tenant_id.to_owned(), session_id))
    }

    pub(super) fn clear_taint(&mut self, tenant_id: &str, session_id: Uuid) {
        let removed = self.tainted.remove(&(tenant_id.to_owned(), session_id));
        if let Some(window) = removed {
            self.tainted_by_window.remove(&(window, tenant_id.to_owned(), session_id));
            self.changed.insert(Entry::Tainted(tenant_id.to_owned(), session_id));
        }
    }

    /// Whether an urgent alert is news in `window`; remembers it.
    pub(super) fn is_news(&mut self, fingerprint: &str, window: TimestampMicros) -> bool {
        let news = !self.alerted.contains_key(fingerprint);
        if news {
            self.alerted.insert(fingerprint.to_owned(), window);
            self.changed.insert(Entry::Alerted(fingerprint.to_owned()));
        }
        news
    }

    fn value(&self, entry: &Entry) -> Option<Bytes> {
        match entry {
            Entry::Clock => Some(encode(&self.clock)),
            Entry::Window(window, key) => self.windows.get(&(*window, key.clone())).map(encode),
            Entry::Tainted(tenant, session) => self.tainted.get(&(tenant.clone(), *session)).map(encode),
            Entry::Alerted(fingerprint) => self.alerted.get(fingerprint).map(encode),
        }
    }

    fn read(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match Entry::from_key(key)? {
            Entry::Clock => self.clock = decode(value)?,
            Entry::Window(window, key) => _ = self.windows.insert((window, key), decode(value)?),
            Entry::Tainted(tenant, session) => self.insert_taint(tenant, session, decode(value)?),
            Entry::Alerted(fingerprint) => _ = self.alerted.insert(fingerprint, decode(value)?),
        }
        Some(())
    }
}

fn expired<K: Clone + Ord>(map: &BTreeMap<K, TimestampMicros>, before: TimestampMicros) -> Vec<K> {
    walked(map.len());
    map.iter().filter(|(_, at)| **at < before).map(|(key, _)| key.clone()).collect()
}

impl Entry {
    fn key(&self) -> Bytes {
        let mut key = Vec::new();
        match self {
            Entry::Clock => key.push(b'c'),
            Entry::Window(window, subject) => {
                key.push(b'w');
                window.put(&mut key);
                subject.put(&mut key);
            }
            Entry::Tainted(tenant, session) => {
                key.push(b's');
                tenant.put(&mut key);
                session.put(&mut key);
            }
            Entry::Alerted(fingerprint) => {
                key.push(b't');
                fingerprint.put(&mut key);
            }
        }
        Bytes::from(key)
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (kind, mut rest) = key.split_first()?;
        let entry = match kind {
            b'c' => Entry::Clock,
            b'w' => Entry::Window(Wire::get(&mut rest)?, Wire::get(&mut rest)?),
            b's' => Entry::Tainted(Wire::get(&mut rest)?, Wire::get(&mut rest)?),
            b't' => Entry::Alerted(Wire::get(&mut rest)?),
            _ => return None,
        };
        rest.is_empty().then_some(entry)
    }
}

impl PartitionState for FeaturesState {
    fn take_changes(&mut self) -> Vec<StateChange> {
        let changed = std::mem::take(&mut self.changed);
        // Sorted by key bytes, not by entry: little-endian parts sort otherwise, and changes come in key order.
        let by_key: BTreeMap<_, _> = changed.iter().map(|entry| (entry.key(), self.value(entry))).collect();
        by_key.into_iter().collect()
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.read(key, value).ok_or_else(|| unreadable(key))
    }

    /// Open windows stay at their partition's number: they are sums over whatever its records were, and `score`
    /// adds up all partitions. Taint goes with the session.
    fn rekey(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
        let mut rekeyed = Rekeyed::default();
        let mut closed_to: Option<TimestampMicros> = None;
        for entry in by_place(entries) {
            let unreadable = || unreadable(&entry.key);
            match Entry::from_key(&entry.key).ok_or_else(unreadable)? {
                Entry::Clock => {
                    let clock: Clock = decode(&entry.value).ok_or_else(unreadable)?;
                    closed_to = closed_to.max(Some(clock.closed_to));
                    rekeyed.move_to(entry.partition, entry, "clocks");
                }
                Entry::Window(..) => rekeyed.move_to(entry.partition, entry, "windows"),
                Entry::Tainted(tenant, session) => {
                    let partition = change.place(&session_key(&tenant, session));
                    rekeyed.move_to(partition, entry, "taints that a second partition had too");
                }
                // Any partition may meet the next reason for the same alert.
                Entry::Alerted(_) => {
                    for partition in 0..change.to {
                        keep_latest(&mut rekeyed, partition, entry).ok_or_else(unreadable)?;
                    }
                    rekeyed.fold(entry);
                }
            }
        }
        // What a new partition counts belongs into windows that `score` has not judged yet.
        for partition in (0..change.to).filter(|_| closed_to.is_some()) {
            let mut clock = Clock::default();
            clock.closed_to = closed_to.unwrap_or(clock.closed_to);
            rekeyed.entries.entry((partition, Entry::Clock.key())).or_insert_with(|| encode(&clock));
        }
        Ok(rekeyed)
    }
}

fn keep_latest(to: &mut Rekeyed, partition: u32, entry: &StateEntry) -> Option<()> {
    let at: TimestampMicros = decode(&entry.value)?;
    let place = to.entries.entry((partition, entry.key.clone())).or_insert_with(|| entry.value.clone());
    if decode::<TimestampMicros>(place)? < at {
        *place = entry.value.clone();
    }
    Some(())
}

fn unreadable(key: &[u8]) -> StateError {
    let reason = "not an entry of the features stage; restore it from a run of this version".to_owned();
    StateError { key: schemas::id::hex(key), reason }
}
