//! Every series that a process of Custody exposes, in one list: `/metrics` is checked against it, and so
//! are dashboards and alert rules.

/// A metric: its name as Prometheus stores it, its kind, its labels and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricName {
    /// Name; histograms add `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// Kind.
    pub kind: MetricKind,
    /// Labels, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// Kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution.
    Histogram,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> MetricName {
    MetricName { name, kind: MetricKind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> MetricName {
    MetricName { name, kind: MetricKind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> MetricName {
    MetricName { name, kind: MetricKind::Histogram, labels, help }
}

/// Labels of a partition that a group reads.
const GROUP: &[&str] = &["consumergroup", "topic", "partition"];
/// Labels of a partition that a sink publishes.
const SINK: &[&str] = &["sink", "topic", "partition"];

/// Every series.
pub const METRICS: &[MetricName] = &[
    counter("custody_gateway_requests_total", &["protocol", "status"], "Requests answered"),
    counter("custody_gateway_events_total", &["protocol", "outcome"], "Events accepted, known already, or refused"),
    counter("custody_gateway_refusals_total", &["reason"], "Requests and events refused, by reason"),
    histogram("custody_gateway_request_seconds", &[], "Time from a request's head to its answer"),
    gauge("custody_gateway_queue_bytes", &[], "Bytes that wait for the log"),
    histogram("custody_gateway_append_seconds", &[], "Time of one append to the log"),
    counter("custody_gateway_log_retries_total", &[], "Appends that the log did not acknowledge"),
    counter("custody_gateway_connections_refused_total", &[], "Connections closed because too many were open"),
    gauge("kafka_consumergroup_lag", GROUP, "Records between the group's position and the end of the partition"),
    gauge("custody_lag_seconds", GROUP, "Age of the oldest record that the group has not read"),
    counter("custody_records_total", &["role"], "Records read"),
    counter("custody_derived_total", &["role", "topic"], "Records written by a stage"),
    counter("custody_dlq_total", &["role", "reason"], "Dead letters"),
    histogram("custody_commit_seconds", &["role"], "Time of a step's commit"),
    counter("custody_rebalances_total", &["role"], "Assignments and revocations of partitions"),
    counter("custody_retries_total", &["role"], "Operations that failed and were tried again"),
    counter("custody_restarts_total", &["role"], "Times that a role was started again after a failure"),
    gauge("custody_assigned_partitions", &["role"], "Partitions that this instance owns"),
    counter("custody_archive_files_total", &["topic"], "Archive objects published"),
    counter("custody_archive_bytes_total", &["topic"], "Bytes of archive objects published"),
    gauge("custody_oldest_unflushed_seconds", SINK, "Age of the oldest row in hand; 0 if there is none"),
    gauge("custody_published_next_offset", SINK, "Offset behind the last record published"),
    counter("custody_load_rows_total", &["table"], "Rows inserted"),
    histogram("custody_sink_commit_seconds", &["sink"], "Time to publish one file or batch"),
    counter("custody_alerts_sent_total", &["receiver", "outcome"], "Notifications sent"),
    histogram("custody_alert_send_seconds", &["receiver"], "Time of one notification"),
    gauge("custody_alerts_pending", &["receiver"], "Notifications that wait"),
    gauge("custody_schema_registry_up", &[], "1 if the schema registry answered last, 0 if it is away"),
    gauge("custody_schemas_awaited", &[], "Registry ids that records wait for"),
    gauge("custody_build_info", &["version"], "Always 1"),
    gauge("process_resident_memory_bytes", &[], "Resident memory"),
    gauge("process_start_time_seconds", &[], "Unix time of the process's start"),
];

/// Help text of a metric.
pub(super) fn help(name: &str) -> &'static str {
    METRICS.iter().find(|m| m.name == name || m.name.strip_suffix("_total") == Some(name)).map_or("", |m| m.help)
}
