//! Control totals: how many records each hour held, and whether what writers had acknowledged is there.
//!
//! Hours are broker time. It counts source offsets, which are dense (not those of the clean topic,
//! which transactions make sparse: invariant I11). It cannot tell a record that no writer counts
//! from one whose writer does not report; only the other direction, a loss, is a finding.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schemas::codec::{Derived, codec};
use schemas::event::{CleanEvent, ControlTotal, Tick};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use serde::{Deserialize, Serialize};

use super::key::{self, Key};
use crate::stage::{Sourced, StateChange};
use crate::steps::walked;

const HOUR_MS: i64 = 3_600_000;
/// Most event types that an hour lists, and the longest; others count as [`OTHER_TYPES`].
const TYPES_MAX: usize = 256;
const TYPE_BYTES_MAX: usize = 64;
const OTHER_TYPES: &str = "(other)";
/// Most writers whose acknowledged counts are remembered; the one that was silent longest goes.
const WRITERS_MAX: usize = 4_096;

/// Counters over all hours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Sums {
    /// Source offset after the last one covered; -1 before the first record.
    source_next: i64,
    /// Whether the first record of the topic was seen, so that totals of writers are comparable.
    from_origin: bool,
    /// Everything before is closed.
    closed_to: TimestampMicros,
    /// Clean and rejected records.
    counted: i64,
    /// Records that writers had acknowledged.
    acked: i64,
    acked_known: bool,
    /// Acknowledged records that are not there.
    lost: i64,
    /// Acknowledged records that closed hours took.
    allocated: i64,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            source_next: -1,
            from_origin: false,
            closed_to: TimestampMicros(i64::MIN),
            counted: 0,
            acked: 0,
            acked_known: false,
            lost: 0,
            allocated: 0,
        }
    }
}

/// One open hour.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Hour {
    records: i64,
    ticks: i64,
    rejected: i64,
    offset_first: i64,
    offset_next: i64,
    duplicates: i64,
    lost: i64,
    counts_by_type: BTreeMap<String, i64>,
}

/// A writer's acknowledged count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Acked {
    records: i64,
    at: TimestampMicros,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Sums,
    Hour(TimestampMicros),
    Writer(String, i64),
    Inherited(Bytes),
}

/// The counters of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Totals {
    sums: Sums,
    hours: BTreeMap<TimestampMicros, Hour>,
    writers: BTreeMap<(String, i64), Acked>,
    /// Totals of hours that were open in an earlier generation of the topics, by key; reported at the first tick.
    inherited: BTreeMap<Bytes, Bytes>,
    /// The hour of the newest record: spares a set insertion per record.
    changed_hour: Option<TimestampMicros>,
    changed: BTreeSet<Entry>,
}

impl Totals {
    /// Covers the record's source offset; false where it was covered before: the stage before
    /// delivered it again, and nothing may count it twice.
    pub(super) fn cover(&mut self, record: &Sourced<CleanEvent>) -> bool {
        // One below i64::MAX, because the offset after it is kept.
        let offset = i64::try_from(record.source.offset).unwrap_or(i64::MAX - 1);
        if offset < self.sums.source_next {
            return false;
        }
        if self.sums.source_next < 0 {
            // A state that begins in the middle of the topic does not know what was before. Only from the origin may
            // all records that a writer ever had acknowledged be compared.
            self.sums.from_origin = record.at.offset == 0;
            self.sums.source_next = if self.sums.from_origin { 0 } else { offset };
        }
        let first = self.sums.source_next;
        // Source offsets are dense (I11): one that is passed over became a dead letter in the stage before, which is
        // a record that arrived.
        let skipped = offset - first;
        let tick = record.value.is_tick();
        self.sums.counted += skipped + i64::from(!tick);
        self.sums.source_next = offset + 1;
        let hour = self.hour(record.broker_time, first);
        hour.rejected += skipped;
        hour.offset_next = offset + 1;
        if tick {
            hour.ticks += 1;
        } else {
            hour.records += 1;
        }
        true
    }

    /// The open hour of that time; a time in a closed hour counts in the oldest open one.
    fn hour(&mut self, time: TimestampMicros, offset_first: i64) -> &mut Hour {
        // A total that was published is never changed; the late record is counted in the hour that is still open.
        let start = time.max(self.sums.closed_to).floor_to_ms(HOUR_MS);
        if self.changed_hour != Some(start) {
            self.changed.extend([Entry::Sums, Entry::Hour(start)]);
            self.changed_hour = Some(start);
        }
        self.hours.entry(start).or_insert_with(|| Hour { offset_first, offset_next: offset_first, ..Hour::default() })
    }

    /// Counts an event by its type.
    pub(super) fn count(&mut self, record: &Sourced<CleanEvent>, repeated_id: bool) {
        let next = self.sums.source_next;
        let hour = self.hour(record.broker_time, next);
        hour.duplicates += i64::from(repeated_id);
        let event_type = record.value.h().event_type.as_str();
        // Looked up before an entry is made: the type is nearly always there, and `entry` would allocate its name for
        // every record.
        if let Some(count) = hour.counts_by_type.get_mut(event_type) {
            *count += 1;
            return;
        }
        // Types are chosen by producers. Unbounded, an hour of made-up types would outgrow a state entry.
        let listed = hour.counts_by_type.len() < TYPES_MAX && event_type.len() <= TYPE_BYTES_MAX;
        let name = if listed { event_type } else { OTHER_TYPES };
        *hour.counts_by_type.entry(name.to_owned()).or_default() += 1;
    }

    /// Takes in how many records a writer says it has had acknowledged. Returns how many of all
    /// acknowledged records are newly found to be missing.
    pub(super) fn acked(&mut self, tick: &Tick, broker_time: TimestampMicros) -> i64 {
        if tick.records_acked < 0 {
            return 0;
        }
        let (name, records) = ((tick.writer_id.clone(), tick.writer_epoch), tick.records_acked);
        // Of a writer that was there before this partition's state, only what follows is comparable.
        let base = if self.sums.from_origin { 0 } else { records };
        let before = self.writers.get(&name).map_or(base, |acked| acked.records);
        // A count below the last one is an older report; taking the difference back would hide a loss.
        self.sums.acked = self.sums.acked.saturating_add((records - before).max(0));
        self.sums.acked_known = true;
        self.changed.extend([Entry::Sums, Entry::Writer(name.0.clone(), name.1)]);
        self.writers.insert(name, Acked { records: records.max(before), at: broker_time });
        self.forget_writer();
        // What was found missing before is in `lost`, so that each missing record is reported once.
        let lost = self.sums.acked.saturating_sub(self.sums.counted).saturating_sub(self.sums.lost).max(0);
        if lost > 0 {
            self.sums.lost += lost;
            let next = self.sums.source_next;
            self.hour(broker_time, next).lost += lost;
        }
        lost
    }

    fn forget_writer(&mut self) {
        if self.writers.len() <= WRITERS_MAX {
            return;
        }
        walked(self.writers.len());
        // The name decides between equals: state must not depend on anything outside of the log (I6).
        let oldest = self.writers.iter().min_by_key(|(name, acked)| (acked.at, *name)).map(|(name, _)| name.clone());
        if let Some(name) = oldest {
            self.writers.remove(&name);
            self.changed.insert(Entry::Writer(name.0, name.1));
        }
    }

    /// Closes the hours that ended at or before `ended`; returns their totals in order, after those that were
    /// inherited.
    pub(super) fn close(&mut self, ended: TimestampMicros, partition: u32) -> Vec<ControlTotal> {
        let inherited = std::mem::take(&mut self.inherited);
        // As changes, so that the entries are deleted with the step that reports them, and a restart does not report
        // them again.
        self.changed.extend(inherited.keys().cloned().map(Entry::Inherited));
        let mut totals: Vec<ControlTotal> = inherited.values().filter_map(|value| control_total(value)).collect();
        while let Some(entry) = self.hours.first_entry() {
            let next = entry.key().plus_ms(HOUR_MS);
            // Hours are in order; the ones behind are younger still.
            if next > ended {
                break;
            }
            let (start, hour) = entry.remove_entry();
            self.sums.closed_to = next;
            self.changed_hour = None;
            self.changed.extend([Entry::Sums, Entry::Hour(start)]);
            totals.extend(self.intake(&hour).map(|records| hour.intake_total(start, partition, records)));
            totals.push(hour.clean_total(start, partition));
        }
        totals
    }

    /// How many of the acknowledged records this hour takes: first come, first served, because a
    /// count says how many and not which.
    fn intake(&mut self, hour: &Hour) -> Option<i64> {
        let Sums { acked, lost, allocated, acked_known, .. } = self.sums;
        // Lost records are among the records of no hour, so that they are set apart before the rest is dealt out.
        let took = (hour.records + hour.rejected).min(acked - lost - allocated).max(0);
        self.sums.allocated += took;
        acked_known.then_some(took + hour.lost)
    }

    /// Entries that changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<StateChange> {
        self.changed_hour = None;
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|entry| (entry.key(), self.value(&entry))).collect()
    }

    fn value(&self, entry: &Entry) -> Option<Bytes> {
        match entry {
            Entry::Sums => Some(key::json(&self.sums)),
            Entry::Hour(start) => self.hours.get(start).map(key::json),
            Entry::Writer(id, epoch) => self.writers.get(&(id.clone(), *epoch)).map(key::json),
            Entry::Inherited(key) => self.inherited.get(key).cloned(),
        }
    }

    /// Loads the entry with the key's parts after its kind.
    pub(super) fn load(&mut self, kind: u8, mut parts: key::Parts<'_>, value: &[u8]) -> Result<(), String> {
        let malformed = || "malformed key".to_owned();
        match kind {
            SUMS => self.sums = key::from_json(value)?,
            INHERITED => {
                let total = control_total(value).ok_or_else(|| "not a control total".to_owned())?;
                self.inherited.insert(inherited(&total).0, Bytes::copy_from_slice(value));
            }
            HOUR => {
                let start = TimestampMicros(parts.number().ok_or_else(malformed)?);
                self.hours.insert(start, key::from_json(value)?);
            }
            _ => {
                let name = parts.text().zip(parts.number()).ok_or_else(malformed)?;
                self.writers.insert(name, key::from_json(value)?);
            }
        }
        Ok(())
    }
}

/// Kinds of state keys.
pub(super) const SUMS: u8 = b'0';
pub(super) const HOUR: u8 = b'1';
pub(super) const WRITER: u8 = b'2';
pub(super) const INHERITED: u8 = b'7';

/// The total in such an entry.
fn control_total(value: &[u8]) -> Option<ControlTotal> {
    match codec().decode_derived(Some(value)) {
        Ok(Derived::ControlTotal(total)) => Some(total),
        _ => None,
    }
}

/// The entry of a total that is reported later.
pub(super) fn inherited(total: &ControlTotal) -> (Bytes, Bytes) {
    let key = Key::of(INHERITED).number(total.hour.0).number(total.partition.into()).text(&total.hop).bytes();
    (key, codec().encode_derived(&Derived::ControlTotal(total.clone())))
}

impl Entry {
    fn key(&self) -> Bytes {
        match self {
            Entry::Sums => Key::of(SUMS).bytes(),
            Entry::Hour(start) => Key::of(HOUR).number(start.0).bytes(),
            Entry::Inherited(key) => key.clone(),
            Entry::Writer(id, epoch) => Key::of(WRITER).text(id).number(*epoch).bytes(),
        }
    }
}

impl Hour {
    fn clean_total(self, hour: TimestampMicros, partition: u32) -> ControlTotal {
        ControlTotal {
            hop: "clean".to_owned(),
            topic: Topic::Clean.name().to_owned(),
            partition: i32::try_from(partition).unwrap_or(i32::MAX),
            hour,
            records: self.records,
            ticks: self.ticks,
            rejected: self.rejected,
            offset_first: self.offset_first,
            offset_next: self.offset_next,
            duplicates: self.duplicates,
            counts_by_type: self.counts_by_type,
            closed: true,
        }
    }

    fn intake_total(&self, hour: TimestampMicros, partition: u32, records: i64) -> ControlTotal {
        ControlTotal {
            hop: "intake".to_owned(),
            topic: Topic::Events.name().to_owned(),
            partition: i32::try_from(partition).unwrap_or(i32::MAX),
            hour,
            records,
            ticks: self.ticks,
            offset_first: self.offset_first,
            offset_next: self.offset_next,
            closed: true,
            ..ControlTotal::default()
        }
    }
}
