//! From suspicions to alerts: false discovery rate over the series of a window, habituation,
//! refractory time, and the life of an alert (firing, reported again, resolved).
//!
//! Identity never depends on value or time, so an alert that comes back is the same alert.

use std::collections::BTreeMap;

use schemas::event::Alert;
use schemas::time::TimestampMicros;

use super::candidate::{Candidate, Ground};
use super::evaluate::{Findings, findings};
use super::state::ScoreState;
use super::subject::{AlertKey, Habit, Open, Subject, Window};
use super::{DETECTOR, ScoreConfig, reason};
use crate::anomaly::alert::{SAMPLES_MAX, SubjectKey, about};
pub(super) use crate::anomaly::stats::HABITUATION_WINDOWS;

/// Most open alerts of a subject; further metrics of a class share one alert.
const OPEN_MAX: usize = 32;
/// By how much an alert raises the evidence that its next occurrence needs.
const HABIT_STEP: f64 = 0.5;
/// Share of a habit that is forgotten per window.
const HABIT_DECAY: f64 = 0.01;
/// Active windows of an agent before its silence means something.
const SILENCE_ACTIVE_MIN: u32 = 60;
/// Silence after which an agent counts as retired, windows.
const RETIRED_WINDOWS: i64 = 1_440;

/// Judges one window of all subjects of the partition that were active in it.
pub(super) fn judge(state: &mut ScoreState, windows: BTreeMap<SubjectKey, Window>, config: &ScoreConfig) {
    let mut all: Vec<(SubjectKey, Window, Findings)> = Vec::with_capacity(windows.len());
    for (key, window) in windows {
        let subject = state.subjects.entry(key.clone()).or_default();
        let found = findings(&key.kind, subject, &window, config);
        state.touch(&key);
        all.push((key, window, found));
    }
    let limit = p_limit(state, &all, config);
    for (key, window, found) in all {
        for candidate in found.candidates {
            apply(state, &key, &window, candidate, limit, config);
        }
    }
}

/// Largest probability that is a discovery (Benjamini and Hochberg 1995), over every statistic that
/// was looked at in this window; 0 for none.
fn p_limit(state: &ScoreState, all: &[(SubjectKey, Window, Findings)], config: &ScoreConfig) -> f64 {
    let tests: usize = all.iter().map(|(_, _, found)| found.tests).sum();
    let mut p: Vec<f64> = Vec::new();
    for (key, window, found) in all {
        let subject = state.subjects.get(key);
        p.extend(found.candidates.iter().filter(|c| c.starts).filter_map(|c| effective_p(subject?, c, window.next)));
    }
    p.sort_by(f64::total_cmp);
    let rank = |index: usize| config.fdr * (index + 1) as f64 / tests.max(1) as f64;
    p.iter().enumerate().filter(|(index, p)| **p <= rank(*index)).map(|(_, p)| *p).next_back().unwrap_or(0.0)
}

/// A tail probability discounted by habit; `None` for rules.
fn effective_p(subject: &Subject, candidate: &Candidate, now: TimestampMicros) -> Option<f64> {
    let Ground::Tail(p) = candidate.ground else { return None };
    let level = subject.habits.get(&alert_key(candidate)).map_or(0.0, |habit| habit_level(habit, now));
    Some((p.max(1e-300).ln() / (1.0 + level)).exp())
}

/// What is left of a habit; decays per minute, whatever the window's width.
fn habit_level(habit: &Habit, now: TimestampMicros) -> f64 {
    let minutes = now.0.saturating_sub(habit.at.0).max(0) as f64 / 60e6;
    habit.level * (-HABIT_DECAY * minutes).exp()
}

fn alert_key(candidate: &Candidate) -> AlertKey {
    (candidate.class.clone(), candidate.metric.clone())
}

/// Opens, continues or ignores.
fn apply(
    state: &mut ScoreState,
    key: &SubjectKey,
    window: &Window,
    candidate: Candidate,
    limit: f64,
    config: &ScoreConfig,
) {
    let Some(subject) = state.subjects.get_mut(key) else { return };
    let mut name = alert_key(&candidate);
    let p = effective_p(subject, &candidate, window.next);
    if !subject.open.contains_key(&name) {
        if !may_open(subject, &name, &candidate, p, limit, window.next, config) {
            return;
        }
        if subject.open.len() >= OPEN_MAX {
            name.1 = "other".to_owned();
        }
    }
    let fresh = !subject.open.contains_key(&name);
    let open = subject.open.entry(name.clone()).or_default();
    extend(open, window, candidate.clone(), fresh, config);
    open.score = p.map(|p| p.max(1e-300).ln() / limit.clamp(1e-300, config.fdr).ln());
    let due = open.last.0.saturating_sub(open.told_at.0) >= config.update_windows * config.window_ms * 1_000;
    let tell = if fresh { candidate.ground != Ground::Announced } else { due };
    if fresh || tell {
        open.told_at = window.next;
    }
    if tell {
        let alert = record(key, &name, open, window.next, "firing");
        state.send(alert);
    }
}

fn may_open(
    subject: &Subject,
    name: &AlertKey,
    candidate: &Candidate,
    p: Option<f64>,
    limit: f64,
    now: TimestampMicros,
    config: &ScoreConfig,
) -> bool {
    let Some(p) = p else { return true };
    let refractory_ms = config.refractory_windows * config.window_ms;
    let rests = subject.habits.get(name).is_some_and(|habit| habit.at.plus_ms(refractory_ms) > now);
    candidate.starts && p <= limit && !rests
}

/// Adds a window to an alert.
fn extend(open: &mut Open, window: &Window, candidate: Candidate, fresh: bool, config: &ScoreConfig) {
    let sums = if fresh { candidate.spanned } else { candidate.window };
    if fresh {
        open.starts_at = window.next.plus_ms(-candidate.span * config.window_ms);
        (open.expected, open.severity) = (candidate.expected, candidate.severity.to_owned());
    }
    open.last = window.next;
    open.windows = open.windows.saturating_add(1);
    open.trials += sums[0];
    open.hits += sums[1];
    if open.trials > 0.0 {
        open.observed = Some(open.hits / open.trials);
    } else if multiple(candidate.observed, candidate.expected) >= multiple(open.observed, open.expected) {
        (open.observed, open.expected) = (candidate.observed, candidate.expected);
        open.detail = candidate.detail.clone();
    }
    if open.trials > 0.0 && (fresh || candidate.starts) {
        open.detail = candidate.detail;
    }
    if let Ground::Tail(p) = candidate.ground {
        open.p = Some(open.p.map_or(p, |least| least.min(p)));
    }
    if !candidate.contributing.is_empty() {
        open.contributing = candidate.contributing;
    }
    let room = SAMPLES_MAX.saturating_sub(open.event_ids.len());
    open.event_ids.extend(window.event_ids.iter().copied().take(room));
}

/// How many times the expected value was observed: what makes a peak.
fn multiple(observed: Option<f64>, expected: Option<f64>) -> f64 {
    (observed.unwrap_or(0.0) + 1.0) / (expected.unwrap_or(0.0) + 1.0)
}

/// The alert's record as of `now`.
fn record(key: &SubjectKey, name: &AlertKey, open: &Open, now: TimestampMicros, status: &str) -> Alert {
    let resolved = status == "resolved";
    let mut alert = about(key, &name.0, &name.1);
    alert.labels.insert("severity".to_owned(), open.severity.clone());
    Alert {
        status: status.to_owned(),
        severity: open.severity.clone(),
        observed: open.observed,
        expected: open.expected,
        p_value: open.p,
        score: open.score,
        starts_at: open.starts_at,
        ends_at: resolved.then_some(open.last),
        updated_at: now,
        reason: reason::sentence(key, name, open, resolved),
        detector: DETECTOR.to_owned(),
        contributing: open.contributing.clone(),
        count: i64::from(open.windows),
        event_ids: open.event_ids.clone(),
        ..alert
    }
}

/// What time alone brings about, once everything up to `now` is known: resolutions and silence.
pub(super) fn sweep(state: &mut ScoreState, now: TimestampMicros, config: &ScoreConfig) {
    let window = now.0.div_euclid(config.window_ms * 1_000) - 1;
    let due: Vec<SubjectKey> = state
        .subjects
        .iter()
        .filter(|(key, s)| is_due(key, s, window, now, config))
        .map(|(key, _)| key.clone())
        .collect();
    for key in due {
        state.touch(&key);
        let silent = state.subjects.get(&key).is_some_and(|s| is_silent(&key, s, window, config));
        if silent {
            mark_silent(state, &key, window, now, config);
        }
        resolve(state, &key, now, config);
    }
}

fn is_due(key: &SubjectKey, subject: &Subject, window: i64, now: TimestampMicros, config: &ScoreConfig) -> bool {
    is_silent(key, subject, window, config) || subject.open.values().any(|open| is_over(open, now, config))
}

fn is_over(open: &Open, now: TimestampMicros, config: &ScoreConfig) -> bool {
    open.last.plus_ms(config.clear_windows * config.window_ms) <= now
}

/// Whether an agent has been silent for far longer than it ever was.
fn is_silent(key: &SubjectKey, subject: &Subject, window: i64, config: &ScoreConfig) -> bool {
    let silent = window.saturating_sub(subject.last);
    key.kind == "agent"
        && subject.windows >= SILENCE_ACTIVE_MIN
        && silent >= config.silence_windows_min
        && silent < RETIRED_WINDOWS
        && silent as f64 >= 4.0 * (subject.pause + 1.0)
}

fn mark_silent(state: &mut ScoreState, key: &SubjectKey, window: i64, now: TimestampMicros, config: &ScoreConfig) {
    let Some(subject) = state.subjects.get(key) else { return };
    let silent = window.saturating_sub(subject.last);
    let detail = format!("its longest pause so far was {:.0} windows", subject.pause);
    let candidate = Candidate {
        observed: Some(silent as f64),
        expected: Some(subject.pause),
        span: silent,
        ..Candidate::rule("rate", "silence".to_owned(), "warning", detail)
    };
    let empty = Window { first: now.plus_ms(-config.window_ms), next: now, number: window, ..Window::default() };
    apply(state, key, &empty, candidate, 0.0, config);
}

/// Ends the alerts of a subject that have been quiet for long enough.
fn resolve(state: &mut ScoreState, key: &SubjectKey, now: TimestampMicros, config: &ScoreConfig) {
    let Some(subject) = state.subjects.get_mut(key) else { return };
    let over: Vec<AlertKey> =
        subject.open.iter().filter(|(_, open)| is_over(open, now, config)).map(|(name, _)| name.clone()).collect();
    let mut alerts = Vec::with_capacity(over.len());
    for name in over {
        let Some(open) = subject.open.remove(&name) else { continue };
        alerts.push(record(key, &name, &open, now, "resolved"));
        if open.p.is_some() {
            subject.gauges.values_mut().for_each(|gauge| gauge.reset());
            habituate(subject, name, now);
        }
    }
    alerts.into_iter().for_each(|alert| state.send(alert));
}

/// Remembers that an alert of a statistic has been, so that the next one needs more evidence.
fn habituate(subject: &mut Subject, name: AlertKey, now: TimestampMicros) {
    subject.habits.retain(|_, habit| habit_level(habit, now) >= 0.05);
    let level = subject.habits.get(&name).map_or(0.0, |habit| habit_level(habit, now)) + HABIT_STEP;
    if subject.habits.len() < OPEN_MAX {
        subject.habits.insert(name, Habit { level, at: now });
    }
}
