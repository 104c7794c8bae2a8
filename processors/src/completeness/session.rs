//! The ledger of one session: what arrived, what is missing, whether it ended as it said.
//!
//! It reports each fact once and keeps a bounded memory; what it forgets it says so. Text of events
//! is not kept.

use std::collections::BTreeMap;

use schemas::event::{CleanEvent, Event, EventHeader};
use schemas::id::Uuid;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::CompletenessConfig;
use super::best_effort::{self, Arrival, BestEffort, is_best_effort};
use super::calls::{CallFact, Calls};
use super::chain::{Chain, Link, Placement};
use super::end::{Actual, End, TYPES_MAX, type_hash};
use super::finding::{Finding, Subject, label};
use super::problem::{chain_broken, clock_finding, clock_problem, equivocation, repeat_finding};
use super::seen::{Identity, Repeat, Seen};
use super::spans::{self, Range};
use crate::stage::Sourced;

/// Most facts that wait for earlier events; beyond it the lowest is judged without them.
const PENDING_MAX: usize = 256;

/// What an event says that can only be judged once all earlier events are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fact {
    event_id: Uuid,
    event_type: u64,
    call: Option<CallFact>,
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
    clock_reported: bool,
    closed: bool,
    unterminated: bool,
    /// Best-effort events so far; a repeat of one that is remembered is none.
    best_effort: i64,
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

impl Session {
    /// Whom its findings are about.
    fn subject(&self, tenant: &str, id: Uuid) -> Subject {
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
        // The chain decides first whether the number is new: only then is there an identity to remember.
        match self.head.chain.insert(link) {
            Placement::Seen => self.repeated(h, identity, found),
            Placement::New { broken, filled, given_up } => {
                self.changed = true;
                // A new number with a known id: one event id stands for two places in the session.
                let repeated_id = self.seen.has_id(identity);
                if repeated_id {
                    found.push(equivocation(h));
                }
                if broken {
                    found.push(chain_broken(h, "names another digest than that of the event before it"));
                }
                self.seen.insert(h.seq, identity);
                self.accept(record, config, found);
                // After the event is judged, so that the sentence counts it among the session's events.
                found.extend(given_up.map(|range| self.gap(&h.tenant_id, h.session_id, &[range])));
                Taken { repeated_id, redelivery: false, filled }
            }
        }
    }

    /// Takes in an event that a gateway numbered.
    fn take_best_effort(
        &mut self,
        record: &Sourced<CleanEvent>,
        config: &CompletenessConfig,
        found: &mut Vec<Finding>,
    ) -> Taken {
        let h = record.value.h();
        let ordinal = self.head.best_effort;
        let Arrival { repeat, new_number, filled, broken, given_up } = self.best_effort.take(record, ordinal);
        found.extend(repeat.map(|repeat| repeat_finding(h, repeat)));
        if broken {
            found.push(chain_broken(h, "names another digest than that of the event before it"));
        }
        self.changed |= new_number;
        let repeated_id = matches!(repeat, Some(Repeat::Duplicate | Repeat::Equivocation));
        if new_number && repeat != Some(Repeat::Duplicate) {
            self.head.best_effort = ordinal.saturating_add(1);
            self.accept_best_effort(record, ordinal, config, found);
        }
        let subject = || self.subject(&h.tenant_id, h.session_id);
        found.extend(given_up.iter().map(|(writer, range)| best_effort::gap(subject(), writer, &[*range])));
        Taken { repeated_id, redelivery: !new_number && repeat == Some(Repeat::Duplicate), filled }
    }

    /// Judges what does not depend on the order in which things happened, which is not known.
    fn accept_best_effort(
        &mut self,
        record: &Sourced<CleanEvent>,
        ordinal: i64,
        config: &CompletenessConfig,
        found: &mut Vec<Finding>,
    ) {
        let h = record.value.h();
        self.meet(h, record.broker_time);
        if let Some(why) = clock_problem(record, config).filter(|_| !self.head.clock_reported) {
            self.head.clock_reported = true;
            found.push(clock_finding(h, why));
        }
        if let Some(call) = CallFact::of(&record.value, &config.decision_required) {
            let fact = Fact { event_id: h.event_id, event_type: type_hash(&h.event_type), call: Some(call) };
            self.judge_fact(&h.tenant_id, h.session_id, ordinal, &fact, config, found);
        }
    }

    /// An event of the session: whom it is about, and that it is not silent.
    fn meet(&mut self, h: &EventHeader, at: TimestampMicros) {
        if self.head.agent.is_empty() {
            self.head.agent.clone_from(&h.agent_id);
            self.head.environment.clone_from(&h.environment);
        }
        // Broker times of a partition need not ascend; no event makes its session more silent.
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
        // Eight bytes in place of a name that the producer chooses: a head with 64 types stays within a state entry.
        let event_type = type_hash(&h.event_type);
        self.count_type(h.seq, event_type);
        self.check_end(record, found);
        let call = CallFact::of(&record.value, &config.decision_required);
        // Only what can matter waits: a fact about a call, or any event while a template may still demand it as a
        // step. A session without either keeps nothing.
        if call.is_some() || !self.head.started || !self.head.template.is_empty() {
            let fact = Fact { event_id: h.event_id, event_type, call };
            // Nothing is missing below and nothing waits: judged at once, without a detour through the map. That is
            // nearly every event.
            if self.head.pending.is_empty() && h.seq < self.head.chain.judged() {
                self.judge_fact(&h.tenant_id, h.session_id, h.seq, &fact, config, found);
            } else {
                self.head.pending.insert(h.seq, fact);
            }
        }
        self.judge(&h.tenant_id, h.session_id, config, found);
    }

    fn check_clock(&mut self, record: &Sourced<CleanEvent>, config: &CompletenessConfig, found: &mut Vec<Finding>) {
        let h = record.value.h();
        // An event that fills a hole is older than its neighbours by right; only the newest can run backwards.
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
            // Counts with a type left out would differ from those at the end, and blame the session for our bound.
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
        // Events that overtook the end were counted by type as if they belonged to the session; those counts prove
        // nothing any more.
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
            // Out of room, the lowest fact is judged although earlier events are missing: its finding then says that
            // the session is not whole.
            if *entry.key() >= judged && self.head.pending.len() <= PENDING_MAX {
                break;
            }
            let Some((seq, fact)) = self.head.pending.pop_first() else { break };
            self.judge_fact(tenant, id, seq, &fact, config, found);
        }
        // Closed only once everything up to the end is there or reported: a late event may still fill a hole below
        // it.
        let ended = self.head.end.as_ref().is_some_and(|end| judged > end.seq);
        if ended && !self.head.closed {
            self.head.closed = true;
            self.close(tenant, id, config, found);
        }
    }

    fn judge_fact(
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
        // An attempt or decision that is missing may be among the missing events: the finding says so and does not
        // accuse.
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
        let comparable = self.head.counts_known && self.head.chain.is_whole();
        let counts = comparable.then_some(self.head.counts.as_slice());
        let actual = Actual { expected_steps: self.head.expected_steps, counts };
        found.extend(end.mismatch(self.subject(tenant, id), &actual));
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
        // Numbers that a writer says it used and that nobody saw: a tail that was lost shows only this way, since no
        // later event opens a hole.
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
        // After the time-out nothing is waited for: whatever is missing is reported before the session is called
        // unterminated.
        let timed_out = self.head.last_time < silent_since;
        let opened = if timed_out { now } else { now.plus_ms(-config.gap_grace_ms) };
        let missing = self.head.chain.report(opened);
        if !missing.is_empty() {
            self.changed = true;
            found.push(self.gap(tenant, id, &missing));
            self.judge(tenant, id, config, found);
        }
        self.report_best_effort(tenant, id, opened, found);
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
        self.report_best_effort(tenant, id, TimestampMicros(i64::MAX), found);
        self.terminate(tenant, id, found);
    }

    /// Whether it is over and reported.
    pub(super) fn is_over(&self) -> bool {
        self.head.closed || self.head.unterminated
    }

    /// Reports numbers of gateways that are missing.
    fn report_best_effort(&mut self, tenant: &str, id: Uuid, opened: TimestampMicros, found: &mut Vec<Finding>) {
        let due = self.best_effort.report(opened);
        self.changed |= !due.is_empty();
        found.extend(due.iter().map(|(writer, missing)| best_effort::gap(self.subject(tenant, id), writer, missing)));
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
