//! The fleet as a stream of log records in the order of their arrival, faults and ticks included.
//!
//! Bounded memory: only sessions that are under way and deliveries that are due are held. The same
//! configuration gives the same records, so a demo that was killed continues where it stopped.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use bytes::Bytes;
use ingest::agent::sequencer::Sequencer;
use ingest::agent::tick::Ticker;
use processors::completeness::CLOSED_EXT;
use schemas::event::{EventHeader, Heartbeat, InventoryDeclared, Principal, RawEvent};
use schemas::id::Uuid;
use schemas::record::{OutRecord, PartitionId, Position};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, joined_key, partition_of, session_key};

use super::emit::{self, Timed};
use super::faults::{Fate, Faults, LATE_MS, SessionFate, TRUNCATED_EVENTS};
use super::plant::Planted;
use super::{Run, Start, Step, malformed};

/// What the stream is made from.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Seed of everything drawn.
    pub seed: u64,
    /// Copies of the fleet, each under ids of its own.
    pub scale: usize,
    /// Partitions of the events topic.
    pub partitions: u32,
    /// Log time of the first session.
    pub start: TimestampMicros,
    /// Sessions start within this span.
    pub span_ms: i64,
    /// Time between two rounds of ticks.
    pub tick_interval_ms: i64,
    /// Time between two heartbeats of a writer.
    pub heartbeat_interval_ms: i64,
    /// How long ticks continue after the last event, so that every grace period passes.
    pub trail_ms: i64,
}

/// What the stream holds, counted as it is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions.
    pub sessions: u64,
    /// Events that the fleet's agents made, withheld ones included.
    pub emitted: u64,
    /// Events that never arrive.
    pub withheld: u64,
    /// Events that arrive twice.
    pub duplicated: u64,
    /// Events of the late batch.
    pub late: u64,
    /// Records that are no events.
    pub malformed: u64,
    /// Tick records.
    pub ticks: u64,
    /// Records that reach the log, ticks not counted.
    pub delivered: u64,
}

struct Session {
    start: Start,
    fate: SessionFate,
    length: usize,
    events: VecDeque<Timed>,
}

/// Writers of an agent: sessions alternate between them.
const WRITERS_PER_AGENT: usize = 2;

/// An entry of a queue that is ordered by time and, at one time, by order of entry.
#[derive(Debug)]
struct Due<T>(TimestampMicros, u64, T);

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl<T> Eq for Due<T> {}
impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// The stream; an iterator over log records in order of arrival.
pub struct Stream<'a> {
    runs: &'a [Run],
    config: StreamConfig,
    faults: Faults,
    starts: std::vec::IntoIter<(TimestampMicros, u64, usize, usize)>,
    next_start: Option<(TimestampMicros, u64, usize, usize)>,
    active: BinaryHeap<Reverse<Due<Session>>>,
    writers: BTreeMap<String, FleetWriter>,
    deliveries: BinaryHeap<Reverse<Due<OutRecord>>>,
    order: u64,
    heartbeat_at: TimestampMicros,
    tick_at: TimestampMicros,
    ticks: Ticker,
    end: Option<TimestampMicros>,
    ready: VecDeque<OutRecord>,
    totals: Totals,
    planted: Vec<Planted>,
}

struct FleetWriter {
    sequencer: Sequencer,
    header: EventHeader,
}

impl std::fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("config", &self.config).field("totals", &self.totals).finish_non_exhaustive()
    }
}

impl<'a> Stream<'a> {
    /// The stream of `runs`.
    pub fn new(runs: &'a [Run], config: StreamConfig) -> Self {
        // Laid out before the first record, from runs and seed alone: a stream that is resumed must not plan again.
        let faults = Faults::plan(config.seed, runs, config.start, config.span_ms);
        let mut starts = starts(runs.len(), &config).into_iter();
        let mut stream = Self {
            runs,
            faults,
            next_start: starts.next(),
            starts,
            active: BinaryHeap::new(),
            writers: BTreeMap::new(),
            deliveries: BinaryHeap::new(),
            order: 0,
            heartbeat_at: config.start.plus_ms(config.heartbeat_interval_ms),
            tick_at: config.start,
            ticks: Ticker::new("custody-demo", config.start, 0..config.partitions),
            end: None,
            ready: VecDeque::new(),
            totals: Totals::default(),
            planted: Vec::new(),
            config,
        };
        stream.declare_inventory();
        stream.plant_malformed();
        stream
    }

    /// What was made so far; complete once the stream is exhausted.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Where the faults lie.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The values planted so far.
    pub fn planted(&self) -> &[Planted] {
        &self.planted
    }

    /// Share of the sessions that have begun, for progress.
    pub fn progress(&self) -> (u64, u64) {
        (self.totals.sessions, (self.runs.len() * self.config.scale) as u64)
    }

    /// Moves the source on by one event and returns its time; `None` at the end.
    fn advance(&mut self) -> Option<TimestampMicros> {
        let start = self.next_start.map(|s| s.0);
        let active = self.active.peek().map(|s| s.0.0);
        let next = match (start, active) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        // A heartbeat first at equal times: it lists what was open before, which is what its writer knew.
        if self.heartbeat_at <= next {
            let at = self.heartbeat_at;
            self.heartbeat_at = at.plus_ms(self.config.heartbeat_interval_ms);
            self.heartbeats(at, false);
            return Some(at);
        }
        // Ties go to the start, always, so that two runs have one order.
        if start.is_some_and(|s| active.is_none_or(|a| s <= a)) {
            self.begin();
        } else if let Some(Reverse(Due(at, _, session))) = self.active.pop() {
            self.emit(at, session);
        }
        Some(next)
    }

    fn begin(&mut self) {
        let Some((at, seed, run, copy)) = std::mem::replace(&mut self.next_start, self.starts.next()) else { return };
        let run = &self.runs[run];
        let agent_id = agent_of(&run.agent_id, copy);
        // From the seed, so that a session has the same writer in whatever order sessions start.
        let start = Start { agent_id, copy, instance: (seed as usize) % WRITERS_PER_AGENT, at, seed };
        let (events, planted) = emit::session_events(run, &start, &self.faults);
        self.planted.extend(planted);
        self.totals.sessions += 1;
        let fate = self.faults.session(emit::session_id(&start), events.len());
        let session = Session { start, fate, length: events.len(), events: events.into() };
        self.schedule(session);
    }

    fn schedule(&mut self, session: Session) {
        if let Some(next) = session.events.front() {
            // Order of entry breaks ties of time; a heap alone would not keep it.
            self.order += 1;
            self.active.push(Reverse(Due(next.at, self.order, session)));
        }
    }

    fn emit(&mut self, at: TimestampMicros, mut session: Session) {
        let Some(Timed { mut event, .. }) = session.events.pop_front() else { return };
        // Numbered before its fate is known: an event that never arrives has used its number, which is what makes the
        // gap.
        let value = self.writer(event.h()).sequencer.stamp(&mut event);
        let h = event.h();
        let fate = match session.fate {
            SessionFate::Withheld => Fate::Withheld,
            // The last two, the end included, since the queue holds what is still to come.
            SessionFate::Truncated if session.events.len() < TRUNCATED_EVENTS => Fate::Withheld,
            _ => self.faults.event(h.event_id, at, &h.agent_id, session.start.instance),
        };
        debug_assert!(session.length > session.events.len());
        let record = self.record(at, session_key(&h.tenant_id, h.session_id), value);
        self.totals.emitted += 1;
        match fate {
            Fate::Sent => self.deliver(at, record),
            Fate::Withheld => self.totals.withheld += 1,
            Fate::Late => {
                self.totals.late += 1;
                self.deliver(at.plus_ms(LATE_MS), record);
            }
            Fate::Duplicated { after_ms } => {
                self.totals.duplicated += 1;
                // The same bytes twice, under one id and one number: a redelivery and not a second event.
                self.deliver(at, record.clone());
                self.deliver(at.plus_ms(after_ms), record);
            }
        }
        self.schedule(session);
    }

    fn writer(&mut self, h: &EventHeader) -> &mut FleetWriter {
        // A fixed epoch: a demo that is killed and resumed is the same process to its readers.
        let epoch = self.config.start;
        self.writers.entry(h.producer_id.clone()).or_insert_with(|| FleetWriter {
            sequencer: Sequencer::new(h.producer_id.clone(), epoch),
            // What a writer says about itself is in no session.
            header: EventHeader { session_id: Uuid::ZERO, seq: -1, ..h.clone() },
        })
    }

    fn record(&self, at: TimestampMicros, key: Vec<u8>, value: Bytes) -> OutRecord {
        OutRecord {
            topic: Topic::Events,
            partition: Some(partition_of(&key, self.config.partitions)),
            timestamp: at,
            key: Some(Bytes::from(key)),
            value: Some(value),
            headers: Vec::new(),
        }
    }

    fn deliver(&mut self, at: TimestampMicros, mut record: OutRecord) {
        // The time of arrival, which is the broker's: a late event keeps its own time inside.
        record.timestamp = at;
        self.order += 1;
        self.totals.delivered += 1;
        self.deliveries.push(Reverse(Due(at, self.order, record)));
    }

    /// Events of a writer itself: no session, no fate.
    fn own_event(
        &mut self,
        at: TimestampMicros,
        producer_id: &str,
        make: impl FnOnce(&Sequencer, EventHeader) -> RawEvent,
    ) {
        let Some(writer) = self.writers.get_mut(producer_id) else { return };
        let h = EventHeader { event_time: at, ..writer.header.clone() };
        let mut event = make(&writer.sequencer, h);
        // Derived, since no generator belongs to the writer: resumed, the heartbeat of that time has the same id.
        let id = Uuid::derive(&[producer_id.as_bytes(), event.h().event_type.as_bytes(), &at.0.to_be_bytes()]);
        event.h_mut().event_id = id;
        let value = writer.sequencer.stamp(&mut event);
        let record = self.record(at, joined_key(&event.h().tenant_id, producer_id), value);
        self.totals.emitted += 1;
        self.deliver(at, record);
    }

    /// A heartbeat of every writer; the last one says that the writer is done.
    fn heartbeats(&mut self, at: TimestampMicros, is_last: bool) {
        // In the order of names, so that two runs number them alike.
        let producers: Vec<String> = self.writers.keys().cloned().collect();
        for producer in producers {
            self.own_event(at, &producer, |sequencer, mut h| {
                if is_last {
                    h.ext.insert(CLOSED_EXT.to_owned(), "true".to_owned());
                }
                RawEvent::Heartbeat(Heartbeat {
                    h: EventHeader { event_type: "heartbeat".to_owned(), ..h },
                    open_sessions: sequencer.open_sessions(),
                    last_producer_seq: sequencer.last_producer_seq(),
                    ..Heartbeat::default()
                })
            });
        }
    }

    /// Every agent's register entry, with the tools that its runs use.
    fn declare_inventory(&mut self) {
        let mut tools: BTreeMap<(&str, &str), std::collections::BTreeSet<&str>> = BTreeMap::new();
        for run in self.runs {
            let entry = tools.entry((&run.agent_id, &run.tenant_id)).or_default();
            entry.extend(run.steps.iter().filter_map(|s| match s {
                Step::Tool { name, .. } => Some(name.as_str()),
                _ => None,
            }));
        }
        let at = self.config.start;
        for copy in 0..self.config.scale {
            for ((agent, tenant), tools) in &tools {
                let agent_id = agent_of(agent, copy);
                let h = EventHeader {
                    tenant_id: (*tenant).to_owned(),
                    producer_id: format!("{agent_id}/0"),
                    principal: Principal {
                        r#type: "system".to_owned(),
                        id: "register".to_owned(),
                        ..Principal::default()
                    },
                    agent_id: agent_id.clone(),
                    ..EventHeader::default()
                };
                let producer = h.producer_id.clone();
                // Makes the writer known before its first session: the inventory is its first event.
                self.writer(&h);
                let tools = tools.iter().map(|t| (*t).to_owned()).collect();
                self.own_event(at, &producer, |_, h| {
                    RawEvent::InventoryDeclared(InventoryDeclared {
                        h: EventHeader { event_type: "inventory.declared".to_owned(), ..h },
                        object_kind: "agent".to_owned(),
                        object_id: agent_id,
                        tools,
                        ..InventoryDeclared::default()
                    })
                });
            }
        }
    }

    fn plant_malformed(&mut self) {
        let records = malformed::values();
        // Spread over the span, so that dead letters come between good records and not in front of them.
        let step_ms = self.config.span_ms / (records.len() as i64 + 1);
        for (index, value) in (1..).zip(records) {
            let at = self.config.start.plus_ms(step_ms * index);
            let key = joined_key("acme", &format!("malformed-{index}"));
            let record = self.record(at, key, value);
            self.totals.malformed += 1;
            self.deliver(at, record);
        }
    }

    /// Moves everything that is due before `at` to the output, ticks in between.
    fn release(&mut self, at: TimestampMicros) {
        loop {
            let due = self.deliveries.peek().map(|d| d.0.0).filter(|d| *d < at);
            // A tick first at equal times: it says that everything before it has arrived.
            if self.tick_at < at && due.is_none_or(|d| self.tick_at <= d) {
                let round = self.ticks.round(self.tick_at);
                self.totals.ticks += round.len() as u64;
                self.ready.extend(round);
                self.tick_at = self.tick_at.plus_ms(self.config.tick_interval_ms);
            } else if due.is_some() {
                let Some(Reverse(Due(_, _, record))) = self.deliveries.pop() else { return };
                let partition = PartitionId { topic: Topic::Events, partition: record.partition.unwrap_or_default() };
                // Ticks carry counts per partition, so that the offset, which only the log knows, is not needed.
                self.ticks.acknowledge(&[Position { partition, offset: 0 }]);
                self.ready.push_back(record);
            } else {
                return;
            }
        }
    }

    /// After the last source event: a last heartbeat of every writer, then ticks only.
    fn finish(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        // Late batches and second copies may lie minutes ahead of the last session.
        let last = self.deliveries.iter().map(|d| d.0.0).max().unwrap_or(self.tick_at);
        let at = last.max(self.tick_at).plus_ms(1_000);
        self.heartbeats(at, true);
        let end = at.plus_ms(self.config.trail_ms);
        self.end = Some(end);
        self.release(end);
        true
    }
}

impl Iterator for Stream<'_> {
    type Item = OutRecord;

    fn next(&mut self) -> Option<OutRecord> {
        while self.ready.is_empty() {
            match self.advance() {
                Some(at) => self.release(at),
                None if self.finish() => {}
                None => return None,
            }
        }
        self.ready.pop_front()
    }
}

/// Id of an agent in one copy of the fleet.
fn agent_of(agent_id: &str, copy: usize) -> String {
    if copy == 0 { agent_id.to_owned() } else { format!("{agent_id}-{copy}") }
}

/// Start time, seed, run and copy of every session, in order of time.
fn starts(runs: usize, config: &StreamConfig) -> Vec<(TimestampMicros, u64, usize, usize)> {
    let mut rng = fastrand::Rng::with_seed(config.seed);
    let mut starts = Vec::with_capacity(runs * config.scale);
    for copy in 0..config.scale {
        for run in 0..runs {
            let at = config.start.plus_ms(rng.i64(0..config.span_ms.max(1)));
            starts.push((at, rng.u64(..), run, copy));
        }
    }
    // Seed, run and copy decide between equal times.
    starts.sort_unstable();
    starts
}

#[cfg(test)]
mod tests {
    use schemas::event::RawEvent;

    use super::*;
    use crate::fleet::synth;

    fn config(seed: u64) -> StreamConfig {
        StreamConfig {
            seed,
            scale: 1,
            partitions: 4,
            start: TimestampMicros::from_ms(1_768_208_400_000),
            span_ms: 3_600_000,
            tick_interval_ms: 30_000,
            heartbeat_interval_ms: 300_000,
            trail_ms: 3_600_000,
        }
    }

    #[test]
    fn the_same_configuration_gives_the_same_records_in_order_of_time() {
        let runs = synth::fleet(1);
        let records: Vec<OutRecord> = Stream::new(&runs, config(1)).collect();
        assert_eq!(records, Stream::new(&runs, config(1)).collect::<Vec<_>>());
        assert!(records.is_sorted_by_key(|r| r.timestamp));
    }

    #[test]
    fn totals_say_what_was_delivered() {
        let runs = synth::fleet(2);
        let mut stream = Stream::new(&runs, config(2));
        let records: Vec<OutRecord> = stream.by_ref().collect();
        let totals = stream.totals();
        assert_eq!(records.len() as u64, totals.delivered + totals.ticks);
        assert_eq!(totals.delivered, totals.emitted - totals.withheld + totals.duplicated + totals.malformed);
        assert!(totals.withheld > 0 && totals.duplicated > 0 && totals.late > 0, "{totals:?}");
        assert!(!stream.planted().is_empty());
    }

    #[test]
    fn producer_numbers_miss_just_the_withheld_events() {
        let runs = synth::fleet(3);
        let mut stream = Stream::new(&runs, config(3));
        let mut seen: BTreeMap<String, std::collections::BTreeSet<i64>> = BTreeMap::new();
        for record in stream.by_ref() {
            let Ok(event) = schemas::codec::codec().decode::<schemas::text::RawText>(record.value.as_deref()) else {
                continue;
            };
            if !event.is_tick() && !event.h().agent_id.starts_with("broken") {
                let event: RawEvent = event;
                seen.entry(event.h().producer_id.clone()).or_default().insert(event.h().producer_seq);
            }
        }
        let missing: i64 = seen.values().map(|s| s.last().map_or(0, |last| last + 1) - s.len() as i64).sum();
        assert_eq!(missing as u64, stream.totals().withheld);
    }
}
