//! An alert's labels: what Alertmanager groups, routes, silences and tells alerts apart by.
//!
//! Names follow Prometheus's data model; values are kept as they are. Nothing that changes while an
//! alert goes on (value, time, count) may become a label: it would be another alert.

use std::collections::BTreeMap;

use schemas::event::Alert;

/// `name` as a Prometheus label name: `[a-zA-Z_][a-zA-Z0-9_]*`, and not one of the names that begin with
/// `__`, which are reserved (Prometheus data model, "Metric names and labels").
pub fn label_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    let body = name.trim_start_matches('_');
    let is_reserved = name.starts_with("__");
    match body.chars().next() {
        Some(first) if first.is_ascii_digit() => format!("_{body}"),
        Some(_) if is_reserved => format!("_{body}"),
        Some(_) => name,
        None => "_".to_owned(),
    }
}

/// The label set: the alert's own fields, then its labels where no name is taken. A label without a
/// value is the same as no label and left out.
pub fn labels(alert: &Alert) -> BTreeMap<String, String> {
    let alertname = alert.labels.get("alertname").filter(|v| !v.is_empty()).unwrap_or(&alert.alert_class);
    let fields = [
        ("alertname", alertname),
        ("alert_class", &alert.alert_class),
        ("severity", &alert.severity),
        ("tenant", &alert.tenant_id),
        ("environment", &alert.environment),
        ("subject_kind", &alert.subject_kind),
        ("subject", &alert.subject),
        ("metric", &alert.metric),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    let further = alert.labels.iter().map(|(name, value)| (label_name(name), value));
    let mut set = BTreeMap::new();
    for (name, value) in fields.chain(further).filter(|(_, value)| !value.is_empty()) {
        set.entry(name).or_insert_with(|| value.clone());
    }
    set
}
