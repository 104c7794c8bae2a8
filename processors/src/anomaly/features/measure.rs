//! One event as additive measures of the subjects it says something about.
//!
//! Subjects: the agent; a *dependency* (model provider or tool server); a *tool*. A pure table from
//! event fields to names; [`crate::anomaly::score`] reads the same names.

use schemas::event::{CleanEvent, Event, EventHeader, InventoryDeclared, ModelCall, ToolCallCompleted};
use schemas::text::CleanText;

use crate::anomaly::alert::clipped;

/// Longest category in a count's name, bytes.
const CATEGORY_BYTES_MAX: usize = 96;

/// What one event adds to one subject.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Addition {
    pub(super) kind: &'static str,
    pub(super) subject: String,
    pub(super) values: Vec<(&'static str, f64)>,
    pub(super) counts: Vec<(String, i64)>,
    /// Prefixes whose earlier counts of the window this one replaces: declarations.
    pub(super) replaces: &'static [&'static str],
}

impl Addition {
    fn new(kind: &'static str, subject: &str) -> Self {
        Self { kind, subject: subject.to_owned(), values: Vec::new(), counts: Vec::new(), replaces: &[] }
    }

    pub(super) fn agent(h: &EventHeader) -> Self {
        Self::new("agent", &h.agent_id)
    }

    fn value(mut self, name: &'static str, value: f64) -> Self {
        self.values.push((name, value));
        self
    }

    /// Adds `value` where `it_is`.
    fn flag(self, name: &'static str, it_is: bool) -> Self {
        if it_is { self.value(name, 1.0) } else { self }
    }

    /// Adds a number that may be unknown (negative).
    fn known(self, name: &'static str, value: i64) -> Self {
        // A zero adds nothing but an entry, and a subject is active if it has any.
        if value > 0 { self.value(name, value as f64) } else { self }
    }

    /// Adds the sums from which a level per call is made; unknown (negative) numbers add nothing.
    fn level(self, names: [&'static str; 3], value: i64) -> Self {
        if value < 0 {
            return self;
        }
        // Levels are judged as logarithms (`stats::Gauge`), and sums of logs and of their squares from two partitions
        // add up, which a mean does not.
        let log = (value as f64).ln_1p();
        self.value(names[0], 1.0).value(names[1], log).value(names[2], log * log)
    }

    pub(super) fn count(mut self, name: String, count: i64) -> Self {
        self.counts.push((name, count));
        self
    }

    fn category(self, prefix: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.count(format!("{prefix}/{}", clipped(value, CATEGORY_BYTES_MAX)), 1) }
    }
}

/// What `event` adds to its subjects; subjects without a name are left out.
pub(super) fn additions(event: &CleanEvent) -> Vec<Addition> {
    let h = event.h();
    let agent = Addition::agent(h);
    let mut all = match event {
        Event::ModelCall(e) => model_call(e),
        Event::ToolCallAttempted(e) => vec![agent.value("tool_attempts", 1.0).category("tool", &e.tool_name)],
        Event::ToolCallCompleted(e) => tool_call(e),
        Event::SessionStarted(_) => vec![agent.value("sessions_started", 1.0)],
        Event::SessionEnded(e) => vec![
            agent
                .value("sessions_ended", 1.0)
                .flag("sessions_failed", matches!(e.status.as_str(), "error" | "timeout"))
                .category("session_status", &e.status),
        ],
        Event::PolicyDecision(e) => {
            vec![agent.value("decisions", 1.0).flag("denials", e.effect.eq_ignore_ascii_case("deny"))]
        }
        Event::EvaluationResult(e) if e.n > 0 => vec![
            agent
                .value("evaluations_n", e.n as f64)
                .value("evaluations_failed", (e.n - e.k.clamp(0, e.n)) as f64)
                .category("evaluation", &e.metric),
        ],
        Event::DataAccessed(e) => {
            vec![agent.value("accesses", 1.0).known("rows", e.rows).known("bytes_out", e.bytes)]
        }
        Event::RateLimit(e) if e.throttled => {
            vec![agent.value("throttled", 1.0), Addition::new("dependency", &e.provider).value("throttled", 1.0)]
        }
        Event::OutputProduced(_) => vec![agent.value("outputs", 1.0)],
        Event::DetectionRaised(e) => vec![agent.category("detection", &e.kind)],
        Event::InventoryDeclared(e) => inventory(e),
        Event::ChangeRecorded(e) if e.object_kind == "model" && e.phase.eq_ignore_ascii_case("deployed") => {
            // The agent that reports the change and the one that is changed need not be the same.
            let mut subjects = vec![e.h.agent_id.as_str()];
            subjects.extend((e.object_id != e.h.agent_id).then_some(e.object_id.as_str()));
            subjects.iter().map(|s| Addition::new("agent", s).category("model_change", &e.to)).collect()
        }
        _ => Vec::new(),
    };
    // All nameless subjects would share one baseline, and one alert.
    all.retain(|addition| !addition.subject.is_empty());
    all
}

fn model_call(e: &ModelCall<CleanText>) -> Vec<Addition> {
    let failed = matches!(e.status.as_str(), "error" | "timeout");
    // Whose fault a failure is decides which baseline learns it: an outage of a provider must not become the error
    // rate of each of its agents.
    let own = failed && is_own_fault(&e.status, &e.error_type);
    // What answered, not what was asked for: a provider that swaps a model answers under another name.
    let model = if e.response_model.is_empty() { &e.request_model } else { &e.response_model };
    let error = error_name(&e.status, &e.error_type, failed);
    let mut agent = Addition::agent(&e.h)
        .value("model_calls", 1.0)
        .flag("model_errors_own", own)
        .flag("model_errors_dependency", failed && !own)
        .known("input_tokens", e.input_tokens)
        .known("output_tokens", e.output_tokens)
        .known("cost_micros", e.cost_micros)
        .category("error", error);
    let dependency = Addition::new("dependency", &e.provider)
        .value("calls", 1.0)
        .flag("errors", failed)
        .category("error", error)
        .category("agent", &e.h.agent_id);
    let mut dependency = if failed { dependency.category("agent_failed", &e.h.agent_id) } else { dependency };
    if !failed {
        agent = agent
            .level(["cost_calls", "cost_log_sum", "cost_log_sumsq"], e.cost_micros)
            .level(["token_calls", "token_log_sum", "token_log_sumsq"], e.output_tokens)
            .category("model", model);
        dependency = dependency.level(["latency_calls", "latency_log_sum", "latency_log_sumsq"], e.latency_ms);
    }
    vec![agent, dependency]
}

fn tool_call(e: &ToolCallCompleted<CleanText>) -> Vec<Addition> {
    let failed = matches!(e.status.as_str(), "error" | "timeout");
    let error = error_name(&e.status, &e.error_type, failed);
    let agent = Addition::agent(&e.h)
        .value("tool_calls", 1.0)
        .flag("tool_errors", failed)
        .flag("tool_denials", e.status == "denied")
        .known("bytes_out", e.bytes_out)
        .category("error", error)
        .category("tool_done", &e.tool_name);
    let side = |kind, subject: &str| {
        let side = Addition::new(kind, subject)
            .value("calls", 1.0)
            .flag("errors", failed)
            .category("error", error)
            .category("agent", &e.h.agent_id);
        // A failed call ends when its time-out says, not when the tool answers: no latency to learn from.
        if failed {
            side.category("agent_failed", &e.h.agent_id)
        } else {
            side.level(["latency_calls", "latency_log_sum", "latency_log_sumsq"], e.latency_ms)
        }
    };
    vec![agent, side("tool", &e.tool_name), side("dependency", &e.server)]
}

/// The agent's entry in the inventory, re-keyed to the agent that it is about.
fn inventory(e: &InventoryDeclared) -> Vec<Addition> {
    if e.object_kind != "agent" {
        return Vec::new();
    }
    let mut declared = Addition::new("agent", &e.object_id);
    // A later declaration in the same window withdraws the earlier one; added up, a tool that was taken off the list
    // would stay on it.
    declared.replaces = &["declared/", "declared_tool/", "declared_hours/"];
    let declared = declared.count("declared/entry".to_owned(), 1).category("declared_hours", &e.operating_hours);
    vec![e.tools.iter().fold(declared, |declared, tool| declared.category("declared_tool", tool))]
}

/// Whether a failed model call is the caller's fault; all others count as the provider's.
fn is_own_fault(status: &str, error_type: &str) -> bool {
    const OWN: &[&str] = &["invalid", "context_length", "content_filter", "authentication", "permission", "not_found"];
    let error = error_type.to_ascii_lowercase();
    // Of the 4xx, 408 and 429 say that the provider is slow or full.
    let client_status = error.trim_start_matches("http_").strip_prefix('4').is_some_and(|rest| {
        rest.len() >= 2
            && rest.as_bytes()[..2].iter().all(u8::is_ascii_digit)
            && !rest.starts_with("08")
            && !rest.starts_with("29")
    });
    status != "timeout" && (client_status || OWN.iter().any(|own| error.contains(own)))
}

fn error_name<'a>(status: &'a str, error_type: &'a str, failed: bool) -> &'a str {
    match (failed, error_type.is_empty()) {
        (false, _) => "",
        (true, true) => status,
        (true, false) => error_type,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_client_errors_are_the_callers_own_fault() {
        let check = |status, error_type, own| assert_eq!(is_own_fault(status, error_type), own, "{error_type}");
        check("error", "http_400", true);
        check("error", "401", true);
        check("error", "context_length_exceeded", true);
        check("error", "http_408", false);
        check("error", "http_429", false);
        check("error", "http_503", false);
        check("error", "", false);
        check("timeout", "http_400", false);
    }

    #[test]
    fn a_failed_call_counts_for_agent_and_provider_and_not_as_a_level() {
        let mut call = ModelCall { provider: "p".to_owned(), status: "error".to_owned(), ..ModelCall::default() };
        call.h.agent_id = "a".to_owned();
        (call.latency_ms, call.cost_micros) = (30_000, 0);
        let [agent, provider] = model_call(&call).try_into().unwrap();
        assert!(agent.values.contains(&("model_errors_dependency", 1.0)));
        assert!(provider.values.contains(&("errors", 1.0)));
        assert!(provider.counts.contains(&("agent_failed/a".to_owned(), 1)));
        assert!(!provider.values.iter().any(|(name, _)| *name == "latency_calls"));
    }
}
