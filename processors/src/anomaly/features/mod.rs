//! Stage `features`: events of the clean topic in, window measures per subject out.
//!
//! A window closes when a tick says that its end has passed; then the partition reports its signals
//! in the order (window, subject) and, after the last of them, a watermark. It counts and forwards
//! facts; it judges nothing, but for the two rules that cannot wait for a window (`urgent`).
//!
//! Windows are of broker time. A record older than the last closed window counts in the open one:
//! nothing is lost. A repeated event is counted again: de-duplication belongs to `completeness`.

mod measure;
mod state;
mod urgent;

use schemas::codec::Derived;
use schemas::event::{CleanEvent, Event, Signal, Watermark};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, joined_key};
use serde::{Deserialize, Serialize};

use super::alert::SubjectKey;
use crate::stage::{Outgoing, Output, Processor, ProcessorId, Route, Sourced};
pub use state::FeaturesState;
use state::Measures;

/// Name and version on the wire.
pub(super) const DETECTOR: &str = "features@1";
/// Most signals that one input event may emit; the rest follow with the next events. Leaves
/// room for a watermark and alerts below [`schemas::limits::OUTPUTS_PER_EVENT_MAX`].
const SIGNALS_PER_EVENT_MAX: usize = 48;
/// Most that a tick may run ahead of the broker's time of its record, milliseconds: one wrong clock
/// must not close the windows of the future.
const TICK_AHEAD_MS_MAX: i64 = 60_000;

/// Settings of [`Features`]; a change is a new version of the stage's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeaturesConfig {
    /// Width of a window, milliseconds, at least 1.
    pub window_ms: i64,
    /// Partitions of the clean topic.
    #[serde(skip)]
    pub source_partitions: u32,
    /// Windows during which an urgent alert is not repeated.
    pub repeat_windows: i64,
    /// Windows for which a prompt injection taints its session.
    pub injection_windows: i64,
}

impl Default for FeaturesConfig {
    fn default() -> Self {
        Self { window_ms: 60_000, source_partitions: 1, repeat_windows: 10, injection_windows: 60 }
    }
}

/// The stage; state per partition is [`FeaturesState`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    config: FeaturesConfig,
}

impl Features {
    /// A stage with these settings.
    pub fn new(config: FeaturesConfig) -> Self {
        Self { config: FeaturesConfig { window_ms: config.window_ms.max(1), ..config } }
    }

    fn step(&self, state: &mut FeaturesState, record: &Sourced<CleanEvent>, out: &mut Output) {
        match &record.value {
            Event::Tick(tick) => {
                // Floored, so that a window closes only once all of it has passed.
                let at = tick.at.min(record.broker_time.plus_ms(TICK_AHEAD_MS_MAX));
                state.close_to(at.floor_to_ms(self.config.window_ms), &self.config);
            }
            event => self.count(state, record, event, out),
        }
        self.report(state, record, out);
    }

    fn count(&self, state: &mut FeaturesState, record: &Sourced<CleanEvent>, event: &CleanEvent, out: &mut Output) {
        // Log time, not the time of the event: a late event cannot open a window that is closed already.
        let window = state.window_of(record.broker_time.floor_to_ms(self.config.window_ms));
        let urgent = urgent::judge(state, event, window, record.broker_time);
        let h = event.h();
        let mut additions = measure::additions(event);
        for alert in &urgent {
            // `score` sees window sums only: through this count it learns of an alert that was sent here, keeps it
            // firing and resolves it. Also where the alert was not sent again.
            let announced = format!("announced/{}/{}", alert.class, alert.metric);
            additions.push(measure::Addition::agent(h).count(announced, 1));
        }
        for addition in additions {
            let key = SubjectKey {
                tenant_id: h.tenant_id.clone(),
                kind: addition.kind.to_owned(),
                environment: h.environment.clone(),
                subject: addition.subject.clone(),
            };
            state.add(window, key, &addition, h.event_id);
        }
        out.derived.extend(urgent.into_iter().filter_map(|alert| alert.record));
    }

    /// Emits what is due: signals of closed windows, then the watermark.
    fn report(&self, state: &mut FeaturesState, record: &Sourced<CleanEvent>, out: &mut Output) {
        // One tick may close windows of thousands of subjects; a step holds what its records lead to, so that the
        // rest waits for the next ones.
        for _ in 0..SIGNALS_PER_EVENT_MAX {
            let Some((window, ordinal, key, measures)) = state.next_closed() else { break };
            out.derived.push(self.signal(record, window, ordinal, key, measures));
        }
        // After the last signal only: a barrier drops what comes behind its watermark as a redelivery.
        if let Some(at) = state.due_watermark() {
            out.derived.push(self.watermark(record, at));
        }
    }

    fn signal(
        &self,
        record: &Sourced<CleanEvent>,
        window: TimestampMicros,
        ordinal: i64,
        key: SubjectKey,
        measures: Measures,
    ) -> Outgoing {
        let signal = Signal {
            window_first: window,
            window_next: window.plus_ms(self.config.window_ms),
            source_partition: partition_number(record),
            ordinal,
            values: measures.values,
            counts: measures.counts,
            event_ids: measures.event_ids,
            tenant_id: key.tenant_id,
            subject_kind: key.kind,
            subject: key.subject,
            environment: key.environment,
        };
        Outgoing {
            topic: Topic::Signals,
            route: Route::ByKey,
            // By subject: baselines need all of its windows in one partition, wherever its sessions are.
            key: joined_key(&signal.tenant_id, &signal.subject),
            source: None,
            broker_time: record.broker_time,
            value: Derived::Signal(signal),
        }
    }

    fn watermark(&self, record: &Sourced<CleanEvent>, at: TimestampMicros) -> Outgoing {
        let source_partitions = i32::try_from(self.config.source_partitions).unwrap_or(i32::MAX);
        let watermark = Watermark { at, source_partition: partition_number(record), source_partitions };
        Outgoing {
            topic: Topic::Signals,
            route: Route::All,
            key: b"watermark".to_vec(),
            source: None,
            broker_time: record.broker_time,
            value: Derived::Watermark(watermark),
        }
    }
}

fn partition_number(record: &Sourced<CleanEvent>) -> i32 {
    // Within the generation: barriers count from 0 in each.
    i32::try_from(record.at.partition.index()).unwrap_or(i32::MAX)
}

impl Processor for Features {
    type Input = CleanEvent;
    type State = FeaturesState;

    fn id(&self) -> ProcessorId {
        ProcessorId { name: "features", version: 1 }
    }

    fn process(&self, state: &mut FeaturesState, batch: &[Sourced<CleanEvent>]) -> Output {
        let mut out = Output::default();
        batch.iter().for_each(|record| self.step(state, record, &mut out));
        out
    }
}
