//! What is known of each partition that this process reads, and its series at the time of a scrape.
//!
//! Ages are computed when they are asked for, so that they grow while a role is stuck. A series exists
//! as long as the partition is ours, and not before its value is known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use schemas::record::PartitionId;
use schemas::time::TimestampMicros;
use tokio::sync::Notify;

use super::names::help;
use crate::clock;

/// Group and topic as the brokers know them, and the partition.
pub(super) type Key = (String, String, PartitionId);

/// What a sink holds of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinkRow {
    /// Offset behind the last record published; `None` before the first publication.
    pub published_next: Option<u64>,
    /// Time of the oldest row that is not published.
    pub oldest_at: Option<TimestampMicros>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    position: u64,
    end: Option<u64>,
    /// Time of the oldest record that was fetched and is not dealt with.
    in_hand_at: Option<TimestampMicros>,
    /// Time of the last record that was dealt with.
    last_at: Option<TimestampMicros>,
    /// When there was nothing left to read the last time.
    caught_up_at: Option<TimestampMicros>,
    sink: Option<(&'static str, SinkRow)>,
}

impl Entry {
    fn lag(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_sub(self.position))
    }

    /// Age of the oldest record that is not dealt with. What comes after the last one dealt with is at
    /// least as young as that, and as the moment at which nothing was left.
    fn lag_seconds(&self, now: TimestampMicros) -> Option<f64> {
        if self.in_hand_at.is_none() && self.lag()? == 0 {
            return Some(0.0);
        }
        let oldest = self.in_hand_at.or_else(|| self.last_at.max(self.caught_up_at))?;
        Some((now.0 - oldest.0).max(0) as f64 / 1e6)
    }
}

/// The partitions that this process reads.
#[derive(Clone, Default)]
pub struct PartitionTable {
    entries: Arc<Mutex<BTreeMap<Key, Entry>>>,
    /// Partitions were assigned: their ends are to be asked for.
    changed: Arc<Notify>,
}

impl fmt::Debug for PartitionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionTable").field("partitions", &self.lock().len()).finish_non_exhaustive()
    }
}

impl PartitionTable {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        // Every change is one assignment, so a panic elsewhere cannot have torn it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, key: &Key, act: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().get_mut(key) {
            act(entry);
        }
    }

    pub(super) fn assign(&self, key: Key, position: u64) {
        self.lock().insert(key, Entry { position, ..Entry::default() });
        self.changed.notify_one();
    }

    pub(super) fn remove(&self, key: &Key) {
        self.lock().remove(key);
    }

    pub(super) fn fetched(&self, key: &Key, oldest: TimestampMicros) {
        self.with(key, |entry| entry.in_hand_at = Some(entry.in_hand_at.map_or(oldest, |at| at.min(oldest))));
    }

    pub(super) fn moved(&self, key: &Key, next: u64, last: Option<TimestampMicros>) {
        self.with(key, |entry| {
            entry.position = next;
            entry.in_hand_at = None;
            entry.last_at = last.or(entry.last_at);
            // The end was asked for a while ago: what has been read since was there.
            entry.end = entry.end.map(|end| end.max(next));
        });
    }

    pub(super) fn caught_up(&self, key: &Key, now: TimestampMicros) {
        self.with(key, |entry| {
            entry.caught_up_at = Some(now);
            entry.end = Some(entry.position);
        });
    }

    pub(super) fn sink(&self, key: &Key, sink: &'static str, row: SinkRow) {
        self.with(key, |entry| entry.sink = Some((sink, row)));
    }

    /// Every partition that is read, each once.
    pub fn partitions(&self) -> Vec<PartitionId> {
        let mut all: Vec<PartitionId> = self.lock().keys().map(|(_, _, partition)| *partition).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Takes in the end of a partition, for every group that reads it.
    pub fn ends(&self, partition: PartitionId, end: u64, now: TimestampMicros) {
        for (_, entry) in self.lock().iter_mut().filter(|((_, _, p), _)| *p == partition) {
            entry.end = Some(end);
            if end <= entry.position {
                entry.caught_up_at = Some(now);
            }
        }
    }

    /// Returns when partitions have been assigned since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Lag in records and in seconds of a group's partition; `None` while it is not known.
    pub fn lag(&self, group: &str, partition: PartitionId, now: TimestampMicros) -> (Option<u64>, Option<f64>) {
        let entries = self.lock();
        let entry = entries.iter().find(|((g, _, p), _)| g == group && *p == partition).map(|(_, entry)| entry);
        entry.map_or((None, None), |e| (e.lag(), e.lag_seconds(now)))
    }

    fn write(&self, mut encoder: DescriptorEncoder<'_>, now: TimestampMicros) -> fmt::Result {
        let entries: Vec<(Key, Entry)> = self.lock().iter().map(|(k, e)| (k.clone(), e.clone())).collect();
        let sink_row = |e: &Entry| e.sink.map(|(_, row)| row);
        type Value<'a> = &'a dyn Fn(&Entry) -> Option<f64>;
        let series: [(&str, bool, Value<'_>); 4] = [
            ("kafka_consumergroup_lag", false, &|e| e.lag().map(|lag| lag as f64)),
            ("custody_lag_seconds", false, &|e| e.lag_seconds(now)),
            ("custody_oldest_unflushed_seconds", true, &|e| {
                let age = |at: TimestampMicros| (now.0 - at.0).max(0) as f64 / 1e6;
                sink_row(e).map(|row| row.oldest_at.map_or(0.0, age))
            }),
            ("custody_published_next_offset", true, &|e| sink_row(e)?.published_next.map(|next| next as f64)),
        ];
        for (name, is_of_sink, value) in series {
            let mut family = encoder.encode_descriptor(name, help(name), None, MetricType::Gauge)?;
            for ((group, topic, partition), entry) in &entries {
                let Some(value) = value(entry) else { continue };
                let first = match entry.sink {
                    Some((sink, _)) if is_of_sink => ("sink", sink.to_owned()),
                    _ => ("consumergroup", group.clone()),
                };
                let labels = [first, ("topic", topic.clone()), ("partition", partition.partition.to_string())];
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

impl Collector for PartitionTable {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.write(encoder, clock::now())
    }
}

#[cfg(test)]
mod tests {
    use schemas::topic::Topic;

    use super::*;

    const AT: PartitionId = PartitionId { topic: Topic::Clean, partition: 3 };

    fn key() -> Key {
        ("g".to_owned(), AT.topic.name().to_owned(), AT)
    }

    fn seconds(s: i64) -> TimestampMicros {
        TimestampMicros(s * 1_000_000)
    }

    /// Answers vector#24647 and opentelemetry-collector-contrib#36093: lag that is wrong or missing.
    #[test]
    fn lag_is_known_right_after_an_assignment_and_grows_while_a_role_is_stuck() {
        let table = PartitionTable::default();
        let lag = |now| table.lag("g", AT, seconds(now));
        assert_eq!(lag(0), (None, None));
        table.assign(key(), 10);
        assert_eq!(lag(0), (None, None), "nothing is known: no series rather than a wrong one");
        table.ends(AT, 15, seconds(0));
        assert_eq!(lag(0), (Some(5), None));
        table.fetched(&key(), seconds(100));
        assert_eq!(lag(130), (Some(5), Some(30.0)));
        assert_eq!(lag(190), (Some(5), Some(90.0)));
        table.moved(&key(), 13, Some(seconds(110)));
        assert_eq!(lag(190), (Some(2), Some(80.0)));
        table.moved(&key(), 15, Some(seconds(120)));
        assert_eq!(lag(190), (Some(0), Some(0.0)));
        // An old record was the last for long; the lag of what comes now is not its age.
        table.caught_up(&key(), seconds(500));
        table.ends(AT, 16, seconds(510));
        assert_eq!(lag(510), (Some(1), Some(10.0)));
        table.remove(&key());
        assert_eq!(lag(510), (None, None));
    }

    #[test]
    fn what_was_read_since_the_end_was_asked_for_is_no_negative_lag() {
        let table = PartitionTable::default();
        table.assign(key(), 0);
        table.ends(AT, 5, seconds(0));
        table.moved(&key(), 9, Some(seconds(1)));
        assert_eq!(table.lag("g", AT, seconds(2)), (Some(0), Some(0.0)));
    }
}
