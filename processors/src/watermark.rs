//! The barrier for stages that read a re-keyed topic: contributions of several source partitions
//! come out in one order, however the log interleaved them.
//!
//! A partition of such a topic holds one ordered stream per source partition, but how the streams
//! are interleaved depends on timing. The barrier holds every contribution until each source
//! partition has reported, with a watermark, that nothing earlier will follow. It computes nothing from
//! contributions, and it never gives up on a silent source partition (memory then grows; lag shows it).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use bytes::Bytes;
use schemas::event::Watermark;
use schemas::time::TimestampMicros;

use crate::rekey::{Change, Rekeyed, StateEntry};
use crate::stage::{StateChange, StateError};
use crate::steps::walked;

/// First byte of every state key of a barrier; a stage's own keys start with another one.
pub const KEY_PREFIX: u8 = b'~';

/// Something that waits in a barrier and can be kept in a state entry.
pub trait Contribution: Clone + Eq + Debug {
    /// Bytes of a state entry.
    fn encode(&self) -> Bytes;
    /// The contribution in a state entry; `None` where the bytes are none.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Where a contribution stands in the order of release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Log time of the contribution.
    pub time: TimestampMicros,
    /// Partition of the clean topic that made it.
    pub source_partition: u32,
    /// Order among the contributions of that partition at that time.
    pub ordinal: i64,
}

/// What became of a contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It waits.
    Held,
    /// A contribution with the same slot waits already; the first one stays.
    Repeated,
    /// Its source partition has already said that nothing so early would follow: a redelivery.
    TooLate,
}

/// One element of the released sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release<T> {
    /// A contribution, in the order of its slot.
    Contribution(Slot, T),
    /// Every contribution up to this time, this time included, has been released.
    Complete(TimestampMicros),
}

/// A watermark that cannot be true; it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatermarkError {
    /// The number of source partitions may not change while a barrier is in use.
    #[error("watermark names {found} source partitions, {expected} are known: drain the topic before changing them")]
    PartitionsChanged {
        /// The count of the first watermark.
        expected: u32,
        /// The count of this one.
        found: i32,
    },
    /// A partition number outside of the count, or a count below one.
    #[error("watermark names source partition {partition} of {partitions}")]
    OutOfRange {
        /// The partition.
        partition: i32,
        /// The count.
        partitions: i32,
    },
}

/// A part of the barrier that has a state entry of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Partitions,
    Mark(u32),
    Pending(TimestampMicros),
    Held(Slot),
}

/// Holds contributions until every source partition has passed their time.
///
/// The released sequence, [`Release::Complete`] included, is a function of the source partitions'
/// own streams alone: any interleaving, any repetition of a stream's tail and any restart gives
/// the same sequence (only how it is cut into calls differs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier<T> {
    /// 0 until the first watermark.
    source_partitions: u32,
    marks: BTreeMap<u32, TimestampMicros>,
    /// Times of watermarks above the minimum: each becomes one [`Release::Complete`].
    pending: BTreeSet<TimestampMicros>,
    held: BTreeMap<Slot, T>,
    changed: BTreeSet<Entry>,
}

impl<T> Default for Barrier<T> {
    fn default() -> Self {
        Self {
            source_partitions: 0,
            marks: BTreeMap::new(),
            pending: BTreeSet::new(),
            held: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }
}

impl<T: Contribution> Barrier<T> {
    /// Takes a contribution in.
    pub fn offer(&mut self, slot: Slot, value: T) -> Offered {
        // A step that is redone sends its contributions again, behind the watermark that it sent before.
        if self.marks.get(&slot.source_partition).is_some_and(|mark| slot.time <= *mark) {
            return Offered::TooLate;
        }
        // The same slot is the same contribution: a stream numbers its own.
        if self.held.contains_key(&slot) {
            return Offered::Repeated;
        }
        self.held.insert(slot, value);
        self.changed.insert(Entry::Held(slot));
        Offered::Held
    }

    /// Takes a watermark in; returns what it releases. A watermark that does not move its
    /// partition forward releases nothing.
    ///
    /// # Errors
    /// [`WatermarkError`]: the caller reports it as data; the barrier is unchanged.
    pub fn mark(&mut self, watermark: &Watermark) -> Result<Vec<Release<T>>, WatermarkError> {
        let partition = self.checked_partition(watermark)?;
        let at = watermark.at;
        // Redelivered, or its partition's time stands still: either way nothing new is known.
        if self.marks.get(&partition).is_some_and(|mark| at <= *mark) {
            return Ok(Vec::new());
        }
        self.marks.insert(partition, at);
        // Every time of any partition is released as a step of its own: taking only the minimum would let the
        // interleaving cut the sequence.
        self.pending.insert(at);
        self.changed.extend([Entry::Mark(partition), Entry::Pending(at)]);
        Ok(self.release())
    }

    /// The time up to which everything has been released; `None` until every source partition has
    /// reported once.
    pub fn complete_to(&self) -> Option<TimestampMicros> {
        // One that has not reported may still send anything: its time is unknown, not early.
        if self.marks.len() == self.source_partitions as usize { self.marks.values().min().copied() } else { None }
    }

    /// How many contributions wait.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn checked_partition(&mut self, watermark: &Watermark) -> Result<u32, WatermarkError> {
        let Watermark { source_partition: partition, source_partitions: partitions, .. } = *watermark;
        let out_of_range = WatermarkError::OutOfRange { partition, partitions };
        let number = u32::try_from(partition).map_err(|_| out_of_range)?;
        let count = u32::try_from(partitions).map_err(|_| out_of_range)?;
        // Before the count is remembered: a watermark that cannot be true must not fix it.
        if number >= count {
            return Err(out_of_range);
        }
        match self.source_partitions {
            0 => {
                self.source_partitions = count;
                self.changed.insert(Entry::Partitions);
            }
            expected if expected != count => {
                return Err(WatermarkError::PartitionsChanged { expected, found: partitions });
            }
            _ => {}
        }
        Ok(number)
    }

    fn release(&mut self) -> Vec<Release<T>> {
        let Some(complete_to) = self.complete_to() else { return Vec::new() };
        let mut released = Vec::new();
        // In the order of times and not of arrival: what is released is then a function of the streams alone (I6).
        while let Some(at) = self.pending.first().copied().filter(|at| *at <= complete_to) {
            while let Some(slot) = self.held.first_entry().filter(|entry| entry.key().time <= at) {
                walked(1);
                let (slot, value) = slot.remove_entry();
                self.changed.insert(Entry::Held(slot));
                released.push(Release::Contribution(slot, value));
            }
            self.pending.remove(&at);
            self.changed.insert(Entry::Pending(at));
            released.push(Release::Complete(at));
        }
        released
    }

    /// Whether a state key belongs to the barrier.
    pub fn owns(key: &[u8]) -> bool {
        key.first() == Some(&KEY_PREFIX)
    }

    /// Entries that changed since the last call, in key order; see
    /// [`crate::stage::PartitionState::take_changes`].
    pub fn take_changes(&mut self) -> Vec<StateChange> {
        let changed = std::mem::take(&mut self.changed);
        // The order of entries is that of their keys.
        changed.into_iter().map(|entry| (entry.key(), self.value(entry))).collect()
    }

    fn value(&self, entry: Entry) -> Option<Bytes> {
        match entry {
            Entry::Partitions => Some(Bytes::copy_from_slice(&self.source_partitions.to_be_bytes())),
            Entry::Mark(partition) => self.marks.get(&partition).map(|at| Bytes::copy_from_slice(&at.0.to_be_bytes())),
            Entry::Pending(at) => self.pending.get(&at).map(|_| Bytes::from_static(b"1")),
            Entry::Held(slot) => self.held.get(&slot).map(T::encode),
        }
    }

    /// Carries the entries of a barrier over; `place` gives the key of a contribution's record, `what` names one that
    /// is left behind.
    ///
    /// Every partition of a re-keyed topic has received the same watermarks once it is read to its end, so that
    /// new ones begin with those of the others. Source partitions that are added report before anything is
    /// released.
    ///
    /// # Errors
    /// An entry cannot be read, or partitions differ in what they have received: the topic was not read to its end.
    pub(crate) fn rekey(
        entries: &[&StateEntry],
        change: &Change,
        place: impl Fn(&T) -> Vec<u8>,
        what: &'static str,
        to: &mut Rekeyed,
    ) -> Result<(), StateError> {
        let mut received: Vec<BTreeMap<&Bytes, &Bytes>> = vec![BTreeMap::new(); change.from as usize];
        for entry in entries {
            let error = |reason: &str| StateError { key: schemas::id::hex(&entry.key), reason: reason.to_owned() };
            match Entry::from_key(&entry.key).ok_or_else(|| error("not an entry of a watermark barrier"))? {
                Entry::Partitions => to.fold(entry),
                Entry::Mark(_) | Entry::Pending(_) => {
                    let of = received.get_mut(entry.partition as usize).ok_or_else(|| error("of no partition"))?;
                    // Compared below: they must be the same in every partition before they may be copied.
                    of.insert(&entry.key, &entry.value);
                }
                Entry::Held(_) => {
                    let value = T::decode(&entry.value).ok_or_else(|| error("not a contribution"))?;
                    to.move_to(change.place(&place(&value)), entry, what);
                }
            }
        }
        // A watermark that has not reached one partition would be lost to it, and its barrier would wait for that
        // time without end.
        if let Some(other) = received.iter().find(|other| **other != received[0]) {
            let key = other.keys().chain(received[0].keys()).next().map(|key| schemas::id::hex(key));
            let reason =
                "the partitions have received different watermarks: the topic was not read to its end".to_owned();
            return Err(StateError { key: key.unwrap_or_default(), reason });
        }
        let is_used = !received.first().is_none_or(BTreeMap::is_empty);
        // A barrier that never received a watermark learns the count from its first one.
        for partition in (0..change.to).filter(|_| is_used) {
            // The new count, with the marks of the old partitions: nothing is released until those that are added
            // have reported as well.
            let value = Bytes::copy_from_slice(&change.to.to_be_bytes());
            to.entries.insert((partition, Entry::Partitions.key()), value);
            let copies = received[0].iter();
            to.entries.extend(copies.map(|(key, value)| ((partition, Bytes::clone(key)), Bytes::clone(value))));
        }
        Ok(())
    }

    /// Loads one entry; see [`crate::stage::PartitionState::load`].
    ///
    /// # Errors
    /// The entry cannot be read.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        let error =
            || StateError { key: schemas::id::hex(key), reason: "not an entry of a watermark barrier".to_owned() };
        match Entry::from_key(key).ok_or_else(error)? {
            Entry::Partitions => self.source_partitions = u32::from_be_bytes(value.try_into().map_err(|_| error())?),
            Entry::Mark(partition) => {
                let at = i64::from_be_bytes(value.try_into().map_err(|_| error())?);
                self.marks.insert(partition, TimestampMicros(at));
            }
            Entry::Pending(at) => {
                self.pending.insert(at);
            }
            Entry::Held(slot) => {
                self.held.insert(slot, T::decode(value).ok_or_else(error)?);
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Keys sort like entries: signed numbers are written with the sign bit flipped.
    fn key(self) -> Bytes {
        let mut key = vec![KEY_PREFIX];
        match self {
            Entry::Partitions => key.push(0),
            Entry::Mark(partition) => {
                key.push(1);
                key.extend(partition.to_be_bytes());
            }
            Entry::Pending(at) => {
                key.push(2);
                key.extend(ordered(at.0));
            }
            Entry::Held(slot) => {
                key.push(3);
                key.extend(ordered(slot.time.0));
                key.extend(slot.source_partition.to_be_bytes());
                key.extend(ordered(slot.ordinal));
            }
        }
        Bytes::from(key)
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (&kind, rest) = key.strip_prefix(&[KEY_PREFIX])?.split_first()?;
        match (kind, rest.len()) {
            (0, 0) => Some(Entry::Partitions),
            (1, 4) => Some(Entry::Mark(u32::from_be_bytes(rest.try_into().ok()?))),
            (2, 8) => Some(Entry::Pending(TimestampMicros(unordered(rest)?))),
            // The length belongs to the pattern: a key that is cut is refused and not read as zeros.
            (3, 20) => Some(Entry::Held(Slot {
                time: TimestampMicros(unordered(&rest[..8])?),
                source_partition: u32::from_be_bytes(rest[8..12].try_into().ok()?),
                ordinal: unordered(&rest[12..])?,
            })),
            _ => None,
        }
    }
}

fn ordered(number: i64) -> [u8; 8] {
    // With the sign bit flipped, bytes sort like signed numbers.
    (number ^ i64::MIN).to_be_bytes()
}

fn unordered(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?) ^ i64::MIN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Contribution for u32 {
        fn encode(&self) -> Bytes {
            Bytes::copy_from_slice(&self.to_be_bytes())
        }
        fn decode(bytes: &[u8]) -> Option<Self> {
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        }
    }

    #[derive(Debug, Clone)]
    enum Item {
        Value(Slot, u32),
        Mark(Watermark),
    }

    fn slot(time: i64, source_partition: u32, ordinal: i64) -> Slot {
        Slot { time: TimestampMicros(time), source_partition, ordinal }
    }

    fn watermark(at: i64, source_partition: i32, source_partitions: i32) -> Watermark {
        Watermark { at: TimestampMicros(at), source_partition, source_partitions }
    }

    fn feed(barrier: &mut Barrier<u32>, item: &Item) -> Vec<Release<u32>> {
        match item {
            Item::Value(slot, value) => {
                barrier.offer(*slot, *value);
                Vec::new()
            }
            Item::Mark(mark) => barrier.mark(mark).unwrap(),
        }
    }

    /// The stream of one source partition: steps of (advance of time, contributions).
    fn stream(partition: u32, partitions: u32, steps: &[(i64, u32)]) -> Vec<Item> {
        let mut at = -50;
        let mut items = Vec::new();
        for (advance, contributions) in steps {
            at += advance;
            let values = (0..*contributions).map(|n| Item::Value(slot(at, partition, n.into()), n + 100 * partition));
            items.extend(values);
            items.push(Item::Mark(watermark(at, partition as i32, partitions as i32)));
        }
        items
    }

    /// Weaves the streams by `picks`; then what is left of them, partition by partition.
    fn weave(streams: &[Vec<Item>], picks: &[usize]) -> Vec<Item> {
        let mut rest: Vec<_> = streams.iter().map(|s| s.iter()).collect();
        let mut woven: Vec<Item> = picks.iter().filter_map(|p| rest[p % streams.len()].next().cloned()).collect();
        woven.extend(rest.into_iter().flatten().cloned());
        woven
    }

    proptest! {
        #[test]
        fn any_interleaving_redelivery_and_restart_releases_the_same_sequence(
            steps in proptest::collection::vec(proptest::collection::vec((1..4_i64, 0..3_u32), 1..8), 1..5),
            picks in proptest::collection::vec(any::<usize>(), 0..80),
            repeats in proptest::collection::vec((any::<usize>(), 1..4_usize), 0..4),
        ) {
            let partitions = steps.len() as u32;
            let streams: Vec<_> = steps.iter().enumerate().map(|(p, s)| stream(p as u32, partitions, s)).collect();
            let mut plain = Barrier::default();
            let expected: Vec<_> = streams.iter().flatten().flat_map(|item| feed(&mut plain, item)).collect();

            let mut woven = streams.clone();
            for (at, len) in repeats {
                let of = &mut woven[at % steps.len()];
                let first = at % of.len();
                let again = of[first..(first + len).min(of.len())].to_vec();
                let end = (first + len).min(of.len());
                of.splice(end..end, again);
            }
            let mut entries: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            let mut got = Vec::new();
            for item in weave(&woven, &picks) {
                let mut barrier = Barrier::default();
                for (key, value) in &entries {
                    barrier.load(key, value).unwrap();
                }
                got.extend(feed(&mut barrier, &item));
                let changes = barrier.take_changes();
                prop_assert!(changes.is_sorted_by_key(|(key, _)| key.clone()));
                for (key, value) in changes {
                    prop_assert!(Barrier::<u32>::owns(&key));
                    match value {
                        Some(value) => entries.insert(key, value),
                        None => entries.remove(&key),
                    };
                }
            }
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn contributions_wait_for_the_slowest_partition_and_leave_in_slot_order() {
        let mut barrier = Barrier::default();
        assert_eq!(barrier.offer(slot(5, 1, 0), 51), Offered::Held);
        assert_eq!(barrier.offer(slot(5, 0, 1), 6), Offered::Held);
        assert_eq!(barrier.offer(slot(5, 0, 0), 5), Offered::Held);
        assert_eq!(barrier.offer(slot(5, 0, 0), 7), Offered::Repeated);
        assert_eq!(barrier.mark(&watermark(9, 0, 2)), Ok(vec![]));
        assert_eq!(barrier.offer(slot(9, 0, 0), 8), Offered::TooLate);
        assert_eq!((barrier.complete_to(), barrier.held()), (None, 3));
        let released = barrier.mark(&watermark(5, 1, 2)).unwrap();
        let expected = [(slot(5, 0, 0), 5), (slot(5, 0, 1), 6), (slot(5, 1, 0), 51)];
        let expected = expected.map(|(slot, value)| Release::Contribution(slot, value));
        assert_eq!(released[..3], expected);
        assert_eq!(released[3..], [Release::Complete(TimestampMicros(5))]);
        assert_eq!(barrier.mark(&watermark(4, 1, 2)), Ok(vec![]), "a regression is harmless");
    }

    #[test]
    fn a_watermark_that_cannot_be_true_changes_nothing() {
        let mut barrier = Barrier::<u32>::default();
        barrier.mark(&watermark(1, 0, 2)).unwrap();
        let before = barrier.clone();
        let changed = WatermarkError::PartitionsChanged { expected: 2, found: 3 };
        let range = |partition, partitions| WatermarkError::OutOfRange { partition, partitions };
        let cases = [(0, 3, changed), (2, 2, range(2, 2)), (-1, 2, range(-1, 2)), (0, 0, range(0, 0))];
        for (partition, partitions, error) in cases {
            assert_eq!(barrier.mark(&watermark(7, partition, partitions)), Err(error));
            assert_eq!(barrier, before);
        }
    }

    #[test]
    fn an_unreadable_entry_is_an_error() {
        let mut barrier = Barrier::<u32>::default();
        for key in [&b"~"[..], b"~\x09", b"~\x01ab", b"x"] {
            assert!(barrier.load(key, b"").is_err(), "{key:?}");
        }
        assert!(barrier.load(&Entry::Held(slot(1, 2, 3)).key(), b"abc").is_err());
    }
}
