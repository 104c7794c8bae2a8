//! Who reads which partition: the membership of one consumer group as a pure state machine.
//!
//! Members in sorted order get contiguous ranges, as Kafka's range assignor gives. A partition moves
//! cooperatively: its owner is told, finishes, asks for the next event, and only then does the next
//! owner get it. It performs no I/O and knows no time: a member that never asks again keeps its
//! partitions until it is dropped or expelled.

use std::collections::BTreeMap;
use std::ops::Range;

/// The handle's instance was joined again or was removed: it may do nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// What a member must be told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Finish these; they are released when the member asks again.
    Revoke(Vec<u32>),
    /// These were taken away.
    Lose(Vec<u32>),
    /// These are the member's now.
    Assign(Vec<u32>),
    /// Nothing changed.
    Nothing,
}

#[derive(Debug, Default)]
struct Member {
    incarnation: u64,
    /// Told to be revoked; released at the next poll.
    handing_over: Vec<u32>,
    /// Taken away and not told yet.
    lost: Vec<u32>,
    /// Give everything up once, at the next poll.
    revoke_all: bool,
    /// Expelled: owns nothing until it polls again.
    absent: bool,
}

#[derive(Debug)]
struct Owner {
    incarnation: u64,
    /// Commits under way; nobody else may take the partition before they end.
    leases: u32,
}

/// A group on one topic.
#[derive(Debug)]
pub(super) struct Group {
    partitions: u32,
    members: BTreeMap<String, Member>,
    owners: BTreeMap<u32, Owner>,
    incarnations: u64,
}

/// The half-open range of partitions of the member at `index` of `members`.
fn range_of(index: usize, members: usize, partitions: u32) -> Range<u32> {
    let (index, members) = (index as u32, (members as u32).max(1));
    let (each, rest) = (partitions / members, partitions % members);
    let first = index * each + index.min(rest);
    first..first + each + u32::from(index < rest)
}

impl Group {
    pub(super) fn new(partitions: u32) -> Self {
        Self { partitions, members: BTreeMap::new(), owners: BTreeMap::new(), incarnations: 0 }
    }

    /// The topic has more partitions: the members share them too.
    pub(super) fn grow(&mut self, partitions: u32) {
        self.partitions = self.partitions.max(partitions);
    }

    /// Adds a member; an older one of the same instance is gone at once.
    pub(super) fn join(&mut self, instance: &str) -> u64 {
        self.incarnations += 1;
        let member = Member { incarnation: self.incarnations, ..Member::default() };
        self.members.insert(instance.to_owned(), member);
        self.incarnations
    }

    /// Removes a member and frees what it owned.
    pub(super) fn leave(&mut self, instance: &str, incarnation: u64) {
        if self.member(instance, incarnation).is_ok() {
            self.members.remove(instance);
        }
    }

    /// Takes everything from a member, as a session timeout does; it hears of it at its next poll.
    pub(super) fn expel(&mut self, instance: &str) {
        let Some(member) = self.members.get_mut(instance) else { return };
        let owned = self.owners.iter().filter(|(_, o)| o.incarnation == member.incarnation);
        member.lost = owned.map(|(p, _)| *p).collect();
        member.absent = true;
        member.handing_over.clear();
    }

    /// Makes a member give everything up in good order at its next poll.
    pub(super) fn revoke(&mut self, instance: &str) {
        if let Some(member) = self.members.get_mut(instance) {
            member.revoke_all = true;
        }
    }

    /// What the member hears next.
    pub(super) fn poll(&mut self, instance: &str, incarnation: u64) -> Result<Change, Gone> {
        let target = self.target(instance, true);
        let member = self.members.get_mut(instance).filter(|m| m.incarnation == incarnation).ok_or(Gone)?;
        if member.absent {
            if self.owners.values().any(|o| o.incarnation == incarnation && o.leases > 0) {
                return Ok(Change::Nothing);
            }
            member.absent = false;
            self.owners.retain(|_, o| o.incarnation != incarnation);
            let lost = std::mem::take(&mut member.lost);
            if !lost.is_empty() {
                return Ok(Change::Lose(lost));
            }
        }
        for partition in std::mem::take(&mut member.handing_over) {
            self.owners.remove(&partition);
        }
        let owned = self.owners.iter().filter(|(_, o)| o.incarnation == incarnation).map(|(p, _)| *p);
        let all = std::mem::take(&mut member.revoke_all);
        let leaving: Vec<u32> = owned.filter(|p| all || !target.contains(p)).collect();
        if !leaving.is_empty() {
            member.handing_over.clone_from(&leaving);
            return Ok(Change::Revoke(leaving));
        }
        let free: Vec<u32> = target.filter(|p| self.is_free(*p, incarnation)).collect();
        for partition in &free {
            self.owners.insert(*partition, Owner { incarnation, leases: 0 });
        }
        Ok(if free.is_empty() { Change::Nothing } else { Change::Assign(free) })
    }

    /// Starts a commit: while it runs, nobody else gets the partition.
    pub(super) fn lease(&mut self, instance: &str, incarnation: u64, partition: u32) -> Result<(), Gone> {
        if self.member(instance, incarnation)?.absent {
            return Err(Gone);
        }
        let owner = self.owners.get_mut(&partition).filter(|o| o.incarnation == incarnation).ok_or(Gone)?;
        owner.leases += 1;
        Ok(())
    }

    /// Ends a commit.
    pub(super) fn release(&mut self, incarnation: u64, partition: u32) {
        if let Some(owner) = self.owners.get_mut(&partition).filter(|o| o.incarnation == incarnation) {
            owner.leases = owner.leases.saturating_sub(1);
        }
    }

    /// Whether the member owns the partition now.
    pub(super) fn owns(&self, instance: &str, incarnation: u64, partition: u32) -> bool {
        self.member(instance, incarnation).is_ok_and(|m| !m.absent)
            && self.owners.get(&partition).is_some_and(|o| o.incarnation == incarnation)
    }

    fn member(&self, instance: &str, incarnation: u64) -> Result<&Member, Gone> {
        self.members.get(instance).filter(|m| m.incarnation == incarnation).ok_or(Gone)
    }

    /// The range that the member should own; `present` counts it in even while it is expelled.
    fn target(&self, instance: &str, present: bool) -> Range<u32> {
        let counted = |(name, m): &(&String, &Member)| !m.absent || (present && name.as_str() == instance);
        let names: Vec<&str> = self.members.iter().filter(counted).map(|(n, _)| n.as_str()).collect();
        match names.iter().position(|n| *n == instance) {
            Some(index) => range_of(index, names.len(), self.partitions),
            None => 0..0,
        }
    }

    /// Free: nobody's, or a gone or expelled member's without a commit under way.
    fn is_free(&self, partition: u32, asking: u64) -> bool {
        let Some(owner) = self.owners.get(&partition) else { return true };
        let alive = self.members.values().any(|m| m.incarnation == owner.incarnation && !m.absent);
        owner.incarnation != asking && !alive && owner.leases == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(group: &mut Group, name: &str, id: u64) -> Vec<Change> {
        let changes = std::iter::from_fn(|| match group.poll(name, id) {
            Ok(Change::Nothing) | Err(Gone) => None,
            Ok(change) => Some(change),
        });
        changes.take(9).collect()
    }

    #[test]
    fn ranges_are_contiguous_disjoint_and_complete() {
        for partitions in 0..20 {
            for members in 1..7 {
                let all: Vec<u32> = (0..members).flat_map(|i| range_of(i, members, partitions)).collect();
                assert_eq!(all, (0..partitions).collect::<Vec<_>>(), "{members} members");
            }
        }
    }

    #[test]
    fn a_partition_moves_only_after_its_owner_asked_again() {
        let mut group = Group::new(4);
        let a = group.join("a");
        assert_eq!(settle(&mut group, "a", a), [Change::Assign(vec![0, 1, 2, 3])]);
        let b = group.join("b");
        assert_eq!(group.poll("b", b), Ok(Change::Nothing));
        assert_eq!(group.poll("a", a), Ok(Change::Revoke(vec![2, 3])));
        assert_eq!(group.poll("b", b), Ok(Change::Nothing));
        assert_eq!(group.lease("a", a, 2), Ok(()), "the owner may finish what is in hand");
        group.release(a, 2);
        assert_eq!(group.poll("a", a), Ok(Change::Nothing));
        assert_eq!(settle(&mut group, "b", b), [Change::Assign(vec![2, 3])]);
        assert_eq!(group.lease("a", a, 2), Err(Gone));
    }

    #[test]
    fn a_successor_waits_for_a_commit_under_way() {
        let mut group = Group::new(1);
        let old = group.join("a");
        settle(&mut group, "a", old);
        assert_eq!(group.lease("a", old, 0), Ok(()));
        let new = group.join("a");
        assert_eq!(group.poll("a", old), Err(Gone));
        assert_eq!(group.poll("a", new), Ok(Change::Nothing));
        group.release(old, 0);
        assert_eq!(group.poll("a", new), Ok(Change::Assign(vec![0])));
        assert_eq!(group.lease("a", old, 0), Err(Gone));
    }

    #[test]
    fn an_expelled_member_loses_everything_and_may_come_back() {
        let mut group = Group::new(2);
        let (a, b) = (group.join("a"), group.join("b"));
        settle(&mut group, "a", a);
        settle(&mut group, "b", b);
        group.expel("a");
        assert_eq!(group.lease("a", a, 0), Err(Gone));
        assert_eq!(group.poll("b", b), Ok(Change::Assign(vec![0])));
        assert_eq!(group.poll("a", a), Ok(Change::Lose(vec![0])));
        assert_eq!(group.poll("b", b), Ok(Change::Revoke(vec![0])));
        assert_eq!(group.poll("b", b), Ok(Change::Nothing));
        assert_eq!(group.poll("a", a), Ok(Change::Assign(vec![0])));
    }
}
