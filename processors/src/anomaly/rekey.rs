//! The state of `features` and `score` in another number of partitions.
//!
//! Open windows stay at their partition's number: they are sums over whatever its records were, and `score`
//! adds up all partitions. Taint goes with the session, baselines and firing alerts with their subject.

use bytes::Bytes;
use schemas::time::TimestampMicros;
use schemas::topic::{joined_key, session_key};

use super::alert::SubjectKey;
use super::features::state::{Clock, Entry};
use super::score::state::Held;
use super::wire::{Wire, decode, encode};
use crate::rekey::{Change, Rekeyed, StateEntry};
use crate::stage::StateError;
use crate::watermark::Barrier;

fn unreadable(entry: &StateEntry) -> StateError {
    StateError { key: schemas::id::hex(&entry.key), reason: "not an entry of this stage".to_owned() }
}

/// Re-keys the state of the stage `features`.
///
/// # Errors
/// An entry cannot be read.
pub fn rekey_features(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
    let mut rekeyed = Rekeyed::default();
    let mut closed_to: Option<TimestampMicros> = None;
    for entry in entries {
        let to = |partition| StateEntry { partition, ..entry.clone() };
        match Entry::from_key(&entry.key).ok_or_else(|| unreadable(entry))? {
            Entry::Clock => {
                let clock: Clock = decode(&entry.value).ok_or_else(|| unreadable(entry))?;
                closed_to = closed_to.max(Some(clock.closed_to));
                rekeyed.add(to(entry.partition), "clocks");
            }
            Entry::Window(..) => rekeyed.add(to(entry.partition), "windows"),
            Entry::Tainted(tenant, session) => {
                rekeyed.add(to(change.place(&session_key(&tenant, session))), "taints that a second partition had too");
            }
            // Any partition may meet the next reason for the same alert.
            Entry::Told(_) => {
                for partition in 0..change.to {
                    keep_latest(&mut rekeyed, to(partition)).ok_or_else(|| unreadable(entry))?;
                }
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

fn keep_latest(to: &mut Rekeyed, entry: StateEntry) -> Option<()> {
    let at: TimestampMicros = decode(&entry.value)?;
    let place = to.entries.entry((entry.partition, entry.key)).or_insert_with(|| entry.value.clone());
    if decode::<TimestampMicros>(place)? < at {
        *place = entry.value;
    }
    Some(())
}

/// Re-keys the state of the stage `score`.
///
/// # Errors
/// An entry cannot be read, or the signals topic was not read to its end.
pub fn rekey_score(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
    let mut rekeyed = Rekeyed::default();
    let (barrier, own): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| Barrier::<Held>::owns(&entry.key));
    let place = |held: &Held| {
        let (subject, _) = held.clone().keyed();
        joined_key(&subject.tenant_id, &subject.subject)
    };
    let held = Barrier::<Held>::rekey(&barrier, change, place)?;
    held.into_iter().for_each(|entry| rekeyed.add(entry, "signals that a second partition held too"));
    for entry in own {
        let (kind, rest) = entry.key.split_first().ok_or_else(|| unreadable(entry))?;
        let partition = match kind {
            b's' => {
                let subject = SubjectKey::get(&mut &rest[..]).ok_or_else(|| unreadable(entry))?;
                change.place(&joined_key(&subject.tenant_id, &subject.subject))
            }
            b'o' => entry.partition,
            _ => return Err(unreadable(entry)),
        };
        let moved = StateEntry { partition, key: Bytes::clone(&entry.key), value: Bytes::clone(&entry.value) };
        rekeyed.add(moved, "baselines of a subject that a second partition had too");
    }
    Ok(rekeyed)
}
