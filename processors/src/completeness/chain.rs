//! The hash chain of one session: which sequence numbers are there, which are missing, and whether
//! each event names the digest of the one before it, in whatever order they arrive.
//!
//! Only the digests at the edges of holes are kept, so its size depends on the holes, not on the
//! length of the session. It judges no time-out; the caller says which holes are due.

use schemas::id::Sha256;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::spans::Range;
use crate::steps::walked;

/// Most holes of one session; beyond it the lowest is reported at once and closed.
pub(super) const HOLES_MAX: usize = 256;

/// A range of missing sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hole {
    pub(super) first: i64,
    pub(super) next: i64,
    /// Log time at which a later number showed that these are missing.
    pub(super) since: TimestampMicros,
    /// Whether a finding named it.
    pub(super) reported: bool,
    /// Digest of the event before `first`.
    left: Option<Sha256>,
    /// What the event at `next` says about the event before it.
    right: Option<Sha256>,
}

/// What an event did to the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Placement {
    /// The number is there already.
    Seen,
    /// The number is new.
    New {
        /// The digests of neighbours do not match.
        broken: bool,
        /// It was reported missing before.
        filled: bool,
        /// A hole that was given up because there are too many, and was not reported before.
        given_up: Option<Range>,
    },
}

/// One event as the chain sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// 0-based number.
    pub(super) seq: i64,
    /// Digest of its exact bytes.
    pub(super) digest: Sha256,
    /// What it says about the event before it; `None` where it makes no claim.
    pub(super) prev: Option<Sha256>,
    /// Log time.
    pub(super) at: TimestampMicros,
}

/// Numbers seen: all below `next` but the holes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    pub(super) next: i64,
    last: Option<Sha256>,
    pub(super) holes: Vec<Hole>,
    /// Missing numbers of holes that were given up.
    given_up: i64,
}

impl Default for Chain {
    /// Nothing seen; the event at 0 follows zeros.
    fn default() -> Self {
        Self { next: 0, last: Some(Sha256::ZERO), holes: Vec::new(), given_up: 0 }
    }
}

/// Both sides are known and differ.
fn differ(left: Option<Sha256>, right: Option<Sha256>) -> bool {
    left.zip(right).is_some_and(|(left, right)| left != right)
}

impl Chain {
    /// A chain that is picked up at `first`: what was before is neither known nor missed, but may
    /// come again.
    pub(super) fn resumed(first: i64) -> Self {
        let mut chain = Self::default();
        if first > 0 {
            chain.holes.push(Hole {
                first: 0,
                next: first,
                since: TimestampMicros(i64::MIN),
                reported: true,
                left: chain.last,
                right: None,
            });
            (chain.next, chain.last) = (first, None);
        }
        chain
    }

    /// Takes an event in.
    pub(super) fn insert(&mut self, link: Link) -> Placement {
        if link.seq < self.next {
            return self.fill(link);
        }
        if link.seq > self.next {
            let right = link.prev;
            // The digest that this event names belongs to the upper edge of the hole: whoever fills it is checked
            // against it.
            self.open(link.seq, link.at, right);
            self.last = None;
        }
        let broken = differ(self.last, link.prev);
        self.next = link.seq.saturating_add(1);
        self.last = Some(link.digest);
        Placement::New { broken, filled: false, given_up: self.give_up() }
    }

    /// A writer says that all numbers below `next` were used. Returns whether that was news, and
    /// a hole that was given up.
    pub(super) fn claim(&mut self, next: i64, at: TimestampMicros) -> (bool, Option<Range>) {
        if next <= self.next {
            return (false, None);
        }
        let end = self.next;
        // A claim that follows a claim widens the same hole and keeps its age: else every heartbeat would start its
        // grace again, and a lost tail would never be due.
        match self.holes.last_mut().filter(|hole| hole.next == end && !hole.reported) {
            Some(tail) => tail.next = next,
            None => self.open(next, at, None),
        }
        self.next = next;
        self.last = None;
        (true, self.give_up())
    }

    fn open(&mut self, next: i64, since: TimestampMicros, right: Option<Sha256>) {
        let (first, left) = (self.next, self.last);
        self.holes.push(Hole { first, next, since, reported: false, left, right });
    }

    fn fill(&mut self, link: Link) -> Placement {
        // A hole that is split moves those above it.
        walked(self.holes.len());
        // Holes are disjoint and ascending, so that one search finds the only hole that can hold the number.
        let index = self.holes.partition_point(|hole| hole.next <= link.seq);
        let Some(hole) = self.holes.get(index).filter(|hole| hole.first <= link.seq).cloned() else {
            return Placement::Seen;
        };
        let after = link.seq + 1;
        // Only neighbours that are there can be compared; inside a wide hole both sides are still unknown.
        let broken = (link.seq == hole.first && differ(hole.left, link.prev))
            || (after == hole.next && differ(Some(link.digest), hole.right));
        let lower = Hole { next: link.seq, right: link.prev, ..hole.clone() };
        // The parts keep `since` and `reported`: what was reported is not reported again, what waits does not wait
        // longer.
        let upper = Hole { first: after, left: Some(link.digest), ..hole.clone() };
        let parts = [lower, upper].into_iter().filter(|part| part.first < part.next);
        self.holes.splice(index..=index, parts);
        // Filled up to the top: the next event continues from this digest.
        if after == self.next {
            self.last = Some(link.digest);
        }
        Placement::New { broken, filled: hole.reported, given_up: self.give_up() }
    }

    fn give_up(&mut self) -> Option<Range> {
        if self.holes.len() <= HOLES_MAX {
            return None;
        }
        walked(self.holes.len());
        // The lowest is the oldest and the least likely to be filled. 256 holes of two digests are about 60 KiB of
        // JSON in one state entry.
        let hole = self.holes.remove(0);
        self.given_up = self.given_up.saturating_add(hole.next.saturating_sub(hole.first));
        (!hole.reported).then_some((hole.first, hole.next))
    }

    /// Everything below is there or has been reported missing: order can be judged up to here.
    pub(super) fn judged(&self) -> i64 {
        walked(self.holes.len());
        self.holes.iter().find(|hole| !hole.reported).map_or(self.next, |hole| hole.first)
    }

    /// Holes to report now: those that opened at or before `opened`; marks them reported.
    pub(super) fn report(&mut self, opened: TimestampMicros) -> Vec<Range> {
        walked(self.holes.len());
        let due = self.holes.iter_mut().filter(|hole| !hole.reported && hole.since <= opened);
        due.map(|hole| {
            hole.reported = true;
            (hole.first, hole.next)
        })
        .collect()
    }

    /// Whether every number below `next` was seen.
    pub(super) fn is_whole(&self) -> bool {
        self.holes.is_empty() && self.given_up == 0
    }

    /// How many numbers from `first` on were seen.
    pub(super) fn seen_from(&self, first: i64) -> i64 {
        walked(self.holes.len());
        let missing = self.holes.iter().map(|hole| hole.next.saturating_sub(hole.first.max(first)).max(0));
        self.next.saturating_sub(first).saturating_sub(missing.fold(0, i64::saturating_add)).max(0)
    }
}
