//! One window of one subject against its baselines: suspicions with their tail probabilities.
//!
//! Which measures are scored for which kind of subject is the tables below. Every baseline learns
//! here, whatever is decided later; the baselines themselves leave abnormal windows out.

use super::ScoreConfig;
use super::candidate::{Candidate, Ground};
use super::rules;
use super::subject::{Subject, Window};
use crate::anomaly::stats::GaugeView;

/// Metric, trials, failures: rates of an agent. The position is the baseline's number in the state.
const AGENT_RATES: [(&str, &str, &str); 5] = [
    ("tool_error_rate", "tool_calls", "tool_errors"),
    ("model_error_rate", "model_calls", "model_errors_own"),
    ("session_failure_rate", "sessions_ended", "sessions_failed"),
    ("evaluation_failure_rate", "evaluations_n", "evaluations_failed"),
    ("denial_rate", "decisions", "denials"),
];
/// Numbers of gauges in the state.
const COST_PER_CALL: u8 = 0;
const TOKENS_PER_CALL: u8 = 1;
const COST_PER_WINDOW: u8 = 2;
const LATENCY: u8 = 3;
/// Smallest probability that is worth a candidate.
const CANDIDATE_P: f64 = 0.01;
/// Share of an agent's calls failing by a dependency's fault that explains whatever else it shows.
const EXPLAINED_SHARE: f64 = 0.1;
/// Calls to tools before a new tool is news.
const MIX_UNSEEN_MAX: f64 = 1e-3;

/// Suspicions about a window, and how many statistics were looked at.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    pub(super) candidates: Vec<Candidate>,
    pub(super) tests: usize,
}

impl Suspicions {
    fn test(&mut self, candidate: Candidate) {
        self.tests += 1;
        let likely = matches!(candidate.ground, Ground::Tail(p) if p < CANDIDATE_P);
        if candidate.is_worth_keeping() && (likely || candidate.holds) {
            self.candidates.push(candidate);
        }
    }
}

/// Scores `window` and lets the subject learn from it.
pub(super) fn suspicions(kind: &str, subject: &mut Subject, window: &Window, config: &ScoreConfig) -> Suspicions {
    let mut found = Suspicions::default();
    // Before `last` moves on below.
    let silent = pause(subject, window);
    match kind {
        "agent" => {
            // Rules first and outside of `tests`: they are certain, and would only dilute the false discovery rate.
            found.candidates = rules::judge(subject, window, config);
            agent(subject, window, silent, config, &mut found);
        }
        _ => dependency(kind, subject, window, config, &mut found),
    }
    if window.is_active() {
        subject.last = subject.last.max(window.number);
        subject.windows = subject.windows.saturating_add(1);
    }
    found
}

/// Windows of silence before this one; remembers the longest.
fn pause(subject: &mut Subject, window: &Window) -> i64 {
    if !window.is_active() || subject.last == i64::MIN {
        return 0;
    }
    let silent = window.number.saturating_sub(subject.last).saturating_sub(1).max(0);
    // Forgets by 2 % a pause: one long holiday does not excuse every silence after it.
    subject.pause = (subject.pause * 0.98).max(silent as f64);
    silent
}

fn agent(subject: &mut Subject, window: &Window, silent: i64, config: &ScoreConfig, found: &mut Suspicions) {
    if !window.is_active() {
        return;
    }
    let mut statistics = Suspicions::default();
    for (number, (metric, trials, failures)) in (0_u8..).zip(AGENT_RATES) {
        let sums = [window.value(trials), window.value(failures)];
        if sums[0] > 0.0 {
            let floor = config.error_rate_min;
            statistics.test(rate(subject, number, metric, window, sums, floor, config).0);
        }
    }
    cost(subject, window, config, &mut statistics);
    calls(subject, window, silent, config, &mut statistics);
    mix(subject, window, &mut statistics);
    subject.dependency.add(window.number, [window.value("model_calls"), window.value("model_errors_dependency")]);
    let [model_calls, failed] = subject.dependency.sum(5);
    if failed >= 2.0 && failed >= EXPLAINED_SHARE * model_calls {
        // While its calls fail by a provider's fault an agent is slow, costly and failing for a reason that the
        // provider's own alert states. The tests stay counted.
        statistics.candidates.clear();
    }
    found.tests += statistics.tests;
    found.candidates.append(&mut statistics.candidates);
}

/// A failure rate as a candidate of class `error_rate`; and whether its error budget burns.
fn rate(
    subject: &mut Subject,
    number: u8,
    metric: &str,
    window: &Window,
    sums: [f64; 2],
    floor: f64,
    config: &ScoreConfig,
) -> (Candidate, bool) {
    let baseline = subject.rates.entry(number).or_default();
    let view = baseline.observe(window.number, sums[0], sums[1]);
    // 14.4 times burns 2 % of a 30-day budget in an hour (Google SRE workbook, chapter 5).
    let burns = baseline.burns(config.objective, 14.4);
    let [trials, failures] = view.spanned;
    let observed = failures / trials;
    let starts = view.windows >= config.baseline_windows_min
        && failures >= config.failures_min
        && observed >= floor
        // A ratio cannot be asked of a series that fails often: three times 40 % is more than all. Half way to
        // certainty is then enough.
        && observed >= (config.ratio_min * view.expected).min(0.5 + 0.5 * view.expected);
    let now = sums[1] / sums[0];
    // Half of what opens, by the window alone: the span still remembers failures that are over.
    let holds = now >= floor / 2.0 && now >= 1.5 * view.expected.min(0.6);
    // The first by name among equals, so that equal logs give equal sentences (I6).
    let error = window.categories("error").max_by_key(|(name, count)| (*count, std::cmp::Reverse(*name)));
    let detail = error.map(|(name, _)| format!("mostly with {name}")).unwrap_or_default();
    let candidate = Candidate {
        starts,
        holds,
        ground: Ground::Tail(view.p),
        span: view.span as i64,
        spanned: view.spanned,
        window: sums,
        observed: Some(observed),
        expected: Some(view.expected),
        severity: if view.p < 1e-9 { "error" } else { "warning" },
        ..Candidate::rule("error_rate", metric.to_owned(), "warning", detail)
    };
    (candidate, burns)
}

/// A dependency or a tool: its error rate over all agents, and its latency.
fn dependency(kind: &str, subject: &mut Subject, window: &Window, config: &ScoreConfig, found: &mut Suspicions) {
    let sums = [window.value("calls"), window.value("errors")];
    if sums[0] > 0.0 {
        let floor = if kind == "dependency" { config.outage_rate_min } else { config.error_rate_min };
        let (mut candidate, burns) = rate(subject, 0, "error_rate", window, sums, floor, config);
        let (agents, failed) = (window.categories("agent").count(), window.categories("agent_failed").count());
        let outage_open = subject.open.contains_key(&("outage".to_owned(), "error_rate".to_owned()));
        let rate_open = subject.open.contains_key(&("error_rate".to_owned(), "error_rate".to_owned()));
        // One of several agents failing is about that agent's use of it; an open alert keeps its class.
        let is_outage = !rate_open && (outage_open || failed > 1 || agents <= 1);
        if is_outage {
            candidate.class = "outage".to_owned();
            candidate.severity = if burns || candidate.observed >= Some(0.5) { "critical" } else { "error" };
        }
        // Of the window that is judged: once the failures stop there is nothing to say.
        let share = if failed > 0 { format!("{failed} of {agents} agents affected") } else { String::new() };
        candidate.detail =
            [candidate.detail, share].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        found.test(candidate);
    }
    let names = ["latency_calls", "latency_log_sum", "latency_log_sumsq"];
    if let Some(view) = gauge(subject, LATENCY, window, names) {
        let mut candidate = level("latency", "latency_ms", &view, config.ratio_min, config);
        candidate.starts &= linear(view.short) >= config.latency_ms_min;
        found.test(candidate);
    }
    if window.is_active() {
        subject.calls.observe(sums[0], 0);
    }
}

fn gauge(subject: &mut Subject, number: u8, window: &Window, names: [&str; 3]) -> Option<GaugeView> {
    let [calls, sum, squares] = names.map(|name| window.value(name));
    (calls > 0.0).then(|| subject.gauges.entry(number).or_default().observe(window.number, calls, sum, squares))
}

/// The value whose ln(1 + x) is `log`.
fn linear(log: f64) -> f64 {
    log.exp_m1()
}

/// A gauge's rise by `ratio_min` or more as a candidate.
fn level(class: &str, metric: &str, view: &GaugeView, ratio_min: f64, config: &ScoreConfig) -> Candidate {
    // Three windows where one is too thin to show it.
    let observed = view.level.max(view.short);
    // With one added on both sides a series near zero has no huge ratios.
    let ratio = (linear(observed) + 1.0) / (linear(view.expected) + 1.0);
    Candidate {
        ground: Ground::Tail(view.p),
        starts: view.windows >= config.baseline_windows_min && ratio >= ratio_min,
        holds: view.short - view.expected >= 0.6 * ratio_min.ln(),
        observed: Some(linear(observed)),
        expected: Some(linear(view.expected)),
        severity: if view.p < 1e-9 { "error" } else { "warning" },
        ..Candidate::rule(class, metric.to_owned(), "warning", String::new())
    }
}

/// Cost of an agent: per call, per window, and by tokens where no cost is known. One alert at most.
fn cost(subject: &mut Subject, window: &Window, config: &ScoreConfig, found: &mut Suspicions) {
    // All three learn in every window, whichever is reported: an early return would leave the others without a past.
    let tokens = gauge(subject, TOKENS_PER_CALL, window, ["token_calls", "token_log_sum", "token_log_sumsq"]);
    let per_call = gauge(subject, COST_PER_CALL, window, ["cost_calls", "cost_log_sum", "cost_log_sumsq"]);
    let spent = window.value("cost_micros");
    let per_window = (spent > 0.0).then(|| {
        let log = spent.ln_1p();
        subject.gauges.entry(COST_PER_WINDOW).or_default().observe(window.number, 1.0, log, log * log)
    });
    let moved = |name: &str, view: &GaugeView| {
        let ratio = (view.level - view.expected).exp();
        (ratio >= 1.5).then(|| format!("{name} x{ratio:.1}"))
    };
    let views =
        [("tokens_per_call", tokens), ("cost_micros_per_call", per_call), ("cost_micros_per_window", per_window)];
    let contributing: Vec<String> = views.iter().filter_map(|(name, view)| moved(name, view.as_ref()?)).collect();
    let knows_cost = subject.gauges.contains_key(&COST_PER_CALL);
    let excess_is_small =
        |view: &GaugeView| spent * (1.0 - (view.expected - view.level).min(0.0).exp()) < config.cost_micros_min;
    let mut best: Option<Candidate> = None;
    for (metric, view) in views {
        let Some(view) = view.filter(|_| (metric == "tokens_per_call") != knows_cost) else { continue };
        // Calls per window vary as well: twice the ratio.
        let factor = if metric == "cost_micros_per_window" { 2.0 } else { 1.0 };
        let mut candidate = level("cost_burst", "cost", &view, factor * config.ratio_min, config);
        candidate.starts &= !(knows_cost && excess_is_small(&view));
        candidate.detail = metric.to_owned();
        candidate.contributing = contributing.iter().filter(|text| !text.starts_with(metric)).cloned().collect();
        found.tests += 1;
        // One alert for cost, not three that say the same.
        best = Some(match best {
            Some(best) => stronger(best, candidate),
            None => candidate,
        });
    }
    if let Some(best) = best {
        // `test` counts it again.
        found.tests -= 1;
        found.test(best);
    }
}

/// The one that may start an alert, then the less likely one; it holds if either does.
fn stronger(one: Candidate, two: Candidate) -> Candidate {
    let rank = |candidate: &Candidate| match candidate.ground {
        Ground::Tail(p) => (!candidate.starts, p),
        _ => (false, 0.0),
    };
    let holds = one.holds || two.holds;
    let best = if rank(&two) < rank(&one) { two } else { one };
    Candidate { holds, ..best }
}

/// A runaway: far more model calls in a window than ever.
fn calls(subject: &mut Subject, window: &Window, silent: i64, config: &ScoreConfig, found: &mut Suspicions) {
    // Read before `observe`, which learns: the expectation is that of the past alone.
    let (x, mean, windows) = (window.value("model_calls"), subject.calls.mean(), subject.calls.windows());
    let p = subject.calls.observe(x, silent);
    found.test(Candidate {
        ground: Ground::Tail(p),
        starts: windows >= config.baseline_windows_min && x >= config.calls_min && x >= 2.0 * config.ratio_min * mean,
        holds: x >= config.calls_min / 2.0 && x >= config.ratio_min * mean,
        observed: Some(x),
        expected: Some(mean),
        ..Candidate::rule("rate", "model_calls".to_owned(), "warning", String::new())
    });
}

/// A tool never used before by an agent with a settled mix and no declared tools.
fn mix(subject: &mut Subject, window: &Window, found: &mut Suspicions) {
    let used = window.tools();
    let is_declared = subject.declared.as_ref().is_some_and(|declared| !declared.tools.is_empty());
    for (tool, mass) in subject.mix.unseen(&used) {
        if mass <= MIX_UNSEEN_MAX && !is_declared {
            let calls = subject.mix.calls();
            let detail = format!("used tool {tool} for the first time in {calls} tool calls");
            let mut candidate = Candidate::rule("tool_mix", format!("tool/{tool}"), "info", detail);
            (candidate.observed, candidate.expected) = (used.get(tool).map(|n| *n as f64), Some(mass));
            found.candidates.push(candidate);
        }
    }
    // After the look-up, or nothing would ever be new.
    subject.mix.learn(&used);
}
