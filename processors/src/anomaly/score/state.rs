//! What `score` remembers: the barrier, one entry per subject, alerts not yet emitted.
//!
//! Keys: those of the barrier; `s` and the subject; `o` and a number. It decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schemas::event::{Alert, Signal};
use schemas::topic::joined_key;

use super::subject::Subject;
use crate::anomaly::alert::SubjectKey;
use crate::anomaly::wire::{Wire, decode, encode};
use crate::rekey::{Change, Rekeyed, StateEntry, by_place};
use crate::stage::{PartitionState, StateChange, StateError};
use crate::watermark::{Barrier, Contribution};

/// A signal in the barrier, its numbers made finite and non-negative.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held(Signal);

/// No value is NaN (see [`Held::new`]), so equality is reflexive.
impl Eq for Held {}

impl Held {
    pub(super) fn new(signal: &Signal) -> Self {
        let mut signal = signal.clone();
        // One NaN would make every later sum of the subject NaN, and silence its baselines until they are rebuilt.
        // Zeros are no measures.
        signal.values.retain(|_, value| value.is_finite() && *value > 0.0);
        signal.counts.retain(|_, count| *count > 0);
        Self(signal)
    }

    pub(super) fn keyed(self) -> (SubjectKey, Signal) {
        let Signal { tenant_id, subject_kind: kind, environment, subject, .. } = self.0.clone();
        (SubjectKey { tenant_id, kind, environment, subject }, self.0)
    }
}

impl Contribution for Held {
    fn encode(&self) -> Bytes {
        encode(&self.0)
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes).map(Self)
    }
}

/// State of one partition of the signals topic.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScoreState {
    pub(super) barrier: Barrier<Held>,
    pub(super) subjects: BTreeMap<SubjectKey, Subject>,
    outbox: BTreeMap<u32, Alert>,
    changed: BTreeSet<Entry>,
}

/// No baseline is ever NaN: every statistic divides by a number with a floor.
impl Eq for ScoreState {}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Subject(SubjectKey),
    Outbox(u32),
}

impl ScoreState {
    /// How many subjects have a baseline or facts here.
    pub fn subjects(&self) -> usize {
        self.subjects.len()
    }

    pub(super) fn touch(&mut self, key: &SubjectKey) {
        self.changed.insert(Entry::Subject(key.clone()));
    }

    pub(super) fn send(&mut self, alert: Alert) {
        // From 0 again once the outbox is empty, so that the numbers stay in the order of sending.
        let number = self.outbox.last_key_value().map_or(0, |(number, _)| number.wrapping_add(1));
        self.outbox.insert(number, alert);
        self.changed.insert(Entry::Outbox(number));
    }

    pub(super) fn next_alert(&mut self) -> Option<Alert> {
        let (number, alert) = self.outbox.pop_first()?;
        self.changed.insert(Entry::Outbox(number));
        Some(alert)
    }

    fn value(&self, entry: &Entry) -> Option<Bytes> {
        match entry {
            Entry::Subject(key) => self.subjects.get(key).map(encode),
            Entry::Outbox(number) => self.outbox.get(number).map(encode),
        }
    }

    fn read(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (kind, mut rest) = key.split_first()?;
        match kind {
            // Kinds of keys are a stored format; the barrier has its own first byte.
            b's' => _ = self.subjects.insert(Wire::get(&mut rest)?, decode(value)?),
            b'o' => _ = self.outbox.insert(u32::from_be_bytes(rest.try_into().ok()?), decode(value)?),
            _ => return None,
        }
        Some(())
    }
}

impl Entry {
    fn key(&self) -> Bytes {
        let mut key = Vec::new();
        match self {
            Entry::Subject(subject) => {
                key.push(b's');
                subject.put(&mut key);
            }
            Entry::Outbox(number) => {
                key.push(b'o');
                key.extend(number.to_be_bytes());
            }
        }
        Bytes::from(key)
    }
}

impl PartitionState for ScoreState {
    fn take_changes(&mut self) -> Vec<StateChange> {
        let changed = std::mem::take(&mut self.changed);
        let mut by_key: BTreeMap<_, _> = changed.iter().map(|entry| (entry.key(), self.value(entry))).collect();
        // Its keys have their own first byte, so that the two cannot collide.
        by_key.extend(self.barrier.take_changes());
        by_key.into_iter().collect()
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        if Barrier::<Held>::owns(key) {
            return self.barrier.load(key, value);
        }
        self.read(key, value).ok_or_else(|| unreadable(key))
    }

    /// Baselines and firing alerts go with their subject.
    fn rekey(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
        let mut rekeyed = Rekeyed::default();
        let (barrier, own): (Vec<_>, Vec<_>) =
            by_place(entries).into_iter().partition(|entry| Barrier::<Held>::owns(&entry.key));
        let place = |Held(signal): &Held| joined_key(&signal.tenant_id, &signal.subject);
        Barrier::rekey(&barrier, change, place, "signals that a second partition held too", &mut rekeyed)?;
        for entry in own {
            let (kind, mut rest) = entry.key.split_first().ok_or_else(|| unreadable(&entry.key))?;
            let partition = match kind {
                b's' => {
                    let subject = SubjectKey::get(&mut rest).ok_or_else(|| unreadable(&entry.key))?;
                    change.place(&joined_key(&subject.tenant_id, &subject.subject))
                }
                // Alerts that were not sent yet have been decided: they leave from where they are, in their order.
                b'o' => entry.partition,
                _ => return Err(unreadable(&entry.key)),
            };
            rekeyed.move_to(partition, entry, "baselines of a subject that a second partition had too");
        }
        Ok(rekeyed)
    }
}

fn unreadable(key: &[u8]) -> StateError {
    let reason = "not an entry of the score stage; restore it from a run of this version".to_owned();
    StateError { key: schemas::id::hex(key), reason }
}
