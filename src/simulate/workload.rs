//! What goes in: a small fleet of a seed, with everything that the auditor must find again.
//!
//! Only data; the demo's stream makes it.

use schemas::record::OutRecord;

use crate::demo::settings;
use crate::fleet::stream::{Stream, StreamConfig, Totals};
use crate::fleet::synth;

/// Sessions of a run. More of them add rows, not cases.
const SESSIONS: usize = 6;
/// Sessions begin within an hour, and an hour of ticks follows the last event: longer than every grace
/// period.
const SPAN_MS: i64 = 3_600_000;

/// The input of one run.
#[derive(Debug)]
pub(super) struct Workload {
    /// Records of the events topic, in the order of arrival.
    pub(super) records: Vec<OutRecord>,
    /// How many there are of each sort.
    pub(super) totals: Totals,
    /// Values that no published byte may hold.
    pub(super) secrets: Vec<String>,
}

impl Workload {
    /// The input of a seed over `partitions` partitions.
    pub(super) fn of(seed: u64, partitions: u32) -> Self {
        let mut runs = synth::fleet(seed);
        // Before the cut: the first six of every fleet are one kind of agent.
        fastrand::Rng::with_seed(seed).shuffle(&mut runs);
        runs.truncate(SESSIONS);
        let config = StreamConfig {
            span_ms: SPAN_MS,
            tick_interval_ms: 120_000,
            trail_ms: SPAN_MS,
            ..settings::stream_of(seed, partitions)
        };
        let mut stream = Stream::new(&runs, config);
        let records = stream.by_ref().collect();
        let secrets = stream.planted().iter().map(|planted| planted.value.clone()).collect();
        Self { records, totals: stream.totals(), secrets }
    }
}
