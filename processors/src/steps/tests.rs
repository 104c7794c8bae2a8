//! Logs that are made to let each stage walk most: steps per event stay the same, however long the log.

use schemas::codec::Derived;
use schemas::event::{
    CleanEvent, DetectionRaised, Event, EventHeader, Heartbeat, InventoryDeclared, ModelCall, OpenSession, Signal,
    Tick, ToolCallAttempted, ToolCallCompleted, Watermark,
};
use schemas::id::Uuid;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use super::*;
use crate::anomaly::{Features, FeaturesConfig, Score, ScoreConfig};
use crate::completeness::{Completeness, CompletenessConfig};
use crate::stage::{Processor, Sourced};
use crate::testing::sourced;

/// Entries that one event may let a stage walk: identities of the newest 1,024 numbers, twice, and a few
/// lists of 256.
const STEPS_PER_EVENT: u64 = 4_096;
/// Events of about 256 bytes in 1 KiB, in 32 KiB and in 1 MiB.
const LENGTHS: [usize; 3] = [4, 128, 4_096];
const START: TimestampMicros = TimestampMicros(1_772_438_400_000_000);

fn id(n: usize) -> Uuid {
    Uuid::derive(&[&n.to_be_bytes()])
}

fn header(n: usize, session: usize, seq: i64) -> EventHeader {
    EventHeader {
        event_id: id(n),
        event_time: START,
        tenant_id: "acme".to_owned(),
        agent_id: "a".to_owned(),
        session_id: id(session),
        seq,
        producer_id: "w".to_owned(),
        producer_seq: seq,
        ..EventHeader::of_type("tool.call.attempted")
    }
}

fn attempted(h: EventHeader, call: usize) -> CleanEvent {
    Event::ToolCallAttempted(ToolCallAttempted {
        h,
        tool_call_id: format!("c{call}"),
        tool_name: format!("t{call}"),
        ..ToolCallAttempted::default()
    })
}

fn completed(h: EventHeader, call: usize) -> CleanEvent {
    let (tool_call_id, tool_name) = (format!("c{call}"), format!("t{call}"));
    Event::ToolCallCompleted(ToolCallCompleted { h, tool_call_id, tool_name, ..Default::default() })
}

fn tick(at: i64) -> CleanEvent {
    let h = EventHeader { session_id: Uuid::ZERO, seq: -1, ..EventHeader::of_type("tick") };
    Event::Tick(Tick { h, at: START.plus_ms(at), ..Tick::default() })
}

/// Logs of `count` events by the order of their numbers and by what they name.
fn logs(count: usize) -> Vec<(&'static str, Vec<CleanEvent>)> {
    let n = count as i64;
    let of = |make: &dyn Fn(usize) -> CleanEvent| (0..count).map(make).collect::<Vec<_>>();
    let best_effort = |n: usize, epoch: i64, seq: i64| EventHeader {
        capture: "best_effort".to_owned(),
        producer_epoch: epoch,
        ..header(n, 0, seq)
    };
    let detection = |i: usize| {
        let h = EventHeader { event_type: "detection.raised".to_owned(), ..header(i, i, 0) };
        Event::DetectionRaised(DetectionRaised { h, kind: "prompt_injection".to_owned(), ..Default::default() })
    };
    let inventory = |i: usize| {
        let h = EventHeader { event_type: "inventory.declared".to_owned(), ..header(i, 0, i as i64) };
        let tools = (0..8).map(|tool| format!("t{i}-{tool}")).collect();
        let (object_kind, object_id) = ("agent".to_owned(), "a".to_owned());
        Event::InventoryDeclared(InventoryDeclared { h, object_kind, object_id, tools, ..Default::default() })
    };
    let heartbeat = |i: usize| {
        let h = EventHeader { session_id: Uuid::ZERO, seq: -1, ..header(i, 0, i as i64) };
        let open = |k: usize| OpenSession { id: id(i * 4 + k), last_seq: 9 };
        Event::Heartbeat(Heartbeat { h, open_sessions: (0..4).map(open).collect(), ..Heartbeat::default() })
    };
    let model = |i: usize| {
        let h = EventHeader { event_type: "model.call".to_owned(), ..header(i, 0, i as i64) };
        let (provider, status) = (format!("p{i}"), "error".to_owned());
        Event::ModelCall(ModelCall { h, provider, status, error_type: format!("e{i}"), ..ModelCall::default() })
    };
    vec![
        ("in order", of(&|i| attempted(header(i, 0, i as i64), i))),
        ("in reverse", of(&|i| attempted(header(i, 0, n - 1 - i as i64), i))),
        ("every other number", of(&|i| attempted(header(i, 0, 2 * i as i64), i))),
        (
            "holes that fill from the middle",
            of(&|i| {
                let seq = if i % 2 == 0 { 2 * i as i64 } else { 2 * (i as i64 / 2) + 1 };
                attempted(header(i, 0, seq), i)
            }),
        ),
        ("the same event", of(&|_| attempted(header(0, 0, 0), 0))),
        ("one number, many ids", of(&|i| attempted(header(i, 0, 7), i))),
        ("a session each", of(&|i| attempted(header(i, i, 0), i))),
        ("a tenant each", of(&|i| attempted(EventHeader { tenant_id: format!("t{i}"), ..header(i, i, 0) }, i))),
        (
            "a writer each",
            of(&|i| attempted(EventHeader { producer_id: format!("w{i}"), ..header(i, 0, i as i64) }, i)),
        ),
        ("an agent each", of(&|i| attempted(EventHeader { agent_id: format!("a{i}"), ..header(i, 0, i as i64) }, i))),
        ("best effort", of(&|i| attempted(best_effort(i, 0, i as i64), i))),
        ("best effort, an epoch each", of(&|i| attempted(best_effort(i, i as i64, 0), i))),
        ("best effort, every other number", of(&|i| attempted(best_effort(i, 0, 2 * i as i64), i))),
        ("best effort, the same event", of(&|_| attempted(best_effort(0, 0, 0), 0))),
        ("outside of sessions", of(&|i| attempted(EventHeader { session_id: Uuid::ZERO, ..header(i, 0, -1) }, i))),
        ("calls that were not attempted", of(&|i| completed(header(i, 0, i as i64), i))),
        ("injections", of(&detection)),
        ("declarations", of(&inventory)),
        ("heartbeats", of(&heartbeat)),
        ("failures", of(&model)),
    ]
}

#[track_caller]
fn check<P: Processor>(name: &str, stage: &P, batch: &[Sourced<P::Input>], state: &mut P::State) {
    let steps = steps_of(|| stage.process(state, batch));
    let events = batch.len() as u64;
    assert!(steps <= STEPS_PER_EVENT * events, "{name}: {steps} steps for {events} events");
}

#[test]
fn steps_per_event_do_not_grow_with_the_log() {
    let completeness = Completeness::new(CompletenessConfig::default());
    let features = Features::new(FeaturesConfig::default());
    for (count, (name, mut events)) in
        LENGTHS.into_iter().flat_map(|count| logs(count).into_iter().map(move |l| (count, l)))
    {
        // Time alone makes due what is open: once per log, as ticks are seconds apart.
        events.extend([tick(60_000), tick(3_600_000), tick(7_200_000)]);
        let batch = sourced(Topic::Clean, START, 1, events);
        check(&format!("completeness, {count} {name}"), &completeness, &batch, &mut Default::default());
        check(&format!("features, {count} {name}"), &features, &batch, &mut Default::default());
    }
}

/// Signals of `count` subjects or windows, each with as many categories as a window may have.
#[test]
fn steps_per_signal_do_not_grow_with_the_log() {
    let score = Score::new(ScoreConfig { window_ms: 60_000, ..ScoreConfig::default() });
    let signal = |subject: usize, window: i64, categories: usize| {
        let counts = (0..categories).map(|n| (format!("tool/{window}-{n}"), 1)).collect();
        let first = START.plus_ms(window * 60_000);
        Derived::Signal(Signal {
            window_first: first,
            window_next: first.plus_ms(60_000),
            ordinal: subject as i64,
            tenant_id: "acme".to_owned(),
            subject_kind: "agent".to_owned(),
            subject: format!("a{subject}"),
            environment: "prod".to_owned(),
            counts,
            values: [("model_calls".to_owned(), 5.0), ("tool_calls".to_owned(), 5.0)].into(),
            ..Signal::default()
        })
    };
    let mark = |window: i64| {
        let at = START.plus_ms((window + 1) * 60_000);
        Derived::Watermark(Watermark { at, source_partition: 0, source_partitions: 1 })
    };
    for count in [4_usize, 128, 1_024] {
        let subjects = (0..count).map(|n| signal(n, 0, 4)).chain([mark(0)]).collect::<Vec<_>>();
        let windows = (0..count as i64).flat_map(|w| [signal(0, w, 64), mark(w)]).collect::<Vec<_>>();
        for (name, signals) in [("subjects", subjects), ("windows", windows)] {
            let batch = sourced(Topic::Signals, START, 1, signals);
            check(&format!("score, {count} {name}"), &score, &batch, &mut Default::default());
        }
    }
}
