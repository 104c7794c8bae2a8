//! What breaks in a round: decided by seed and round alone, so that a round can be repeated.

use std::fmt;

/// A role's process: its name in reports, its arguments, and the fault points that it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) arguments: &'static [&'static str],
    points: &'static [&'static str],
}

const STAGE: &[&str] = &["stage.begun", "stage.records_sent", "stage.offsets_sent", "stage.committed"];

/// Every role.
pub(crate) const TARGETS: [Target; 6] = [
    Target { arguments: &["gateway"], points: &["intake.appended"] },
    Target { arguments: &["process", "pii"], points: STAGE },
    Target { arguments: &["process", "completeness"], points: STAGE },
    Target { arguments: &["process", "anomaly"], points: STAGE },
    Target { arguments: &["archive"], points: &["archive.sealed", "archive.object_put", "archive.manifest_put"] },
    Target { arguments: &["load"], points: &["load.intent_committed", "load.table_inserted", "load.inserted"] },
];

/// The client's point; a client is a process of its own each round.
pub(crate) const SEND: &str = "send.acknowledged";

/// What breaks outside the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outside {
    /// A broker is killed and started again.
    BrokerKilled,
    /// A broker is stopped in order and started again.
    BrokerStopped,
    /// A broker hears nothing for longer than a request waits.
    BrokerFrozen,
    /// The engine is killed and started again.
    ClickHouseKilled,
    /// The S3 server is killed and started again.
    StoreKilled,
    /// Connections to ClickHouse and the store end before the request is heard.
    RequestsCut,
    /// They end before the answer is.
    AnswersLost,
    /// Answers come late.
    AnswersDelayed,
    /// Connections to the brokers end in order.
    LogCut,
    /// They are reset.
    LogReset,
    /// They end in the middle of a request.
    LogHalved,
    /// They end when a transaction's end is answered: it is committed or aborted, and its producer not told.
    CommitAnswersLost,
    /// They end when an append is answered.
    AppendAnswersLost,
    /// Everything between the roles and the brokers comes late.
    LogDelayed,
    /// Nothing comes for longer than a session lasts, and then all of it.
    LogSilent,
    /// The store's disk is full.
    StoreFull,
    /// A broker's disk is full.
    BrokerFull,
    /// A client's disk is full.
    SpoolFull,
    /// Every role's group gives its members up, again and again.
    GivenUp,
    /// A role is frozen past its session, another instance takes over, and the first wakes up.
    Zombie,
}

impl Outside {
    /// Slow ones apart from each other; the first come twice in the short series.
    pub(crate) const ALL: [Self; 20] = [
        Self::CommitAnswersLost,
        Self::LogReset,
        Self::StoreFull,
        Self::AnswersLost,
        Self::LogCut,
        Self::BrokerKilled,
        Self::StoreKilled,
        Self::LogHalved,
        Self::BrokerFrozen,
        Self::AppendAnswersLost,
        Self::RequestsCut,
        Self::BrokerFull,
        Self::SpoolFull,
        Self::LogDelayed,
        Self::LogSilent,
        Self::ClickHouseKilled,
        Self::AnswersDelayed,
        Self::BrokerStopped,
        Self::Zombie,
        Self::GivenUp,
    ];

    /// Those that want a disk of their own to fill.
    const OF_FULL_DISKS: [Self; 3] = [Self::StoreFull, Self::BrokerFull, Self::SpoolFull];

    /// Without kinds that want a disk to fill.
    pub(crate) fn without_full_disks(mut kinds: Vec<Self>) -> Vec<Self> {
        kinds.retain(|kind| !Self::OF_FULL_DISKS.contains(kind));
        kinds
    }

    /// The kind of a name, or every kind without one.
    pub(crate) fn named(name: Option<String>) -> Vec<Self> {
        let Some(name) = name else { return Self::ALL.to_vec() };
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        vec![kind.unwrap_or_else(|| panic!("{name:?} is none of {:?}", Self::ALL.map(Self::name)))]
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BrokerKilled => "broker killed",
            Self::BrokerStopped => "broker stopped",
            Self::BrokerFrozen => "broker frozen",
            Self::ClickHouseKilled => "clickhouse killed",
            Self::StoreKilled => "store killed",
            Self::RequestsCut => "requests cut",
            Self::AnswersLost => "answers lost",
            Self::AnswersDelayed => "answers delayed",
            Self::LogCut => "log connections cut",
            Self::LogReset => "log connections reset",
            Self::LogHalved => "log requests halved",
            Self::CommitAnswersLost => "commit answers lost",
            Self::AppendAnswersLost => "append answers lost",
            Self::LogDelayed => "log delayed",
            Self::LogSilent => "log silent",
            Self::StoreFull => "store full",
            Self::BrokerFull => "broker full",
            Self::SpoolFull => "spool full",
            Self::GivenUp => "members given up",
            Self::Zombie => "zombie",
        }
    }
}

/// Kinds of faults from outside in one round.
pub(crate) const OUTSIDE_PER_ROUND: usize = 3;

/// What breaks in one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// By role, in the order of [`TARGETS`]: point and passage.
    pub(crate) points: Vec<String>,
    /// The client's.
    pub(crate) send: String,
    /// In this order; a zombie comes last in any case.
    pub(crate) outside: Vec<Outside>,
    /// Which broker (1 to 3), where it is one.
    pub(crate) broker: u32,
    /// Which role freezes, where one does: an index of [`TARGETS`].
    pub(crate) zombie: usize,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outside: Vec<&str> = self.outside.iter().map(|kind| kind.name()).collect();
        let (points, zombie) = (self.points.join(" "), TARGETS[self.zombie].arguments.join(" "));
        write!(f, "{points} {}; {}; broker {}, {zombie}", self.send, outside.join(", "), self.broker)
    }
}

/// The plan of a round: kinds by turns, so that each comes equally often; passages by chance.
pub(crate) fn plan(seed: u64, round: u64, kinds: &[Outside]) -> Plan {
    let mut chance = fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round);
    let turn = usize::try_from(round).expect("few rounds");
    let mut armed = |point: &str| format!("{point}:{}", chance.u32(1..=3));
    let points =
        TARGETS.iter().enumerate().map(|(i, target)| armed(target.points[(turn + i) % target.points.len()])).collect();
    let send = armed(SEND);
    let in_turn = (turn * OUTSIDE_PER_ROUND..).take(OUTSIDE_PER_ROUND.min(kinds.len()));
    let outside = in_turn.map(|i| kinds[i % kinds.len()]).collect();
    // The gateway is no member of a group: nobody takes it over.
    Plan { points, send, outside, broker: chance.u32(1..=3), zombie: chance.usize(1..TARGETS.len()) }
}

#[test]
fn every_kind_of_fault_comes_by_turns() {
    let plans: Vec<Plan> = (0..crate::ROUNDS_SHORT).map(|round| plan(7, round, &Outside::ALL)).collect();
    let named: std::collections::BTreeSet<&str> =
        plans.iter().flat_map(|plan| &plan.points).filter_map(|point| point.split(':').next()).collect();
    let known = custody::fault::FAULT_POINTS.iter().copied().filter(|point| *point != SEND).collect();
    assert_eq!(named, known);
    assert!(Outside::ALL.iter().all(|kind| plans.iter().any(|plan| plan.outside.contains(kind))));
    assert_eq!(plan(7, 3, &Outside::ALL), plan(7, 3, &Outside::ALL));
}
