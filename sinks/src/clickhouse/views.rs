//! What analysts and auditors query: functions and views over the tables.
//!
//! Every view counts an event_id once and a finding once, although the tables keep every record.
//! Views hold no data: they are always as current as the tables, and dropping one loses nothing.
//!
//! | view | one row per |
//! |---|---|
//! | `events_once`, `findings_once` | event_id, finding_id |
//! | `accuracy`, `accuracy_by_day`, `accuracy_between` | tenant, agent, metric, method (and day) |
//! | `availability_by_hour`, `availability_by_day`, `availability_between` | tenant, agent, kind, subject |
//! | `cost` | tenant, agent, provider, model, day |
//! | `latency` | tenant, agent, event type, subject, day |
//! | `pii_inventory` | tenant, agent, type of personal data |
//! | `sessions` | session |
//! | `completeness`, `completeness_by_session` | tenant and agent; session |
//! | `hours` | topic and hour |
//! | `reconciliation` | partition and hour |

use schemas::table::{Table, insert_columns};

/// A view: name, meaning, and the text behind `AS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Name.
    pub name: &'static str,
    /// Meaning.
    pub doc: &'static str,
    /// Query; `{db}` stands for the database.
    query: String,
}

impl View {
    /// `CREATE OR REPLACE VIEW`.
    pub fn create(&self, database: &str) -> String {
        let query = self.query.replace("{db}", database);
        format!("CREATE OR REPLACE VIEW {database}.{} AS\n{query}\nCOMMENT '{}'", self.name, self.doc)
    }
}

/// Confidence intervals of a proportion at 95 %, `k` of `n`, as SQL functions.
///
/// Wilson (1927) for display, Clopper and Pearson (1934) for claims ("at least"). Clopper-Pearson
/// limits are quantiles of Beta(k, n-k+1) and Beta(k+1, n-k): found by bisection (40 halvings) of the
/// regularised incomplete beta function, whose continued fraction (DLMF 8.17.22) is cut at 60 pairs
/// of terms. At the quantiles of 2.5 % that is far in the tail, where 60 pairs give nine digits for
/// any n; nearer the mean it is rougher, but there the bisection only needs the sign.
pub fn functions() -> Vec<String> {
    let function = |name: &str, body: &str| format!("CREATE OR REPLACE FUNCTION {name} AS {body}");
    vec![
        function(
            "custody_beta_fraction",
            "(x, a, b) -> arrayFold((f, m) -> 1 - (a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)) \
             / (1 + (m + 1) * (b - m - 1) * x / ((a + 2 * m + 1) * (a + 2 * m + 2)) / f), \
             arrayMap(i -> toFloat64(59 - i), range(60)), toFloat64(1))",
        ),
        function(
            "custody_beta_tail",
            "(x, a, b) -> exp(a * log(x) + b * log(1 - x) + lgamma(a + b) - lgamma(a) - lgamma(b)) / a \
             / custody_beta_fraction(x, a, b)",
        ),
        function(
            "custody_beta_quantile",
            "(p, a, b, top) -> arrayFold((r, i) -> if(custody_beta_tail((r.1 + r.2) / 2, a, b) < p, \
             ((r.1 + r.2) / 2, r.2), (r.1, (r.1 + r.2) / 2)), range(40), (toFloat64(0), toFloat64(top))).1",
        ),
        function(
            "custody_clopper_pearson_low",
            "(k, n) -> if(k <= 0 OR n <= 0, 0., custody_beta_quantile(0.025, toFloat64(greatest(k, 1)), \
             toFloat64(n - k + 1), k / greatest(n, 1)))",
        ),
        function(
            "custody_clopper_pearson_high",
            "(k, n) -> if(k >= n OR n <= 0, 1., 1 - custody_beta_quantile(0.025, toFloat64(greatest(n - k, 1)), \
             toFloat64(k + 1), (n - k) / greatest(n, 1)))",
        ),
        function(
            "custody_wilson_low",
            "(k, n) -> if(n <= 0, 0., greatest(0., (k / n + 1.9207294103 / n - 1.95996398454 \
             * sqrt(k / n * (1 - k / n) / n + 0.9603647052 / n / n)) / (1 + 3.8414588207 / n)))",
        ),
        function(
            "custody_wilson_high",
            "(k, n) -> if(n <= 0, 1., least(1., (k / n + 1.9207294103 / n + 1.95996398454 \
             * sqrt(k / n * (1 - k / n) / n + 0.9603647052 / n / n)) / (1 + 3.8414588207 / n)))",
        ),
    ]
}

/// All views, each after those that it reads.
pub fn views() -> Vec<View> {
    let view = |name, doc, query: String| View { name, doc, query };
    vec![
        view(
            "events_once",
            "Events with every event_id once: the record at the lowest position stands for it",
            once(Table::Events, "event_id"),
        ),
        view(
            "findings_once",
            "Findings with every finding_id once; control totals have their own table",
            once(Table::Findings, "finding_id"),
        ),
        view("accuracy", "Proportions of correct results with 95 % intervals, all time", accuracy("", "")),
        view("accuracy_by_day", "Proportions of correct results with 95 % intervals, per day", accuracy("day", "")),
        view(
            "accuracy_between",
            "Proportions of correct results with 95 % intervals in a period: accuracy_between(first = , next = )",
            accuracy("", PERIOD),
        ),
        view(
            "availability_by_hour",
            "Calls, failures and ratio per agent and dependency, per hour",
            availability("toStartOfHour(event_time) AS hour", ""),
        ),
        view(
            "availability_by_day",
            "Calls, failures and ratio per agent and dependency, per day",
            availability("toDate(event_time) AS day", ""),
        ),
        view(
            "availability_between",
            "Availability in a period against an objective: availability_between(first = , next = , slo = 0.999)",
            availability("", PERIOD),
        ),
        view("cost", "Model calls, tokens and cost per agent, model and day", COST.to_owned()),
        view("latency", "Quantiles of latency per agent, model or tool, and day; milliseconds", LATENCY.to_owned()),
        view("pii_inventory", "Which personal data was found where, and when last", PII_INVENTORY.to_owned()),
        view("sessions", "Sessions: span, outcome, counts, tokens, cost", SESSIONS.to_owned()),
        view(
            "completeness_by_session",
            "Findings about completeness per session",
            completeness("session_id", "session_id,"),
        ),
        view("completeness", "Findings about completeness per tenant and agent", completeness("", "")),
        view("hours", "Whether an hour is closed on every partition: then its numbers are final", HOURS.to_owned()),
        view(
            "reconciliation",
            "Control totals against loaded rows per partition and hour; missing must be 0 for closed hours",
            RECONCILIATION.to_owned(),
        ),
    ]
}

/// Condition of the views with a period, half open.
const PERIOD: &str = "event_time >= {first:DateTime64(6)} AND event_time < {next:DateTime64(6)}";

/// The table with one row per id. Extra positions of an id are few, so they are looked up and left
/// out; conditions on other columns then still reach the table's key.
fn once(table: Table, id: &str) -> String {
    let (name, columns) = (table.name(), insert_columns(table));
    let totals = if table == Table::Findings { "event_type != 'control.total' AND " } else { "" };
    format!(
        "SELECT {columns}\nFROM {{db}}.{name} FINAL\n\
         WHERE {totals}(src_topic, src_partition, src_offset) NOT IN (\n\
         \x20   SELECT arrayJoin(arrayPopFront(arraySort(groupUniqArray((src_topic, src_partition, src_offset)))))\n\
         \x20   FROM {{db}}.{name}\n\
         \x20   WHERE {totals}{id} IN (SELECT {id} FROM {{db}}.{name} GROUP BY {id} HAVING count() > 1)\n\
         \x20   GROUP BY {id})\n\
         SETTINGS do_not_merge_across_partitions_select_final = 1"
    )
}

/// `by` is an additional key, `period` a condition.
fn accuracy(by: &str, period: &str) -> String {
    let by = if by.is_empty() { String::new() } else { format!("{by},") };
    let period = if period.is_empty() { String::new() } else { format!("AND {period}") };
    format!(
        "SELECT tenant_id, agent_id, environment, metric, method, {by}
    sum(trials) AS n, sum(successes) AS k, sum(undecided_trials) AS undecided,
    if(n = 0, NULL, k / n) AS rate,
    custody_wilson_low(k, n) AS wilson_low, custody_wilson_high(k, n) AS wilson_high,
    custody_clopper_pearson_low(k, n) AS clopper_pearson_low,
    custody_clopper_pearson_high(k, n) AS clopper_pearson_high
FROM (
    SELECT tenant_id, agent_id, environment, toDate(event_time) AS day,
        multiIf(event_type = 'evaluation.result', toString(metric), event_type = 'human.review', 'human_review',
            event_type = 'claim.verified', 'claims_supported', 'validations_passed') AS metric,
        multiIf(
            event_type = 'evaluation.result',
            concat(JSONExtractString(payload, 'judge'), '@', JSONExtractString(payload, 'judge_version')),
            event_type = 'human.review',
            concat(JSONExtractString(payload, 'rubric_id'), '@', JSONExtractString(payload, 'rubric_version')),
            event_type = 'claim.verified',
            concat(JSONExtractString(payload, 'verifier'), '@', JSONExtractString(payload, 'verifier_version')),
            concat(JSONExtractString(payload, 'rule_id'), '@', JSONExtractString(payload, 'rule_version'))) AS method,
        multiIf(
            event_type = 'evaluation.result', greatest(ifNull(n, 0), 0),
            event_type = 'human.review', toInt64(verdict IN ('correct', 'incorrect', 'partial')),
            event_type = 'claim.verified', toInt64(verdict IN ('supported', 'contradicted', 'unsupported')),
            toInt64(isNotNull(ok))) AS trials,
        multiIf(
            event_type = 'evaluation.result', least(greatest(ifNull(k, 0), 0), trials),
            event_type = 'human.review', toInt64(verdict = 'correct'),
            event_type = 'claim.verified', toInt64(verdict = 'supported'),
            toInt64(ifNull(ok, false))) AS successes,
        toInt64(trials = 0) AS undecided_trials
    FROM {{db}}.events_once
    WHERE event_type IN ('evaluation.result', 'human.review', 'claim.verified', 'validation.result') {period})
GROUP BY tenant_id, agent_id, environment, metric, method{}",
        if by.is_empty() { "" } else { ", day" }
    )
}

/// `by` is an additional key with its name, `period` a condition; with one, the objective is a parameter.
fn availability(by: &str, period: &str) -> String {
    let key = by.rsplit(' ').next().unwrap_or_default();
    let (by, group) = match by.is_empty() {
        true => (String::new(), String::new()),
        false => (format!("{by},"), format!(", {key}")),
    };
    let (condition, objective) = match period.is_empty() {
        true => (String::new(), ""),
        false => (
            format!("AND {period}"),
            ",
    {slo:Float64} AS slo, ratio >= slo AS meets_slo,
    if(slo >= 1, NULL, 1 - failures / (calls * (1 - slo))) AS error_budget_left",
        ),
    };
    format!(
        "SELECT tenant_id, agent_id, environment,
    multiIf(event_type = 'session.ended', 'agent', event_type = 'model.call', 'model_provider',
        event_type = 'tool.call.completed', 'tool', 'dependency') AS kind,
    multiIf(event_type = 'session.ended', toString(agent_id), event_type = 'model.call', toString(provider),
        event_type = 'tool.call.completed', toString(tool_name), toString(server)) AS subject,
    {by}
    count() AS calls,
    countIf(if(event_type = 'health.probe', ifNull(ok, false) = false, status IN ('error', 'timeout'))) AS failures,
    1 - failures / calls AS ratio{objective}
FROM {{db}}.events_once
WHERE event_type IN ('session.ended', 'model.call', 'tool.call.completed', 'health.probe') {condition}
GROUP BY tenant_id, agent_id, environment, kind, subject{group}"
    )
}

const COST: &str = "SELECT e.tenant_id AS tenant_id, e.agent_id AS agent_id, e.environment AS environment,
    e.provider AS provider, e.model AS model, toDate(e.event_time) AS day,
    count() AS calls,
    sum(ifNull(e.input_tokens, 0)) AS input_tokens,
    sum(ifNull(e.output_tokens, 0)) AS output_tokens,
    sum(ifNull(e.cost_micros, 0)) AS cost_micros,
    cost_micros / 1e6 AS cost_usd,
    countIf(isNull(e.cost_micros)) AS calls_without_cost
FROM {db}.events_once AS e
WHERE e.event_type = 'model.call'
GROUP BY tenant_id, agent_id, environment, provider, model, day";

const LATENCY: &str = "SELECT e.tenant_id AS tenant_id, e.agent_id AS agent_id, e.environment AS environment,
    e.event_type AS event_type,
    multiIf(e.event_type = 'model.call', toString(e.model), e.tool_name != '', toString(e.tool_name),
        toString(e.server)) AS subject,
    toDate(e.event_time) AS day,
    count() AS calls,
    quantilesExact(0.5, 0.95, 0.99)(assumeNotNull(e.latency_ms)) AS quantiles_ms,
    quantiles_ms[1] AS p50_ms, quantiles_ms[2] AS p95_ms, quantiles_ms[3] AS p99_ms,
    quantileExactIfOrNull(0.95)(assumeNotNull(e.ttft_ms), isNotNull(e.ttft_ms)) AS ttft_p95_ms
FROM {db}.events_once AS e
WHERE isNotNull(e.latency_ms)
GROUP BY tenant_id, agent_id, environment, event_type, subject, day";

const PII_INVENTORY: &str = "SELECT tenant_id, agent_id, environment, pii_type,
    uniqExact(target_event_id) AS events,
    sum(found) AS values_found,
    countIf(ifNull(not_in_input, false)) AS outputs_not_in_input,
    arraySort(groupUniqArray(toString(target))) AS targets,
    arraySort(groupUniqArray(toString(action))) AS actions,
    min(event_time) AS first_seen, max(event_time) AS last_seen
FROM {db}.findings_once
ARRAY JOIN mapKeys(pii_types) AS pii_type, mapValues(pii_types) AS found
WHERE kind = 'data_classified'
GROUP BY tenant_id, agent_id, environment, pii_type";

const SESSIONS: &str = "SELECT e.tenant_id AS tenant_id, e.session_id AS session_id,
    argMin(e.agent_id, e.seq) AS agent_id, argMin(e.environment, e.seq) AS environment,
    min(e.event_time) AS started_at, max(e.event_time) AS last_event_at,
    countIf(e.event_type = 'session.ended') > 0 AS is_ended,
    anyIf(e.status, e.event_type = 'session.ended') AS outcome,
    count() AS events, max(e.seq) + 1 AS events_numbered,
    maxIf(JSONExtractInt(e.payload, 'event_count'), e.event_type = 'session.ended') AS events_declared,
    countIf(e.event_type = 'model.call') AS model_calls,
    countIf(e.event_type = 'tool.call.completed') AS tool_calls,
    countIf(e.status IN ('error', 'timeout')) AS failures,
    countIf(e.decision_effect IN ('DENY', 'deny')) AS denials,
    sum(ifNull(e.input_tokens, 0) + ifNull(e.output_tokens, 0)) AS tokens,
    sum(ifNull(e.cost_micros, 0)) AS cost_micros
FROM {db}.events_once AS e
WHERE e.seq >= 0
GROUP BY tenant_id, session_id";

/// `by` is an additional key, `column` the same with a comma.
fn completeness(by: &str, column: &str) -> String {
    let sum = |kind: &str, name: &str| format!("    sumIf(count, kind = '{kind}') AS {name},\n");
    let kinds = [
        ("sequence_gap", "missing"),
        ("writer_gap", "missing_by_writer"),
        ("duplicate", "duplicates"),
        ("equivocation", "equivocations"),
        ("forked", "forks"),
        ("chain_broken", "chain_breaks"),
        ("late", "late"),
        ("unterminated", "unterminated"),
        ("steps_mismatch", "steps_mismatches"),
        ("after_end", "after_end"),
        ("required_step_missing", "required_steps_missing"),
        ("completion_without_attempt", "completions_without_attempt"),
        ("completion_without_decision", "completions_without_decision"),
        ("decision_after_completion", "decisions_after_completion"),
        ("approval_expired", "approvals_expired"),
        ("approval_digest_mismatch", "approval_digest_mismatches"),
        ("unknown_event_type", "unknown_event_types"),
        ("clock_implausible", "implausible_clocks"),
        ("seq_regressed", "seq_regressions"),
    ];
    let sums: String = kinds.iter().map(|(kind, name)| sum(kind, name)).collect();
    let listed = kinds.iter().map(|(kind, _)| format!("'{kind}'")).collect::<Vec<_>>().join(", ");
    let group = if by.is_empty() { String::new() } else { format!(", {by}") };
    format!(
        "SELECT tenant_id, agent_id, environment, {column}\n{sums}    count() AS findings, max(event_time) AS last_found_at\n\
         FROM {{db}}.findings_once\nWHERE kind IN ({listed})\nGROUP BY tenant_id, agent_id, environment{group}"
    )
}

/// Control totals are cumulative facts about an hour: the one at the highest position is the newest.
const HOURS: &str = "SELECT topic, hop, hour,
    count() AS partitions, countIf(is_closed) AS partitions_closed, partitions = partitions_closed AS closed,
    sum(records_) AS records, sum(ticks_) AS ticks, sum(rejected_) AS rejected, sum(duplicates_) AS duplicates
FROM (
    SELECT topic, hop, partition, hour,
        argMax(records, (src_partition, src_offset)) AS records_,
        argMax(ticks, (src_partition, src_offset)) AS ticks_,
        argMax(rejected, (src_partition, src_offset)) AS rejected_,
        argMax(duplicates, (src_partition, src_offset)) AS duplicates_,
        argMax(closed, (src_partition, src_offset)) AS is_closed
    FROM {db}.control_totals
    GROUP BY topic, hop, partition, hour)
GROUP BY topic, hop, hour";

const RECONCILIATION: &str = "SELECT totals.partition AS partition, totals.hour AS hour, totals.closed_ AS closed,
    totals.records_ AS expected, toInt64(loaded.rows_) AS loaded_rows, expected - loaded_rows AS missing,
    totals.duplicates_ AS duplicates_expected,
    toInt64(loaded.rows_) - toInt64(loaded.ids) AS duplicates_within_hour,
    totals.rejected_ AS rejected
FROM (
    SELECT toInt64(partition) AS partition, hour,
        argMax(records, (src_partition, src_offset)) AS records_,
        argMax(rejected, (src_partition, src_offset)) AS rejected_,
        argMax(duplicates, (src_partition, src_offset)) AS duplicates_,
        argMax(closed, (src_partition, src_offset)) AS closed_
    FROM {db}.control_totals
    WHERE topic = 'custody.clean.v1' AND hop = 'clean'
    GROUP BY partition, hour) AS totals
FULL JOIN (
    SELECT toInt64(src_partition) AS partition, toDateTime64(toStartOfHour(broker_time), 6, 'UTC') AS hour,
        uniqExact(src_offset) AS rows_, uniqExact(event_id) AS ids
    FROM {db}.events
    GROUP BY partition, hour) AS loaded
USING (partition, hour)";

/// Roles and row policies, for servers with access management: the embedded engine has none.
///
/// `custody_analyst` sees the tenants that `tenant_access` lists for its user; views run with the
/// rights of who queries them, so the policies hold there too.
pub fn grants(database: &str) -> Vec<String> {
    let mut statements: Vec<String> =
        ["loader", "analyst", "auditor"].map(|role| format!("CREATE ROLE IF NOT EXISTS custody_{role}")).into();
    statements.push(format!("GRANT SELECT, INSERT ON {database}.* TO custody_loader"));
    statements.push(format!("GRANT SELECT ON {database}.* TO custody_analyst"));
    statements.push(format!("GRANT SELECT ON {database}.* TO custody_auditor"));
    for table in [Table::Events, Table::Findings, Table::Alerts] {
        let name = table.name();
        statements.push(format!(
            "CREATE ROW POLICY OR REPLACE custody_own_tenants ON {database}.{name} FOR SELECT USING tenant_id IN \
             (SELECT tenant_id FROM {database}.tenant_access WHERE user_name = currentUser()) TO custody_analyst"
        ));
        statements.push(format!(
            "CREATE ROW POLICY OR REPLACE custody_all_tenants ON {database}.{name} FOR SELECT USING 1 \
             TO ALL EXCEPT custody_analyst"
        ));
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_is_created_after_those_that_it_reads() {
        let views = views();
        for (index, view) in views.iter().enumerate() {
            let text = view.create("custody");
            assert!(!text.contains("{db}"), "{text}");
            for later in &views[index + 1..] {
                assert!(!text.contains(&format!("custody.{}\n", later.name)), "{} reads {}", view.name, later.name);
            }
        }
    }

    #[test]
    fn every_finding_about_completeness_has_a_column() {
        let query = completeness("", "");
        for kind in ["sequence_gap", "writer_gap", "equivocation", "seq_regressed", "approval_digest_mismatch"] {
            assert_eq!(query.matches(&format!("'{kind}'")).count(), 2, "{kind}");
        }
    }
}
