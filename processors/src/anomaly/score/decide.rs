//! From suspicions to alerts: false discovery rate over the series of a window, habituation,
//! refractory time, and the life of an alert (firing, reported again, resolved).
//!
//! Identity never depends on value or time, so an alert that comes back is the same alert.

use std::collections::BTreeMap;

use schemas::event::Alert;
use schemas::time::TimestampMicros;

use super::candidate::{Candidate, Ground};
use super::evaluate::{Suspicions, suspicions};
use super::state::ScoreState;
use super::subject::{AlertKey, Habit, Open, Subject, Window};
use super::{DETECTOR, ScoreConfig, reason};
use crate::anomaly::alert::{SAMPLES_MAX, SubjectKey, about};
use crate::steps::walked;

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
    let mut all: Vec<(SubjectKey, Window, Suspicions)> = Vec::with_capacity(windows.len());
    for (key, window) in windows {
        let subject = state.subjects.entry(key.clone()).or_default();
        let found = suspicions(&key.kind, subject, &window, config);
        state.touch(&key);
        all.push((key, window, found));
    }
    // After every subject has been looked at and before any alert opens: the limit is that of the whole window, not
    // of the subjects judged so far.
    let limit = p_limit(state, &all, config);
    for (key, window, found) in all {
        for candidate in found.candidates {
            apply(state, &key, &window, candidate, limit, config);
        }
    }
}

/// Largest probability that is a discovery (Benjamini and Hochberg 1995), over every statistic that
/// was looked at in this window; 0 for none.
fn p_limit(state: &ScoreState, all: &[(SubjectKey, Window, Suspicions)], config: &ScoreConfig) -> f64 {
    // Every statistic that was looked at counts, also those that gave no candidate: left out, the rate of false
    // discoveries would be that of the suspicious ones alone.
    let tests: usize = all.iter().map(|(_, _, found)| found.tests).sum();
    let mut p: Vec<f64> = Vec::new();
    for (key, window, found) in all {
        let subject = state.subjects.get(key);
        p.extend(found.candidates.iter().filter(|c| c.starts).filter_map(|c| effective_p(subject?, c, window.next)));
    }
    // A total order, so that equal logs give equal limits (I6).
    p.sort_by(f64::total_cmp);
    // Benjamini-Hochberg: the largest p_i at or below q i / m. In a simulation of 20 000 hourly series a fixed limit
    // of 1e-4 gave 44 false alerts a day, this one with q = 0.1 gave 2.4.
    let rank = |index: usize| config.fdr * (index + 1) as f64 / tests.max(1) as f64;
    p.iter().enumerate().filter(|(index, p)| **p <= rank(*index)).map(|(_, p)| *p).next_back().unwrap_or(0.0)
}

/// A tail probability discounted by habit; `None` for rules.
fn effective_p(subject: &Subject, candidate: &Candidate, now: TimestampMicros) -> Option<f64> {
    let Ground::Tail(p) = candidate.ground else { return None };
    let level = subject.habits.get(&alert_key(candidate)).map_or(0.0, |habit| habit_level(habit, now));
    // On the logarithm: a level of 0.5 asks for one and a half times the evidence. The floor keeps ln(0) out.
    Some((p.max(1e-300).ln() / (1.0 + level)).exp())
}

/// What is left of a habit; decays per minute, whatever the window's width.
fn habit_level(habit: &Habit, now: TimestampMicros) -> f64 {
    // Minutes and not windows, so that another width of windows forgets as fast.
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
        // A bound on the entry: a subject with 32 open alerts needs a look, not a thirty-third.
        if subject.open.len() >= OPEN_MAX {
            name.1 = "other".to_owned();
        }
    }
    let fresh = !subject.open.contains_key(&name);
    let open = subject.open.entry(name.clone()).or_default();
    extend(open, window, candidate.clone(), fresh, config);
    open.score = p.map(|p| p.max(1e-300).ln() / limit.clamp(1e-300, config.fdr).ln());
    let due = open.last.0.saturating_sub(open.reported_at.0) >= config.update_windows * config.window_ms * 1_000;
    // `features` has sent the alert already; the first report of this stage is the one that is due later.
    let report = if fresh { candidate.ground != Ground::Announced } else { due };
    if fresh || report {
        open.reported_at = window.next;
    }
    if report {
        let alert = alert_of(key, &name, open, window.next, "firing");
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
    // Rules have no probability, no refractory time and no false discoveries.
    let Some(p) = p else { return true };
    let refractory_ms = config.refractory_windows * config.window_ms;
    let rests = subject.habits.get(name).is_some_and(|habit| habit.at.plus_ms(refractory_ms) > now);
    candidate.starts && p <= limit && !rests
}

/// Adds a window to an alert.
fn extend(open: &mut Open, window: &Window, candidate: Candidate, fresh: bool, config: &ScoreConfig) {
    // A new alert shows what its evidence spans; later each window is added once.
    let sums = if fresh { candidate.spanned } else { candidate.window };
    if fresh {
        open.starts_at = window.next.plus_ms(-candidate.span * config.window_ms);
        (open.expected, open.severity) = (candidate.expected, candidate.severity.to_owned());
    }
    open.last = window.next;
    open.windows = open.windows.saturating_add(1);
    open.trials += sums[0];
    open.hits += sums[1];
    // A rate is that of the whole alert; a level is its peak, which the next window must not talk down.
    if open.trials > 0.0 {
        open.observed = Some(open.hits / open.trials);
    } else if multiple(candidate.observed, candidate.expected) >= multiple(open.observed, open.expected) {
        (open.observed, open.expected) = (candidate.observed, candidate.expected);
        open.detail = candidate.detail.clone();
    }
    // Of a window that would start it by itself: the facts of a window that only holds name errors of the background.
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
fn alert_of(key: &SubjectKey, name: &AlertKey, open: &Open, now: TimestampMicros, status: &str) -> Alert {
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
    // The last window that is over.
    let window = now.0.div_euclid(config.window_ms * 1_000) - 1;
    walked(state.subjects.len());
    let due: Vec<SubjectKey> = state
        .subjects
        .iter()
        .filter(|(key, s)| is_due(key, s, window, now, config))
        .map(|(key, _)| key.clone())
        .collect();
    for key in due {
        state.touch(&key);
        // Silence first: an agent that fell silent has quiet alerts, which resolve in the same sweep.
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
        // A day of one-minute windows: then it is not late but gone, and its alert resolves.
        && silent < RETIRED_WINDOWS
        // Four times its longest pause, with one more for an agent that never paused.
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
    // Silence has no window of its own: no signal comes from a subject that does nothing.
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
        alerts.push(alert_of(key, &name, &open, now, "resolved"));
        if open.p.is_some() {
            // A CUSUM at its ceiling would open the same alert again with the first window after the refractory time.
            subject.gauges.values_mut().for_each(|gauge| gauge.reset());
            habituate(subject, name, now);
        }
    }
    alerts.into_iter().for_each(|alert| state.send(alert));
}

/// Remembers that an alert of a statistic has been, so that the next one needs more evidence.
fn habituate(subject: &mut Subject, name: AlertKey, now: TimestampMicros) {
    // Dropped before the bound is looked at, so that faded habits do not keep out new ones.
    subject.habits.retain(|_, habit| habit_level(habit, now) >= 0.05);
    let level = subject.habits.get(&name).map_or(0.0, |habit| habit_level(habit, now)) + HABIT_STEP;
    if subject.habits.len() < OPEN_MAX {
        subject.habits.insert(name, Habit { level, at: now });
    }
}
