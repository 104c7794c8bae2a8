//! Every query of the Grafana dashboards and alert rules, asked of the real layout.
//!
//! The tables are empty: what is shown is that tables, columns and functions exist.

use std::path::PathBuf;

use serde_json::Value;

use super::world;

/// Queries with where they stand.
fn queries() -> Vec<(String, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docker/grafana");
    let mut found = Vec::new();
    for name in ["dashboards/evidence.json", "dashboards/service.json", "provisioning/alerting/custody.yaml"] {
        let text = std::fs::read_to_string(root.join(name)).expect(name);
        let value: Value = serde_yaml_ng::from_str(&text).expect(name);
        collect(name, &value, &mut found);
    }
    found
}

fn collect(place: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(sql) if name == "rawSql" => found.push((place.to_owned(), sql.to_owned())),
                    _ => collect(place, value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(place, item, found)),
        _ => {}
    }
}

/// As Grafana's data source fills in its macros and variables.
fn filled_in(sql: &str) -> String {
    let sql = sql.replace("$__timeFilter(event_time)", "event_time >= $__fromTime AND event_time <= $__toTime");
    sql.replace("$__fromTime", "toDateTime(1795165200)")
        .replace("$__toTime", "toDateTime(1795168800)")
        .replace("${tenant:singlequote}", "'acme','globex'")
}

#[tokio::test]
async fn every_query_of_a_dashboard_or_alert_rule_can_be_answered() {
    let world = world().await;
    let queries = queries();
    assert!(queries.len() > 15, "only {} queries found", queries.len());
    for (place, sql) in queries {
        let sql = filled_in(&sql);
        assert!(!sql.contains('$'), "{place}: a macro that this test does not know: {sql}");
        let answer = world.server.rows::<Value>(&sql).await;
        assert!(answer.is_ok(), "{place}: {sql}\n{answer:?}");
    }
    world.stop().await;
}
