//! The order around tool calls: attempt, decision, approval, completion.
//!
//! Facts come in order of their sequence number (the session sees to that), so a missing attempt is
//! missing and not merely late. It does not evaluate policies, and it compares digests without
//! knowing what they cover.

use std::collections::{BTreeMap, BTreeSet};

use schemas::event::{CleanEvent, Event, PolicyDecision};
use schemas::id::{Sha256, Uuid};
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use crate::steps::walked;

/// Most calls of one session that are remembered; the one touched longest ago is forgotten.
pub(super) const CALLS_MAX: usize = 64;
/// Most decisions of one call whose ids are remembered.
const DECISIONS_MAX: usize = 8;

/// A producer's string as a fixed-size name. Long enough that nobody can make two collide.
type Tag = Uuid;

fn tag(text: &str) -> Option<Tag> {
    (!text.is_empty()).then(|| Uuid::derive(&[text.as_bytes()]))
}

/// What an event says about a tool call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum CallFact {
    Attempted {
        call: Tag,
        digest: Option<Sha256>,
        needs_decision: bool,
    },
    Decided {
        call: Tag,
        decision: Option<Tag>,
        denied: bool,
        asks: bool,
    },
    Asked {
        call: Tag,
        approval: Tag,
        digest: Option<Sha256>,
        context: Option<Sha256>,
        expires_at: Option<TimestampMicros>,
        by: Option<Tag>,
    },
    Answered {
        approval: Tag,
        given: bool,
        /// Whether the approver changed the action.
        edit: bool,
        edited: Option<Sha256>,
        context: Option<Sha256>,
        at: TimestampMicros,
        by: Option<Tag>,
        authenticated: bool,
    },
    Completed {
        call: Tag,
        decision: Option<Tag>,
        executed: bool,
    },
}

impl CallFact {
    /// What `event` says; `None` for an event that is not about a tool call.
    pub(super) fn of(event: &CleanEvent, decision_required: &BTreeSet<String>) -> Option<Self> {
        match event {
            Event::ToolCallAttempted(e) => Some(Self::Attempted {
                call: tag(&e.tool_call_id)?,
                digest: e.action_digest,
                needs_decision: decision_required.contains(&e.side_effect_class),
            }),
            Event::PolicyDecision(e) => Self::of_decision(e),
            Event::ApprovalRequested(e) => Some(Self::Asked {
                call: tag(&e.tool_call_id)?,
                approval: tag(&e.approval_id)?,
                digest: e.action_digest,
                context: e.context_digest,
                expires_at: e.expires_at,
                by: tag(&e.h.principal.id),
            }),
            Event::ApprovalDecided(e) => Some(Self::Answered {
                approval: tag(&e.approval_id)?,
                given: e.decision == "approve" || e.decision == "edit",
                edit: e.decision == "edit",
                edited: e.edited_action_digest,
                context: e.context_digest_seen,
                // The time of the decision where it is stated: an answer that is only delivered late was not too
                // late.
                at: e.decided_at.unwrap_or(e.h.event_time),
                by: tag(&e.approver.id),
                authenticated: !e.approver.auth_method.is_empty(),
            }),
            Event::ToolCallCompleted(e) => Some(Self::Completed {
                call: tag(&e.tool_call_id)?,
                decision: tag(&e.decision_id),
                executed: e.status != "denied" && e.status != "cancelled",
            }),
            _ => None,
        }
    }

    fn of_decision(e: &PolicyDecision) -> Option<Self> {
        // A policy that only observes blocks nothing, so that completing against it is no breach.
        let enforced = e.enforcement_mode != "observe";
        let call = tag(&e.subject_id).filter(|_| e.subject_kind == "tool_call")?;
        let (denied, asks) = (enforced && e.effect == "DENY", enforced && e.effect == "REQUIRE_APPROVAL");
        Some(Self::Decided { call, decision: tag(&e.decision_id), denied, asks })
    }
}

/// A breach of the order: the finding's kind and the sentence that says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) kind: &'static str,
    pub(super) why: &'static str,
}

const fn problem(kind: &'static str, why: &'static str) -> Problem {
    Problem { kind, why }
}

/// What is known of one call. Numbers are sequence numbers of its session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Call {
    touched: i64,
    attempted: Option<i64>,
    completed: Option<i64>,
    digest: Option<Sha256>,
    needs_decision: bool,
    decisions: Vec<Option<Tag>>,
    denied: bool,
    asks: bool,
    approval: Option<Tag>,
    asked_digest: Option<Sha256>,
    asked_context: Option<Sha256>,
    expires_at: Option<TimestampMicros>,
    asked_by: Option<Tag>,
    approved: bool,
    /// Whether another action was approved than the one that was asked for.
    edited: bool,
    approved_digest: Option<Sha256>,
    digest_reported: bool,
}

/// The calls of one session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Calls {
    calls: BTreeMap<Tag, Call>,
    changed: BTreeSet<Tag>,
}

impl Calls {
    /// Takes a fact in; returns what is wrong with it.
    pub(super) fn apply(&mut self, seq: i64, fact: &CallFact) -> Vec<Problem> {
        let tag = match fact {
            CallFact::Attempted { call, .. }
            | CallFact::Decided { call, .. }
            | CallFact::Asked { call, .. }
            | CallFact::Completed { call, .. } => *call,
            CallFact::Answered { approval, .. } => {
                walked(self.calls.len());
                // An answer names its approval and not its call: at most 64 calls are looked through.
                let asked = self.calls.iter().find(|(_, call)| call.approval == Some(*approval));
                // Of a call that was forgotten, or that never asked here: there is nothing to compare it with.
                let Some((tag, _)) = asked else { return Vec::new() };
                *tag
            }
        };
        let call = self.calls.entry(tag).or_default();
        // Best-effort events come in any order; a late one must not make its call the oldest.
        call.touched = call.touched.max(seq);
        self.changed.insert(tag);
        let problems = call.apply(seq, fact);
        self.forget();
        problems
    }

    fn forget(&mut self) {
        if self.calls.len() <= CALLS_MAX {
            return;
        }
        walked(self.calls.len());
        // The tag decides between equals: nothing but the log may decide what is forgotten (I6).
        let oldest = self.calls.iter().min_by_key(|(tag, call)| (call.touched, **tag)).map(|(tag, _)| *tag);
        if let Some(tag) = oldest {
            self.calls.remove(&tag);
            self.changed.insert(tag);
        }
    }

    /// Tags of calls that changed since the last call, with their entries; `None` is forgotten.
    pub(super) fn take_changes(&mut self) -> Vec<(Uuid, Option<bytes::Bytes>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|tag| (tag, self.calls.get(&tag).map(super::key::json))).collect()
    }

    /// Tags, for deleting all of them.
    pub(super) fn tags(&self) -> impl Iterator<Item = Uuid> {
        self.calls.keys().chain(&self.changed).copied()
    }

    /// Loads one call.
    pub(super) fn load(&mut self, tag: Uuid, value: &[u8]) -> Result<(), String> {
        self.calls.insert(tag, super::key::from_json(value)?);
        Ok(())
    }
}

impl Call {
    fn apply(&mut self, seq: i64, fact: &CallFact) -> Vec<Problem> {
        match fact {
            CallFact::Attempted { digest, needs_decision, .. } => {
                self.attempted = Some(self.attempted.map_or(seq, |first| first.min(seq)));
                (self.digest, self.needs_decision) = (*digest, *needs_decision);
                // A new attempt is decided again: an earlier denial does not outlive the action that it denied.
                (self.denied, self.asks) = (false, false);
                self.digest_problem().into_iter().collect()
            }
            CallFact::Decided { decision, denied, asks, .. } => self.decided(seq, *decision, *denied, *asks),
            CallFact::Asked { approval, digest, context, expires_at, by, .. } => {
                self.approval = Some(*approval);
                (self.asked_digest, self.asked_context) = (*digest, *context);
                (self.expires_at, self.asked_by) = (*expires_at, *by);
                // A second request withdraws the first: its approval may not serve for what is asked now.
                (self.approved, self.edited, self.approved_digest) = (false, false, None);
                Vec::new()
            }
            CallFact::Answered { .. } => self.answered(fact),
            CallFact::Completed { decision, executed, .. } => self.completed(seq, *decision, *executed),
        }
    }

    fn decided(&mut self, seq: i64, decision: Option<Tag>, denied: bool, asks: bool) -> Vec<Problem> {
        // Bounds the entry. A completion that names the ninth decision of its call is reported as under none that is
        // in evidence.
        if self.decisions.len() < DECISIONS_MAX {
            self.decisions.push(decision);
        }
        self.denied |= denied;
        self.asks |= asks;
        let after = self.completed.is_some_and(|completed| completed < seq);
        let why = "a policy decided on a tool call that had completed before";
        after.then(|| problem("decision_after_completion", why)).into_iter().collect()
    }

    fn answered(&mut self, fact: &CallFact) -> Vec<Problem> {
        let CallFact::Answered { given, edit, edited, context, at, by, authenticated, .. } = fact else {
            return Vec::new();
        };
        // An edit approves the action as the approver changed it, everything else the one that was asked for.
        let digest = if *edit { *edited } else { self.asked_digest };
        (self.approved, self.edited, self.approved_digest) = (*given, *edit, digest.filter(|_| *given));
        let checks = [
            (
                self.expires_at.is_some_and(|expires_at| *at > expires_at),
                problem("approval_expired", "an approval was decided after it had expired"),
            ),
            (
                self.asked_context.zip(*context).is_some_and(|(asked, seen)| asked != seen),
                problem("approval_digest_mismatch", "the approver saw another context than the one that was sent"),
            ),
            (
                !authenticated,
                problem("approver_unauthenticated", "an approval does not say how its approver was authenticated"),
            ),
            (
                // Two unknown principals are not the same one.
                self.asked_by.is_some() && self.asked_by == *by,
                problem("approver_is_requester", "an approval was decided by the principal who asked for it"),
            ),
        ];
        let found = checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, problem)| problem);
        found.chain(self.digest_problem()).collect()
    }

    /// What was approved against what was attempted: once per call.
    fn digest_problem(&mut self) -> Option<Problem> {
        let differs = self.approved_digest.zip(self.digest).is_some_and(|(approved, tried)| approved != tried);
        // An edit is only a breach once the call completes without a new attempt.
        if !differs || self.digest_reported || (self.edited && self.completed.is_none()) {
            return None;
        }
        self.digest_reported = true;
        Some(problem("approval_digest_mismatch", "the approved action is not the attempted one"))
    }

    fn completed(&mut self, seq: i64, decision: Option<Tag>, executed: bool) -> Vec<Problem> {
        self.completed = Some(self.completed.map_or(seq, |first| first.min(seq)));
        // Strictly before: no two events of a session share a number.
        let attempted = self.attempted.is_some_and(|attempted| attempted < seq);
        let unattempted = problem("completion_without_attempt", "a tool call completed that had not been attempted");
        let without = |why| problem("completion_without_decision", why);
        // One finding a call: the first that holds, the most basic first. Without any decision, a denial or a missing
        // approval cannot be spoken of.
        let undecided = if !executed {
            None
        } else if self.decisions.is_empty() {
            (self.needs_decision || decision.is_some())
                .then(|| without("a tool call completed without a policy decision before it"))
        } else if decision.is_some() && !self.decisions.contains(&decision) {
            Some(without("a tool call completed under a policy decision that is not in evidence"))
        } else if self.denied {
            Some(without("a tool call completed although a policy denied it"))
        } else if self.asks && !self.approved {
            Some(without("a tool call completed without the approval that a policy asked for"))
        } else {
            None
        };
        let digest = if executed { self.digest_problem() } else { None };
        (!attempted).then_some(unattempted).into_iter().chain(undecided).chain(digest).collect()
    }
}
