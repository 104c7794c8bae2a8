//! The two rules that page at the event and not at the end of its window: a budget that throttles,
//! stops or is overspent, and a sensitive tool call after a prompt injection in the same session.
//!
//! The alert starts here; `score` learns of it through the window's counts (`announced/...`), keeps
//! it going and resolves it. Injections are seen where the agent or its gateway reports them as
//! `detection.raised` in the session; findings of `pii` travel in another topic.

use schemas::event::{Alert, Budget, CleanEvent, Event, ToolCallAttempted};
use schemas::text::CleanText;
use schemas::time::TimestampMicros;

use super::DETECTOR;
use super::state::FeaturesState;
use crate::anomaly::alert::{SubjectKey, about, outgoing};
use crate::stage::Outgoing;

/// Side effects that must not follow an injection.
const SENSITIVE: &[&str] = &["destructive", "money", "external_comm", "privilege"];

/// An urgent alert; `record` is `None` where it was sent not long ago.
pub(super) struct Urgent {
    pub(super) class: &'static str,
    pub(super) metric: String,
    pub(super) record: Option<Outgoing>,
}

/// The alerts that `event` causes, and what it changes in the state.
pub(super) fn judge(
    state: &mut FeaturesState,
    event: &CleanEvent,
    window: TimestampMicros,
    now: TimestampMicros,
) -> Vec<Urgent> {
    let h = event.h();
    let found = match event {
        Event::Budget(budget) => over_budget(budget),
        Event::ToolCallAttempted(call) => sensitive(state, call),
        Event::DetectionRaised(e) if e.kind == "prompt_injection" => {
            state.taint(&h.tenant_id, h.session_id, window);
            None
        }
        Event::SessionEnded(_) => {
            // Nothing runs in a session that is over; its memory is worth more to others.
            state.clear_taint(&h.tenant_id, h.session_id);
            None
        }
        _ => None,
    };
    // Nobody could be paged about an agent without a name.
    let Some(found) = found.filter(|_| !h.agent_id.is_empty()) else { return Vec::new() };
    let key = SubjectKey {
        tenant_id: h.tenant_id.clone(),
        kind: "agent".to_owned(),
        environment: h.environment.clone(),
        subject: h.agent_id.clone(),
    };
    let alert = Alert {
        status: "firing".to_owned(),
        severity: found.severity.to_owned(),
        observed: found.observed,
        expected: found.expected,
        starts_at: now,
        updated_at: now,
        reason: format!("{} at {}", found.reason, super::super::score::utc(now)),
        detector: DETECTOR.to_owned(),
        count: 1,
        event_ids: vec![h.event_id],
        ..about(&key, found.class, &found.metric)
    };
    // Asked last: it remembers. The urgent count goes to `score` in any case, so that an alert that repeats is kept
    // open.
    let news = state.is_news(&alert.fingerprint, window);
    vec![Urgent { class: found.class, metric: found.metric, record: news.then(|| outgoing(alert)) }]
}

struct Found {
    class: &'static str,
    metric: String,
    severity: &'static str,
    observed: Option<f64>,
    expected: Option<f64>,
    reason: String,
}

fn over_budget(e: &Budget) -> Option<Found> {
    let acted = matches!(e.action.as_str(), "throttle" | "stop");
    // A negative limit is none.
    let over = e.limit_micros >= 0 && e.spent_micros > e.limit_micros;
    let dollars = |micros: i64| micros as f64 / 1e6;
    (acted || over).then(|| Found {
        class: "budget",
        metric: format!("budget_{}", e.scope),
        // Throttled is held back and within its budget.
        severity: if e.action == "stop" || over { "critical" } else { "error" },
        observed: Some(e.spent_micros as f64),
        expected: Some(e.limit_micros as f64),
        reason: format!(
            "agent {} has spent {:.2} of {:.2} USD of its {} budget (action {})",
            e.h.agent_id,
            dollars(e.spent_micros),
            dollars(e.limit_micros),
            e.scope,
            e.action
        ),
    })
}

fn sensitive(state: &FeaturesState, e: &ToolCallAttempted<CleanText>) -> Option<Found> {
    let is_sensitive = SENSITIVE.contains(&e.side_effect_class.as_str());
    (is_sensitive && state.is_tainted(&e.h.tenant_id, e.h.session_id)).then(|| Found {
        class: "injection_sensitive_tool",
        metric: format!("tool/{}", e.tool_name),
        severity: "critical",
        observed: None,
        expected: None,
        reason: format!(
            "agent {} called tool {} (side effect {}) after a prompt injection was detected in the same session",
            e.h.agent_id, e.tool_name, e.side_effect_class
        ),
    })
}
