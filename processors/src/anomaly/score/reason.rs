//! The sentence that says why: what, how much, against what, since when.
//!
//! Names of agents, tools, models and error types only; no content ever reaches this stage.

use schemas::time::TimestampMicros;

use super::subject::{AlertKey, Open};
use crate::anomaly::alert::SubjectKey;

/// Hours and minutes in UTC, e.g. "10:42 UTC".
pub(in crate::anomaly) fn utc(at: TimestampMicros) -> String {
    let minutes = at.0.div_euclid(60_000_000).rem_euclid(1_440);
    format!("{:02}:{:02} UTC", minutes / 60, minutes % 60)
}

/// One sentence without a full stop.
pub(super) fn sentence(key: &SubjectKey, (class, metric): &AlertKey, open: &Open, resolved: bool) -> String {
    let who = format!("{} {}", key.kind, key.subject);
    // At least one: an alert of one window would last "0 minutes".
    let minutes = (open.last.0.saturating_sub(open.starts_at.0) / 60_000_000).max(1);
    let plural = if minutes == 1 { "minute" } else { "minutes" };
    let since = utc(open.starts_at);
    let span = if resolved {
        format!("for {minutes} {plural} from {since} and is over since {}", utc(open.last))
    } else {
        format!("in the {minutes} {plural} since {since}")
    };
    let is = if resolved { "was" } else { "is" };
    let (observed, expected) = (open.observed.unwrap_or(0.0), open.expected.unwrap_or(0.0));
    match class.as_str() {
        "outage" | "error_rate" => {
            let name = metric.replace('_', " ");
            let failed = format!("{:.0} of {:.0} failed", open.hits, open.trials);
            let facts = [failed, open.detail.clone()].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>();
            let facts = facts.join(", ");
            format!("{name} of {who} {is} {observed:.2} (expected {expected:.2}) {span}; {facts}")
        }
        "cost_burst" => {
            let name = open.detail.replace('_', " ");
            // As in the rule that opened it, so that the sentence states the ratio that was compared.
            let times = (observed + 1.0) / (expected + 1.0);
            format!("{name} of {who} rose to {observed:.0}, {times:.1} times the expected {expected:.0}, {span}")
        }
        "latency" => format!("latency of {who} rose to {observed:.0} ms (expected {expected:.0} ms) {span}"),
        "rate" if metric == "silence" => {
            format!("{who} {is} silent {span}; {}", open.detail)
        }
        "rate" => format!("{who} made up to {observed:.0} model calls a window (expected {expected:.1}) {span}"),
        _ => format!("{who} {} {span}", open.detail),
    }
}
