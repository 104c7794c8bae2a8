//! What the benches share: the events and the log that they run on, and a clock that other load on
//! the machine does not move.
//!
//! Deterministic, so that a bench can check its answer before it times anything.

#![allow(dead_code, reason = "every bench is a program of its own and uses a part of this")]

pub(crate) mod cpu_time;

use std::collections::BTreeMap;

use bytes::Bytes;
use custody::fleet::Run;
use custody::fleet::Start;
use custody::fleet::emit::session_events;
use custody::fleet::faults::Faults;
use custody::fleet::plant::Planted;
use custody::fleet::synth;
use ingest::agent::sequencer::Sequencer;
use ingest::agent::tick::Ticker;
use processors::pii::{Pii, PiiConfig, PiiState, PolicySet, TokenKeys};
use processors::stage::{Processor as _, Sourced};
use schemas::codec::{Derived, codec};
use schemas::event::{CleanEvent, RawEvent};
use schemas::id::Sha256;
use schemas::record::{PartitionId, Position, Record, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, session_key};

/// Log time at which the corpus begins: 2026-01-12T09:00Z.
pub(crate) const START: TimestampMicros = TimestampMicros::from_ms(1_768_208_400_000);
/// Records of one batch, about what the runner hands to a stage at a time.
pub(crate) const BATCH: usize = 512;
/// Encoded lengths that are about 1 KiB, what the targets are for.
pub(crate) const ABOUT_A_KIB: std::ops::RangeInclusive<usize> = 768..=1_280;
/// Time between two ticks.
const TICK_MS: i64 = 30_000;

/// `count` events of the fleet of seed 1, session by session.
pub(crate) fn events(count: usize) -> Vec<RawEvent> {
    let runs = synth::fleet(1);
    let mut events: Vec<RawEvent> = Vec::with_capacity(count);
    let faults = Faults::plan(1, &runs, START, 3_600_000);
    for (index, run) in (0_u64..).zip(runs.iter().cycle()) {
        events.extend(session_events(run, &start(run, index, 1, 1), &faults).0.into_iter().map(|timed| timed.event));
        if events.len() >= count {
            break;
        }
    }
    events.truncate(count);
    events
}

/// One run of every agent of the fleet of seed 1 with the values planted in it.
pub(crate) fn planted_events() -> (Vec<RawEvent>, Vec<Planted>) {
    let runs = synth::fleet(1);
    let faults = Faults::plan(1, &runs, START, 3_600_000);
    let (mut events, mut planted) = (Vec::new(), Vec::new());
    for (index, run) in (0_u64..).zip(&runs) {
        let (timed, values) = session_events(run, &start(run, index, 0, 1), &faults);
        events.extend(timed.into_iter().map(|timed| timed.event));
        planted.extend(values);
    }
    (events, planted)
}

fn start(run: &Run, index: u64, copy: usize, step_ms: i64) -> Start {
    let at = START.plus_ms(index as i64 * step_ms);
    Start { agent_id: run.agent_id.clone(), copy, instance: 0, at, seed: index }
}

/// One partition of the events topic with at least `count` events of whole sessions, one of which
/// begins every `session_step_ms`; sequenced, chained, in order of time, with ticks, and with no
/// fault of delivery.
pub(crate) fn log(count: usize, session_step_ms: i64) -> Vec<Record> {
    let mut runs = synth::fleet(1);
    let faults = Faults::plan(1, &runs, START, 3_600_000);
    // The fleet comes agent by agent; in a log they are mixed.
    fastrand::Rng::with_seed(1).shuffle(&mut runs);
    let mut timed = Vec::with_capacity(count);
    for (index, run) in (0_u64..).zip(runs.iter().cycle()) {
        timed.extend(session_events(run, &start(run, index, 1, session_step_ms), &faults).0);
        if timed.len() >= count {
            break;
        }
    }
    timed.sort_by_key(|timed| timed.at);
    let mut writers: BTreeMap<String, Sequencer> = BTreeMap::new();
    let mut ticks = Ticker::new("bench", START, 0..1);
    let mut records = Vec::with_capacity(timed.len());
    let mut tick_at = START;
    for mut timed in timed {
        while tick_at <= timed.at {
            for tick in ticks.round(tick_at) {
                push(&mut records, tick_at, tick.key, tick.value.unwrap_or_default());
            }
            tick_at = tick_at.plus_ms(TICK_MS);
        }
        let h = timed.event.h();
        let key = session_key(&h.tenant_id, h.session_id);
        let writer = h.producer_id.clone();
        let writer = writers.entry(writer).or_insert_with_key(|id| Sequencer::new(id.clone(), START));
        let value = writer.stamp(&mut timed.event);
        let at = push(&mut records, timed.at, Some(key.into()), value);
        ticks.acknowledge(&[at]);
    }
    records
}

fn push(records: &mut Vec<Record>, timestamp: TimestampMicros, key: Option<Bytes>, value: Bytes) -> Position {
    let at = position(Topic::Events, records.len());
    records.push(Record { at, timestamp, key, value: Some(value), headers: Vec::new() });
    at
}

fn position(topic: Topic, offset: usize) -> Position {
    Position { partition: PartitionId { topic, partition: 0 }, offset: offset as u64 }
}

/// The records of [`log`] as the stage `pii` reads them.
#[allow(clippy::expect_used, reason = "the records are of the bench's own making")]
pub(crate) fn decoded(log: &[Record]) -> Vec<Sourced<RawEvent>> {
    let decode = |record: &Record| {
        let value = record.value.as_deref();
        let source = SourceRef { offset: record.at.offset, sha256: Sha256::of(value.unwrap_or_default()) };
        let value = codec().decode(value).expect("a record of our own encoding");
        Sourced { at: record.at, broker_time: record.timestamp, source, value }
    };
    log.iter().map(decode).collect()
}

/// The stage `pii` with the default policy and a fixed key.
pub(crate) fn pii() -> Pii {
    Pii::new(PiiConfig { keys: TokenKeys::new([7; 32]), policies: PolicySet::default() })
}

/// The clean topic that `pii` makes of [`log`]: one record for each.
pub(crate) fn clean(log: &[Record]) -> Vec<Sourced<CleanEvent>> {
    let (stage, mut state) = (pii(), PiiState::default());
    let mut clean: Vec<Sourced<CleanEvent>> = Vec::with_capacity(log.len());
    for batch in decoded(log).chunks(BATCH) {
        let output = stage.process(&mut state, batch);
        assert_eq!(output.rejects, [], "the fleet's events are valid");
        for out in output.derived.into_iter().filter(|out| out.topic == Topic::Clean) {
            let (Derived::Event(value), Some(source)) = (out.value, out.source) else { continue };
            let at = position(Topic::Clean, clean.len());
            clean.push(Sourced { at, broker_time: out.broker_time, source, value });
        }
    }
    assert_eq!(clean.len(), log.len(), "one clean record for each record");
    clean
}
