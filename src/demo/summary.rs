//! What a demo came to: the numbers, whether they agree, and how they are shown.
//!
//! It holds no logic of the pipeline: every number is handed in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use schemas::event::Alert;
use serde::Serialize;

/// The summary; `--json` prints it as one object.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    /// `seeded fleet` or the recorded runs.
    pub(crate) input: String,
    /// Seed.
    pub(crate) seed: u64,
    /// Copies of the fleet.
    pub(crate) scale: u32,
    /// Sessions.
    pub(crate) sessions: u64,
    /// Events that the agents made, withheld ones included.
    pub(crate) emitted: u64,
    /// Events that never arrived.
    pub(crate) withheld: u64,
    /// Events that arrived twice.
    pub(crate) duplicated: u64,
    /// Events of the late batch.
    pub(crate) late: u64,
    /// Records that are no events.
    pub(crate) malformed: u64,
    /// Records in the events topic, ticks not counted (as everywhere below).
    pub(crate) accepted: u64,
    /// Records in the clean topic.
    pub(crate) clean: u64,
    /// Dead letters.
    pub(crate) rejected: u64,
    /// Dead letters per reason.
    pub(crate) rejected_by_reason: BTreeMap<String, u64>,
    /// Events of a type that is not in the catalogue; they are kept.
    pub(crate) unknown_types: u64,
    /// Rows in the archive's files of clean events.
    pub(crate) archived_rows: u64,
    /// Rows of ClickHouse's events table.
    pub(crate) clickhouse_rows: u64,
    /// Rows of ClickHouse's findings table.
    pub(crate) findings_rows: u64,
    /// Rows of ClickHouse's alerts table.
    pub(crate) alerts_rows: u64,
    /// Findings per kind.
    pub(crate) findings: BTreeMap<String, u64>,
    /// Events that the writers' ledger reports as never seen.
    pub(crate) missing_reported: u64,
    /// Second copies that were reported.
    pub(crate) duplicates_reported: u64,
    /// Newest state of every alert.
    pub(crate) alerts: Vec<AlertLine>,
    /// Values of personal data in the input that were looked for afterwards.
    pub(crate) pii_values_checked: u64,
    /// Those found in a Parquet file or a ClickHouse row.
    pub(crate) pii_values_found: u64,
    /// Files in the archive.
    pub(crate) files: u64,
    /// `ok`, or how many objects failed verification.
    pub(crate) verify: String,
    /// SHA-256 over the findings topic.
    pub(crate) findings_sha256: String,
    /// Time from the start to the last published row, seconds.
    pub(crate) seconds: f64,
    /// Records read per second of that time.
    pub(crate) events_per_second: f64,
    /// Peak memory of this process, bytes: the pipeline without ClickHouse.
    pub(crate) rss_bytes_max: u64,
    /// Data directory.
    pub(crate) data_dir: String,
    /// Log.
    pub(crate) log: String,
    /// ClickHouse's URL.
    pub(crate) clickhouse: String,
}

/// An alert in a summary.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub(crate) struct AlertLine {
    /// Class, e.g. `outage`.
    pub(crate) alert_class: String,
    /// What it is about.
    pub(crate) subject: String,
    /// `firing` or `resolved`.
    pub(crate) status: String,
    /// Severity.
    pub(crate) severity: String,
    /// One sentence that says why.
    pub(crate) reason: String,
}

impl From<&Alert> for AlertLine {
    fn from(alert: &Alert) -> Self {
        Self {
            alert_class: alert.alert_class.clone(),
            subject: alert.subject.clone(),
            status: alert.status.clone(),
            severity: alert.severity.clone(),
            reason: alert.reason.clone(),
        }
    }
}

/// One line of the check: what, whether it holds, and its numbers.
type Check = (&'static str, bool, String);

impl Summary {
    /// Every number that must agree with another.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let n = group;
        let (verified, leaks) = (self.verify == "ok", self.pii_values_found);
        vec![
            (
                "accepted",
                self.accepted == self.clean + self.rejected,
                format!("{} = {} clean + {} rejected", n(self.accepted), n(self.clean), n(self.rejected)),
            ),
            (
                "archived",
                self.archived_rows == self.clean && verified,
                format!("{} rows in {} files, verify {}", n(self.archived_rows), n(self.files), self.verify),
            ),
            ("ClickHouse", self.clickhouse_rows == self.clean, format!("{} rows", n(self.clickhouse_rows))),
            (
                "missing",
                self.missing_reported == self.withheld,
                format!("{} reported of {} withheld", n(self.missing_reported), n(self.withheld)),
            ),
            (
                "duplicates",
                self.duplicates_reported == self.duplicated,
                format!("{} reported of {} planted", n(self.duplicates_reported), n(self.duplicated)),
            ),
            (
                "rejects",
                self.rejected == self.malformed,
                format!("{} dead letters of {} malformed records", n(self.rejected), n(self.malformed)),
            ),
            (
                "privacy",
                leaks == 0,
                format!("{leaks} of {} personal values found in files and rows", n(self.pii_values_checked)),
            ),
        ]
    }

    /// Whether everything agrees.
    pub(crate) fn holds(&self) -> bool {
        self.checks().iter().all(|(_, holds, _)| *holds)
    }

    /// For a person, to be read in ten seconds.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let _ =
            writeln!(text, "{}: {} sessions, {} events emitted", self.input, group(self.sessions), group(self.emitted));
        let _ = writeln!(text, "  times are made up from seed {}; recorded runs carry none\n", self.seed);
        for (name, holds, numbers) in self.checks() {
            let _ = writeln!(text, "  {} {name:<11} {numbers}", if holds { "ok  " } else { "FAIL" });
        }
        let findings: Vec<String> =
            self.findings.iter().map(|(kind, count)| format!("{kind} {}", group(*count))).collect();
        let _ = writeln!(text, "\n  findings: {}", findings.join(", "));
        let _ = writeln!(text, "  alerts:");
        for alert in &self.alerts {
            let _ = writeln!(text, "    {:<12} {:<9} {}", alert.alert_class, alert.status, alert.reason);
        }
        let _ = writeln!(
            text,
            "\n  {:.1} s, {} events/s, {} MiB of memory at most (ClickHouse not counted)",
            self.seconds,
            group(self.events_per_second as u64),
            self.rss_bytes_max >> 20
        );
        let dir = &self.data_dir;
        let _ = writeln!(text, "\nNext:");
        let _ = writeln!(text, "  custody verify {dir}");
        let _ = writeln!(text, "  custody query --data-dir {dir} \"SELECT * FROM accuracy FORMAT PrettyCompact\"");
        let _ =
            writeln!(text, "  custody clickhouse --data-dir {dir}     then: curl 'http://127.0.0.1:8123/?query=...'");
        let _ = writeln!(text, "  custody replay --data-dir {dir}         rebuilds ClickHouse from the archive");
        text
    }
}

/// A number with commas.
fn group(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Peak resident memory of this process in bytes; 0 where the system does not say.
pub(crate) fn rss_bytes_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    peak.map_or(0, |kib: u64| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let check = |number, expected: &str| assert_eq!(group(number), expected);
        check(0, "0");
        check(999, "999");
        check(1_000, "1,000");
        check(1_234_567, "1,234,567");
    }
}
