//! What the process counts, for Prometheus.
//!
//! Handles are cheap to clone and count whether or not a registry shows them. Which series exist is in
//! [`METRICS`]; the gateway and the alert sink bring handles of their own.

mod names;
mod partitions;
mod process;

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use schemas::record::PartitionId;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

pub use self::names::{METRICS, MetricKind, MetricName};
pub use self::partitions::{PartitionTable, SinkRow};
pub use self::process::ProcessCollector;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRole {
    role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoleTopic {
    role: &'static str,
    topic: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoleReason {
    role: &'static str,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTopic {
    topic: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTable {
    table: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySink {
    sink: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// One millisecond to about half a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// Everything that roles count.
#[derive(Debug, Clone)]
pub struct Metrics {
    records: Family<ByRole, Counter>,
    derived: Family<ByRoleTopic, Counter>,
    dlq: Family<ByRoleReason, Counter>,
    commit_seconds: Histograms<ByRole>,
    rebalances: Family<ByRole, Counter>,
    retries: Family<ByRole, Counter>,
    restarts: Family<ByRole, Counter>,
    assigned: Family<ByRole, Gauge>,
    archive_files: Family<ByTopic, Counter>,
    archive_bytes: Family<ByTopic, Counter>,
    load_rows: Family<ByTable, Counter>,
    sink_commit_seconds: Histograms<BySink>,
    /// What is known of each partition.
    pub partitions: PartitionTable,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            records: Family::default(),
            derived: Family::default(),
            dlq: Family::default(),
            commit_seconds: Family::new_with_constructor(seconds),
            rebalances: Family::default(),
            retries: Family::default(),
            restarts: Family::default(),
            assigned: Family::default(),
            archive_files: Family::default(),
            archive_bytes: Family::default(),
            load_rows: Family::default(),
            sink_commit_seconds: Family::new_with_constructor(seconds),
            partitions: PartitionTable::default(),
        }
    }
}

fn show(registry: &mut Registry, name: &'static str, metric: &(impl Metric + Clone)) {
    registry.register(name, names::help(name), metric.clone());
}

impl Metrics {
    /// Shows everything in a registry.
    pub fn register(&self, registry: &mut Registry) {
        // Counters without `_total`, which the encoder adds.
        show(registry, "custody_records", &self.records);
        show(registry, "custody_derived", &self.derived);
        show(registry, "custody_dlq", &self.dlq);
        show(registry, "custody_commit_seconds", &self.commit_seconds);
        show(registry, "custody_rebalances", &self.rebalances);
        show(registry, "custody_retries", &self.retries);
        show(registry, "custody_restarts", &self.restarts);
        show(registry, "custody_assigned_partitions", &self.assigned);
        show(registry, "custody_archive_files", &self.archive_files);
        show(registry, "custody_archive_bytes", &self.archive_bytes);
        show(registry, "custody_load_rows", &self.load_rows);
        show(registry, "custody_sink_commit_seconds", &self.sink_commit_seconds);
        registry.register_collector(Box::new(self.partitions.clone()));
    }

    /// Counts an archive object.
    pub fn archived(&self, topic: Topic, bytes: u64) {
        self.archive_files.get_or_create(&ByTopic { topic: topic.name() }).inc();
        self.archive_bytes.get_or_create(&ByTopic { topic: topic.name() }).inc_by(bytes);
    }

    /// Counts inserted rows.
    pub fn loaded(&self, table: &'static str, rows: u64) {
        self.load_rows.get_or_create(&ByTable { table }).inc_by(rows);
    }

    /// Counts the time that one publication took.
    pub fn sink_committed(&self, sink: &'static str, took: std::time::Duration) {
        self.sink_commit_seconds.get_or_create(&BySink { sink }).observe(took.as_secs_f64());
    }

    /// Counts a restart.
    pub fn restarted(&self, role: &'static str) {
        self.restarts.get_or_create(&ByRole { role }).inc();
    }
}

/// What one consumer of a role counts; it removes its partitions' series when it goes.
#[derive(Debug, Default)]
pub struct Meter {
    metrics: Metrics,
    role: &'static str,
    /// As the brokers know it, name space included.
    group: String,
    namespace: String,
    owned: Vec<PartitionId>,
}

impl Meter {
    /// A consumer of `role` in `group`; `namespace` is put before both group and topic.
    pub fn new(metrics: Metrics, role: &'static str, namespace: &str, group: &str) -> Self {
        // A series exists from the start: an absent one cannot be alerted on.
        metrics.records.get_or_create(&ByRole { role }).inc_by(0);
        metrics.retries.get_or_create(&ByRole { role }).inc_by(0);
        metrics.rebalances.get_or_create(&ByRole { role }).inc_by(0);
        metrics.restarts.get_or_create(&ByRole { role }).inc_by(0);
        metrics.assigned.get_or_create(&ByRole { role }).inc_by(0);
        let group = format!("{namespace}{group}");
        Self { metrics, role, group, namespace: namespace.to_owned(), owned: Vec::new() }
    }

    /// Everything that the process counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn by_role(&self) -> ByRole {
        ByRole { role: self.role }
    }

    fn key(&self, partition: PartitionId) -> partitions::Key {
        (self.group.clone(), format!("{}{}", self.namespace, partition.topic), partition)
    }

    /// Partitions are ours.
    pub fn assigned(&mut self, partitions: &[(PartitionId, u64)]) {
        self.metrics.rebalances.get_or_create(&self.by_role()).inc();
        for (partition, next) in partitions {
            if !self.owned.contains(partition) {
                self.owned.push(*partition);
                self.metrics.assigned.get_or_create(&self.by_role()).inc();
            }
            self.metrics.partitions.assign(self.key(*partition), *next);
        }
    }

    /// Partitions are gone: their series go too.
    pub fn gone(&mut self, partitions: &[PartitionId]) {
        self.metrics.rebalances.get_or_create(&self.by_role()).inc();
        self.remove(partitions);
    }

    fn remove(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            if self.owned.contains(partition) {
                self.owned.retain(|p| p != partition);
                self.metrics.assigned.get_or_create(&self.by_role()).dec();
            }
            self.metrics.partitions.remove(&self.key(*partition));
        }
    }

    /// Records of a partition are in hand, or wait; the oldest has this time.
    pub fn fetched(&self, partition: PartitionId, records: u64, oldest: TimestampMicros) {
        self.metrics.records.get_or_create(&self.by_role()).inc_by(records);
        self.metrics.partitions.fetched(&self.key(partition), oldest);
    }

    /// The position of a partition: what is before it has been dealt with; `last` is the time of the
    /// record before it, if that is known.
    pub fn moved(&self, partition: PartitionId, next: u64, last: Option<TimestampMicros>) {
        self.metrics.partitions.moved(&self.key(partition), next, last);
    }

    /// Everything that the partitions held has been read, but for those that wait.
    pub fn caught_up(&self, now: TimestampMicros, waits: impl Fn(PartitionId) -> bool) {
        for partition in self.owned.iter().filter(|p| !waits(**p)) {
            self.metrics.partitions.caught_up(&self.key(*partition), now);
        }
    }

    /// A step was committed.
    pub fn committed(&self, took: std::time::Duration, derived: &BTreeMap<Topic, u64>, dead: &BTreeMap<String, u64>) {
        let role = self.role;
        self.metrics.commit_seconds.get_or_create(&self.by_role()).observe(took.as_secs_f64());
        for (topic, count) in derived {
            self.metrics.derived.get_or_create(&ByRoleTopic { role, topic: topic.name() }).inc_by(*count);
        }
        for (reason, count) in dead {
            self.metrics.dlq.get_or_create(&ByRoleReason { role, reason: reason.clone() }).inc_by(*count);
        }
    }

    /// An operation failed and is tried again.
    pub fn retried(&self) {
        self.metrics.retries.get_or_create(&self.by_role()).inc();
    }

    /// What a sink holds of a partition.
    pub fn sink(&self, partition: PartitionId, row: SinkRow) {
        self.metrics.partitions.sink(&self.key(partition), self.role, row);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let owned = std::mem::take(&mut self.owned);
        for partition in owned {
            self.metrics.assigned.get_or_create(&self.by_role()).dec();
            self.metrics.partitions.remove(&self.key(partition));
        }
    }
}
