//! The events that benches run on: sessions of the seeded fleet, as their agents would send them.
//!
//! Deterministic, so that a bench can check its answer before it times anything.

use custody::fleet::emit::{Start, session_events};
use custody::fleet::faults::Faults;
use custody::fleet::synth;
use schemas::event::RawEvent;
use schemas::time::TimestampMicros;

/// Log time at which the corpus begins: 2026-01-12T09:00Z.
pub const START: TimestampMicros = TimestampMicros::from_ms(1_768_208_400_000);

/// `count` events of the fleet of seed 1, session by session.
pub fn events(count: usize) -> Vec<RawEvent> {
    let runs = synth::fleet(1);
    let faults = Faults::plan(1, &runs, START, 3_600_000);
    let mut events = Vec::with_capacity(count);
    for (index, run) in (0u64..).zip(runs.iter().cycle()) {
        let start = Start {
            agent_id: run.agent_id.clone(),
            copy: 1,
            instance: 0,
            at: START.plus_ms(index as i64),
            seed: index,
        };
        events.extend(session_events(run, &start, &faults).0.into_iter().map(|t| t.event));
        if events.len() >= count {
            break;
        }
    }
    events.truncate(count);
    events
}
