//! The stage `writers`: which events of a writer reached no partition at all.
//!
//! Every event carries a number that is gap-free per (writer, epoch) over all sessions, so the union
//! over all partitions shows what is missing anywhere: inside sessions, at their tails, whole
//! sessions. The sum of `writer_gap` counts less that of `gap_filled` is the authoritative number of
//! missing events. It does not say to which sessions they belonged; `completeness` does where it can.
//!
//! Contributions go through the watermark barrier, and ids and times of findings come from writer
//! and watermark, not from offsets: another interleaving of the partitions gives the same findings.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schemas::codec::Derived;
use schemas::event::{EventHeader, SeqSpan, Watermark, WriterSpan};
use schemas::id::Uuid;
use schemas::limits::EVENT_TIME_MS_MIN;
use schemas::reject::{Reject, RejectReason};
use schemas::time::TimestampMicros;
use schemas::topic::joined_key;
use serde::{Deserialize, Serialize};

use super::finding::{Cause, Finding, Subject, label};
use super::key::{self, Key, Parts};
use super::spans::{self, Range};
use crate::rekey::{Change, Rekeyed, StateEntry, by_place};
use crate::stage::{Outgoing, Output, PartitionState, Processor, ProcessorId, Sourced, StateChange, StateError};
use crate::steps::walked;
use crate::watermark::{Barrier, Contribution, Release, Slot};

/// Most holes of one epoch; beyond it the lowest are reported at once and closed.
const HOLES_MAX: usize = 1_024;
/// Most epochs of one writer; beyond it the oldest is reported at once and forgotten.
const EPOCHS_MAX: usize = 4;

const EPOCH: u8 = b'e';

/// Thresholds, in milliseconds of log time unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WritersConfig {
    /// How long a number may be missing before it is reported.
    pub writer_grace_ms: i64,
    /// How often a writer that sends heartbeats sends one.
    pub heartbeat_interval_ms: i64,
    /// Heartbeats that may be missed before a writer is `writer_silent`. A count.
    pub heartbeats_missed_max: i64,
    /// How long an epoch without news is remembered. An epoch that began longer ago than this and is
    /// not remembered is judged from the first number seen of it, not from 0.
    pub retention_ms: i64,
}

impl Default for WritersConfig {
    fn default() -> Self {
        Self {
            writer_grace_ms: 120_000,
            heartbeat_interval_ms: 30_000,
            heartbeats_missed_max: 4,
            retention_ms: 30 * 86_400_000,
        }
    }
}

/// The stage `writers`.
#[derive(Debug, Clone, Default)]
pub struct Writers {
    config: WritersConfig,
}

/// A report of one partition, as it waits in the barrier.
#[derive(Debug, Clone, PartialEq)]
struct Report(WriterSpan);

// Holds integers and strings only, so equality is total.
impl Eq for Report {}

impl Contribution for Report {
    fn encode(&self) -> Bytes {
        key::json(&self.0)
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Report)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hole {
    first: i64,
    next: i64,
    since: TimestampMicros,
    reported: bool,
}

/// What is known of one epoch of one writer: all numbers below `next` but the holes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Epoch {
    agent: String,
    next: i64,
    holes: Vec<Hole>,
    last_time: TimestampMicros,
    /// Whether it sends heartbeats.
    beats: bool,
    closed: bool,
    silent: bool,
}

/// Tenant and writer.
type Name = (String, String);

/// Numbers, and what else the reports of one moment say about an epoch.
#[derive(Debug, Default)]
struct News {
    agent: String,
    ranges: Vec<Range>,
    claimed: i64,
    beats: bool,
    closed: bool,
}

/// The memory of one partition of the writers topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WritersState {
    barrier: Barrier<Report>,
    writers: BTreeMap<Name, BTreeMap<i64, Epoch>>,
    changed: BTreeSet<(Name, i64)>,
}

impl Epoch {
    /// Adds numbers seen at `at`; returns those that had been reported missing, and how many had been
    /// seen before.
    fn add(&mut self, ranges: Vec<Range>, claimed: i64, at: TimestampMicros) -> (Vec<Range>, i64) {
        // Repeats within one moment: two partitions reported the same number.
        let (ranges, mut repeated) = spans::merged(ranges);
        let (mut filled, mut fresh): (Vec<Range>, i64) = (Vec::new(), 0);
        let old_next = self.next;
        let below = ranges.iter().map(|r| (r.0, r.1.min(old_next))).filter(|r| r.0 < r.1).collect::<Vec<_>>();
        let holes = std::mem::take(&mut self.holes);
        walked(holes.len() + below.len());
        for hole in holes {
            let mut first = hole.first;
            // Both lists ascend, so that ranges wholly below this hole are skipped by a search.
            let start = below.partition_point(|range| range.1 <= hole.first);
            for range in below[start..].iter().take_while(|range| range.0 < hole.next) {
                let cut = (range.0.max(hole.first), range.1.min(hole.next));
                fresh = fresh.saturating_add(cut.1 - cut.0);
                if hole.reported {
                    filled.push(cut);
                }
                // The parts keep the age of the hole; a hole that shrinks is not younger for it.
                self.push_hole(Hole { first, next: cut.0, ..hole.clone() });
                first = cut.1;
            }
            self.push_hole(Hole { first, ..hole });
        }
        // Of numbers below `next`, those that filled no hole were seen before.
        repeated = repeated.saturating_add(spans::total(&below).saturating_sub(fresh));
        let above = ranges.into_iter().map(|r| (r.0.max(old_next), r.1)).filter(|r| r.0 < r.1);
        let claim = claimed.saturating_add(1);
        // The claim comes last as an empty range: it opens a hole up to itself and adds no number.
        for (first, next) in above.chain([(claim, claim)]).filter(|r| r.1 > old_next) {
            self.push_hole(Hole { first: self.next, next: first, since: at, reported: false });
            self.next = self.next.max(next);
        }
        (filled, repeated)
    }

    fn push_hole(&mut self, hole: Hole) {
        if hole.first < hole.next {
            self.holes.push(hole);
        }
    }

    /// Holes that opened at or before `opened` and were not reported; marks them. Lowest ones beyond
    /// the bound are due in any case, and forgotten.
    fn due(&mut self, opened: TimestampMicros) -> Vec<Range> {
        // 1 024 holes are about 90 KiB of JSON; without a bound, a writer that loses every second event would outgrow
        // the 256 KiB of a state entry.
        let excess = self.holes.len().saturating_sub(HOLES_MAX);
        let mut due = Vec::new();
        walked(self.holes.len());
        for (index, hole) in self.holes.iter_mut().enumerate() {
            if !hole.reported && (hole.since <= opened || index < excess) {
                hole.reported = true;
                due.push((hole.first, hole.next));
            }
        }
        self.holes.drain(..excess);
        due
    }
}

/// Collects the findings of one moment; their ids do not depend on offsets.
struct Moment<'a> {
    at: TimestampMicros,
    ordinal: u32,
    derived: &'a mut Vec<Outgoing>,
}

impl Moment<'_> {
    fn finding(&mut self, (tenant, producer): &Name, epoch: i64, finding: Finding) {
        let stage = Writers::ID;
        let ordinal = self.ordinal.to_be_bytes();
        let (id, at) = (stage.to_string(), self.at.0.to_be_bytes());
        // From writer and watermark and not from an offset: the interleaving of the partitions decides offsets, and
        // must not decide ids (I6).
        let parts = [id.as_bytes(), tenant.as_bytes(), producer.as_bytes(), &epoch.to_be_bytes(), &at, &ordinal];
        let event_id = Uuid::derive(&parts);
        self.ordinal += 1;
        let cause = Cause { stage, event_id, causation_id: None, event_time: self.at, broker_time: self.at };
        let finding = finding.fact("producer_id", label(producer)).fact("producer_epoch", epoch);
        self.derived.push(finding.into_outgoing(cause));
    }
}

fn subject(tenant: &str, agent: &str) -> Subject {
    let environment = EventHeader::default().environment;
    Subject { tenant: tenant.to_owned(), agent: agent.to_owned(), environment, session: Uuid::ZERO }
}

fn gap(name: &Name, epoch: &Epoch, missing: &[Range]) -> Finding {
    let (count, ranges) = (spans::total(missing), spans::print(missing));
    let reason = format!(
        "{count} of {} events of writer {} reached no partition (producer_seq {ranges})",
        epoch.next,
        label(&name.1)
    );
    let finding = Finding::new(subject(&name.0, &epoch.agent), "writer_gap", "error", reason);
    finding.count(count).fact("missing", ranges).fact("events", epoch.next)
}

impl Writers {
    /// Name and logic version.
    pub const ID: ProcessorId = ProcessorId { name: "writers", version: 1 };

    /// The stage with these thresholds.
    pub fn new(config: WritersConfig) -> Self {
        Self { config }
    }

    fn release(&self, state: &mut WritersState, released: Vec<Release<Report>>, derived: &mut Vec<Outgoing>) {
        let mut news: BTreeMap<(Name, i64), News> = BTreeMap::new();
        for release in released {
            match release {
                // Gathered up to the watermark: reports of one moment are one set, in whatever order partitions sent
                // them.
                Release::Contribution(_, Report(span)) => add_news(&mut news, span),
                Release::Complete(at) => {
                    let mut moment = Moment { at, ordinal: 0, derived };
                    // By name and epoch, so that findings are numbered in one order.
                    for ((name, epoch), news) in std::mem::take(&mut news) {
                        self.take(state, name, epoch, news, &mut moment);
                    }
                    self.check(state, &mut moment);
                }
            }
        }
    }

    fn take(&self, state: &mut WritersState, name: Name, number: i64, news: News, moment: &mut Moment<'_>) {
        let epochs = state.writers.entry(name.clone()).or_default();
        let newest = epochs.last_key_value().map(|(newest, _)| *newest);
        let is_new = !epochs.contains_key(&number);
        let epoch = epochs.entry(number).or_default();
        if is_new {
            epoch.agent.clone_from(&news.agent);
            // Decided when the epoch is first seen, from all reports of the moment: the lowest number is not always
            // in the first.
            epoch.next = self.base(number, &news, moment.at);
        }
        let (filled, repeated) = epoch.add(news.ranges, news.claimed, moment.at);
        epoch.last_time = moment.at;
        epoch.beats |= news.beats;
        epoch.closed |= news.closed;
        epoch.silent = false;
        let subject = || subject(&name.0, &epoch.agent);
        if is_new && newest.is_some_and(|newest| number < newest) {
            let reason = format!("writer {} began an epoch that is older than its newest", label(&name.1));
            moment.finding(&name, number, Finding::new(subject(), "seq_regressed", "warning", reason));
        }
        if repeated > 0 {
            let reason = format!("{repeated} numbers of writer {} were used again in the same epoch", label(&name.1));
            let finding = Finding::new(subject(), "seq_regressed", "warning", reason).count(repeated);
            moment.finding(&name, number, finding);
        }
        if !filled.is_empty() {
            let (count, ranges) = (spans::total(&filled), spans::print(&filled));
            let reason = format!("{count} events of writer {} that were reported missing arrived", label(&name.1));
            let finding = Finding::new(subject(), "gap_filled", "info", reason).count(count).fact("filled", ranges);
            moment.finding(&name, number, finding);
        }
        state.changed.insert((name, number));
    }

    /// The number from which an epoch that was not remembered is judged.
    fn base(&self, epoch: i64, news: &News, at: TimestampMicros) -> i64 {
        // Epochs are start times in microseconds; a small number is a writer's own counter and says nothing about
        // age.
        let forgotten = TimestampMicros(epoch).ms() >= EVENT_TIME_MS_MIN
            && TimestampMicros(epoch) < at.plus_ms(-self.config.retention_ms);
        let first = news.ranges.iter().map(|range| range.0).min().unwrap_or(news.claimed.saturating_add(1));
        if forgotten { first } else { 0 }
    }

    /// What time alone makes due.
    fn check(&self, state: &mut WritersState, moment: &mut Moment<'_>) {
        let WritersConfig { writer_grace_ms, heartbeat_interval_ms, heartbeats_missed_max, retention_ms } = self.config;
        let at = moment.at;
        let silent_since = at.plus_ms(-heartbeat_interval_ms.saturating_mul(heartbeats_missed_max));
        let WritersState { writers, changed, .. } = state;
        for (name, epochs) in writers.iter_mut() {
            let newest = epochs.last_key_value().map(|(newest, _)| *newest);
            let excess = epochs.len().saturating_sub(EPOCHS_MAX);
            let mut index = 0;
            epochs.retain(|number, epoch| {
                let forget = index < excess || epoch.last_time < at.plus_ms(-retention_ms);
                index += 1;
                // An epoch that is forgotten is judged to the end now: later nobody knows its holes.
                let missing = epoch.due(if forget { at } else { at.plus_ms(-writer_grace_ms) });
                if !missing.is_empty() {
                    moment.finding(name, *number, gap(name, epoch, &missing));
                    changed.insert((name.clone(), *number));
                }
                // Only the newest epoch can be silent: an older one ended when its writer started again.
                let watched = epoch.beats && !epoch.closed && !epoch.silent && newest == Some(*number);
                if watched && epoch.last_time < silent_since {
                    epoch.silent = true;
                    moment.finding(name, *number, silent(name, epoch, heartbeats_missed_max));
                    changed.insert((name.clone(), *number));
                }
                if forget {
                    changed.insert((name.clone(), *number));
                }
                !forget
            });
        }
        // An empty map per writer ever seen would grow without bound, and a restored state would not have it.
        writers.retain(|_, epochs| !epochs.is_empty());
    }
}

fn silent(name: &Name, epoch: &Epoch, missed: i64) -> Finding {
    let reason = format!("writer {} missed {missed} heartbeats without closing its epoch", label(&name.1));
    let finding = Finding::new(subject(&name.0, &epoch.agent), "writer_silent", "warning", reason);
    finding.fact("last_ms", epoch.last_time.ms())
}

fn add_news(news: &mut BTreeMap<(Name, i64), News>, span: WriterSpan) {
    let name = (span.tenant_id, span.producer_id);
    let news = news.entry((name, span.producer_epoch)).or_insert_with(|| News { claimed: -1, ..News::default() });
    if news.agent.is_empty() {
        news.agent = span.agent_id;
    }
    news.ranges.extend(span.spans.iter().map(|SeqSpan { first, next }| ((*first).max(0), *next)));
    news.claimed = news.claimed.max(span.last_claimed);
    news.beats |= span.last_claimed >= 0;
    news.closed |= span.closed;
}

fn offer(state: &mut WritersState, record: &Sourced<Derived>, span: &WriterSpan) {
    let source_partition = u32::try_from(span.source_partition).unwrap_or(u32::MAX);
    let slot = Slot { time: record.broker_time, source_partition, ordinal: span.ordinal };
    // A contribution that comes again, or after its watermark, is a redelivery.
    state.barrier.offer(slot, Report(span.clone()));
}

fn refused_watermark(record: &Sourced<Derived>, watermark: &Watermark, reason: String) -> Outgoing {
    let finding = Finding::new(subject("", ""), "watermark_refused", "critical", reason)
        .fact("source_partition", watermark.source_partition)
        .fact("source_partitions", watermark.source_partitions);
    finding.into_outgoing(Cause {
        stage: Writers::ID,
        event_id: record.at.derived_id(&Writers::ID.to_string(), 0),
        causation_id: None,
        event_time: record.broker_time,
        broker_time: record.broker_time,
    })
}

impl Processor for Writers {
    type Input = Derived;
    type State = WritersState;

    fn id(&self) -> ProcessorId {
        Self::ID
    }

    fn process(&self, state: &mut WritersState, batch: &[Sourced<Derived>]) -> Output {
        let mut output = Output::default();
        for record in batch {
            match &record.value {
                Derived::WriterSpan(span) => offer(state, record, span),
                Derived::Watermark(watermark) => match state.barrier.mark(watermark) {
                    Ok(released) => self.release(state, released, &mut output.derived),
                    Err(error) => output.derived.push(refused_watermark(record, watermark, error.to_string())),
                },
                _ => output.rejects.push(Reject {
                    at: record.at,
                    reason: RejectReason::WrongTopic,
                    detail: "neither a writer span nor a watermark".to_owned(),
                }),
            }
        }
        output
    }
}

impl PartitionState for WritersState {
    fn take_changes(&mut self) -> Vec<StateChange> {
        let changed = std::mem::take(&mut self.changed);
        let mut changes: Vec<StateChange> = changed
            .into_iter()
            .map(|(name, number)| {
                let value = self.writers.get(&name).and_then(|epochs| epochs.get(&number)).map(key::json);
                (Key::of(EPOCH).text(&name.0).text(&name.1).number(number).bytes(), value)
            })
            .collect();
        changes.extend(self.barrier.take_changes());
        changes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        changes
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        if Barrier::<Report>::owns(key) {
            return self.barrier.load(key, value);
        }
        let rest = key.strip_prefix(&[EPOCH]).ok_or_else(|| key::unreadable(key, "unknown kind of entry"))?;
        let mut parts = Parts(rest);
        let name = parts.text().zip(parts.text());
        let (name, number) = name.zip(parts.number()).ok_or_else(|| key::unreadable(key, "malformed key"))?;
        let epoch = key::from_json(value).map_err(|reason| key::unreadable(key, reason))?;
        self.writers.entry(name).or_default().insert(number, epoch);
        Ok(())
    }

    /// Reports and epochs go with their writer.
    fn rekey(entries: &[StateEntry], change: &Change) -> Result<Rekeyed, StateError> {
        let mut rekeyed = Rekeyed::default();
        let (barrier, own): (Vec<_>, Vec<_>) =
            by_place(entries).into_iter().partition(|entry| Barrier::<Report>::owns(&entry.key));
        let place = |report: &Report| joined_key(&report.0.tenant_id, &report.0.producer_id);
        Barrier::rekey(&barrier, change, place, "reports that a second partition held too", &mut rekeyed)?;
        for entry in own {
            let malformed = || key::unreadable(&entry.key, "malformed key");
            let rest = entry.key.strip_prefix(&[EPOCH]).ok_or_else(malformed)?;
            let mut parts = Parts(rest);
            let (tenant, producer) = parts.text().zip(parts.text()).ok_or_else(malformed)?;
            let partition = change.place(&joined_key(&tenant, &producer));
            rekeyed.move_to(partition, entry, "epochs of a writer that a second partition had too");
        }
        Ok(rekeyed)
    }
}
