//! What stages wrote, sorted into lanes: the sequences whose order is promised.
//!
//! A lane is what one source partition produced in one partition of a topic. Inside a lane the order is
//! that of the source; between lanes of one partition, which only re-keyed topics have, nothing is
//! promised. It compares; it does not know which of two sides is right.

use std::collections::BTreeMap;

use bytes::Bytes;
use processors::completeness::Completeness;
use schemas::codec::{Derived, codec};
use schemas::event::Event;
use schemas::id::Uuid;
use schemas::record::{Headers, PartitionId, Record};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use crate::stage_table::written_topics;

/// Records of topics by partition, in offset order.
pub(super) type Topics = BTreeMap<PartitionId, Vec<Record>>;

/// A record without its offset.
#[derive(Debug, PartialEq, Eq)]
struct Written<'a> {
    timestamp: TimestampMicros,
    key: &'a Option<Bytes>,
    value: Option<Bytes>,
    headers: &'a Headers,
}

/// Every lane of an installation: partition, source partition where a topic mixes them, and records.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Lanes<'a>(BTreeMap<(PartitionId, i32), Vec<Written<'a>>>);

impl<'a> Lanes<'a> {
    /// The lanes of the topics that stages write. With `are_ids_masked`, ids that name offsets of the
    /// clean topic are left out: two runs agree on those offsets only where both are dense.
    pub(super) fn of(topics: &'a Topics, are_ids_masked: bool) -> Self {
        let mut lanes = Self::default();
        let written = written_topics();
        for (partition, records) in topics.iter().filter(|(id, _)| written.contains(&id.topic)) {
            for record in records {
                let Record { timestamp, key, value, headers, .. } = record;
                let value = match partition.topic {
                    Topic::Findings if are_ids_masked => value.clone().map(masked),
                    _ => value.clone(),
                };
                let lane = lanes.0.entry((*partition, source_partition(record))).or_default();
                lane.push(Written { timestamp: *timestamp, key, value, headers });
            }
        }
        lanes
    }

    /// In what these lanes are not those of `expected`, one line a lane.
    pub(super) fn differences(&self, expected: &Self, than: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        // Lanes of either side: one that is there and not due is as wrong as one that is missing.
        for lane in self.0.keys().chain(expected.0.keys().filter(|lane| !self.0.contains_key(lane))) {
            let (found, due) = (self.lane(lane), expected.lane(lane));
            if found == due {
                continue;
            }
            // Where they part is where to look; all later ones differ as a rule.
            let first = found.iter().zip(due).take_while(|(a, b)| a == b).count();
            let (id, source) = lane;
            wrong.push(format!(
                "{}/{} from source partition {source} holds other records than {than}: {} instead of {}, other from record {first} on",
                id.topic, id.partition, found.len(), due.len()
            ));
        }
        wrong
    }

    fn lane(&self, lane: &(PartitionId, i32)) -> &[Written<'a>] {
        self.0.get(lane).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Partition of the clean topic that a record of a re-keyed topic was made for; 0 in other topics, whose
/// partitions have one source each.
fn source_partition(record: &Record) -> i32 {
    if !matches!(record.at.partition.topic, Topic::Signals | Topic::Writers) {
        return 0;
    }
    match codec().decode_derived(record.value.as_deref()) {
        Ok(Derived::Signal(signal)) => signal.source_partition,
        Ok(Derived::WriterSpan(span)) => span.source_partition,
        Ok(Derived::Watermark(watermark)) => watermark.source_partition,
        // A lane of its own, which no reference has: it comes out as a difference.
        _ => -1,
    }
}

/// A finding without the id that stage `completeness` derives from an offset of the clean topic.
fn masked(value: Bytes) -> Bytes {
    match codec().decode_derived(Some(&value)) {
        Ok(Derived::Event(Event::DetectionRaised(mut found))) if is_of_completeness(&found.h.producer_id) => {
            // And the detection id, which is the same id as text.
            found.h.event_id = Uuid::ZERO;
            found.detection_id.clear();
            codec().encode_derived(&Derived::Event(Event::DetectionRaised(found)))
        }
        _ => value,
    }
}

fn is_of_completeness(producer_id: &str) -> bool {
    producer_id.strip_prefix("custody/") == Some(Completeness::ID.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use schemas::event::Watermark;
    use schemas::record::Position;

    use super::*;

    /// Watermarks as (partition of the signals topic, source partition, time).
    fn signals(marks: &[(u32, i32, i64)]) -> Topics {
        let mut topics = Topics::new();
        for (partition, source_partition, at) in marks {
            let id = PartitionId { topic: Topic::Signals, partition: *partition };
            let mark =
                Watermark { at: TimestampMicros(*at), source_partition: *source_partition, source_partitions: 2 };
            let held = topics.entry(id).or_default();
            held.push(Record {
                at: Position { partition: id, offset: held.len() as u64 },
                timestamp: TimestampMicros(*at),
                key: None,
                value: Some(codec().encode_derived(&Derived::Watermark(mark))),
                headers: Headers::new(),
            });
        }
        topics
    }

    #[test]
    fn only_the_order_inside_a_lane_counts() {
        let due = signals(&[(0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1)]);
        let check = |found: &[(u32, i32, i64)], lanes: usize| {
            let found = signals(found);
            let wrong = Lanes::of(&found, true).differences(&Lanes::of(&due, true), "due");
            assert_eq!(wrong.len(), lanes, "{wrong:?}");
        };
        check(&[(0, 1, 1), (0, 0, 1), (0, 0, 2), (1, 0, 1)], 0);
        check(&[(0, 0, 2), (0, 0, 1), (0, 1, 1), (1, 0, 1)], 1);
        check(&[(0, 0, 1), (0, 0, 2), (0, 0, 2), (0, 1, 1), (1, 0, 1)], 1);
        check(&[(0, 0, 1), (0, 0, 2), (0, 1, 1)], 1);
        check(&[(0, 0, 1), (0, 0, 2), (1, 1, 1), (1, 0, 1)], 2);
    }
}
