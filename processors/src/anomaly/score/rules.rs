//! Declared rules, which need no baseline: tool allowlist, operating hours, data volume, model drift,
//! and what `features` has announced.
//!
//! An inventory entry or a recorded change counts from its own window on. Entries for the same
//! agent and window from two partitions add up; a later window replaces them.

use super::ScoreConfig;
use super::candidate::{Candidate, Ground};
use super::hours;
use super::subject::{Declared, Subject, Window};
use crate::anomaly::stats::HABITUATION_WINDOWS;

/// Model calls before an agent's models count as known.
const MODEL_CALLS_MIN: i64 = 20;
/// Most models that are remembered of an agent.
const MODELS_MAX: usize = 16;
/// Most declared tools that are remembered of an agent; more declare nothing.
const TOOLS_MAX: usize = 64;
/// What is known of a model value: in use from the start, changed to on record, or neither.
const ORIGINAL: u8 = 0;
const RECORDED: u8 = 1;
const UNRECORDED: u8 = 2;

/// Takes declarations in, then returns which rules the window breaks.
pub(super) fn judge(subject: &mut Subject, window: &Window, config: &ScoreConfig) -> Vec<Candidate> {
    declare(subject, window);
    let mut broken = Vec::new();
    allowlist(subject, window, &mut broken);
    out_of_hours(subject, window, &mut broken);
    data_volume(window, config, &mut broken);
    model_drift(subject, window, &mut broken);
    announced(window, &mut broken);
    broken
}

fn declare(subject: &mut Subject, window: &Window) {
    if window.categories("declared").next().is_some() {
        let tools: Vec<String> = window.categories("declared_tool").map(|(tool, _)| tool.to_owned()).collect();
        // A list that is cut would accuse the agent of using what was cut off.
        let tools = if tools.len() > TOOLS_MAX { Vec::new() } else { tools };
        // Two entries in one window: the last by name, which no order of arrival decides.
        let hours = window.categories("declared_hours").map(|(hours, _)| hours.to_owned()).last();
        subject.declared = Some(Declared { tools, hours: hours.unwrap_or_default() });
    }
    for (model, _) in window.categories("model_change") {
        // Full, a change cannot be remembered; `model_drift` then stays silent about values that it does not know.
        if subject.models.contains_key(model) || subject.models.len() < MODELS_MAX {
            subject.models.insert(model.to_owned(), RECORDED);
        }
    }
}

fn allowlist(subject: &Subject, window: &Window, broken: &mut Vec<Candidate>) {
    let Some(declared) = subject.declared.as_ref().filter(|declared| !declared.tools.is_empty()) else { return };
    for (tool, calls) in window.tools() {
        crate::steps::walked(declared.tools.len());
        if !declared.tools.iter().any(|allowed| allowed == tool) {
            let detail = format!("used tool {tool}, which is not among its {} declared tools", declared.tools.len());
            let mut candidate = Candidate::rule("tool_allowlist", format!("tool/{tool}"), "critical", detail);
            candidate.observed = Some(calls as f64);
            candidate.expected = Some(0.0);
            broken.push(candidate);
        }
    }
}

fn out_of_hours(subject: &Subject, window: &Window, broken: &mut Vec<Candidate>) {
    let Some(declared) = &subject.declared else { return };
    // What an agent does, not what is recorded about it: an inventory entry at night is no work.
    let works = ["sessions_started", "model_calls", "tool_attempts", "tool_calls", "accesses", "outputs"];
    let actions: f64 = works.iter().map(|name| window.value(name)).sum();
    if actions > 0.0 && hours::is_outside(&declared.hours, window.first) {
        let detail = format!("was active outside of its declared operating hours ({} UTC)", declared.hours);
        let mut candidate = Candidate::rule("out_of_hours", "activity".to_owned(), "error", detail);
        candidate.observed = Some(actions);
        candidate.expected = Some(0.0);
        broken.push(candidate);
    }
}

fn data_volume(window: &Window, config: &ScoreConfig, broken: &mut Vec<Candidate>) {
    for (metric, cap) in [("bytes_out", config.bytes_out_max), ("rows", config.rows_max)] {
        let volume = window.value(metric);
        if volume > cap {
            let detail = format!("moved {volume:.0} {metric} in one window, over the cap of {cap:.0}");
            let mut candidate = Candidate::rule("data_volume", metric.to_owned(), "critical", detail);
            (candidate.observed, candidate.expected) = (Some(volume), Some(cap));
            broken.push(candidate);
        }
    }
}

/// A model value that was never seen nor recorded as deployed. It is reported while the value is in use,
/// until a change is recorded or it has become normal.
fn model_drift(subject: &mut Subject, window: &Window, broken: &mut Vec<Candidate>) {
    let settled = subject.model_calls >= MODEL_CALLS_MIN;
    for (model, calls) in window.categories("model") {
        subject.model_calls = subject.model_calls.saturating_add(calls);
        let known = match subject.models.get(model) {
            Some(known) => *known,
            // Silent and not wrong: with more than 16 values in use, a new one is no news.
            None if subject.models.len() >= MODELS_MAX => continue,
            None if settled => UNRECORDED,
            None => ORIGINAL,
        };
        let key = ("model_drift".to_owned(), format!("model/{model}"));
        // After 60 windows an alert that nobody acted on states the normal; the same number after which baselines
        // accept a level.
        let accepted = subject.open.get(&key).is_some_and(|open| open.windows >= HABITUATION_WINDOWS);
        let known = if accepted { ORIGINAL } else { known };
        subject.models.insert(model.to_owned(), known);
        if known == UNRECORDED {
            let detail = format!("was answered by model {model}, never seen before, without a recorded change");
            broken.push(Candidate::rule("model_drift", key.1, "error", detail));
        }
    }
}

fn announced(window: &Window, broken: &mut Vec<Candidate>) {
    for (name, count) in window.categories("announced") {
        if let Some((class, metric)) = name.split_once('/') {
            let detail = match class {
                "budget" => format!("is over or held back by its {} budget", metric.trim_start_matches("budget_")),
                _ => format!("called {} after a prompt injection", metric.replacen('/', " ", 1)),
            };
            let mut candidate = Candidate::rule(class, metric.to_owned(), "critical", detail);
            // `features` has paged already; a second page for the same thing costs trust.
            candidate.ground = Ground::Announced;
            candidate.observed = Some(count as f64);
            broken.push(candidate);
        }
    }
}
