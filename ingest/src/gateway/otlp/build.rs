//! Events of a record, by its kind. Fields come from the table; computed here is what no single attribute
//! holds: ids, outcome, times, pairs.

use schemas::event::{
    DataAccessed, Delegation, DetectionRaised, EvaluationResult, Event, EventHeader, ModelCall, OutputProduced,
    RateLimit, RawEvent, SessionEnded, SessionStarted, StepPlanned, ToolCallAttempted, ToolCallCompleted,
};
use schemas::text::{Content, RawText};
use schemas::time::TimestampMicros;

use super::attributes::{Attributes, Ext};
use super::decisions;
use super::extension;
use super::outcome::{self, Outcome};
use super::record::{OtlpRecord, Part, Place};
use super::table::{DATA_OPERATIONS, Dialect, Field, OtlpKind};

/// `ext` key of events that were made up from a later one.
pub(super) const SYNTHESISED_EXT: &str = "synthesised";

/// The events that a record stands for, in order of time. `body` is a log record's.
pub(super) fn events(
    kind: OtlpKind,
    mut record: OtlpRecord<'_>,
    mut attributes: Attributes,
    body: Option<String>,
) -> (OtlpRecord<'_>, Vec<RawEvent>) {
    let body = match kind {
        OtlpKind::Extension | OtlpKind::Other => body,
        _ => {
            if let Some(body) = body {
                record.ext.put("otel.body".to_owned(), body);
            }
            None
        }
    };
    if let Some(ms) = attributes.number(Field::DurationMs) {
        record.duration_ms = ms.min(DURATION_MS_MAX).round() as i64;
        // A log record is written at the end of what it reports and has one time.
        record.start = record.end.plus_ms(-record.duration_ms);
    }
    let mut events = Vec::with_capacity(4);
    let out = &mut events;
    match kind {
        OtlpKind::Model => model(&mut record, attributes, out),
        OtlpKind::Tool => tool(&mut record, attributes, out),
        OtlpKind::Agent => agent(&mut record, attributes, out),
        OtlpKind::Step => step(&mut record, attributes, out),
        OtlpKind::Data => data(&mut record, attributes, out),
        OtlpKind::Evaluation => evaluation(&mut record, attributes, out),
        OtlpKind::Guardrail => decisions::guardrail(&mut record, attributes, out),
        OtlpKind::ToolDecision => decisions::tool(&mut record, attributes, out),
        OtlpKind::Threat => threat(&mut record, attributes, out),
        OtlpKind::Delegation => delegation(&mut record, attributes, out),
        OtlpKind::Extension | OtlpKind::Other => extension::extension(kind, &mut record, attributes, body, out),
    }
    (record, events)
}

/// A year: a longer duration is a mistake, and must not overflow a time.
const DURATION_MS_MAX: f64 = 31_557_600_000.0;
/// A cost of one call above it is a mistake.
const USD_MAX: f64 = 1e9;

fn model(record: &mut OtlpRecord<'_>, mut attributes: Attributes, out: &mut Vec<RawEvent>) {
    let a = &mut attributes;
    let outcome = Outcome::of(record, a);
    let mut call = ModelCall {
        call_id: a.text(Field::CallId),
        provider: a.text(Field::Provider),
        provider_region: a.text(Field::Region),
        request_model: a.text(Field::RequestModel),
        response_model: a.text(Field::ResponseModel),
        system_fingerprint: a.text(Field::Fingerprint),
        response_id: a.text(Field::ResponseId),
        operation: a.text(Field::Operation),
        temperature: a.number(Field::Temperature),
        top_p: a.number(Field::TopP),
        seed: a.int(Field::Seed),
        max_tokens: a.count(Field::MaxTokens),
        prompt_name: a.text(Field::PromptName),
        prompt_version: a.text(Field::PromptVersion),
        prompt_sha256: a.digest(Field::SystemInstructions),
        tool_defs_sha256: a.digest(Field::ToolDefinitions),
        finish_reasons: a.list(Field::FinishReasons),
        input_tokens: a.count(Field::InputTokens),
        output_tokens: a.count(Field::OutputTokens),
        cache_read_tokens: a.count(Field::CacheReadTokens).max(0),
        cache_write_tokens: a.count(Field::CacheWriteTokens).max(0),
        reasoning_tokens: a.count(Field::ReasoningTokens).max(0),
        // -1 where no attribute names a cost: 0 would be a free call.
        cost_micros: cost(a),
        latency_ms: record.duration_ms,
        ttft_ms: ttft(a),
        attempt: a.int(Field::Attempt).and_then(|n| i32::try_from(n).ok()).unwrap_or(1),
        status: outcome.status.to_owned(),
        ..ModelCall::default()
    };
    // After the attributes: what the request says in JSON only fills what no attribute has.
    if let Some(parameters) = a.document(Field::Invocation) {
        invocation(&mut call, &parameters);
    }
    if call.finish_reasons.is_empty() {
        // Before the output is taken below: the reasons are members of its messages.
        call.finish_reasons = a.gathered(Field::ModelOutput, "finish_reason");
    }
    (call.input, call.output) = (a.content(Field::ModelInput), a.content(Field::ModelOutput));
    call.reasoning = a.content(Field::Reasoning);
    if call.operation.is_empty() {
        call.operation = operation(a).to_owned();
    }
    if call.provider.is_empty() {
        call.provider = provider(record).to_owned();
    }
    // Every call needs an id, because attempts and limits refer to it.
    if call.call_id.is_empty() {
        call.call_id = record.own_id();
    }
    // An event of its own: limits are watched per provider, and a call says nothing about quotas.
    let limit = outcome.is_throttled.then(|| RateLimit {
        h: synthesised(record, Part::Limit, "rate_limit", record.end),
        provider: call.provider.clone(),
        scope: "requests".to_owned(),
        limit: -1,
        used: -1,
        remaining: -1,
        throttled: true,
        retry_after_ms: outcome.retry_after_ms,
        ..RateLimit::default()
    });
    call.error_type = outcome.into_error_type(a);
    call.h = record.main_header("model.call", attributes);
    out.push(Event::ModelCall(call));
    out.extend(limit.map(Event::RateLimit));
}

/// The parameters of the request, which OpenInference sends as JSON. Its attribute for the model then holds the
/// model that answered.
fn invocation(call: &mut ModelCall<RawText>, parameters: &str) {
    let parameters: serde_json::Value = serde_json::from_str(parameters).unwrap_or_default();
    let number = |name: &str| parameters.get(name).and_then(serde_json::Value::as_f64);
    let int = |name: &str| parameters.get(name).and_then(serde_json::Value::as_i64);
    if let Some(model) = parameters.get("model").and_then(serde_json::Value::as_str) {
        let told = std::mem::replace(&mut call.request_model, model.to_owned());
        if call.response_model.is_empty() {
            call.response_model = told;
        }
    }
    call.temperature = call.temperature.or_else(|| number("temperature"));
    call.top_p = call.top_p.or_else(|| number("top_p"));
    call.seed = call.seed.or_else(|| int("seed"));
    if call.max_tokens < 0 {
        call.max_tokens = int("max_tokens").filter(|max| *max >= 0).unwrap_or(-1);
    }
}

/// Whose model a vendor's own log records are about.
fn provider(record: &OtlpRecord<'_>) -> &'static str {
    match record.vendor {
        Some(Dialect::ClaudeCode) => "anthropic",
        Some(Dialect::Codex) => "openai",
        Some(Dialect::GeminiCli) => "gcp.gen_ai",
        _ => "",
    }
}

/// `gen_ai.operation.name` of an OpenInference span.
fn operation(a: &Attributes) -> &'static str {
    match a.str("openinference.span.kind") {
        Some("EMBEDDING") => "embeddings",
        Some("RERANKER") => "rerank",
        _ => "chat",
    }
}

fn cost(a: &mut Attributes) -> i64 {
    match a.int(Field::CostMicros) {
        Some(micros) => micros,
        None => a.number(Field::CostUsd).filter(|usd| *usd < USD_MAX).map_or(-1, |usd| (usd * 1e6).round() as i64),
    }
}

fn ttft(a: &mut Attributes) -> i64 {
    let ms = a.number(Field::TtftSeconds).map(|seconds| seconds * 1e3).or_else(|| a.number(Field::TtftMs));
    ms.filter(|ms| *ms < DURATION_MS_MAX).map_or(-1, |ms| ms.round() as i64)
}

/// The header of an event that is made up from a record about something later.
fn synthesised(record: &OtlpRecord<'_>, part: Part, event_type: &str, time: TimestampMicros) -> EventHeader {
    let mut h = record.header(part, event_type, time);
    h.ext.insert(SYNTHESISED_EXT.to_owned(), "true".to_owned());
    h
}

fn tool(record: &mut OtlpRecord<'_>, mut attributes: Attributes, out: &mut Vec<RawEvent>) {
    let a = &mut attributes;
    let decided = a.peek_text(Field::ToolDecided);
    let outcome = Outcome::of(record, a);
    let named = [a.text(Field::ToolCallId), a.text(Field::ToolName), a.text(Field::ToolServer)];
    let [mut tool_call_id, mut tool_name, server] = named;
    // The span's id, so that the attempt and its end are one pair.
    if tool_call_id.is_empty() {
        tool_call_id = record.own_id();
    }
    if tool_name.is_empty() {
        let name = ["execute_tool ", "tools/call "].iter().find_map(|prefix| record.name.strip_prefix(prefix));
        name.unwrap_or(&record.name).clone_into(&mut tool_name);
    }
    let is_mcp = || a.iter().any(|(name, _)| name == "mcp.method.name");
    let tool_type = match a.peek(Field::ToolType) {
        Some(_) => a.text(Field::ToolType),
        None if is_mcp() => "mcp".to_owned(),
        None => "function".to_owned(),
    };
    out.push(Event::ToolCallAttempted(ToolCallAttempted {
        tool_call_id: tool_call_id.clone(),
        tool_name: tool_name.clone(),
        tool_type,
        server: server.clone(),
        arguments: a.content(Field::ToolArguments),
        h: synthesised(record, Part::Before, "tool.call.attempted", record.start),
        ..ToolCallAttempted::default()
    }));
    // Gemini CLI decides in the same record; Claude Code has a record of its own for it.
    let decided = decided.filter(|_| record.vendor == Some(Dialect::GeminiCli));
    let decision_id = decided.map(|decision| decisions::of_call(record, &tool_call_id, &decision, out));
    let result = a.content(Field::ToolResult);
    let known = result.as_ref().map_or(-1, |result| result.raw_bytes);
    let mut completed = ToolCallCompleted {
        tool_call_id,
        tool_name,
        server,
        decision_id: decision_id.unwrap_or_default(),
        status: outcome.status.to_owned(),
        error_type: String::new(),
        bytes_out: a.int(Field::ToolBytesOut).unwrap_or(known),
        result,
        latency_ms: record.duration_ms,
        ..ToolCallCompleted::default()
    };
    completed.error_type = outcome.into_error_type(a);
    completed.h = record.main_header("tool.call.completed", attributes);
    // The attempt has the same origin, so that its id is known without having been stored.
    completed.h.causation_id = Some(record.event_id(Part::Before));
    out.push(Event::ToolCallCompleted(completed));
}

/// A run, a turn or a hand-off.
///
/// A span that began its trace, in a session that no attribute names, is a run: nothing of the
/// session can come before or after it. A named conversation outlives its turns, and no span says when
/// it ends, so a turn ends in what the agent answered. An agent below another span of its process was
/// handed a task.
fn agent(record: &mut OtlpRecord<'_>, mut attributes: Attributes, out: &mut Vec<RawEvent>) {
    let a = &mut attributes;
    let outcome = Outcome::of(record, a);
    let (status, latency_ms) = (outcome.status, record.duration_ms);
    let error_type = outcome.into_error_type(a);
    if !error_type.is_empty() {
        record.ext.put("error.type".to_owned(), error_type);
    }
    // A span that began its trace and names no session is the whole run; every other case is a part of
    // something larger, see above.
    match record.place {
        Place::Inner => {
            let state = match status {
                "ok" => "completed",
                "cancelled" => "canceled",
                _ => "failed",
            };
            let to_agent = record.agent_id().to_owned();
            let h = record.main_header("delegation", attributes);
            let task_id = record.own_id();
            let (protocol, state) = ("internal".to_owned(), state.to_owned());
            out.push(Event::Delegation(Delegation { h, to_agent, protocol, task_id, state, ..Delegation::default() }));
        }
        Place::Root if !record.is_named => {
            let h = synthesised(record, Part::Before, "session.started", record.start);
            out.push(Event::SessionStarted(SessionStarted { h, expected_steps: -1, ..SessionStarted::default() }));
            if let Some(content) = a.content(Field::AgentOutput) {
                let h = record.header(Part::Output, "output.produced", record.end);
                out.push(Event::OutputProduced(answer(record, h, status, Some(content))));
            }
            let h = record.main_header("session.ended", attributes);
            let status = status.to_owned();
            out.push(Event::SessionEnded(SessionEnded {
                h,
                status,
                duration_ms: latency_ms,
                ..SessionEnded::default()
            }));
        }
        Place::Root | Place::Entry => {
            let content = a.content(Field::AgentOutput);
            let h = record.main_header("output.produced", attributes);
            out.push(Event::OutputProduced(answer(record, h, status, content)));
        }
    }
}

fn answer(
    record: &OtlpRecord<'_>,
    h: EventHeader,
    status: &str,
    content: Option<Content<RawText>>,
) -> OutputProduced<RawText> {
    let status = if status == "ok" { "delivered" } else { "withheld" };
    OutputProduced {
        h,
        output_id: record.own_id(),
        status: status.to_owned(),
        content,
        latency_ms: record.duration_ms,
        ..OutputProduced::default()
    }
}

fn step(record: &mut OtlpRecord<'_>, attributes: Attributes, out: &mut Vec<RawEvent>) {
    let is_plan = attributes.str("gen_ai.operation.name") == Some("plan");
    let h = record.main_header("step.planned", attributes);
    out.push(Event::StepPlanned(StepPlanned {
        h,
        step_id: record.own_id(),
        parent_step_id: record.parent_id.map(|id| id.to_hex()).unwrap_or_default(),
        kind: if is_plan { "plan" } else { "task" }.to_owned(),
        ..StepPlanned::default()
    }));
}

fn data(record: &mut OtlpRecord<'_>, mut attributes: Attributes, out: &mut Vec<RawEvent>) {
    let a = &mut attributes;
    let operation = a.peek_text(Field::DataOperation).unwrap_or_default();
    let is_read = a.iter().any(|(name, _)| name == "mcp.method.name");
    let op = DATA_OPERATIONS.iter().find(|(name, _)| *name == operation).map(|(_, op)| *op);
    // Documents as indexed attributes (OpenInference), else as one JSON value (GenAI).
    let mut document_refs = a.gathered(Field::DataDocuments, "document.id");
    if document_refs.is_empty() {
        document_refs = ids(&a.document(Field::DataDocuments).unwrap_or_default());
    }
    document_refs.extend(Some(a.text(Field::DataRecord)).filter(|id| !id.is_empty()));
    let counted = i64::try_from(document_refs.len()).unwrap_or(i64::MAX);
    let outcome = Outcome::of(record, a);
    let error_type = outcome.into_error_type(a);
    if !error_type.is_empty() {
        record.ext.put("error.type".to_owned(), error_type);
    }
    let accessed = DataAccessed {
        access_id: record.own_id(),
        op: op.unwrap_or(if is_read { "read" } else { "search" }).to_owned(),
        source_id: a.text(Field::DataSource),
        memory_namespace: a.text(Field::DataNamespace),
        rows: a.int(Field::DataRows).unwrap_or(if counted > 0 { counted } else { -1 }),
        document_refs,
        query: a.content(Field::DataQuery),
        h: record.main_header("data.accessed", attributes),
        ..DataAccessed::default()
    };
    out.push(Event::DataAccessed(accessed));
}

/// The ids in a JSON array of objects.
fn ids(documents: &str) -> Vec<String> {
    let documents: Vec<serde_json::Value> = serde_json::from_str(documents).unwrap_or_default();
    let id = |document: &serde_json::Value| match document.get("id")? {
        serde_json::Value::String(id) => Some(id.clone()),
        serde_json::Value::Number(id) => Some(id.to_string()),
        _ => None,
    };
    documents.iter().filter_map(id).collect()
}

fn evaluation(record: &mut OtlpRecord<'_>, mut attributes: Attributes, out: &mut Vec<RawEvent>) {
    let mut result = evaluated(&mut attributes, &record.name);
    result.h = record.main_header("evaluation.result", attributes);
    out.push(Event::EvaluationResult(result));
}

/// An evaluation. Without a label that says pass or fail it counts as undecided (`n` = 0): whether a
/// score is good only its evaluator knows.
fn evaluated(a: &mut Attributes, name: &str) -> EvaluationResult {
    let passed = a.peek_text(Field::Label).as_deref().and_then(outcome::passed);
    let metric = Some(a.text(Field::Metric)).filter(|metric| !metric.is_empty());
    EvaluationResult {
        run_id: a.text(Field::EvaluationRun),
        metric: metric.unwrap_or_else(|| name.to_owned()),
        n: i64::from(passed.is_some()),
        k: i64::from(passed == Some(true)),
        value: a.number(Field::Score),
        judge: a.text(Field::Judge),
        ..EvaluationResult::default()
    }
}

/// The evaluation in a span event.
pub(super) fn evaluation_event(
    record: &OtlpRecord<'_>,
    index: u32,
    time: TimestampMicros,
    mut attributes: Attributes,
) -> RawEvent {
    attributes.assign(OtlpKind::Evaluation, None);
    let mut result = evaluated(&mut attributes, &record.name);
    result.h = record.header(Part::Event(index), "evaluation.result", time);
    result.h.causation_id = Some(record.event_id(Part::Main));
    let mut ext = Ext::of(result.h.ext);
    attributes.rest(&mut ext);
    result.h.ext = ext.into_map();
    Event::EvaluationResult(result)
}

fn threat(record: &mut OtlpRecord<'_>, mut attributes: Attributes, out: &mut Vec<RawEvent>) {
    let a = &mut attributes;
    let severity = match a.peek_text(Field::ThreatSeverity).unwrap_or_default().to_ascii_lowercase().as_str() {
        "critical" => "critical",
        "high" | "error" => "error",
        "medium" | "warning" | "warn" => "warning",
        _ => "info",
    };
    let action = a.peek_text(Field::ThreatAction).unwrap_or_default().to_ascii_lowercase();
    // An unknown action becomes `warn`: it must not be recorded as blocked or as allowed.
    let action = ["allow", "warn", "block", "ask"].into_iter().find(|known| *known == action).unwrap_or("warn");
    let raised = DetectionRaised {
        detection_id: record.own_id(),
        kind: a.text(Field::ThreatRule),
        detector: record.source.scope_name.clone(),
        detector_version: record.source.scope_version.clone(),
        ruleset: a.text(Field::ThreatRuleset),
        severity: severity.to_owned(),
        action: action.to_owned(),
        incident_id: a.text(Field::ThreatIncident),
        reason: "the agent's own threat detection fired".to_owned(),
        h: record.main_header("detection.raised", attributes),
        ..DetectionRaised::default()
    };
    out.push(Event::DetectionRaised(raised));
}

fn delegation(record: &mut OtlpRecord<'_>, mut attributes: Attributes, out: &mut Vec<RawEvent>) {
    let a = &mut attributes;
    let outcome = Outcome::of(record, a);
    let told = a.peek_text(Field::TaskState).unwrap_or_default();
    // Protobuf's enum names and JSON's words for the same states, in both spellings of A2A.
    let told = told.trim_start_matches("TASK_STATE_").to_ascii_lowercase().replace('-', "_");
    let state = match (told.as_str(), outcome.status) {
        ("" | "unspecified", "ok") => "submitted".to_owned(),
        ("" | "unspecified", _) => "failed".to_owned(),
        _ => told,
    };
    let error_type = outcome.into_error_type(a);
    if !error_type.is_empty() {
        record.ext.put("error.type".to_owned(), error_type);
    }
    let delegation = Delegation {
        to_agent: a.text(Field::ToAgent),
        protocol: "a2a".to_owned(),
        task_id: a.text(Field::TaskId),
        state,
        h: record.main_header("delegation", attributes),
        ..Delegation::default()
    };
    out.push(Event::Delegation(delegation));
}
