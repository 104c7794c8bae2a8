//! The ledger of one session: what arrived, what is missing, whether it ended as it said.
//!
//! It reports each fact once and keeps a bounded memory; what it forgets it says so. Text of events
//! is not kept.

use std::collections::BTreeMap;

use schemas::event::{CleanEvent, Event, EventHeader, SessionEnded};
use schemas::id::Uuid;
use schemas::limits::EVENT_TIME_MS_MIN;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::CompletenessConfig;
use super::best_effort::{BestEffort, is_best_effort};
use super::calls::{CallFact, Calls};
use super::chain::{Chain, Link, Placement};
use super::finding::{Finding, Subject, label};
use super::seen::{Identity, Repeat, Seen};
use super::spans::{self, Range};
use crate::stage::Sourced;

/// Most facts that wait for earlier events; beyond it the lowest is judged without them.
const PENDING_MAX: usize = 256;
/// Most event types that are counted per session.
const TYPES_MAX: usize = 64;

/// What an event says that can only be judged once all earlier events are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fact {
    pub(super) event_id: Uuid,
    pub(super) event_type: u64,
    pub(super) call: Option<CallFact>,
}

/// What `session.ended` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    seq: i64,
    event_id: Uuid,
    event_count: i64,
    /// By hash of the type, ascending.
    counts: Vec<(u64, i64)>,
}

/// The part of a ledger that changes with every event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Head {
    agent: String,
    environment: String,
    chain: Chain,
    /// Log time of the last event, or of the last heartbeat that lists the session.
    pub(super) last_time: TimestampMicros,
    last_event_time: TimestampMicros,
    expected_steps: i64,
    template: String,
    template_step: usize,
    started: bool,
    end: Option<End>,
    /// By hash of the type, ascending; of events up to the end.
    counts: Vec<(u64, i64)>,
    counts_known: bool,
    pending: BTreeMap<i64, Fact>,
    pub(super) clock_reported: bool,
    closed: bool,
    unterminated: bool,
    /// Best-effort events so far; a repeat of one that is remembered is none.
    pub(super) best_effort: i64,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            agent: String::new(),
            environment: String::new(),
            chain: Chain::default(),
            last_time: TimestampMicros(i64::MIN),
            last_event_time: TimestampMicros(i64::MIN),
            expected_steps: -1,
            template: String::new(),
            template_step: 0,
            started: false,
            end: None,
            counts: Vec::new(),
            counts_known: true,
            pending: BTreeMap::new(),
            clock_reported: false,
            closed: false,
            unterminated: false,
            best_effort: 0,
        }
    }
}

/// What an event turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its `event_id` was seen before.
    pub(super) repeated_id: bool,
    /// It says nothing new about its writer: a redelivery.
    pub(super) redelivery: bool,
    /// It had been reported missing.
    pub(super) filled: bool,
}

/// The ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Session {
    pub(super) head: Head,
    pub(super) seen: Seen,
    pub(super) calls: Calls,
    pub(super) best_effort: BestEffort,
    /// Whether the head changed since it was last saved.
    pub(super) changed: bool,
}

/// FNV-1a, 64 bits: names an event type in a count. Colliding types only confuse the session that
/// uses both.
pub(super) fn type_hash(event_type: &str) -> u64 {
    event_type.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl Session {
    /// Whom its findings are about.
    pub(super) fn subject(&self, tenant: &str, id: Uuid) -> Subject {
        let Head { agent, environment, .. } = &self.head;
        Subject { tenant: tenant.to_owned(), agent: agent.clone(), environment: environment.clone(), session: id }
    }

    /// Takes an event of the session in.
    pub(super) fn take(
        &mut self,
        record: &Sourced<CleanEvent>,
        config: &CompletenessConfig,
        found: &mut Vec<Finding>,
    ) -> Taken {
        let h = record.value.h();
        if is_best_effort(h) {
            return self.take_best_effort(record, config, found);
        }
        let identity = Identity::of(h.event_id, &record.source.sha256);
        let prev = Some(h.prev_hash);
        let link = Link { seq: h.seq, digest: record.source.sha256, prev, at: record.broker_time };
        match self.head.chain.insert(link) {
            Placement::Seen => self.repeated(h, identity, found),
            Placement::New { broken, filled, given_up } => {
                self.changed = true;
                let repeated_id = self.seen.has_id(identity);
                if repeated_id {
                    found.push(equivocation(h));
                }
                if broken {
                    found.push(chain_broken(h, "names another digest than that of the event before it"));
                }
                self.seen.insert(h.seq, identity);
                self.accept(record, config, found);
                found.extend(given_up.map(|range| self.gap(&h.tenant_id, h.session_id, &[range])));
                Taken { repeated_id, redelivery: false, filled }
            }
        }
    }

    /// An event of the session: whom it is about, and that it is not silent.
    pub(super) fn meet(&mut self, h: &EventHeader, at: TimestampMicros) {
        if self.head.agent.is_empty() {
            self.head.agent.clone_from(&h.agent_id);
            self.head.environment.clone_from(&h.environment);
        }
        self.head.last_time = self.head.last_time.max(at);
    }

    fn repeated(&self, h: &EventHeader, identity: Identity, found: &mut Vec<Finding>) -> Taken {
        let repeat = self.seen.repeat(h.seq, identity);
        found.push(repeat_finding(h, repeat));
        let repeated_id = matches!(repeat, Repeat::Duplicate | Repeat::Equivocation);
        Taken { repeated_id, redelivery: repeat == Repeat::Duplicate, filled: false }
    }

    fn accept(&mut self, record: &Sourced<CleanEvent>, config: &CompletenessConfig, found: &mut Vec<Finding>) {
        let h = record.value.h();
        self.meet(h, record.broker_time);
        self.check_clock(record, config, found);
        if let Event::SessionStarted(started) = &record.value {
            self.head.started = true;
            self.head.expected_steps = started.expected_steps;
            if config.templates.contains_key(&started.template_id) {
                self.head.template.clone_from(&started.template_id);
            }
        }
        let event_type = type_hash(&h.event_type);
        self.count_type(h.seq, event_type);
        self.check_end(record, found);
        let call = CallFact::of(&record.value, &config.decision_required);
        if call.is_some() || !self.head.started || !self.head.template.is_empty() {
            let fact = Fact { event_id: h.event_id, event_type, call };
            match self.head.pending.is_empty() && h.seq < self.head.chain.judged() {
                true => self.judge_fact(&h.tenant_id, h.session_id, h.seq, &fact, config, found),
                false => _ = self.head.pending.insert(h.seq, fact),
            }
        }
        self.judge(&h.tenant_id, h.session_id, config, found);
    }

    fn check_clock(&mut self, record: &Sourced<CleanEvent>, config: &CompletenessConfig, found: &mut Vec<Finding>) {
        let h = record.value.h();
        let newest = h.seq + 1 == self.head.chain.next;
        let back = newest && h.event_time.plus_ms(config.clock_back_ms_max) < self.head.last_event_time;
        if newest {
            self.head.last_event_time = h.event_time;
        }
        let Some(why) = clock_problem(record, config).or(back.then_some("runs backwards within its session")) else {
            return;
        };
        if !self.head.clock_reported {
            self.head.clock_reported = true;
            found.push(clock_finding(h, why));
        }
    }

    fn count_type(&mut self, seq: i64, event_type: u64) {
        if self.head.end.as_ref().is_some_and(|end| seq > end.seq) {
            return;
        }
        let counts = &mut self.head.counts;
        match counts.binary_search_by_key(&event_type, |(hash, _)| *hash) {
            Ok(index) => counts[index].1 += 1,
            Err(index) if counts.len() < TYPES_MAX => counts.insert(index, (event_type, 1)),
            Err(_) => self.head.counts_known = false,
        }
    }

    fn check_end(&mut self, record: &Sourced<CleanEvent>, found: &mut Vec<Finding>) {
        let h = record.value.h();
        if let Some(end) = self.head.end.as_ref() {
            if h.seq > end.seq {
                let reason = format!("event {} of session {} came after its end at {}", h.seq, h.session_id, end.seq);
                found.push(Finding::new(Subject::of(h), "after_end", "error", reason).target(h.event_id));
            }
            return;
        }
        let Event::SessionEnded(ended) = &record.value else { return };
        self.head.end = Some(End::of(ended));
        if !ended.final_hash.is_zero() && ended.final_hash != h.prev_hash {
            found.push(chain_broken(h, "names another final digest than that of the event before it"));
        }
        let after = self.head.chain.seen_from(h.seq.saturating_add(1));
        if after > 0 {
            self.head.counts_known = false;
            let reason = format!("{after} events of session {} came after its end at {}", h.session_id, h.seq);
            found.push(Finding::new(Subject::of(h), "after_end", "error", reason).target(h.event_id).count(after));
        }
    }

    /// Judges everything that all earlier events are known for; closes the session where that is
    /// its end.
    fn judge(&mut self, tenant: &str, id: Uuid, config: &CompletenessConfig, found: &mut Vec<Finding>) {
        let judged = self.head.chain.judged();
        while let Some(entry) = self.head.pending.first_entry() {
            if *entry.key() >= judged && self.head.pending.len() <= PENDING_MAX {
                break;
            }
            let Some((seq, fact)) = self.head.pending.pop_first() else { break };
            self.judge_fact(tenant, id, seq, &fact, config, found);
        }
        let ended = self.head.end.as_ref().is_some_and(|end| judged > end.seq);
        if ended && !self.head.closed {
            self.head.closed = true;
            self.close(tenant, id, config, found);
        }
    }

    pub(super) fn judge_fact(
        &mut self,
        tenant: &str,
        id: Uuid,
        seq: i64,
        fact: &Fact,
        config: &CompletenessConfig,
        found: &mut Vec<Finding>,
    ) {
        let required = config.templates.get(&self.head.template).and_then(|t| t.get(self.head.template_step));
        if required.is_some_and(|required| type_hash(required) == fact.event_type) {
            self.head.template_step += 1;
        }
        let Some(call) = &fact.call else { return };
        let whole = self.head.chain.is_whole() && self.best_effort.is_whole();
        for problem in self.calls.apply(seq, call) {
            let doubt = if whole { "" } else { " (what is absent may be among the missing events)" };
            let reason = format!("{} in session {id}, event {seq}{doubt}", problem.why);
            let finding = Finding::new(self.subject(tenant, id), problem.kind, "error", reason);
            found.push(finding.target(fact.event_id).fact("seq", seq).fact("session_is_whole", whole));
        }
    }

    fn close(&self, tenant: &str, id: Uuid, config: &CompletenessConfig, found: &mut Vec<Finding>) {
        let Some(end) = &self.head.end else { return };
        found.extend(self.steps_mismatch(tenant, id, end));
        let Some(required) = config.templates.get(&self.head.template) else { return };
        let missing = required.get(self.head.template_step..).unwrap_or_default();
        let Some(first) = missing.first() else { return };
        let reason = format!(
            "session {id} ended without {} of the {} steps that template {} requires, the first being {}",
            missing.len(),
            required.len(),
            label(&self.head.template),
            label(first)
        );
        let finding = Finding::new(self.subject(tenant, id), "required_step_missing", "error", reason)
            .count(missing.len() as i64)
            .target(end.event_id)
            .fact("template_id", label(&self.head.template))
            .fact("missing", missing.iter().map(|m| label(m)).collect::<Vec<_>>().join(", "))
            .fact("session_is_whole", self.head.chain.is_whole());
        found.push(finding);
    }

    fn steps_mismatch(&self, tenant: &str, id: Uuid, end: &End) -> Option<Finding> {
        let actual = end.seq.saturating_add(1);
        let expected = self.head.expected_steps;
        let off = |claim: i64| if claim < 0 { 0 } else { claim.saturating_sub(actual).saturating_abs() };
        let comparable = self.head.counts_known && self.head.chain.is_whole() && !end.counts.is_empty();
        let types_differ = comparable && end.counts != self.head.counts;
        let count = off(end.event_count).max(off(expected)).max(i64::from(types_differ));
        if count == 0 {
            return None;
        }
        let reason = match off(expected) > off(end.event_count) {
            true => format!("session {id} declared {expected} events at its start and has {actual}"),
            false if off(end.event_count) > 0 => {
                format!("session {id} says at its end that it has {} events and has {actual}", end.event_count)
            }
            false => format!("session {id} says at its end how many events of each type it has, and has others"),
        };
        let finding = Finding::new(self.subject(tenant, id), "steps_mismatch", "error", reason)
            .count(count)
            .target(end.event_id)
            .fact("events", actual)
            .fact("event_count", end.event_count)
            .fact("expected_steps", expected)
            .fact("counts_by_type_differ", types_differ);
        Some(finding)
    }

    fn gap(&self, tenant: &str, id: Uuid, missing: &[Range]) -> Finding {
        let count = spans::total(missing);
        let total = self.head.end.as_ref().map_or(0, |end| end.seq.saturating_add(1)).max(self.head.chain.next);
        let ranges = spans::print(missing);
        let reason = format!("{count} of {total} events of session {id} never arrived (seq {ranges})");
        Finding::new(self.subject(tenant, id), "sequence_gap", "error", reason)
            .count(count)
            .fact("missing", ranges)
            .fact("events", total)
    }

    /// A heartbeat lists the session as open up to `last_seq`. Returns whether that number is news.
    pub(super) fn claim(
        &mut self,
        h: &EventHeader,
        id: Uuid,
        last_seq: i64,
        at: TimestampMicros,
        found: &mut Vec<Finding>,
    ) -> bool {
        self.meet(h, at);
        let (news, given_up) = self.head.chain.claim(last_seq.saturating_add(1), at);
        found.extend(given_up.map(|range| self.gap(&h.tenant_id, id, &[range])));
        self.changed = true;
        news
    }

    /// Time has come to `now`: reports what is due. Returns whether the session may be forgotten.
    pub(super) fn tick(
        &mut self,
        tenant: &str,
        id: Uuid,
        now: TimestampMicros,
        config: &CompletenessConfig,
        found: &mut Vec<Finding>,
    ) -> bool {
        let silent_since = now.plus_ms(-config.session_timeout_ms);
        let timed_out = self.head.last_time < silent_since;
        let opened = if timed_out { now } else { now.plus_ms(-config.gap_grace_ms) };
        let missing = self.head.chain.report(opened);
        if !missing.is_empty() {
            self.changed = true;
            found.push(self.gap(tenant, id, &missing));
            self.judge(tenant, id, config, found);
        }
        self.report_lanes(tenant, id, opened, found);
        if timed_out {
            self.terminate(tenant, id, found);
        }
        (self.head.closed || self.head.unterminated) && self.head.last_time < now.plus_ms(-config.retention())
    }

    /// Reports everything that is open, because the session is to be forgotten early.
    pub(super) fn give_up(&mut self, tenant: &str, id: Uuid, config: &CompletenessConfig, found: &mut Vec<Finding>) {
        let missing = self.head.chain.report(TimestampMicros(i64::MAX));
        if !missing.is_empty() {
            found.push(self.gap(tenant, id, &missing));
            self.judge(tenant, id, config, found);
        }
        self.report_lanes(tenant, id, TimestampMicros(i64::MAX), found);
        self.terminate(tenant, id, found);
    }

    /// Whether it is over and reported.
    pub(super) fn is_over(&self) -> bool {
        self.head.closed || self.head.unterminated
    }

    fn terminate(&mut self, tenant: &str, id: Uuid, found: &mut Vec<Finding>) {
        if self.is_over() {
            return;
        }
        self.head.unterminated = true;
        self.changed = true;
        let next = self.head.chain.next;
        if next == 0 && self.head.best_effort > 0 {
            // Nobody promised the end of a session that is only observed.
            return;
        }
        let reason = format!("session {id} fell silent after {next} events without an end");
        let finding = Finding::new(self.subject(tenant, id), "unterminated", "warning", reason);
        found.push(finding.fact("events", next).fact("last_ms", self.head.last_time.ms()));
    }
}

impl End {
    fn of(ended: &SessionEnded) -> Self {
        let mut counts: Vec<(u64, i64)> = ended.counts_by_type.iter().map(|(t, n)| (type_hash(t), *n)).collect();
        counts.sort_unstable();
        counts.truncate(TYPES_MAX + 1);
        Self { seq: ended.h.seq, event_id: ended.h.event_id, event_count: ended.event_count, counts }
    }
}

/// What is wrong with an event's clock, as seen from the broker's.
pub(super) fn clock_problem(record: &Sourced<CleanEvent>, config: &CompletenessConfig) -> Option<&'static str> {
    let at = record.value.h().event_time;
    match () {
        () if at > record.broker_time.plus_ms(config.clock_ahead_ms_max) => Some("runs ahead of the broker's"),
        () if at.ms() < EVENT_TIME_MS_MIN => Some("is before the year 2000"),
        () => None,
    }
}

/// A finding about an event's clock.
pub(super) fn clock_finding(h: &EventHeader, why: &str) -> Finding {
    let reason = format!("the clock of writer {} {why}", label(&h.producer_id));
    Finding::new(Subject::of(h), "clock_implausible", "warning", reason)
        .target(h.event_id)
        .fact("event_time_ms", h.event_time.ms())
}

fn equivocation(h: &EventHeader) -> Finding {
    let reason = format!("event {} exists with two contents", h.event_id);
    Finding::new(Subject::of(h), "equivocation", "critical", reason).target(h.event_id).fact("seq", h.seq)
}

pub(super) fn chain_broken(h: &EventHeader, why: &str) -> Finding {
    let reason = format!("event {} of session {} {why}", h.seq, h.session_id);
    let finding = Finding::new(Subject::of(h), "chain_broken", "critical", reason);
    finding.target(h.event_id).fact("seq", h.seq).fact("prev_hash", h.prev_hash)
}

/// A finding about a number that came again: of a session, or of a writer outside of sessions.
pub(super) fn repeat_finding(h: &EventHeader, repeat: Repeat) -> Finding {
    let (owner, number) = match h.session_id.is_zero() {
        true => (format!("writer {}", label(&h.producer_id)), h.producer_seq),
        false => (format!("session {}", h.session_id), h.seq),
    };
    let (kind, severity, reason) = match repeat {
        Repeat::Equivocation => return equivocation(h),
        Repeat::Duplicate => ("duplicate", "info", format!("event {} was delivered again", h.event_id)),
        Repeat::Forked => ("forked", "critical", format!("{owner} has two events with number {number}")),
        Repeat::Unknown => (
            "seq_regressed",
            "warning",
            format!("number {number} of {owner} came again too late to tell a redelivery from a restart"),
        ),
    };
    let finding = Finding::new(Subject::of(h), kind, severity, reason).target(h.event_id);
    finding.fact("seq", h.seq).fact("producer_seq", h.producer_seq)
}
