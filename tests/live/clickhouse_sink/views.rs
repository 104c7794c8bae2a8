//! The numbers in the views, against hand-made events whose right answers are known.

use std::collections::BTreeMap;

use schemas::codec::Derived;
use schemas::event::{
    ClaimVerified, ControlTotal, DataClassified, DetectionRaised, EvaluationResult, Event, EventHeader, HealthProbe,
    HumanReview, ModelCall, SessionEnded, ToolCallCompleted, ValidationResult,
};
use schemas::id::Uuid;
use schemas::record::Record;
use schemas::text::CleanText;
use schemas::topic::Topic;
use serde_json::{Value, json};

use super::{NINE, World, record, world};

type Clean = Event<CleanText>;

/// Builds a topic, one record a second, all of one tenant, agent and session.
#[derive(Default)]
struct Script {
    records: Vec<Record>,
}

impl Script {
    fn header(&self, event_type: &str) -> EventHeader {
        let offset = self.records.len() as u64;
        EventHeader {
            event_id: Uuid::derive(&[&offset.to_be_bytes()]),
            event_time: NINE.plus_ms(1_000 * offset as i64),
            tenant_id: "acme".to_owned(),
            environment: "prod".to_owned(),
            agent_id: "billing".to_owned(),
            session_id: Uuid([5; 16]),
            seq: offset as i64,
            ..EventHeader::of_type(event_type)
        }
    }

    fn add(&mut self, topic: Topic, value: Derived) {
        let offset = self.records.len() as u64;
        self.records.push(record(topic, offset, NINE.plus_ms(1_000 * offset as i64), &value));
    }

    fn event(&mut self, event_type: &str, make: impl FnOnce(EventHeader) -> Clean) {
        let h = self.header(event_type);
        self.add(Topic::Clean, Derived::Event(make(h)));
    }

    /// The same record again, at the next offset: a producer that sent it twice.
    fn again(&mut self) {
        let mut copy = self.records.last().unwrap().clone();
        copy.at.offset += 1;
        self.records.push(copy);
    }
}

fn assert_close(row: &Value, name: &str, expected: f64) {
    let found = row[name].as_f64().unwrap_or_else(|| panic!("no {name} in {row}"));
    assert!((found - expected).abs() < 1e-4, "{name} is {found}, not {expected}");
}

#[tokio::test]
async fn intervals_have_the_published_values() {
    let world = world().await;
    let check = async |k: u64, n: u64, clopper_pearson: [f64; 2], wilson: [f64; 2]| {
        let row = world
            .row(&format!(
                "SELECT custody_clopper_pearson_low({k}, {n}) AS a, custody_clopper_pearson_high({k}, {n}) AS b, \
                 custody_wilson_low({k}, {n}) AS c, custody_wilson_high({k}, {n}) AS d"
            ))
            .await;
        for (name, expected) in ["a", "b", "c", "d"].into_iter().zip(clopper_pearson.into_iter().chain(wilson)) {
            assert_close(&row, name, expected);
        }
    };
    check(59, 60, [0.9106, 0.9996], [0.9114, 0.9971]).await;
    check(193, 200, [0.9292, 0.9858], [0.9295, 0.9829]).await;
    check(60, 60, [0.9404, 1.0], [0.9398, 1.0]).await;
    check(25, 25, [0.8628, 1.0], [0.8668, 1.0]).await;
    check(0, 10, [0.0, 0.3085], [0.0, 0.2775]).await;
    check(1, 1, [0.025, 1.0], [0.2065, 1.0]).await;
    check(500_000, 1_000_000, [0.49902, 0.50098], [0.49902, 0.50098]).await;
    check(0, 0, [0.0, 1.0], [0.0, 1.0]).await;
    world.stop().await;
}

#[tokio::test]
async fn accuracy_counts_verdicts_trials_and_undecided_ones() {
    let world = world().await;
    let mut script = Script::default();
    for verdict in [&["correct"; 59][..], &["incorrect", "unclear"]].concat() {
        script.event("human.review", |h| {
            let (rubric_id, rubric_version) = ("r".to_owned(), "2".to_owned());
            Event::HumanReview(HumanReview {
                h,
                rubric_id,
                rubric_version,
                verdict: verdict.to_owned(),
                ..Default::default()
            })
        });
    }
    script.again();
    script.event("evaluation.result", |h| {
        Event::EvaluationResult(EvaluationResult {
            h,
            metric: "task_success".to_owned(),
            n: 200,
            k: 193,
            ..Default::default()
        })
    });
    for verdict in ["supported", "contradicted", "unverifiable"] {
        script.event("claim.verified", |h| {
            Event::ClaimVerified(ClaimVerified { h, verdict: verdict.to_owned(), ..Default::default() })
        });
    }
    for passed in [true, true, false] {
        script.event("validation.result", |h| {
            Event::ValidationResult(ValidationResult { h, passed, ..Default::default() })
        });
    }
    world.load(&script.records).await;

    let of = async |view: &str, metric: &str| {
        world.row(&format!("SELECT * FROM custody.{view} WHERE metric = '{metric}'")).await
    };
    let reviews = of("accuracy", "human_review").await;
    assert_eq!((&reviews["n"], &reviews["k"], &reviews["undecided"]), (&json!(60), &json!(59), &json!(1)));
    assert_eq!((&reviews["method"], &reviews["agent_id"]), (&json!("r@2"), &json!("billing")));
    assert_close(&reviews, "clopper_pearson_low", 0.9106);
    assert_close(&reviews, "wilson_high", 0.9971);
    let evaluation = of("accuracy_by_day", "task_success").await;
    assert_eq!(
        (&evaluation["n"], &evaluation["k"], &evaluation["day"]),
        (&json!(200), &json!(193), &json!("2026-11-20"))
    );
    assert_close(&evaluation, "clopper_pearson_high", 0.9858);
    let claims = of("accuracy", "claims_supported").await;
    assert_eq!((&claims["n"], &claims["k"], &claims["undecided"]), (&json!(2), &json!(1), &json!(1)));
    let validations = of("accuracy", "validations_passed").await;
    assert_eq!((&validations["n"], &validations["k"]), (&json!(3), &json!(2)));
    let period = "accuracy_between(first = '2026-11-20 09:00:00', next = '2026-11-20 09:00:10')";
    assert_eq!(of(period, "human_review").await["n"], 10);
    world.stop().await;
}

fn calls(world: &World) -> Vec<Record> {
    let _ = world;
    let mut script = Script::default();
    for number in 1..=100i64 {
        script.event("model.call", |h| {
            let status = if number > 95 { "timeout" } else { "ok" }.to_owned();
            let (provider, response_model) = ("anthropic".to_owned(), "claude".to_owned());
            let (input_tokens, output_tokens) = (10, 5);
            let (cost_micros, latency_ms) = (if number == 1 { -1 } else { 1_000 }, number);
            let call =
                ModelCall { h, provider, response_model, status, input_tokens, output_tokens, ..Default::default() };
            Event::ModelCall(ModelCall { cost_micros, latency_ms, ttft_ms: 7, ..call })
        });
    }
    script.again();
    for status in ["ok", "error", "denied", "ok"] {
        script.event("tool.call.completed", |h| {
            let (tool_name, status) = ("crm.search".to_owned(), status.to_owned());
            Event::ToolCallCompleted(ToolCallCompleted { h, tool_name, status, latency_ms: 3, ..Default::default() })
        });
    }
    for ok in [true, false] {
        script.event("health.probe", |h| {
            Event::HealthProbe(HealthProbe { h, dependency: "warehouse".to_owned(), ok, ..Default::default() })
        });
    }
    script.event("session.ended", |h| {
        Event::SessionEnded(SessionEnded { h, status: "ok".to_owned(), event_count: 107, ..Default::default() })
    });
    script.records
}

#[tokio::test]
async fn availability_cost_latency_and_sessions_count_an_event_once() {
    let world = world().await;
    world.load(&calls(&world)).await;
    let all = "SELECT kind, subject, calls, failures FROM custody.availability_by_day ORDER BY kind";
    let rows = world.query(all).await;
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row["kind"].as_str().unwrap(), row["calls"].as_u64().unwrap(), row["failures"].as_u64().unwrap()))
        .collect();
    assert_eq!(found, [("agent", 1, 0), ("dependency", 2, 1), ("model_provider", 100, 5), ("tool", 4, 1)]);
    let hourly = "SELECT subject, hour FROM custody.availability_by_hour WHERE kind = 'model_provider'";
    assert_eq!(world.row(hourly).await["subject"], "anthropic");
    let objective = "SELECT * FROM custody.availability_between(first = '2026-11-20 00:00:00', \
                     next = '2026-11-21 00:00:00', slo = 0.9) WHERE kind = 'model_provider'";
    let row = world.row(objective).await;
    assert_close(&row, "ratio", 0.95);
    assert_close(&row, "error_budget_left", 0.5);
    assert_eq!(row["meets_slo"], 1);

    let cost = world.row("SELECT * FROM custody.cost").await;
    let found = ["calls", "input_tokens", "output_tokens", "cost_micros", "calls_without_cost"]
        .map(|name| cost[name].as_i64().unwrap());
    assert_eq!(found, [100, 1_000, 500, 99_000, 1]);
    let latency = world.row("SELECT * FROM custody.latency WHERE event_type = 'model.call'").await;
    let found = ["calls", "p50_ms", "p95_ms", "p99_ms", "ttft_p95_ms"].map(|name| latency[name].as_i64().unwrap());
    assert_eq!(found, [100, 51, 96, 100, 7]);
    let session = world.row("SELECT * FROM custody.sessions").await;
    let found = ["events", "events_declared", "model_calls", "tool_calls", "failures", "tokens"]
        .map(|name| session[name].as_i64().unwrap());
    assert_eq!(found, [107, 107, 100, 4, 6, 1_500]);
    assert_eq!((&session["agent_id"], &session["outcome"]), (&json!("billing"), &json!("ok")));
    world.stop().await;
}

#[tokio::test]
async fn findings_are_counted_once_by_kind_and_type() {
    let world = world().await;
    let mut script = Script::default();
    for (kind, count) in [("sequence_gap", 3), ("sequence_gap", 2), ("duplicate", 1), ("prompt_injection", 1)] {
        let h = script.header("detection.raised");
        let finding = DetectionRaised { h, kind: kind.to_owned(), count, ..Default::default() };
        script.add(Topic::Findings, Derived::Event(Event::DetectionRaised(finding)));
    }
    script.again();
    for (email, target) in [(2, "INPUT"), (1, "OUTPUT")] {
        let mut h = script.header("data.classified");
        h.causation_id = Some(Uuid([email as u8; 16]));
        let pii_types: BTreeMap<String, i64> = [("EMAIL".to_owned(), email), ("IBAN".to_owned(), 1)].into();
        let (target, not_in_input) = (target.to_owned(), target == "OUTPUT");
        let scan =
            DataClassified { h, target, pii_types, not_in_input, route: "redact".to_owned(), ..Default::default() };
        script.add(Topic::Findings, Derived::Event(Event::DataClassified(scan)));
    }
    script.again();
    world.load(&script.records).await;

    let row = world.row("SELECT * FROM custody.completeness").await;
    assert_eq!(
        (&row["missing"], &row["duplicates"], &row["late"], &row["findings"]),
        (&json!(5), &json!(1), &json!(0), &json!(3))
    );
    assert_eq!(world.row("SELECT missing FROM custody.completeness_by_session").await["missing"], 5);
    let row = world.row("SELECT * FROM custody.pii_inventory WHERE pii_type = 'EMAIL'").await;
    assert_eq!((&row["events"], &row["values_found"], &row["outputs_not_in_input"]), (&json!(2), &json!(3), &json!(1)));
    assert_eq!((&row["targets"], &row["actions"]), (&json!(["INPUT", "OUTPUT"]), &json!(["redact"])));
    world.stop().await;
}

#[tokio::test]
async fn hours_close_and_reconcile_with_the_loaded_rows() {
    let world = world().await;
    let records = calls(&world);
    world.load(&records).await;
    let total = |records: i64, closed: bool| {
        let (hop, topic) = ("clean".to_owned(), "custody.clean.v1".to_owned());
        Derived::ControlTotal(ControlTotal {
            hop,
            topic,
            hour: NINE,
            records,
            duplicates: 1,
            closed,
            ..Default::default()
        })
    };
    let mut script = Script::default();
    script.add(Topic::Findings, total(50, false));
    script.add(Topic::Findings, total(records.len() as i64 + 2, true));
    world.load(&script.records).await;
    let hour = world.row("SELECT * FROM custody.hours").await;
    assert_eq!(
        (&hour["records"], &hour["partitions"], &hour["closed"]),
        (&json!(records.len() + 2), &json!(1), &json!(1))
    );
    let row = world.row("SELECT * FROM custody.reconciliation").await;
    assert_eq!(
        (&row["expected"], &row["loaded_rows"], &row["missing"]),
        (&json!(records.len() + 2), &json!(records.len()), &json!(2))
    );
    assert_eq!((&row["duplicates_expected"], &row["duplicates_within_hour"]), (&json!(1), &json!(1)));
    world.stop().await;
}
