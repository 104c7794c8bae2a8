//! From a run to its events: ids, times, latencies and costs, all drawn from the seed.
//!
//! Recorded runs carry no times: arrival, think and answer times here are made up, and the summary
//! says so. Sequence numbers and hashes are not set here; the agent-side sequencer does that.

use schemas::event::{
    EvaluationResult, EventHeader, ModelCall, OutputProduced, PolicyDecision, Principal, RawEvent, SessionEnded,
    SessionStarted, ToolCallAttempted, ToolCallCompleted,
};
use schemas::id::{Sha256, Uuid};
use schemas::text::Content;
use schemas::time::TimestampMicros;

use super::faults::{BURST_FACTOR, Faults, OUTAGE_FAIL_PERCENT};
use super::plant::{self, Planted};
use super::{Run, Start, Step, price, tokens_of};

/// An event with the time at which its agent hands it over.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// Hand-over time.
    pub at: TimestampMicros,
    /// The event, not yet sequenced.
    pub event: RawEvent,
}

/// Session id of a start.
pub fn session_id(start: &Start) -> Uuid {
    // From the start alone: a demo that is resumed gives every session the same id.
    Uuid::v7(start.at.ms().unsigned_abs(), u128::from(start.seed) << 9 | 0x55)
}

/// Writer of a start: one process of the agent.
pub fn producer_id(start: &Start) -> String {
    format!("{}/{}", start.agent_id, start.instance)
}

struct Emitter<'a> {
    run: &'a Run,
    start: &'a Start,
    faults: &'a Faults,
    rng: fastrand::Rng,
    now: TimestampMicros,
    header: EventHeader,
    tokens: i64,
    cost_micros: i64,
    calls: u32,
    last_output_call: String,
    events: Vec<Timed>,
    planted: Vec<Planted>,
}

/// Every event of a run, in order, and the values planted in them.
pub fn session_events(run: &Run, start: &Start, faults: &Faults) -> (Vec<Timed>, Vec<Planted>) {
    let mut emitter = Emitter {
        run,
        start,
        faults,
        rng: fastrand::Rng::with_seed(start.seed),
        now: start.at,
        header: session_header(run, start),
        tokens: 0,
        cost_micros: 0,
        calls: 0,
        last_output_call: String::new(),
        events: Vec::new(),
        planted: Vec::new(),
    };
    emitter.started();
    for step in &run.steps {
        emitter.step(step);
    }
    // Before the end: a session's last event is `session.ended`, and what comes after it is a finding.
    emitter.evaluated();
    emitter.ended();
    (emitter.events, emitter.planted)
}

fn session_header(run: &Run, start: &Start) -> EventHeader {
    EventHeader {
        tenant_id: run.tenant_id.clone(),
        agent_id: start.agent_id.clone(),
        agent_version: format!("{}@1", run.dataset),
        agent_instance_id: start.instance.to_string(),
        session_id: session_id(start),
        producer_id: producer_id(start),
        principal: Principal {
            r#type: "service_account".to_owned(),
            id: format!("svc-{}", start.agent_id),
            auth_method: "mtls".to_owned(),
            ..Principal::default()
        },
        ..EventHeader::default()
    }
}

impl Emitter<'_> {
    fn header(&mut self, event_type: &str) -> EventHeader {
        let random = u128::from(self.rng.u64(..)) << 64 | u128::from(self.rng.u64(..));
        EventHeader {
            event_type: event_type.to_owned(),
            event_id: Uuid::v7(self.now.ms().unsigned_abs(), random),
            event_time: self.now,
            ..self.header.clone()
        }
    }

    fn push(&mut self, event: RawEvent) {
        self.events.push(Timed { at: self.now, event });
    }

    /// Moves the clock by a log-normal time with that median.
    fn wait(&mut self, median_ms: f64) -> i64 {
        // Box-Muller; sigma 0.5 gives a 95th percentile of 2.3 times the median.
        let radius = (-2.0 * self.rng.f64().max(f64::MIN_POSITIVE).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.rng.f64()).cos();
        let ms = ((median_ms * (0.5 * normal).exp()) as i64).max(1);
        self.now = self.now.plus_ms(ms);
        ms
    }

    fn started(&mut self) {
        let started = SessionStarted {
            h: self.header("session.started"),
            trigger_kind: "user".to_owned(),
            trigger_input_id: self.run.task_id.clone(),
            intake_source: self.run.dataset.clone(),
            lawful_basis: "contract".to_owned(),
            ..SessionStarted::default()
        };
        self.push(RawEvent::SessionStarted(started));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Model { input, output, calls_tools } => self.model(input, output, *calls_tools),
            Step::Tool { name, arguments, result, failed } => self.tool(name, arguments, result, *failed),
            Step::Output { text } => self.output(text),
        }
    }

    fn model(&mut self, input: &str, output: &str, calls_tools: bool) {
        // A person reads and types; a tool result is passed on at once.
        let from_user = !matches!(self.events.last().map(|e| &e.event), Some(RawEvent::ToolCallCompleted(_)));
        self.wait(if from_user { 4_000.0 } else { 20.0 });
        // Before the provider may fail: a retry sends the same input, and a value is planted once.
        let (input, planted) = plant::into_input(input, self.start, &mut self.rng);
        self.planted.extend(planted);
        let mut attempt = 1;
        // At most three: during the outage four of five requests fail, and a session must still end.
        while self.provider_fails() && attempt <= 3 {
            self.failed_model(attempt);
            attempt += 1;
        }
        // Only the first copy of the fleet has the planned names, so that a larger fleet has the same faults and not
        // more of them.
        let burst = self.start.agent_id == self.faults.burst_agent && self.faults.burst.holds(self.now);
        let factor = if burst { BURST_FACTOR } else { 1 };
        let (input_tokens, output_tokens) = ((1_200 + tokens_of(&input)) * factor, tokens_of(output) * factor);
        // By the tokens without the factor: a burst is dear, not slow, or the detector of latency would find it too.
        let latency_ms = self.wait(350.0 + 14.0 * output_tokens as f64 / factor as f64);
        let call = ModelCall {
            input: Some(Content::plain(input)),
            output: Some(Content::plain(output)),
            finish_reasons: vec![if calls_tools { "tool_calls" } else { "stop" }.to_owned()],
            input_tokens,
            output_tokens,
            cost_micros: price::cost_micros(&self.run.model, input_tokens, output_tokens),
            latency_ms,
            ttft_ms: latency_ms / 4,
            attempt,
            response_model: self.run.model.clone(),
            ..self.call("ok")
        };
        self.tokens += input_tokens + output_tokens;
        self.cost_micros += call.cost_micros;
        self.last_output_call.clone_from(&call.call_id);
        self.push(RawEvent::ModelCall(call));
    }

    fn provider_fails(&mut self) -> bool {
        self.run.provider == self.faults.outage_provider
            && self.faults.outage.holds(self.now)
            && self.rng.u64(..100) < OUTAGE_FAIL_PERCENT
    }

    fn failed_model(&mut self, attempt: i32) {
        let latency_ms = self.wait(2_500.0);
        let call = ModelCall { latency_ms, attempt, error_type: "http_503".to_owned(), ..self.call("error") };
        self.push(RawEvent::ModelCall(call));
    }

    fn call(&mut self, status: &str) -> ModelCall<schemas::text::RawText> {
        self.calls += 1;
        ModelCall {
            h: self.header("model.call"),
            call_id: format!("m{}", self.calls),
            provider: self.run.provider.clone(),
            request_model: self.run.model.clone(),
            temperature: Some(0.0),
            status: status.to_owned(),
            ..ModelCall::default()
        }
    }

    fn tool(&mut self, name: &str, arguments: &str, result: &str, failed: bool) {
        self.calls += 1;
        let tool_call_id = format!("t{}", self.calls);
        self.wait(5.0);
        let attempted = ToolCallAttempted {
            h: self.header("tool.call.attempted"),
            tool_call_id: tool_call_id.clone(),
            tool_name: name.to_owned(),
            side_effect_class: side_effect(name).to_owned(),
            credential_scope: "agent".to_owned(),
            arguments: Some(content(arguments)),
            ..ToolCallAttempted::default()
        };
        self.push(RawEvent::ToolCallAttempted(attempted));
        // Between attempt and completion, as `completeness` demands of every call that writes.
        let decision_id = self.decide(&tool_call_id);
        let latency_ms = self.wait(120.0);
        let completed = ToolCallCompleted {
            h: self.header("tool.call.completed"),
            tool_call_id,
            tool_name: name.to_owned(),
            decision_id,
            status: if failed { "error" } else { "ok" }.to_owned(),
            error_type: if failed { "tool_error" } else { "" }.to_owned(),
            bytes_out: i64::try_from(result.len()).unwrap_or(i64::MAX),
            result: Some(content(result)),
            effect_observed: !failed,
            latency_ms,
            ..ToolCallCompleted::default()
        };
        self.push(RawEvent::ToolCallCompleted(completed));
    }

    fn decide(&mut self, tool_call_id: &str) -> String {
        let latency_ms = self.wait(2.0);
        let decision_id = format!("d{}", self.calls);
        let decision = PolicyDecision {
            h: self.header("policy.decision"),
            decision_id: decision_id.clone(),
            subject_kind: "tool_call".to_owned(),
            subject_id: tool_call_id.to_owned(),
            policy_id: "tool-allowlist".to_owned(),
            policy_version: "1".to_owned(),
            effect: "ALLOW".to_owned(),
            latency_ms,
            ..PolicyDecision::default()
        };
        self.push(RawEvent::PolicyDecision(decision));
        decision_id
    }

    fn output(&mut self, text: &str) {
        let latency_ms = self.wait(15.0);
        let output = OutputProduced {
            h: self.header("output.produced"),
            output_id: format!("o{}", self.calls),
            recipient_kind: "user".to_owned(),
            delivered_at: Some(self.now),
            content: Some(content(text)),
            model_call_ids: vec![self.last_output_call.clone()],
            latency_ms,
            ..OutputProduced::default()
        };
        self.push(RawEvent::OutputProduced(output));
    }

    fn evaluated(&mut self) {
        let Some(reward) = self.run.reward else { return };
        self.wait(500.0);
        let evaluation = EvaluationResult {
            h: self.header("evaluation.result"),
            run_id: self.run.task_id.clone(),
            dataset_id: self.run.dataset.clone(),
            metric: "task_success".to_owned(),
            n: 1,
            k: i64::from(reward >= 1.0),
            value: Some(reward),
            method: "reward of the task's checker, success at 1".to_owned(),
            judge: "ground_truth".to_owned(),
            ..EvaluationResult::default()
        };
        self.push(RawEvent::EvaluationResult(evaluation));
    }

    fn ended(&mut self) {
        self.wait(10.0);
        let ended = SessionEnded {
            h: self.header("session.ended"),
            status: "ok".to_owned(),
            total_tokens: self.tokens,
            total_cost_micros: self.cost_micros,
            duration_ms: (self.now.0 - self.start.at.0) / 1_000,
            ..SessionEnded::default()
        };
        self.push(RawEvent::SessionEnded(ended));
        // Known only now: the start declares how many events the session will have, itself included.
        let count = self.events.len() as i64;
        if let Some(Timed { event: RawEvent::SessionStarted(started), .. }) = self.events.first_mut() {
            started.expected_steps = count;
            started.tool_set_sha256 = Some(Sha256::of(self.run.agent_id.as_bytes()));
        }
    }
}

fn content(text: &str) -> Content<schemas::text::RawText> {
    if text.starts_with(['{', '[']) { Content::json(text) } else { Content::plain(text) }
}

/// What a tool does, by the verbs in its name.
fn side_effect(tool: &str) -> &'static str {
    const WRITES: [&str; 6] = ["book", "update", "cancel", "send", "modify", "create"];
    if WRITES.iter().any(|verb| tool.starts_with(verb)) {
        "write"
    } else if matches!(tool, "bash" | "ctf" | "python") {
        "destructive"
    } else {
        "read"
    }
}
