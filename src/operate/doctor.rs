//! What is wrong with an installation and what helps: one check after the other, each with a remedy.
//!
//! Every check asks a real component; none changes anything but the store's self-test, which puts two
//! small objects beside the archive.

use std::collections::BTreeMap;

use ingest::log::Broker;
use schemas::time::TimestampMicros;
use serde::Serialize;
use sinks::clickhouse::client::{ClickHouse, ClickHouseConfig};
use sinks::clickhouse::insert::ClickHouseSink;
use sinks::clickhouse::migrate;
use sinks::parquet::store::Store;

use super::topics::{self, Severity};

/// Clocks that differ by more than this make event times implausible to each other, milliseconds.
const CLOCK_SKEW_MS_MAX: i64 = 1_000;

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warning,
    /// Roles would not start, or data would be lost.
    Failure,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: String,
    /// Outcome.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
    /// What helps; empty if nothing is wrong.
    pub remedy: String,
}

impl Finding {
    /// All is well.
    pub fn ok(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { check: check.into(), outcome: Outcome::Ok, detail: detail.into(), remedy: String::new() }
    }

    /// Something is wrong.
    pub fn wrong(outcome: Outcome, check: impl Into<String>, detail: impl ToString, remedy: impl Into<String>) -> Self {
        Self { check: check.into(), outcome, detail: detail.to_string(), remedy: remedy.into() }
    }
}

/// Whether the log can be reached and its topics are right.
pub async fn check_log<B: Broker>(broker: &B, partitions: u32) -> Vec<Finding> {
    let seen = match topics::look(broker).await {
        Ok(seen) => seen,
        Err(error) => {
            let remedy = "start the brokers, or correct log.url and log.librdkafka in the configuration";
            return vec![Finding::wrong(Outcome::Failure, "log", error, remedy)];
        }
    };
    let mut findings = vec![Finding::ok("log", format!("answers; {} topics asked for", seen.len()))];
    let complaints = topics::judge(&seen, partitions);
    if complaints.iter().all(|c| c.severity == Severity::Warning) {
        findings.push(Finding::ok("topics", format!("as {partitions} partitions need them")));
    }
    findings.extend(complaints.into_iter().map(|c| {
        let outcome = if c.severity == Severity::Failure { Outcome::Failure } else { Outcome::Warning };
        Finding::wrong(outcome, format!("topic {}", c.names()), c.what, c.remedy)
    }));
    match broker.broker_settings().await {
        Ok(brokers) => findings.extend(judge_brokers(&brokers)),
        Err(error) => findings.push(Finding::wrong(
            Outcome::Warning,
            "brokers",
            error,
            "allow this user to describe the brokers' settings (DESCRIBE_CONFIGS on the cluster)",
        )),
    }
    findings
}

/// A single Apache Kafka broker that shuts down in a controlled way takes the leader off every partition
/// while its transaction coordinator still works; the coordinator takes partitions without a leader for
/// deleted ones, drops their commit markers and calls the transaction complete (4.3.1,
/// `TransactionMarkerChannelManager.addTxnMarkersToBrokerQueue`). Readers then wait for ever.
fn judge_brokers(brokers: &[BTreeMap<String, String>]) -> Option<Finding> {
    let [alone] = brokers else { return None };
    let is_controlled = alone.get("controlled.shutdown.enable").is_some_and(|value| value == "true");
    is_controlled.then(|| {
        Finding::wrong(
            Outcome::Warning,
            "brokers",
            "there is one broker, and it shuts down in a controlled way: a transaction that is committed at that moment stays open for ever, and its readers with it",
            "set controlled.shutdown.enable=false on the broker, or run three brokers",
        )
    })
}

/// Whether the store refuses to overwrite.
pub async fn check_store(store: &Store, name: &str, now: TimestampMicros) -> Finding {
    match store.self_test(now.0.unsigned_abs()).await {
        Ok(_) => Finding::ok("store", format!("{name}: create-only puts are honoured")),
        Err(error) => Finding::wrong(
            Outcome::Failure,
            "store",
            error,
            "check store.url, its credentials and that the bucket exists; an S3 server without conditional writes cannot be used",
        ),
    }
}

/// Whether ClickHouse answers, has the layout of this build, removes the doubles of a repeated insert,
/// and has the same time.
pub async fn check_clickhouse(config: &ClickHouseConfig, clock: fn() -> TimestampMicros) -> Vec<Finding> {
    let server = match ClickHouse::new(config) {
        Ok(server) => server,
        Err(error) => {
            return vec![Finding::wrong(Outcome::Failure, "clickhouse", error, "correct clickhouse.database")];
        }
    };
    let mut findings = vec![check_clock(&server, clock).await];
    if findings.iter().any(|f| f.outcome == Outcome::Failure) {
        return findings;
    }
    findings.push(match migrate::check(&server).await {
        Ok(()) => Finding::ok("clickhouse layout", format!("database {} is current", config.database)),
        Err(error) => Finding::wrong(
            Outcome::Warning,
            "clickhouse layout",
            error,
            "it is brought up to date when a loader starts; the user needs CREATE, ALTER and INSERT",
        ),
    });
    if findings.iter().all(|f| f.outcome == Outcome::Ok) {
        findings.push(match ClickHouseSink::open(config).await {
            Ok(_) => Finding::ok("clickhouse deduplication", "every table has a deduplication window"),
            Err(error) => Finding::wrong(
                Outcome::Failure,
                "clickhouse deduplication",
                error,
                "set the window: without it a repeated insert doubles rows",
            ),
        });
    }
    findings
}

async fn check_clock(server: &ClickHouse, clock: fn() -> TimestampMicros) -> Finding {
    #[derive(serde::Deserialize)]
    struct Row {
        version: String,
        now_ms: i64,
    }
    let before = clock().ms();
    let answer = server.rows::<Row>("SELECT version() AS version, toUnixTimestamp64Milli(now64(3)) AS now_ms").await;
    let after = clock().ms();
    match answer.map(|rows| rows.into_iter().next()) {
        Ok(Some(row)) => match skew_ms(before, row.now_ms, after) {
            0 => Finding::ok("clickhouse", format!("{} answers; its clock agrees with ours", row.version)),
            skew if skew.abs() <= CLOCK_SKEW_MS_MAX => {
                Finding::ok("clickhouse", format!("{} answers; its clock is {skew} ms from ours", row.version))
            }
            skew => Finding::wrong(
                Outcome::Warning,
                "clock",
                format!("ClickHouse {} is {skew} ms from this machine", row.version),
                "synchronise the clocks (chrony, systemd-timesyncd)",
            ),
        },
        Ok(None) => {
            Finding::wrong(Outcome::Failure, "clickhouse", "it gives no answer to version()", "check the server")
        }
        Err(error) => Finding::wrong(
            Outcome::Failure,
            "clickhouse",
            error,
            "start the server, or correct clickhouse.url, clickhouse.user and clickhouse.password_file",
        ),
    }
}

/// How far another clock is from ours, given what it showed between two looks at ours; 0 if it may be
/// equal.
fn skew_ms(before: i64, theirs: i64, after: i64) -> i64 {
    match theirs {
        t if t < before => t - before,
        t if t > after => t - after,
        _ => 0,
    }
}

/// The report for people.
pub fn to_text(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let mark = match finding.outcome {
            Outcome::Ok => "ok  ",
            Outcome::Warning => "WARN",
            Outcome::Failure => "FAIL",
        };
        lines.push(format!("{mark}  {}: {}", finding.check, finding.detail));
        if !finding.remedy.is_empty() {
            lines.push(format!("      remedy: {}", finding.remedy));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_may_be_equal_has_no_skew() {
        let check = |before, theirs, after, expected| assert_eq!(skew_ms(before, theirs, after), expected);
        check(100, 100, 110, 0);
        check(100, 110, 110, 0);
        check(100, 90, 110, -10);
        check(100, 5_110, 110, 5_000);
    }

    #[test]
    fn a_lone_broker_must_not_shut_down_in_a_controlled_way() {
        let broker = |value: &str| BTreeMap::from([("controlled.shutdown.enable".to_owned(), value.to_owned())]);
        let check = |brokers: &[_], expected| assert_eq!(judge_brokers(brokers).is_some(), expected, "{brokers:?}");
        check(&[], false);
        check(&[broker("true")], true);
        check(&[broker("false")], false);
        check(&[BTreeMap::new()], false);
        check(&[broker("true"), broker("true"), broker("true")], false);
    }

    #[test]
    fn the_report_names_the_remedy_of_what_is_wrong_only() {
        let findings = [Finding::ok("log", "answers"), Finding::wrong(Outcome::Failure, "store", "denied", "check it")];
        assert_eq!(to_text(&findings), "ok    log: answers\nFAIL  store: denied\n      remedy: check it");
    }
}
