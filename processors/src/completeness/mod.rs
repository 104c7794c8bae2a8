//! Is everything there? Expected against actual, per session, per writer and per hour.
//!
//! The stage [`Completeness`] folds one partition of the clean topic: it keeps a ledger per session
//! (sequence numbers, hash chain, end, order of tool calls), reports what each writer's numbers were
//! to the stage [`Writers`], which sees all partitions together and alone can say how many events
//! are missing, and closes hours with control totals. Time is the ticks in the log.
//!
//! What it does not do: it repairs nothing, it reads no content, and it never forgets in silence.
//! What it forgets on purpose: a session that is over and was silent for `retention_ms`. An event
//! of such a session that comes after that, and that happened longer ago than `retention_ms`, is
//! judged by its lateness alone and opens no new ledger (only a `seq` 0 does); its writer's
//! numbers are still compared. Best-effort events are numbered by gateways, per (session, gateway,
//! epoch) and in order of arrival: gaps and broken chains are judged in each such line of numbers, a
//! repeat by the digest of what arrived, and neither the end of the session nor what its client
//! counts is held against what is there. Repeats are distinguished for the newest 1 024 events of a session
//! (see `seen`), older ones are reported as `seq_regressed`. Equal event ids in two sessions are
//! not compared.

mod best_effort;
mod calls;
mod chain;
mod end;
mod finding;
mod key;
mod problem;
mod producers;
mod rekey;
mod seen;
mod session;
mod spans;
mod state;
mod totals;
mod writers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use schemas::codec::Derived;
use schemas::event::{ACCESS_DENIED, ACCESS_USED, CleanEvent, Event, EventHeader, Heartbeat, Tick, Watermark};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, joined_key, partition_of, session_key};
use serde::{Deserialize, Serialize};

use self::best_effort::is_best_effort;
use self::finding::{Cause, Finding, Subject};
use self::problem::{clock_finding, clock_problem, repeat_finding};
use self::seen::Repeat;
use self::session::Taken;
use crate::stage::{Outgoing, Output, Processor, ProcessorId, Route, Sourced};

pub use producers::CLOSED_EXT;
pub use state::CompletenessState;
pub use writers::{Writers, WritersConfig, WritersState};

/// Most sessions of one heartbeat whose claimed numbers are news; of the others it only says that
/// they are open. Keeps the outputs of one record within `OUTPUTS_PER_EVENT_MAX`.
const CLAIMS_PER_HEARTBEAT_MAX: usize = 16;

/// Thresholds, in milliseconds of log time unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompletenessConfig {
    /// Partitions of the clean topic.
    #[serde(skip)]
    pub source_partitions: u32,
    /// An event that arrives later than this after its `event_time` is `late`.
    pub lateness_ms_max: i64,
    /// How long a number may be missing before it is reported.
    pub gap_grace_ms: i64,
    /// A session without events, or heartbeats that list it, for this long is `unterminated`.
    pub session_timeout_ms: i64,
    /// How long a session that is over is remembered; at least `session_timeout_ms`.
    pub retention_ms: i64,
    /// Most that an event's clock may run ahead of the broker's.
    pub clock_ahead_ms_max: i64,
    /// Most that `event_time` may run backwards from one event of a session to the next.
    pub clock_back_ms_max: i64,
    /// Most that a tick is believed ahead of the broker's time of that tick.
    pub tick_ahead_ms_max: i64,
    /// How long after its end an hour is closed.
    pub hour_grace_ms: i64,
    /// Most sessions of one partition that are remembered; beyond it those that are over, then those
    /// silent longest, are reported and forgotten. A count.
    pub sessions_max: usize,
    /// Event types that a session must have in this order, by `template_id`.
    pub templates: BTreeMap<String, Vec<String>>,
    /// Values of `side_effect_class` whose tool calls need a policy decision.
    pub decision_required: BTreeSet<String>,
}

impl Default for CompletenessConfig {
    fn default() -> Self {
        let classes = ["write", "destructive", "money", "external_comm", "privilege"];
        Self {
            source_partitions: 1,
            lateness_ms_max: 300_000,
            gap_grace_ms: 60_000,
            session_timeout_ms: 1_800_000,
            retention_ms: 86_400_000,
            clock_ahead_ms_max: 300_000,
            clock_back_ms_max: 60_000,
            tick_ahead_ms_max: 60_000,
            hour_grace_ms: 300_000,
            sessions_max: 100_000,
            templates: BTreeMap::new(),
            decision_required: classes.map(str::to_owned).into(),
        }
    }
}

impl CompletenessConfig {
    fn retention(&self) -> i64 {
        self.retention_ms.max(self.session_timeout_ms)
    }
}

/// The stage `completeness`.
#[derive(Debug, Clone, Default)]
pub struct Completeness {
    config: CompletenessConfig,
}

impl Completeness {
    /// Name and logic version.
    pub const ID: ProcessorId = ProcessorId { name: "completeness", version: 2 };

    /// The stage with these thresholds.
    pub fn new(config: CompletenessConfig) -> Self {
        Self { config }
    }

    fn event(&self, state: &mut CompletenessState, record: &Sourced<CleanEvent>, found: &mut Vec<Finding>) {
        let h = record.value.h();
        // The number after i64::MAX does not exist: a chain could neither expect nor report it.
        let outside = h.session_id.is_zero() || h.seq < 0 || h.seq == i64::MAX;
        let taken = if outside { self.outside(state, record, found) } else { self.in_session(state, record, found) };
        // Before the return below: an hour counts what the topic holds, repeats included, and says how many of them
        // are repeats.
        state.totals.count(record, taken.repeated_id);
        // Its numbers were reported with the first delivery; again, `writers` would report them as used twice.
        if taken.redelivery {
            return;
        }
        state.with_producer(&h.tenant_id, &h.producer_id, h.producer_epoch, |producer| {
            producer.take(h, record.broker_time);
        });
        self.take_notes(state, record, taken);
        if let Event::Heartbeat(heartbeat) = &record.value {
            self.heartbeat(state, record, heartbeat, found);
        }
    }

    fn in_session(
        &self,
        state: &mut CompletenessState,
        record: &Sourced<CleanEvent>,
        found: &mut Vec<Finding>,
    ) -> Taken {
        let h = record.value.h();
        // A ledger that was forgotten cannot tell an old event from a gap before it: opened again, it would report
        // every number below as missing. A `seq` of 0 has nothing below.
        let old = h.seq != 0 && h.event_time < record.broker_time.plus_ms(-self.config.retention());
        if old && !state.has_session(&h.tenant_id, h.session_id) {
            return Taken { repeated_id: false, redelivery: false, filled: false };
        }
        state.with_session(&h.tenant_id, h.session_id, |session| session.take(record, &self.config, found))
    }

    /// An event outside of sessions: identified by its writer's number.
    fn outside(&self, state: &mut CompletenessState, record: &Sourced<CleanEvent>, found: &mut Vec<Finding>) -> Taken {
        let h = record.value.h();
        let clock = clock_problem(record, &self.config);
        state.with_producer(&h.tenant_id, &h.producer_id, h.producer_epoch, |producer| {
            // The clock is judged even of a repeat, the number only once.
            let (repeat, new_number) = producer.identify(record);
            found.extend(repeat.map(|repeat| repeat_finding(h, repeat)));
            if let Some(why) = clock.filter(|_| !producer.head.clock_reported) {
                producer.head.clock_reported = true;
                producer.changed = true;
                found.push(clock_finding(h, why));
            }
            let repeated_id = matches!(repeat, Some(Repeat::Duplicate | Repeat::Equivocation));
            Taken { repeated_id, redelivery: repeat == Some(Repeat::Duplicate) && !new_number, filled: false }
        })
    }

    fn take_notes(&self, state: &mut CompletenessState, record: &Sourced<CleanEvent>, taken: Taken) {
        let h = record.value.h();
        // Both times are in the record, so that a replay finds the same lateness (I6).
        let late_ms = record.broker_time.0.saturating_sub(h.event_time.0) / 1_000;
        // The gateway writes these itself under types outside of the catalogue; each would be a finding about our own
        // records.
        let is_own = matches!(h.event_type.as_str(), ACCESS_USED | ACCESS_DENIED);
        let (late, unknown) = (late_ms > self.config.lateness_ms_max, !record.value.is_known_type() && !is_own);
        if !(late || unknown || taken.filled) {
            return;
        }
        // Gathered until the next tick: a backlog of a thousand late events is one finding, not a thousand (bound of
        // outputs per event).
        state.note(Subject::of(h), |note| {
            if late {
                note.late += 1;
                note.late_ms = note.late_ms.max(late_ms);
            }
            if taken.filled {
                note.fill(h.seq);
            }
            if unknown {
                note.unknown_type(&h.event_type);
            }
        });
    }

    /// A heartbeat reports for its writer, and for those of its sessions that live in this partition.
    fn heartbeat(
        &self,
        state: &mut CompletenessState,
        record: &Sourced<CleanEvent>,
        heartbeat: &Heartbeat,
        found: &mut Vec<Finding>,
    ) {
        let h = &heartbeat.h;
        // Numbers in a best-effort heartbeat are its sender's; those of the log are its gateway's.
        let claims_numbers = !is_best_effort(h);
        if claims_numbers {
            let closed = h.ext.get(CLOSED_EXT).is_some_and(|value| value == "true");
            state.with_producer(&h.tenant_id, &h.producer_id, h.producer_epoch, |producer| {
                producer.claim(heartbeat.last_producer_seq, closed);
            });
        }
        let mut claims = 0;
        for open in heartbeat.open_sessions.iter().filter(|open| !open.id.is_zero()) {
            let known = state.has_session(&h.tenant_id, open.id);
            // A heartbeat is one record in one partition and lists sessions of all: a ledger that is opened where no
            // event of the session arrives would report it as missing entirely.
            let key = session_key(&h.tenant_id, open.id);
            let here = || partition_of(&key, self.config.source_partitions) == record.at.partition.index();
            if known || (claims < CLAIMS_PER_HEARTBEAT_MAX && here()) {
                // Beyond the bound a session is still kept from its time-out; only its number waits for the next
                // heartbeat.
                let last_seq = if claims_numbers && claims < CLAIMS_PER_HEARTBEAT_MAX { open.last_seq } else { -1 };
                let news = state.with_session(&h.tenant_id, open.id, |session| {
                    session.claim(h, open.id, last_seq, record.broker_time, found)
                });
                claims += usize::from(news);
            }
        }
    }

    fn tick(&self, state: &mut CompletenessState, record: &Sourced<CleanEvent>, tick: &Tick, emit: &mut Emitter<'_>) {
        // Also of a tick that does not move the clock: what it says of its writer is news in any case.
        let lost = state.totals.acked(tick, record.broker_time);
        if lost > 0 {
            emit.finding(lost_records(record, lost));
        }
        // Ticks carry their writer's clock. One that runs a year ahead would time every session out and close a year
        // of hours.
        let believed = record.broker_time.plus_ms(self.config.tick_ahead_ms_max);
        if !state.advance(tick.at.min(believed)) {
            return;
        }
        // Before the hours close: findings number their outputs in this order, which derived ids depend on.
        self.due_findings(state, emit);
        let partition = record.at.partition.partition;
        for total in state.totals.close(state.now.plus_ms(-self.config.hour_grace_ms), partition) {
            let key = joined_key("control_total", &format!("{}/{partition}", total.hop));
            emit.derived(Topic::Findings, Route::Same, key, record.broker_time, Derived::ControlTotal(total));
        }
        self.report_writers(state, record.at.partition.index(), emit);
    }

    /// Everything that time alone makes due, by tenant and session.
    fn due_findings(&self, state: &mut CompletenessState, emit: &mut Emitter<'_>) {
        let mut found = Vec::new();
        for ((tenant, session), note) in state.take_notes() {
            note.findings(&tenant, session, &mut found);
        }
        let now = state.now;
        // Chosen before any ledger is judged, by what was known before this tick: judging changes which sessions are
        // over.
        let excess = state.excess(self.config.sessions_max);
        state.each_session(|tenant, id, session| {
            let forget = session.tick(tenant, id, now, &self.config, &mut found);
            let excessive = !excess.is_empty() && excess.contains(&(tenant.to_owned(), id));
            if excessive {
                session.give_up(tenant, id, &self.config, &mut found);
            }
            forget || excessive
        });
        // Notes and ledgers each come in this order but one after the other; a stable sort keeps what is of one
        // session together.
        found.sort_by(|a, b| (&a.subject.tenant, a.subject.session).cmp(&(&b.subject.tenant, b.subject.session)));
        for finding in found {
            emit.finding(finding);
        }
    }

    fn report_writers(&self, state: &mut CompletenessState, partition: u32, emit: &mut Emitter<'_>) {
        let now = state.now;
        let source_partition = i32::try_from(partition).unwrap_or(i32::MAX);
        let mut ordinal = 0;
        state.each_producer(|tenant, producer_id, producer_epoch, producer| {
            for mut span in producer.report() {
                span.tenant_id = tenant.to_owned();
                span.producer_id = producer_id.to_owned();
                (span.producer_epoch, span.source_partition, span.ordinal) =
                    (producer_epoch, source_partition, ordinal);
                ordinal += 1;
                let key = joined_key(tenant, producer_id);
                emit.derived(Topic::Writers, Route::ByKey, key, now, Derived::WriterSpan(span));
            }
            // A writer with remembered events outside of sessions is kept for the retention, since a repeat of them
            // must be recognised; of one without, `writers` knows all that there is.
            producer.seen.is_empty() || producer.head.last_time < now.plus_ms(-self.config.retention())
        });
        let source_partitions = i32::try_from(self.config.source_partitions).unwrap_or(i32::MAX);
        let watermark = Watermark { at: now, source_partition, source_partitions };
        let key = joined_key("watermark", &partition.to_string());
        emit.derived(Topic::Writers, Route::All, key, now, Derived::Watermark(watermark));
    }
}

impl Processor for Completeness {
    type Input = CleanEvent;
    type State = CompletenessState;

    fn id(&self) -> ProcessorId {
        Self::ID
    }

    fn process(&self, state: &mut CompletenessState, batch: &[Sourced<CleanEvent>]) -> Output {
        let mut output = Output::default();
        let mut found = Vec::new();
        for record in batch {
            // Before anything else: a source record that was covered is in the state already, and judging it twice
            // would make its event a duplicate.
            if !state.totals.cover(record) {
                continue;
            }
            let mut emit = Emitter { record, ordinal: 0, derived: &mut output.derived };
            match &record.value {
                Event::Tick(tick) => self.tick(state, record, tick, &mut emit),
                _ => self.event(state, record, &mut found),
            }
            for finding in found.drain(..) {
                emit.finding(finding);
            }
        }
        output
    }
}

fn lost_records(record: &Sourced<CleanEvent>, lost: i64) -> Finding {
    let partition = record.at.partition.partition;
    let reason = format!("{lost} records that were acknowledged to their writers are not in partition {partition}");
    let subject = Subject { environment: EventHeader::default().environment, ..Subject::default() };
    Finding::new(subject, "control_total_mismatch", "critical", reason).count(lost).fact("partition", partition)
}

/// Collects the outputs of one record, and numbers them.
#[derive(Debug)]
struct Emitter<'a> {
    record: &'a Sourced<CleanEvent>,
    ordinal: u32,
    derived: &'a mut Vec<Outgoing>,
}

impl Emitter<'_> {
    fn finding(&mut self, finding: Finding) {
        let record = self.record;
        let cause = Cause {
            stage: Completeness::ID,
            event_id: record.at.derived_id(&Completeness::ID.to_string(), self.ordinal),
            causation_id: Some(record.value.h().event_id),
            event_time: record.broker_time,
            broker_time: record.broker_time,
        };
        self.ordinal += 1;
        self.derived.push(finding.into_outgoing(cause));
    }

    fn derived(&mut self, topic: Topic, route: Route, key: Vec<u8>, broker_time: TimestampMicros, value: Derived) {
        self.ordinal += 1;
        self.derived.push(Outgoing { topic, route, key, source: None, broker_time, value });
    }
}
