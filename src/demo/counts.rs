//! Counts in ClickHouse, and the search for leaked values in its rows.

use std::collections::BTreeSet;

use serde::Deserialize;
use sinks::clickhouse::client::ClickHouse;

use super::leaks::{Searcher, Values};

/// Values per search: ClickHouse takes at most 255 needles in one call.
const NEEDLES_MAX: usize = 200;

/// Rows per table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// Rows of `events`.
    pub events: u64,
    /// Rows of `findings`.
    pub findings: u64,
    /// Rows of `alerts`.
    pub alerts: u64,
    /// Rows of `control_totals`, which stand beside the findings in their topic.
    pub control_totals: u64,
}

/// Counts the rows of a database.
///
/// # Errors
/// ClickHouse cannot be asked.
pub async fn of_database(server: &ClickHouse) -> anyhow::Result<Counts> {
    let database = server.database();
    let sql = format!(
        "SELECT (SELECT count() FROM {database}.events) AS events, (SELECT count() FROM {database}.findings) AS findings, \
         (SELECT count() FROM {database}.alerts) AS alerts, \
         (SELECT count() FROM {database}.control_totals) AS control_totals"
    );
    let rows: Vec<Counts> = server.rows(&sql).await?;
    rows.into_iter().next().ok_or_else(|| anyhow::anyhow!("ClickHouse gave no counts"))
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

/// The values that stand in a row of any table.
///
/// # Errors
/// ClickHouse cannot be asked.
pub(crate) async fn leaked(
    server: &ClickHouse,
    values: &Values,
    searcher: &Searcher,
) -> anyhow::Result<BTreeSet<String>> {
    let database = server.database();
    let all: Vec<&str> = values.iter().collect();
    let mut found = BTreeSet::new();
    for needles in all.chunks(NEEDLES_MAX) {
        let list: Vec<String> =
            needles.iter().map(|v| format!("'{}'", v.replace('\\', "\\\\").replace('\'', "\\'"))).collect();
        let list = list.join(", ");
        for (table, text) in [
            ("events", "toString(payload)"),
            ("findings", "concat(reason, toString(attributes))"),
            ("alerts", "reason"),
        ] {
            let sql = format!(
                "SELECT {text} AS text FROM {database}.{table} WHERE multiSearchAny({text}, [{list}]) LIMIT 1000"
            );
            let rows: Vec<Text> = server.rows(&sql).await?;
            rows.iter().for_each(|row| searcher.search(row.text.as_bytes(), &mut found));
        }
    }
    Ok(found)
}
