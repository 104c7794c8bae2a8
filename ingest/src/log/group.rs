//! Who reads which partition: the membership of one consumer group as a pure state machine.
//!
//! Members in sorted order get contiguous ranges, as Kafka's range assignor gives. A partition moves
//! cooperatively: its owner is notified, finishes, polls again, and only then does the next owner get it.
//! It performs no I/O and has no clock: a member that stops polling keeps its partitions until it is
//! dropped or expelled.

use std::collections::BTreeMap;
use std::ops::Range;

/// Another handle joined under the same instance name, or the member was removed: this handle is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// A change of the assignment that a member has yet to handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MembershipChange {
    /// Finish these; they are released when the member polls again.
    Revoke(Vec<u32>),
    /// These were lost.
    Lose(Vec<u32>),
    /// These are assigned to the member.
    Assign(Vec<u32>),
    /// Nothing changed.
    Nothing,
}

#[derive(Debug, Default)]
struct Member {
    incarnation: u64,
    /// Revocation was reported; released at the next poll.
    handing_over: Vec<u32>,
    /// Lost, and not reported yet.
    lost: Vec<u32>,
    /// Revoke everything once, at the next poll.
    revoke_all: bool,
    /// Expelled: owns nothing until it polls again.
    absent: bool,
}

#[derive(Debug)]
struct Owner {
    incarnation: u64,
    /// Commits in flight; no other member may take the partition before they end.
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

    /// Adds a member; an older one of the same instance is fenced at once.
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

    /// Takes everything from a member, as a session timeout does; it is notified at its next poll.
    pub(super) fn expel(&mut self, instance: &str) {
        let Some(member) = self.members.get_mut(instance) else { return };
        let owned = self.owners.iter().filter(|(_, o)| o.incarnation == member.incarnation);
        member.lost = owned.map(|(p, _)| *p).collect();
        member.absent = true;
        member.handing_over.clear();
    }

    /// Revokes everything from a member in an orderly way, at its next poll.
    pub(super) fn revoke(&mut self, instance: &str) {
        if let Some(member) = self.members.get_mut(instance) {
            member.revoke_all = true;
        }
    }

    /// The next change for the member.
    pub(super) fn poll(&mut self, instance: &str, incarnation: u64) -> Result<MembershipChange, Gone> {
        let target = self.target(instance, true);
        let member = self.members.get_mut(instance).filter(|m| m.incarnation == incarnation).ok_or(Gone)?;
        if member.absent {
            // A commit of this member is still in flight and may take effect: others must not get the
            // partition before it has ended.
            if self.owners.values().any(|o| o.incarnation == incarnation && o.leases > 0) {
                return Ok(MembershipChange::Nothing);
            }
            member.absent = false;
            self.owners.retain(|_, o| o.incarnation != incarnation);
            let lost = std::mem::take(&mut member.lost);
            if !lost.is_empty() {
                return Ok(MembershipChange::Lose(lost));
            }
        }
        // The poll itself says that the member has finished with what was revoked from it at the poll before.
        for partition in std::mem::take(&mut member.handing_over) {
            self.owners.remove(&partition);
        }
        let owned = self.owners.iter().filter(|(_, o)| o.incarnation == incarnation).map(|(p, _)| *p);
        let all = std::mem::take(&mut member.revoke_all);
        let leaving: Vec<u32> = owned.filter(|p| all || !target.contains(p)).collect();
        if !leaving.is_empty() {
            // Still owned: the member may commit once more before it polls again.
            member.handing_over.clone_from(&leaving);
            return Ok(MembershipChange::Revoke(leaving));
        }
        // Only what no other member holds: a partition whose owner has not polled yet is assigned at a later
        // poll, as in Kafka's cooperative rebalance.
        let free: Vec<u32> = target.filter(|p| self.is_free(*p, incarnation)).collect();
        for partition in &free {
            self.owners.insert(*partition, Owner { incarnation, leases: 0 });
        }
        Ok(if free.is_empty() { MembershipChange::Nothing } else { MembershipChange::Assign(free) })
    }

    /// Starts a commit: while it runs, no other member gets the partition.
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
        // An expelled member is counted only for itself: for the others it has left, and for itself it rejoins
        // with this poll.
        let counted = |(name, m): &(&String, &Member)| !m.absent || (present && name.as_str() == instance);
        let names: Vec<&str> = self.members.iter().filter(counted).map(|(n, _)| n.as_str()).collect();
        match names.iter().position(|n| *n == instance) {
            Some(index) => range_of(index, names.len(), self.partitions),
            None => 0..0,
        }
    }

    /// Free: without an owner, or owned by a removed or expelled member without a commit in flight.
    fn is_free(&self, partition: u32, asking: u64) -> bool {
        let Some(owner) = self.owners.get(&partition) else { return true };
        let alive = self.members.values().any(|m| m.incarnation == owner.incarnation && !m.absent);
        owner.incarnation != asking && !alive && owner.leases == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(group: &mut Group, name: &str, id: u64) -> Vec<MembershipChange> {
        let changes = std::iter::from_fn(|| match group.poll(name, id) {
            Ok(MembershipChange::Nothing) | Err(Gone) => None,
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
        assert_eq!(settle(&mut group, "a", a), [MembershipChange::Assign(vec![0, 1, 2, 3])]);
        let b = group.join("b");
        assert_eq!(group.poll("b", b), Ok(MembershipChange::Nothing));
        assert_eq!(group.poll("a", a), Ok(MembershipChange::Revoke(vec![2, 3])));
        assert_eq!(group.poll("b", b), Ok(MembershipChange::Nothing));
        assert_eq!(group.lease("a", a, 2), Ok(()), "the owner may finish the step in flight");
        group.release(a, 2);
        assert_eq!(group.poll("a", a), Ok(MembershipChange::Nothing));
        assert_eq!(settle(&mut group, "b", b), [MembershipChange::Assign(vec![2, 3])]);
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
        assert_eq!(group.poll("a", new), Ok(MembershipChange::Nothing));
        group.release(old, 0);
        assert_eq!(group.poll("a", new), Ok(MembershipChange::Assign(vec![0])));
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
        assert_eq!(group.poll("b", b), Ok(MembershipChange::Assign(vec![0])));
        assert_eq!(group.poll("a", a), Ok(MembershipChange::Lose(vec![0])));
        assert_eq!(group.poll("b", b), Ok(MembershipChange::Revoke(vec![0])));
        assert_eq!(group.poll("b", b), Ok(MembershipChange::Nothing));
        assert_eq!(group.poll("a", a), Ok(MembershipChange::Assign(vec![0])));
    }
}
