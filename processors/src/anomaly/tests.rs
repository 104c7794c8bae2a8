//! Scenarios: a seeded fleet goes through both stages; the alerts are compared.
//!
//! The fleet is synthetic and says so: 12 agents on two providers, sessions at random times, a
//! handful of calls each, log-normal cost and latency, 2 % errors.

mod rekey;

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::codec::Derived;
use schemas::event::{
    Alert, Budget, ChangeRecorded, CleanEvent, DetectionRaised, Event, EventHeader, InventoryDeclared, ModelCall,
    SessionEnded, SessionStarted, Signal, Tick, ToolCallAttempted, ToolCallCompleted, Watermark,
};
use schemas::id::{Sha256, Uuid};
use schemas::record::{PartitionId, Position, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, partition_of, session_key};

use super::{Features, FeaturesConfig, Score, ScoreConfig};
use crate::stage::{Outgoing, Processor, Route, Sourced};
use crate::testing::{Changelog, drain_changes, restored};

const PARTITIONS: u32 = 4;
const MINUTE_MS: i64 = 60_000;
/// 2026-03-02 08:00 UTC, a Monday.
const START: TimestampMicros = TimestampMicros(1_772_438_400_000_000);

/// Knuth's MMIX generator: seeded, portable, good enough for test data.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    fn log_normal(&mut self, median: f64, sigma: f64) -> i64 {
        (median * (sigma * self.normal()).exp()) as i64
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.unit() * n as f64) as u64
    }

    fn uuid(&mut self) -> Uuid {
        let (high, low) = (self.unit().to_bits(), self.unit().to_bits());
        Uuid::derive(&[&high.to_be_bytes(), &low.to_be_bytes()])
    }
}

/// An event with its broker time; sessions decide the partition.
type Timed = (TimestampMicros, CleanEvent);

fn header(event_type: &str, agent: &str, session_id: Uuid, event_id: Uuid) -> EventHeader {
    EventHeader {
        tenant_id: "acme".to_owned(),
        agent_id: agent.to_owned(),
        session_id,
        event_id,
        ..EventHeader::of_type(event_type)
    }
}

fn agent_name(number: u64) -> String {
    format!("agent-{number:02}")
}

fn provider_of(agent: u64) -> &'static str {
    if agent.is_multiple_of(3) { "anthropic" } else { "openai" }
}

/// Minutes `[first, next)` from the start.
type Span = (i64, i64);

#[derive(Clone, Default)]
struct Fleet {
    seed: u64,
    minutes: i64,
    /// Mean seconds between the sessions of an agent, at least; up to 60 more by agent.
    pace: f64,
    /// 80 % of the calls to openai fail.
    outage: Option<Span>,
    /// The calls of agent-04 cost eight times as much.
    burst: Option<Span>,
    extra: Vec<Timed>,
}

impl Fleet {
    fn quiet(seed: u64) -> Self {
        Self { seed, minutes: 180, pace: 40.0, ..Self::default() }
    }

    fn events(&self) -> Vec<Timed> {
        let mut random = Random(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut events = self.extra.clone();
        for agent in 0..12 {
            let mut second = random.unit() * 120.0;
            let pace = self.pace + 15.0 * (agent % 5) as f64;
            while second < self.minutes as f64 * 60.0 {
                self.session(agent, second, &mut random, &mut events);
                second += -pace * random.unit().ln();
            }
        }
        events.sort_by_key(|(at, event)| (*at, event.h().event_id));
        events
    }

    fn is_in(span: Option<Span>, second: f64) -> bool {
        span.is_some_and(|(first, next)| (first as f64 * 60.0..next as f64 * 60.0).contains(&second))
    }

    fn session(&self, agent: u64, mut second: f64, random: &mut Random, events: &mut Vec<Timed>) {
        let (name, provider, session) = (agent_name(agent), provider_of(agent), random.uuid());
        let at = |second: f64| TimestampMicros(START.0 + (second * 1e6) as i64);
        let h = |event_type: &str, random: &mut Random| header(event_type, &name, session, random.uuid());
        let started = SessionStarted { h: h("session.started", random), ..SessionStarted::default() };
        events.push((at(second), Event::SessionStarted(started)));
        let mut failed = random.chance(0.05);
        for _ in 0..2 + random.below(6) {
            second += 1.0 + 8.0 * random.unit();
            let down = provider == "openai" && Self::is_in(self.outage, second);
            let error = random.chance(if down { 0.8 } else { 0.02 });
            let factor = if agent == 4 && Self::is_in(self.burst, second) { 8.0 } else { 1.0 };
            let cost = random.log_normal(3_000.0 * factor, 0.6);
            events.push((at(second), model_call(h("model.call", random), provider, error, cost, random)));
            failed |= down && error;
            if !error && random.chance(0.6) {
                let tool = format!("tool-{}", (agent + random.below(3)) % 8);
                second += 0.5;
                events.extend(tool_call(&tool, "read", [at(second), at(second + 1.0)], || h("", random)));
            }
        }
        let status = if failed { "error" } else { "ok" };
        let ended =
            SessionEnded { h: h("session.ended", random), status: status.to_owned(), ..SessionEnded::default() };
        events.push((at(second + 2.0), Event::SessionEnded(ended)));
    }
}

fn model_call(h: EventHeader, provider: &str, error: bool, cost_micros: i64, random: &mut Random) -> CleanEvent {
    Event::ModelCall(ModelCall {
        h,
        provider: provider.to_owned(),
        response_model: format!("{provider}-large"),
        status: if error { "error" } else { "ok" }.to_owned(),
        error_type: if error { "http_503" } else { "" }.to_owned(),
        cost_micros,
        output_tokens: cost_micros / 10,
        latency_ms: random.log_normal(900.0, 0.5),
        ..ModelCall::default()
    })
}

fn tool_call(
    tool: &str,
    side_effect: &str,
    at: [TimestampMicros; 2],
    mut header: impl FnMut() -> EventHeader,
) -> [Timed; 2] {
    let mut named = |event_type: &str| EventHeader { event_type: event_type.to_owned(), ..header() };
    let attempted = ToolCallAttempted {
        h: named("tool.call.attempted"),
        tool_name: tool.to_owned(),
        side_effect_class: side_effect.to_owned(),
        ..ToolCallAttempted::default()
    };
    let completed = ToolCallCompleted {
        h: named("tool.call.completed"),
        tool_name: tool.to_owned(),
        ..ToolCallCompleted::default()
    };
    [(at[0], Event::ToolCallAttempted(attempted)), (at[1], Event::ToolCallCompleted(completed))]
}

fn minute(minutes: i64) -> TimestampMicros {
    START.plus_ms(minutes * MINUTE_MS)
}

fn tick(at: TimestampMicros) -> CleanEvent {
    Event::Tick(Tick { h: EventHeader::of_type("tick"), at, ..Tick::default() })
}

fn sourced<T>(
    topic: Topic,
    partition: u32,
    records: impl IntoIterator<Item = (TimestampMicros, T)>,
) -> Vec<Sourced<T>> {
    let record = |(offset, (broker_time, value)): (usize, _)| Sourced {
        at: Position { partition: PartitionId { topic, partition }, offset: offset as u64 },
        broker_time,
        source: SourceRef { offset: offset as u64, sha256: Sha256::ZERO },
        value,
    };
    records.into_iter().enumerate().map(record).collect()
}

/// The partitions of the clean topic: events by session, ticks every 30 s in each.
fn clean_topic(events: &[Timed], minutes: i64) -> Vec<Vec<Sourced<CleanEvent>>> {
    let mut partitions = vec![Vec::new(); PARTITIONS as usize];
    for (at, event) in events {
        let partition = partition_of(&session_key("acme", event.h().session_id), PARTITIONS);
        partitions[partition as usize].push((*at, event.clone()));
    }
    let ticks = (1..=2 * (minutes + 12)).map(|half| START.plus_ms(half * MINUTE_MS / 2));
    for at in ticks {
        partitions.iter_mut().for_each(|records| records.push((at, tick(at))));
    }
    let sorted = partitions.into_iter().map(|mut records| {
        records.sort_by_key(|(at, event)| (*at, event.is_tick()));
        records
    });
    sorted.zip(0..).map(|(records, partition)| sourced(Topic::Clean, partition, records)).collect()
}

/// What `features` makes of one partition.
fn features_of(records: &[Sourced<CleanEvent>]) -> Vec<Outgoing> {
    let stage = Features::new(FeaturesConfig { source_partitions: PARTITIONS, ..FeaturesConfig::default() });
    stage.process(&mut <Features as Processor>::State::default(), records).derived
}

/// Splits the outputs of every source partition: alerts, and the streams of each signals partition.
fn signal_streams(outputs: Vec<Vec<Outgoing>>) -> (Vec<Alert>, Vec<Vec<Vec<Derived>>>) {
    let mut alerts = Vec::new();
    let mut streams = vec![vec![Vec::new(); PARTITIONS as usize]; PARTITIONS as usize];
    for (source, outputs) in outputs.into_iter().enumerate() {
        for output in outputs {
            match (&output.value, output.route) {
                (Derived::Alert(alert), _) => alerts.push(alert.clone()),
                (_, Route::All) => streams.iter_mut().for_each(|p| p[source].push(output.value.clone())),
                _ => streams[partition_of(&output.key, PARTITIONS) as usize][source].push(output.value),
            }
        }
    }
    (alerts, streams)
}

/// Weaves the streams of source partitions by `picks`, then takes what is left in turns.
fn woven(streams: &[Vec<Derived>], picks: &[usize]) -> Vec<Sourced<Derived>> {
    let mut rest: Vec<_> = streams.iter().map(|stream| stream.iter().cloned()).collect();
    let mut records: Vec<Derived> = picks.iter().filter_map(|pick| rest[pick % streams.len()].next()).collect();
    loop {
        let before = records.len();
        records.extend(rest.iter_mut().flat_map(|stream| stream.by_ref().take(7).collect::<Vec<_>>()));
        if records.len() == before {
            return sourced(Topic::Signals, 0, records.into_iter().map(|record| (START, record)));
        }
    }
}

fn scored(records: &[Sourced<Derived>]) -> Vec<Alert> {
    let output = Score::new(ScoreConfig::default()).process(&mut <Score as Processor>::State::default(), records);
    assert_eq!(output.rejects, []);
    alerts_of(output.derived)
}

fn alerts_of(outgoing: Vec<Outgoing>) -> Vec<Alert> {
    let alert = |output: Outgoing| match output.value {
        Derived::Alert(alert) => alert,
        other => panic!("{other:?} is no alert"),
    };
    outgoing.into_iter().map(alert).collect()
}

/// All alerts of a fleet, by time.
fn alerts(fleet: &Fleet) -> Vec<Alert> {
    let partitions = clean_topic(&fleet.events(), fleet.minutes);
    let (mut alerts, streams) = signal_streams(partitions.iter().map(|records| features_of(records)).collect());
    alerts.extend(streams.iter().flat_map(|streams| scored(&woven(streams, &[]))));
    alerts.sort_by_key(|alert| (alert.updated_at, alert.fingerprint.clone()));
    alerts
}

/// One line per alert record: class, subject, metric, status.
fn lines(alerts: &[Alert]) -> Vec<String> {
    let line = |a: &Alert| format!("{} {} {} {}", a.alert_class, a.subject, a.metric, a.status);
    alerts.iter().map(line).collect()
}

/// The first report of each alert of the fleet and the minute it came, against `expected`: (line,
/// minutes in which it may come). Nothing else may fire, and each must resolve.
fn check(fleet: &Fleet, expected: &[(&str, Span)]) {
    let all = alerts(fleet);
    let mut first: BTreeMap<&str, &Alert> = BTreeMap::new();
    for alert in &all {
        first.entry(&alert.fingerprint).or_insert(alert);
    }
    let found: Vec<String> = first.values().map(|a| format!("{} {} {}", a.alert_class, a.subject, a.metric)).collect();
    let reasons: Vec<&str> = all.iter().map(|alert| alert.reason.as_str()).collect();
    assert_eq!(found.len(), expected.len(), "seed {}: {reasons:#?}", fleet.seed);
    for (line, (earliest, latest)) in expected {
        let alert = first.values().find(|a| *line == format!("{} {} {}", a.alert_class, a.subject, a.metric));
        let alert = alert.unwrap_or_else(|| panic!("seed {}: no {line} in {reasons:#?}", fleet.seed));
        let at = (alert.updated_at.0 - START.0) / 60_000_000;
        assert!((*earliest..=*latest).contains(&at), "seed {}: {line} came in minute {at}", fleet.seed);
        let last = all.iter().rev().find(|a| a.fingerprint == alert.fingerprint).unwrap();
        assert_eq!(last.status, "resolved", "{line}");
    }
}

#[test]
fn a_quiet_fleet_busy_or_sparse_raises_no_alert_in_sixty_hours() {
    for (seed, pace) in (1..=21).zip([40.0, 120.0, 240.0].into_iter().cycle()) {
        check(&Fleet { pace, ..Fleet::quiet(seed) }, &[]);
    }
}

#[test]
fn a_provider_outage_is_one_alert_within_two_windows() {
    for seed in 1..=5 {
        let fleet = Fleet { outage: Some((100, 110)), ..Fleet::quiet(seed) };
        check(&fleet, &[("outage openai error_rate", (101, 102))]);
    }
    let all = alerts(&Fleet { outage: Some((100, 110)), ..Fleet::quiet(1) });
    assert_eq!(all.iter().filter(|a| a.status == "resolved").count(), 1);
    assert_eq!(all[0].starts_at, minute(100));
    assert!(all[0].reason.starts_with("error rate of dependency openai is 0."), "{}", all[0].reason);
    assert!(all[0].reason.contains("in the 1 minute since 09:40 UTC"), "{}", all[0].reason);
    assert!(all[0].reason.contains("mostly with http_503"), "{}", all[0].reason);
    assert_eq!(all[0].severity, "critical");
    assert!(!all[0].event_ids.is_empty());
}

#[test]
fn a_cost_burst_is_one_alert_within_two_windows() {
    for seed in 1..=5 {
        let fleet = Fleet { burst: Some((120, 135)), ..Fleet::quiet(seed) };
        check(&fleet, &[("cost_burst agent-04 cost", (121, 123))]);
    }
}

/// An event of agent-02 in a session of its own.
fn single(minutes: i64, event: impl FnOnce(EventHeader) -> CleanEvent) -> Timed {
    let id = Uuid::derive(&[&minutes.to_be_bytes()]);
    (minute(minutes).plus_ms(5_000), event(header("", "agent-02", id, id)))
}

fn declared(tools: &[&str], hours: &str) -> Timed {
    single(1, |h| {
        Event::InventoryDeclared(InventoryDeclared {
            h: EventHeader { agent_id: "registry".to_owned(), ..h },
            object_kind: "agent".to_owned(),
            object_id: "agent-02".to_owned(),
            tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
            operating_hours: hours.to_owned(),
            ..InventoryDeclared::default()
        })
    })
}

const TOOLS: [&str; 3] = ["tool-2", "tool-3", "tool-4"];

fn with(extra: Vec<Timed>) -> Fleet {
    Fleet { extra, ..Fleet::quiet(3) }
}

#[test]
fn a_tool_that_is_not_declared_is_an_alert() {
    let [attempt, done] = tool_call("wire_money", "money", [minute(60), minute(60)], || {
        header("", "agent-02", Uuid([7; 16]), Uuid([8; 16]))
    });
    check(&with(vec![declared(&TOOLS, ""), attempt, done]), &[("tool_allowlist agent-02 tool/wire_money", (61, 61))]);
}

#[test]
fn work_outside_of_declared_hours_is_an_alert() {
    let all = alerts(&with(vec![declared(&TOOLS, "mon-fri 08-10")]));
    assert_eq!(lines(&all[..1]), ["out_of_hours agent-02 activity firing"]);
    assert!((minute(121)..=minute(125)).contains(&all[0].updated_at), "{}", all[0].reason);
    assert_eq!(lines(&all[all.len() - 1..]), ["out_of_hours agent-02 activity resolved"]);
    assert!(all.len() <= 8, "an alert that keeps firing is reported every ten windows: {:#?}", lines(&all));
}

fn answered_by(minutes: i64, model: &str) -> Timed {
    single(minutes, |h| {
        let call = ModelCall { h, provider: "openai".to_owned(), ..ModelCall::default() };
        Event::ModelCall(ModelCall { response_model: model.to_owned(), ..call })
    })
}

fn deployed(minutes: i64, model: &str) -> Timed {
    single(minutes, |h| {
        Event::ChangeRecorded(ChangeRecorded {
            h,
            object_kind: "model".to_owned(),
            object_id: "agent-02".to_owned(),
            to: model.to_owned(),
            phase: "DEPLOYED".to_owned(),
            ..ChangeRecorded::default()
        })
    })
}

#[test]
fn a_new_model_is_an_alert_unless_its_change_is_on_record() {
    check(&with(vec![answered_by(90, "openai-next")]), &[("model_drift agent-02 model/openai-next", (91, 91))]);
    check(&with(vec![deployed(80, "openai-next"), answered_by(90, "openai-next")]), &[]);
}

fn budget(minutes: i64, action: &str, spent_micros: i64) -> Timed {
    single(minutes, |h| {
        let (scope, action) = ("day".to_owned(), action.to_owned());
        Event::Budget(Budget { h, scope, action, limit_micros: 5_000_000, spent_micros, ..Budget::default() })
    })
}

#[test]
fn a_budget_that_acts_pages_at_once_and_a_warning_does_not() {
    check(&with(vec![budget(70, "alert", 4_000_000)]), &[]);
    check(
        &with(vec![budget(70, "stop", 5_100_000), budget(71, "stop", 5_200_000)]),
        &[("budget agent-02 budget_day", (70, 70))],
    );
}

#[test]
fn a_sensitive_tool_after_an_injection_in_the_same_session_is_an_alert() {
    let injected = single(50, |h| {
        Event::DetectionRaised(DetectionRaised { h, kind: "prompt_injection".to_owned(), ..DetectionRaised::default() })
    });
    let session = injected.1.h().session_id;
    let call = |session, id| {
        let at = [minute(51), minute(51)];
        tool_call("tool-3", "money", at, || header("", "agent-02", session, Uuid([id; 16]))).to_vec()
    };
    check(
        &with([vec![injected.clone()], call(session, 9)].concat()),
        &[("injection_sensitive_tool agent-02 tool/tool-3", (51, 51))],
    );
    check(&with([vec![injected], call(Uuid([9; 16]), 9)].concat()), &[]);
}

#[test]
fn an_agent_that_falls_silent_is_an_alert() {
    let mut events = Fleet::quiet(5).events();
    events.retain(|(at, event)| event.h().agent_id != "agent-01" || *at < minute(90));
    let (_, streams) = signal_streams(clean_topic(&events, 180).iter().map(|records| features_of(records)).collect());
    let all: Vec<Alert> = streams.iter().flat_map(|streams| scored(&woven(streams, &[]))).collect();
    assert_eq!(lines(&all[..1]), ["rate agent-01 silence firing"]);
    assert!(all[0].reason.starts_with("agent agent-01 is silent in the"), "{}", all[0].reason);
}

fn outage_signals() -> Vec<Vec<Vec<Derived>>> {
    let fleet = Fleet { minutes: 60, outage: Some((40, 50)), burst: Some((40, 50)), ..Fleet::quiet(2) };
    let fleet = Fleet { extra: vec![declared(&["tool-2"], "08-18")], ..fleet };
    let outputs = clean_topic(&fleet.events(), fleet.minutes).iter().map(|records| features_of(records)).collect();
    signal_streams(outputs).1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn interleaving_of_source_partitions_does_not_matter(
        picks in proptest::collection::vec(0..PARTITIONS as usize, 0..2_000),
    ) {
        for streams in outage_signals() {
            prop_assert_eq!(scored(&woven(&streams, &picks)), scored(&woven(&streams, &[])));
        }
    }

    #[test]
    fn alerts_after_a_restore_are_byte_identical(cut in 0.0..1.0_f64) {
        let stage = Score::new(ScoreConfig::default());
        for streams in outage_signals() {
            let records = woven(&streams, &[]);
            let (before, after) = records.split_at((records.len() as f64 * cut) as usize);
            let (mut state, mut log) = (<Score as Processor>::State::default(), Changelog::new());
            let mut found = stage.process(&mut state, before).derived;
            drain_changes(&mut state, &mut log);
            found.extend(stage.process(&mut restored(&log), after).derived);
            let bytes = |alert: &Alert| super::wire::encode(alert);
            let found: Vec<_> = alerts_of(found).iter().map(bytes).collect();
            prop_assert_eq!(found, scored(&records).iter().map(bytes).collect::<Vec<_>>());
        }
    }
}

/// Short event lists that reach every branch of `features`: rules, ticks that repeat and go back.
fn some_events() -> impl Strategy<Value = Vec<Sourced<CleanEvent>>> {
    let one = (0..9_u8, 0..3_u8, 0..400_i64).prop_map(|(kind, session, second)| {
        let at = START.plus_ms(second * 1_000);
        let h = || header("", &agent_name(u64::from(session)), Uuid([session; 16]), Uuid([kind; 16]));
        let event = match kind {
            0..3 => tick(START.plus_ms(second * 1_000 - 100_000 + i64::from(kind) * 90_000)),
            3 => Event::DetectionRaised(DetectionRaised {
                kind: "prompt_injection".to_owned(),
                h: h(),
                ..Default::default()
            }),
            4 => tool_call("pay", "money", [at, at], h)[0].1.clone(),
            5 => tool_call("pay", "money", [at, at], h)[1].1.clone(),
            6 => model_call(h(), "openai", session == 1, second, &mut Random(1)),
            7 => Event::Budget(Budget { h: h(), action: "stop".to_owned(), ..Budget::default() }),
            _ => Event::SessionEnded(SessionEnded { h: h(), status: "ok".to_owned(), ..SessionEnded::default() }),
        };
        (at, event)
    });
    proptest::collection::vec(one, 0..40).prop_map(|records| sourced(Topic::Clean, 0, records))
}

/// Signals and watermarks of two source partitions, valid and invalid, in any order.
fn some_signals() -> impl Strategy<Value = Vec<Sourced<Derived>>> {
    let one = (0..4_u8, 0..3_i32, 0..12_i64, 0..3_u8, 0..40_i64).prop_map(|(kind, partition, window, subject, n)| {
        let first = minute(window);
        match kind {
            0 => Derived::Watermark(Watermark { at: first, source_partition: partition, source_partitions: 2 }),
            _ => Derived::Signal(Signal {
                tenant_id: "acme".to_owned(),
                subject_kind: if subject == 0 { "dependency" } else { "agent" }.to_owned(),
                subject: format!("s{subject}"),
                window_first: first,
                window_next: first.plus_ms(if n == 39 { 1 } else { MINUTE_MS }),
                source_partition: partition,
                ordinal: i64::from(subject),
                values: ["calls", "errors", "model_calls", "bytes_out", "cost_micros", "cost_calls", "cost_log_sum"]
                    .map(|name| (name.to_owned(), if n == 7 { f64::NAN } else { 1e8 * n as f64 }))
                    .into(),
                counts: [("declared/entry", 1), ("declared_tool/a", 1), ("tool/b", n), ("announced/budget/day", n)]
                    .map(|(name, count)| (name.to_owned(), count))
                    .into(),
                ..Signal::default()
            }),
        }
    });
    proptest::collection::vec(one, 0..60)
        .prop_map(|records| sourced(Topic::Signals, 0, records.into_iter().map(|record| (START, record))))
}

crate::five_laws!(features_obeys_the_five_laws, Features::default(), some_events(), 200);
crate::five_laws!(score_obeys_the_five_laws, Score::default(), some_signals(), 200);

#[test]
fn more_subjects_than_one_event_may_report_are_reported_with_the_next_ones() {
    let calls = (0..500_u64).map(|n| {
        let h = header("model.call", &agent_name(n), Uuid([1; 16]), Uuid([2; 16]));
        (START, model_call(h, "openai", false, 1, &mut Random(1)))
    });
    let ticks = (0..12).map(|n| (minute(2), tick(minute(2 + n / 12))));
    let records = sourced(Topic::Clean, 0, calls.chain(ticks));
    crate::testing::check_laws(&Features::default(), &records, &[100, 505], 600);
    let outputs = Features::default().process(&mut Default::default(), &records).derived;
    let signals = outputs.iter().filter(|output| matches!(output.value, Derived::Signal(_))).count();
    assert_eq!((signals, outputs.len()), (501, 502));
    assert!(matches!(outputs.last().unwrap().value, Derived::Watermark(Watermark { at, .. }) if at == minute(2)));
}

#[test]
fn a_subject_fits_its_bound() {
    let (mut log, fleet) = (Changelog::new(), Fleet { outage: Some((100, 110)), ..Fleet::quiet(1) });
    let outputs = clean_topic(&fleet.events(), fleet.minutes).iter().map(|records| features_of(records)).collect();
    for streams in signal_streams(outputs).1 {
        let mut state = <Score as Processor>::State::default();
        Score::default().process(&mut state, &woven(&streams, &[]));
        drain_changes(&mut state, &mut log);
    }
    let sizes: Vec<usize> = log.iter().filter(|(key, _)| key[0] == b's').map(|(_, value)| value.len()).collect();
    let largest = sizes.iter().max().copied().unwrap_or(0);
    assert!(largest <= 2_700, "{} subjects, the largest {largest} bytes", sizes.len());
}
