//! The faults that a demo plants, and their numbers: what the pipeline must find again.
//!
//! Every decision is a function of the seed and of what it is about, so that a run can be resumed
//! and repeated. It only decides; `stream` carries the decisions out.

use schemas::id::Uuid;
use schemas::time::TimestampMicros;

use super::Run;

/// A half-open span of log time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Start.
    pub first: TimestampMicros,
    /// End, exclusive.
    pub next: TimestampMicros,
}

impl Period {
    /// Whether `at` lies in it.
    pub fn holds(&self, at: TimestampMicros) -> bool {
        self.first <= at && at < self.next
    }
}

/// What happens to one event before it reaches the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Sent,
    /// It never arrives.
    Withheld,
    /// It arrives twice; the second time `after_ms` later.
    Duplicated {
        /// Delay of the second copy.
        after_ms: i64,
    },
    /// It arrives with the late batch.
    Late,
}

/// What happens to one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionFate {
    /// Its events have fates of their own.
    Normal,
    /// Its last events, the end included, never arrive.
    Truncated,
    /// None of its events arrive.
    Withheld,
}

/// The plan: where the faults lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    seed: u64,
    /// Provider that fails, and when.
    pub outage_provider: String,
    /// When it fails.
    pub outage: Period,
    /// Agent (first copy of the fleet) whose calls become expensive, and when.
    pub burst_agent: String,
    /// When they do.
    pub burst: Period,
    /// Agent (first copy) whose first writer delivers late.
    pub late_agent: String,
    /// Events of this period arrive `LATE_MS` later.
    pub late: Period,
}

/// Delay of the late batch: below the grace that completeness gives a gap (15 minutes).
pub const LATE_MS: i64 = 8 * 60_000;
/// Share of model requests that fail during the outage, per cent.
pub const OUTAGE_FAIL_PERCENT: u64 = 80;
/// Factor on tokens and cost during the burst.
pub const BURST_FACTOR: i64 = 12;
/// Events of a truncated session that never arrive.
pub const TRUNCATED_EVENTS: usize = 2;

const EVENTS_PER_WITHHELD: u64 = 400;
const EVENTS_PER_DUPLICATE: u64 = 300;
const SESSIONS_PER_WITHHELD: u64 = 250;
const SESSIONS_PER_TRUNCATED: u64 = 200;

impl Faults {
    /// Lays the faults over a fleet that starts at `start` and whose sessions begin within `span_ms`.
    pub fn plan(seed: u64, runs: &[Run], start: TimestampMicros, span_ms: i64) -> Self {
        let minute = |share: f64, minutes: i64| {
            // On whole minutes, which are the windows of the detectors: a fault that begins inside one would blur its
            // first.
            let first = start.plus_ms((span_ms as f64 * share) as i64).floor_to_ms(60_000);
            Period { first, next: first.plus_ms(minutes * 60_000) }
        };
        // The busiest, so that every fleet has enough traffic for the fault to be found.
        let provider = busiest(runs.iter().map(|r| (r.provider.as_str(), r.steps.len())));
        let agent = busiest(runs.iter().map(|r| (r.agent_id.as_str(), r.steps.len())));
        // Another agent than that of the burst: each fault must be attributable by itself.
        let other = runs.iter().filter(|r| r.agent_id != agent).map(|r| (r.agent_id.as_str(), r.steps.len()));
        let late_agent = busiest(other);
        Self {
            seed,
            outage_provider: provider,
            outage: minute(0.70, 10),
            late_agent: if late_agent.is_empty() { agent.clone() } else { late_agent },
            burst_agent: agent,
            burst: minute(0.45, 12),
            late: minute(0.25, 4),
        }
    }

    /// The fate of session `session_id`, which has `events` events.
    pub fn session(&self, session_id: Uuid, events: usize) -> SessionFate {
        // Without its last two, so short a session would be one event or none.
        if events <= TRUNCATED_EVENTS + 1 {
            return SessionFate::Normal;
        }
        let draw = self.draw("session", session_id);
        if draw.is_multiple_of(SESSIONS_PER_WITHHELD) {
            SessionFate::Withheld
        } else if draw.is_multiple_of(SESSIONS_PER_TRUNCATED) {
            SessionFate::Truncated
        } else {
            SessionFate::Normal
        }
    }

    /// The fate of an event that stems from the agent `agent_id`, writer `instance`.
    pub fn event(&self, event_id: Uuid, at: TimestampMicros, agent_id: &str, instance: usize) -> Fate {
        // Before the draw: what is late is not withheld or doubled as well, or the counts would overlap.
        if agent_id == self.late_agent && instance == 0 && self.late.holds(at) {
            return Fate::Late;
        }
        let draw = self.draw("event", event_id);
        if draw.is_multiple_of(EVENTS_PER_WITHHELD) {
            Fate::Withheld
        } else if draw.is_multiple_of(EVENTS_PER_DUPLICATE) {
            // Divided by 7 first: the draw is a multiple of 300 here, so that its last digits are always the same.
            Fate::Duplicated { after_ms: 2_000 + (draw / 7 % 50_000) as i64 }
        } else {
            Fate::Sent
        }
    }

    fn draw(&self, what: &str, id: Uuid) -> u64 {
        // By a digest and not by a generator: the fate of an event does not depend on which events were asked about
        // before it.
        let digest = Uuid::derive(&[&self.seed.to_be_bytes(), what.as_bytes(), &id.0]).0;
        // Without the bytes that hold version and variant, which are the same in every id.
        u64::from_be_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[9], digest[10]])
    }
}

/// The name with the largest sum; the alphabetically first of equals.
fn busiest<'a>(weights: impl Iterator<Item = (&'a str, usize)>) -> String {
    let mut sums = std::collections::BTreeMap::<&str, usize>::new();
    for (name, weight) in weights {
        *sums.entry(name).or_default() += weight;
    }
    let most = sums.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)));
    most.map(|(name, _)| name.to_owned()).unwrap_or_default()
}
