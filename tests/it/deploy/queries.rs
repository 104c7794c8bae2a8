//! Dashboards and alert rules ask for nothing that Custody does not have.

use std::collections::BTreeSet;

use custody::metrics::{METRICS, MetricKind, MetricName};
use regex::Regex;
use schemas::table::Table;
use sinks::clickhouse::ddl::loaded_columns;
use sinks::clickhouse::views::views;

use super::{files, parsed, texts};

/// Labels that Prometheus adds to what it scrapes, and those that a rule gives its alerts.
const SCRAPED: &[&str] = &["job", "instance"];

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("pattern")
}

/// Files with expressions, and the expressions.
fn expressions() -> Vec<(String, String)> {
    of_key("expr", &["prometheus/rules/", "grafana/"])
}

fn statements() -> Vec<(String, String)> {
    of_key("rawSql", &["grafana/"])
}

fn of_key(key: &str, folders: &[&str]) -> Vec<(String, String)> {
    let files = files().into_iter().filter(|name| folders.iter().any(|folder| name.starts_with(folder)));
    let found: Vec<_> =
        files.flat_map(|name| texts(&parsed(&name), key).into_iter().map(move |text| (name.clone(), text))).collect();
    assert!(found.len() > 15, "only {} under {key}", found.len());
    found
}

/// The metric that a series belongs to.
fn metric(series: &str) -> Option<&'static MetricName> {
    let parts = ["_bucket", "_sum", "_count"];
    METRICS.iter().find(|metric| match metric.kind {
        MetricKind::Histogram => parts.iter().any(|part| series.strip_suffix(part) == Some(metric.name)),
        MetricKind::Counter | MetricKind::Gauge => series == metric.name,
    })
}

/// What is wrong with an expression.
fn problems(expression: &str) -> Vec<String> {
    let text = pattern(r#""[^"]*""#).replace_all(expression, "\"\"");
    let text = pattern(r"\[[^\]]*\]").replace_all(&text, "");
    let mut labels: BTreeSet<String> = BTreeSet::new();
    let groups = pattern(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)");
    for group in groups.captures_iter(&text) {
        labels.extend(group[1].split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()));
    }
    let text = groups.replace_all(&text, "");
    let matchers = pattern(r"\{([^}]*)\}");
    let matcher = pattern(r"([a-z_]+)\s*(?:=~|!~|!=|=)");
    for group in matchers.captures_iter(&text) {
        labels.extend(matcher.captures_iter(&group[1]).map(|label| label[1].to_owned()));
    }
    let text = matchers.replace_all(&text, "");
    let (mut found, mut allowed) = (Vec::new(), BTreeSet::from_iter(SCRAPED.iter().copied()));
    for name in pattern(r"[A-Za-z_:][\w:]*\s*\(?").find_iter(&text) {
        let name = name.as_str();
        if name.ends_with('(') || ["and", "or", "unless", "up"].contains(&name.trim()) {
            continue;
        }
        match metric(name.trim()) {
            Some(metric) => {
                allowed.extend(metric.labels);
                allowed.extend((metric.kind == MetricKind::Histogram).then_some("le"));
            }
            None => found.push(format!("no series {}", name.trim())),
        }
    }
    found.extend(labels.iter().filter(|label| !allowed.contains(label.as_str())).map(|l| format!("no label {l}")));
    found
}

#[test]
fn the_check_of_expressions_sees_what_is_wrong() {
    let check = |expression: &str, expected: &[&str]| assert_eq!(problems(expression), expected, "{expression}");
    check("up{job=\"custody\"} == 0", &[]);
    check("sum by (role) (rate(custody_retries_total[5m])) > 0.1", &[]);
    check("histogram_quantile(0.99, sum by (le, sink) (rate(custody_sink_commit_seconds_bucket[5m])))", &[]);
    check("custody_retries", &["no series custody_retries"]);
    check("custody_sink_commit_seconds", &["no series custody_sink_commit_seconds"]);
    check("custody_retries_total{role=\"x\", topic=\"y\"}", &["no label topic"]);
    check("sum by (le) (custody_lag_seconds)", &["no label le"]);
}

#[test]
fn rules_and_dashboards_name_series_that_custody_exposes() {
    let wrong: Vec<String> = expressions()
        .iter()
        .flat_map(|(file, text)| problems(text).into_iter().map(move |what| format!("docker/{file}: {what} in {text}")))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_series_is_on_a_dashboard() {
    let all: String = of_key("expr", &["grafana/"]).into_iter().map(|(_, text)| text + "\n").collect();
    // Facts about the process that a query reaches, but that no panel needs.
    let unshown = ["custody_build_info", "process_start_time_seconds"];
    for metric in METRICS.iter().filter(|metric| !unshown.contains(&metric.name)) {
        assert!(pattern(&format!(r"\b{}(_bucket)?\b", metric.name)).is_match(&all), "{} is nowhere", metric.name);
    }
}

#[test]
fn queries_name_tables_views_and_columns_that_exist() {
    let word = pattern(r"\$?\b[a-z_][a-z0-9_]*\b\s*\(?");
    for (file, sql) in statements() {
        let text = pattern(r"'[^']*'|\$\{[^}]*\}|\$__\w+").replace_all(&sql, "");
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut sources = 0;
        for source in pattern(r"\bcustody\.([a-z_]+)").captures_iter(&text) {
            known.extend(
                columns(&source[1]).unwrap_or_else(|| panic!("docker/{file}: no table or view {}", &source[1])),
            );
            sources += 1;
        }
        assert!(sources > 0, "docker/{file}: reads nothing: {sql}");
        let aliases = pattern(r"\bAS ([a-z_0-9]+)");
        known.extend(aliases.captures_iter(&text).map(|alias| alias[1].to_owned()));
        let text = pattern(r"\bcustody\.[a-z_]+").replace_all(&text, "");
        for name in word.find_iter(&text).map(|name| name.as_str().trim()).filter(|name| !name.ends_with('(')) {
            assert!(known.contains(name), "docker/{file}: no column {name}: {sql}");
        }
    }
}

/// Columns of a table; words of a view's text, which its columns are among (the live suite asks for them).
fn columns(name: &str) -> Option<BTreeSet<String>> {
    if let Some(table) = Table::ALL.into_iter().find(|table| table.name() == name) {
        return Some(loaded_columns(table).map(|column| column.name.to_owned()).collect());
    }
    let view = views().into_iter().find(|view| view.name == name)?;
    Some(pattern(r"\b[a-z_][a-z0-9_]*\b").find_iter(&view.create("custody")).map(|w| w.as_str().to_owned()).collect())
}

#[test]
fn every_alert_rule_says_what_is_wrong_what_it_means_and_what_to_do() {
    let rules = parsed("prometheus/rules/custody.yml");
    let groups = rules["groups"].as_sequence().expect("groups");
    let mut names = BTreeSet::new();
    for rule in groups.iter().flat_map(|group| group["rules"].as_sequence().expect("rules")) {
        let name = rule["alert"].as_str().expect("alert");
        assert!(names.insert(name), "{name} stands there twice");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap_or_default()), "{name}");
        for part in ["summary", "description", "runbook"] {
            let text = rule["annotations"][part].as_str().unwrap_or_default();
            assert!(text.len() > 20, "{name} has no {part}");
            assert!(part == "summary" || text.ends_with('.'), "{name}: {part} is no sentence");
        }
    }
    assert!(names.len() > 10, "only {} rules", names.len());
    // Grafana's own rules.
    let rules = parsed("grafana/provisioning/alerting/custody.yaml");
    assert_eq!(texts(&rules, "runbook").len(), texts(&rules, "uid").len());
}
