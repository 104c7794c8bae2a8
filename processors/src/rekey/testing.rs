//! States to entries and back, for the tests of stages whose state is re-keyed.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::{Rekeyed, StateEntry};
use crate::stage::PartitionState;

/// What is left in states: the entries of a state topic.
pub(crate) fn entries<S: PartitionState>(states: &mut [S]) -> Vec<StateEntry> {
    let of = |(partition, state): (u32, &mut S)| {
        let changes = state.take_changes().into_iter();
        changes.filter_map(move |(key, value)| Some(StateEntry { partition, key, value: value? })).collect::<Vec<_>>()
    };
    (0..).zip(states).flat_map(of).collect()
}

/// The states of the next generation, which has `count` partitions; nothing may be left behind.
pub(crate) fn states<S: PartitionState>(rekeyed: &Rekeyed, count: u32) -> Vec<S> {
    assert_eq!(rekeyed.left, BTreeMap::new(), "everything is carried over");
    let mut states = vec![S::default(); count as usize];
    for ((partition, key), value) in &rekeyed.entries {
        states[*partition as usize].load(key, value).unwrap();
    }
    states
}
