//! Policy decisions and approvals that agents report about themselves.
//!
//! Only the client asserts them: approvers are marked `client_asserted`, and a guardrail's effect, which no
//! convention defines, stays empty and unenforced.

use schemas::event::{ApprovalDecided, Event, PolicyDecision, Principal, RawEvent};

use super::attributes::Attributes;
use super::outcome::{Outcome, allows};
use super::record::{OtlpRecord, Part};
use super::table::{Dialect, Field};

/// How approvers are authenticated: not by us.
const CLIENT_ASSERTED: &str = "client_asserted";

/// Who or what decided about a tool call.
struct Decided {
    call_id: String,
    decision: String,
    /// `config`, `hook`, `user_temporary` ...; empty unknown.
    source: String,
}

/// A log record that reports only a decision.
pub(super) fn tool(record: &mut OtlpRecord<'_>, mut attributes: Attributes, out: &mut Vec<RawEvent>) {
    let a = &mut attributes;
    let decided = Decided {
        call_id: a.text(Field::DecisionCall),
        decision: a.peek_text(Field::Decision).unwrap_or_default(),
        source: a.peek_text(Field::DecisionSource).unwrap_or_default(),
    };
    // Before `main_header`, which takes the record's facts for `ext`.
    let mut policy = policy(record, &decided, Part::Main);
    let approval = approval(record, &decided, Part::Approval);
    policy.h = record.main_header("policy.decision", attributes);
    out.push(Event::PolicyDecision(policy));
    out.extend(approval);
}

/// The decision in a record that reports the whole call; returns its id.
pub(super) fn of_call(record: &OtlpRecord<'_>, call_id: &str, decision: &str, out: &mut Vec<RawEvent>) -> String {
    // Gemini CLI's only word for a decision of its settings; its others are a person's.
    let source = if decision == "auto_accept" { "config" } else { "user" };
    let decided = Decided { call_id: call_id.to_owned(), decision: decision.to_owned(), source: source.to_owned() };
    let policy = policy(record, &decided, Part::Decision);
    let id = policy.decision_id.clone();
    out.push(Event::PolicyDecision(policy));
    out.extend(approval(record, &decided, Part::Approval));
    id
}

fn engine<'a>(record: &'a OtlpRecord<'_>) -> &'a str {
    match record.vendor {
        Some(Dialect::ClaudeCode) => "claude_code",
        Some(Dialect::Codex) => "codex",
        Some(Dialect::GeminiCli) => "gemini_cli",
        _ => &record.source.scope_name,
    }
}

fn policy(record: &OtlpRecord<'_>, decided: &Decided, part: Part) -> PolicyDecision {
    let allowed = allows(&decided.decision);
    PolicyDecision {
        h: record.header(part, "policy.decision", record.start),
        decision_id: record.event_id(part).to_string(),
        subject_kind: "tool_call".to_owned(),
        subject_id: decided.call_id.clone(),
        engine: engine(record).to_owned(),
        engine_version: record.header(part, "", record.start).agent_version,
        effect: allowed.map_or("", |yes| if yes { "ALLOW" } else { "DENY" }).to_owned(),
        reason_code: decided.source.clone(),
        // A word that is not known must neither allow nor deny in the record.
        could_not_evaluate: allowed.is_none(),
        ..PolicyDecision::default()
    }
}

/// A person's answer: settings and hooks decide without one.
fn approval(record: &OtlpRecord<'_>, decided: &Decided, part: Part) -> Option<RawEvent> {
    let asked = decided.source.to_ascii_lowercase().starts_with("user");
    let allowed = allows(&decided.decision).filter(|_| asked)?;
    let decision = match (decided.decision.as_str(), allowed) {
        ("modify", _) => "edit",
        (_, true) => "approve",
        (_, false) => "deny",
    };
    // The client names its own user; nobody else has checked who answered.
    let approver =
        Principal { r#type: "user".to_owned(), auth_method: CLIENT_ASSERTED.to_owned(), ..record.principal().clone() };
    let id = record.event_id(part);
    Some(Event::ApprovalDecided(ApprovalDecided {
        h: record.header(part, "approval.decided", record.start),
        approval_id: id.to_string(),
        approver,
        decision: decision.to_owned(),
        channel: engine(record).to_owned(),
        ..ApprovalDecided::default()
    }))
}

/// A guardrail's span. No convention says what it found, only that it ran and whether it could evaluate.
pub(super) fn guardrail(record: &mut OtlpRecord<'_>, mut attributes: Attributes, out: &mut Vec<RawEvent>) {
    let outcome = Outcome::of(record, &attributes);
    let could_not_evaluate = outcome.status != "ok";
    let error_type = outcome.into_error_type(&mut attributes);
    if !error_type.is_empty() {
        record.ext.put("error.type".to_owned(), error_type);
    }
    let decision = PolicyDecision {
        decision_id: record.own_id(),
        policy_id: record.name.clone(),
        engine: record.source.scope_name.clone(),
        engine_version: record.source.scope_version.clone(),
        // No convention says whether a guardrail blocks: claiming `enforce` would claim a control that may not
        // exist.
        enforcement_mode: "observe".to_owned(),
        could_not_evaluate,
        latency_ms: record.duration_ms,
        h: record.main_header("policy.decision", attributes),
        ..PolicyDecision::default()
    };
    out.push(Event::PolicyDecision(decision));
}
