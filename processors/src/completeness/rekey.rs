//! The state of `completeness` in another number of partitions.
//!
//! A session's ledger goes with the session, whole: a gap that is open stays open for as long as it would have,
//! and one that was reported is not reported again. Open hours belong to the old partition and become control
//! totals that the new one reports at its first tick.

use std::collections::{BTreeMap, BTreeSet};

use schemas::id::Uuid;
use schemas::time::TimestampMicros;
use schemas::topic::{partition_of, session_key};

use super::key::{self, Key, NOTE, NOW, PRODUCER, Parts, SESSION};
use super::producers;
use super::totals::{self, Totals};
use crate::rekey::{Change, Rekeyed, StateEntry, by_place};
use crate::stage::StateError;

const SECOND_LEDGER: &str = "ledgers of a session that a second partition had too";
const SECOND_REPEATS: &str =
    "pages of repeats of a writer's events outside of sessions that a second partition had too";

/// Re-keys the state of the stage `completeness`.
///
/// # Errors
/// An entry cannot be read.
pub(super) fn completeness(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
    let mut rekeyed = Rekeyed::default();
    let mut now = TimestampMicros(i64::MIN);
    let mut hours: BTreeMap<u32, Totals> = BTreeMap::new();
    let entries = by_place(entries);
    // Before anything moves: notes and pages of a session must follow the same ledger as its head.
    let owners = owners(&entries, change)?;
    for entry in &entries {
        let error = |reason: String| key::unreadable(&entry.key, reason);
        let malformed = || error("malformed key".to_owned());
        let (&kind, rest) = entry.key.split_first().ok_or_else(malformed)?;
        let mut parts = Parts(rest);
        match kind {
            totals::SUMS | totals::HOUR | totals::WRITER | totals::INHERITED => {
                let of = hours.entry(entry.partition).or_default();
                of.load(kind, parts, &entry.value).map_err(error)?;
                rekeyed.fold(entry);
            }
            NOW => {
                now = now.max(key::from_json(&entry.value).map_err(error)?);
                rekeyed.fold(entry);
            }
            NOTE | SESSION => {
                let session = parts.text().zip(parts.id()).ok_or_else(malformed)?;
                let partition = change.place(&session_key(&session.0, session.1));
                match owners.get(&session) {
                    Some(owner) if *owner != entry.partition => rekeyed.leave(SECOND_LEDGER),
                    _ => rekeyed.move_to(partition, entry, SECOND_LEDGER),
                }
            }
            PRODUCER => producer(entry, change, parts, &mut rekeyed).map_err(error)?,
            _ => return Err(error("unknown kind of entry".to_owned())),
        }
    }
    // After all heads have moved: a partition that has the writer's own head keeps it.
    repeats(&entries, change, &mut rekeyed)?;
    for (partition, mut open) in hours {
        // Under the number of the old partition, whose records they count; `first` makes it the number in its
        // generation.
        let closed = open.close(TimestampMicros(i64::MAX), change.first + partition);
        let entries = closed.iter().map(totals::inherited);
        rekeyed.entries.extend(entries.map(|(key, value)| ((partition, key), value)));
    }
    if now > TimestampMicros(i64::MIN) {
        // A partition without log time would take an older tick for news, and time would run backwards for the
        // sessions that came to it.
        let at = (0..change.to).map(|partition| ((partition, Key::of(NOW).bytes()), key::json(&now)));
        rekeyed.entries.extend(at);
    }
    Ok(rekeyed)
}

/// The partition whose ledger of a session counts: that of its key; else, where a producer partitions in its own
/// way, the first that has one.
fn owners(entries: &[&StateEntry], change: &Change) -> Result<BTreeMap<(String, Uuid), u32>, StateError> {
    let mut holders: BTreeMap<(String, Uuid), BTreeSet<u32>> = BTreeMap::new();
    for entry in entries.iter().filter(|e| matches!(e.key.first(), Some(&NOTE | &SESSION))) {
        let mut parts = Parts(&entry.key[1..]);
        let session = parts.text().zip(parts.id()).ok_or_else(|| key::unreadable(&entry.key, "malformed key"))?;
        holders.entry(session).or_default().insert(entry.partition);
    }
    let owner = |(session, holders): ((String, Uuid), BTreeSet<u32>)| {
        let own = partition_of(&session_key(&session.0, session.1), change.from);
        let owner = holders.get(&own).or(holders.first()).copied().unwrap_or(own);
        (session, owner)
    };
    Ok(holders.into_iter().map(owner).collect())
}

/// Numbers that were not reported to `writers` yet stay at their partition's number.
fn producer(entry: &StateEntry, change: &Change, mut parts: Parts<'_>, to: &mut Rekeyed) -> Result<(), String> {
    let malformed = || "malformed key".to_owned();
    let (tenant, _) = parts.text().zip(parts.text()).ok_or_else(malformed)?;
    parts.number().ok_or_else(malformed)?;
    match parts.byte().ok_or_else(malformed)? {
        producers::PAGE => {
            // Events outside of sessions are records of the session of zeros.
            let partition = change.place(&session_key(&tenant, Uuid::ZERO));
            to.move_to(partition, entry, SECOND_REPEATS);
        }
        _ => to.move_to(entry.partition, entry, SECOND_REPEATS),
    }
    Ok(())
}

/// A writer whose repeats moved to a partition that does not know it is made known there.
fn repeats(entries: &[&StateEntry], change: &Change, to: &mut Rekeyed) -> Result<(), StateError> {
    let values: BTreeMap<_, _> = entries.iter().map(|e| ((e.partition, &e.key), &e.value)).collect();
    for entry in entries.iter().filter(|e| e.key.first() == Some(&PRODUCER)) {
        let malformed = || key::unreadable(&entry.key, "malformed key");
        let mut parts = Parts(&entry.key[1..]);
        let (tenant, name) = parts.text().zip(parts.text()).ok_or_else(malformed)?;
        let epoch = parts.number().ok_or_else(malformed)?;
        let head = producers::head_key(&Key::of(PRODUCER).text(&tenant).text(&name).number(epoch));
        let partition = change.place(&session_key(&tenant, Uuid::ZERO));
        if parts.byte() == Some(producers::PAGE) && !to.entries.contains_key(&(partition, head.clone())) {
            let of = values.get(&(entry.partition, &head)).ok_or_else(malformed)?;
            let quiet = producers::quiet(of).map_err(|reason| key::unreadable(&head, reason))?;
            to.entries.insert((partition, head), quiet);
        }
    }
    Ok(())
}
