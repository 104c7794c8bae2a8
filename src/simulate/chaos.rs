//! What goes wrong, when: one seeded stream of rulings over every operation of every role.
//!
//! A role asks before each operation; the ruling is to continue, to fail, to lose the answer, to crash or to
//! stand still while a successor takes over. The same seed and the same questions give the same rulings.
//! Once a role asks otherwise than it did, a seed means something else; a [`Planned`] fault names its place
//! and happens there whatever is asked elsewhere.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// An operation that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Next event of the log.
    Read,
    /// State, position or bounds of a partition, or a seek.
    Ask,
    /// A step.
    Commit,
    /// A position.
    CommitOffset,
    /// A create-only PUT.
    Put,
    /// A GET or a listing.
    Get,
    /// An insert.
    Insert,
}

/// What goes wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The process dies before the operation has had an effect.
    CrashBefore,
    /// The process dies after it.
    CrashAfter,
    /// It fails without effect and may be repeated.
    Refused,
    /// It fails without effect and the step is void.
    Aborted,
    /// It takes effect; its answer does not arrive.
    AnswerLost,
    /// A fetch brings fewer records than there are.
    Short,
    /// Only its first part takes effect, and it fails.
    Partial,
    /// The store says that the object exists, though it does not (S3's 409).
    Conflict,
    /// The process stands still, a successor takes over, and then it resumes.
    Stalled,
    /// The group takes the partitions back in good order.
    Revoked,
    /// The group takes the partitions away at once.
    Expelled,
}

impl Operation {
    /// What can go wrong with it.
    pub const fn faults(self) -> &'static [FaultKind] {
        use FaultKind as F;
        match self {
            Self::Read => &[F::CrashBefore, F::Refused, F::Short, F::Stalled, F::Revoked, F::Expelled],
            Self::Ask => &[F::CrashBefore, F::Refused],
            Self::Commit => {
                &[F::CrashBefore, F::CrashAfter, F::Refused, F::Aborted, F::AnswerLost, F::Stalled, F::Expelled]
            }
            Self::CommitOffset => &[F::CrashBefore, F::CrashAfter, F::Refused, F::AnswerLost, F::Stalled, F::Expelled],
            Self::Put => &[F::CrashBefore, F::CrashAfter, F::Refused, F::AnswerLost, F::Conflict, F::Stalled],
            Self::Get => &[F::CrashBefore, F::Refused],
            Self::Insert => &[F::CrashBefore, F::CrashAfter, F::Refused, F::AnswerLost, F::Partial, F::Stalled],
        }
    }

    /// How common it is against an insert: what is common fails more rarely, so that the faults of a run
    /// are spread over all operations.
    const fn commonness(self) -> u32 {
        match self {
            Self::Read | Self::Ask => 8,
            Self::Get => 4,
            Self::Commit => 2,
            Self::CommitOffset | Self::Put | Self::Insert => 1,
        }
    }

    /// Every operation.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Ask, Self::Commit, Self::CommitOffset, Self::Put, Self::Get, Self::Insert];
}

/// How often each fault happened.
pub type Fired = BTreeMap<(Operation, FaultKind), u64>;

/// A fault at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Role, as the supervisor names it.
    pub role: &'static str,
    /// Operation.
    pub operation: Operation,
    /// Part of the object's key for the store, of the topic that the role reads for the log and the tables.
    pub at: &'static str,
    /// Such operations at such a place that pass before.
    pub after: u32,
    /// What goes wrong. A role that stands still wakes up when its successor has done its work.
    pub fault: FaultKind,
}

/// One life of a role's process.
#[derive(Debug, Default)]
pub struct Attempt {
    /// It died.
    pub crashed: Notify,
    /// It stands still.
    pub stalled: Notify,
    is_crashed: AtomicBool,
    release: Notify,
}

impl Attempt {
    /// Lets a process that stands still resume.
    pub fn release(&self) {
        self.release.notify_one();
    }
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    /// One operation in `rarity` goes wrong, times its [`Operation::commonness`].
    rarity: u32,
    faults_left: u32,
    fired: Fired,
    /// Processes that stand still, each with the operations that others do meanwhile.
    sleepers: Vec<(u32, Arc<Attempt>)>,
    /// Whether a script rules and not the seed.
    is_scripted: bool,
    /// Faults of the script that are still to come.
    script: Vec<Planned>,
}

/// The rulings of one run; clones share them.
#[derive(Debug, Clone)]
pub struct Chaos(Arc<Mutex<State>>);

impl Chaos {
    /// Rulings from a seed, at most `faults_max` of them faults; few seeds have none.
    pub fn new(seed: u64, faults_max: u32) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x9e37_79b9_7f4a_7c15);
        // Drawn per run: some runs fail at every other operation, some nearly never, since faults that meet differ
        // from faults alone.
        let rarity = rng.u32(2..20);
        let faults_left = rng.u32(0..=faults_max);
        let (fired, sleepers, script) = (Fired::new(), Vec::new(), Vec::new());
        let state = State { rng, rarity, faults_left, fired, sleepers, is_scripted: false, script };
        Self(Arc::new(Mutex::new(state)))
    }

    /// These faults and no others.
    #[cfg(test)]
    pub(super) fn scripted(script: &[Planned]) -> Self {
        let chaos = Self::new(0, 0);
        {
            let mut state = chaos.lock();
            (state.is_scripted, state.script) = (true, script.to_vec());
        }
        chaos
    }

    /// Faults of the script that have not happened.
    #[cfg(test)]
    pub(super) fn outstanding(&self) -> Vec<Planned> {
        self.lock().script.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every ruling leaves the state whole, so a panic elsewhere cannot have torn it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `end`, for choices that are no faults.
    pub fn draw(&self, end: u32) -> u32 {
        self.lock().rng.u32(0..end.max(1))
    }

    /// What happened so far.
    pub fn fired(&self) -> Fired {
        self.lock().fired.clone()
    }

    /// The gate of one life of a role.
    pub fn gate(&self, role: &'static str, attempt: Arc<Attempt>) -> Gate {
        Gate { chaos: self.clone(), role, attempt }
    }

    fn rule(&self, role: &str, operation: Operation, at: &str) -> Option<FaultKind> {
        let mut state = self.lock();
        // Time for a process that stands still is the operations of others: it wakes in the middle of its successor's
        // work, wherever that is.
        state.sleepers.retain_mut(|(left, attempt)| {
            *left = left.saturating_sub(1);
            if *left == 0 {
                attempt.release();
            }
            *left > 0
        });
        if let Some(fault) = state.planned(role, operation, at) {
            *state.fired.entry((operation, fault)).or_default() += 1;
            return Some(fault);
        }
        let rarity = state.rarity * operation.commonness();
        // Bounded, so that every role gets to its end at last (promise 6).
        if state.faults_left == 0 || state.rng.u32(0..rarity) != 0 {
            return None;
        }
        let kinds = operation.faults();
        let index = state.rng.usize(0..kinds.len());
        let kind = kinds.get(index).copied()?;
        state.faults_left -= 1;
        *state.fired.entry((operation, kind)).or_default() += 1;
        Some(kind)
    }

    fn sleep(&self, attempt: &Arc<Attempt>) {
        let mut state = self.lock();
        if state.is_scripted {
            return;
        }
        let operations = state.rng.u32(1..200);
        state.sleepers.push((operations, Arc::clone(attempt)));
    }
}

impl State {
    /// The first fault of the script at this place, once what passes before it has passed.
    fn planned(&mut self, role: &str, operation: Operation, at: &str) -> Option<FaultKind> {
        let is_here = |p: &Planned| p.role == role && p.operation == operation && at.contains(p.at);
        let index = self.script.iter().position(is_here)?;
        let planned = self.script.get_mut(index)?;
        if planned.after > 0 {
            planned.after -= 1;
            return None;
        }
        Some(self.script.remove(index).fault)
    }
}

/// What a role asks before every operation.
#[derive(Debug, Clone)]
pub struct Gate {
    chaos: Chaos,
    role: &'static str,
    attempt: Arc<Attempt>,
}

impl Gate {
    /// The fault to carry out, if any. A crash before the operation and a standstill are carried out
    /// here: the first never returns, the second returns late, to continue as if nothing had happened.
    ///
    /// `at` is the object's key, or the topic that the role reads.
    pub async fn pass(&self, operation: Operation, at: &str) -> Option<FaultKind> {
        match self.chaos.rule(self.role, operation, at)? {
            FaultKind::CrashBefore => {
                self.crash().await;
                None
            }
            FaultKind::Stalled => {
                self.chaos.sleep(&self.attempt);
                // First the supervisor learns of it and starts a successor; then this life waits.
                self.attempt.stalled.notify_one();
                self.attempt.release.notified().await;
                None
            }
            fault => Some(fault),
        }
    }

    /// A number below `end`, for the size of a fault.
    pub fn draw(&self, end: u32) -> u32 {
        self.chaos.draw(end)
    }

    /// Whether this life has ended in a crash.
    pub fn is_crashed(&self) -> bool {
        self.attempt.is_crashed.load(Ordering::SeqCst)
    }

    /// Dies: this future never completes.
    pub async fn crash(&self) {
        // Before the notice: whoever drops the role asks whether it died.
        self.attempt.is_crashed.store(true, Ordering::SeqCst);
        self.attempt.crashed.notify_one();
        // A dead process returns nothing. The supervisor aborts the task at this point, and destructors ask
        // `is_crashed`.
        std::future::pending::<()>().await;
    }
}
