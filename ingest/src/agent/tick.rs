//! Ticks: time as records, one round for all partitions of [`Topic::Events`] at one instant.
//!
//! It reads no clock: the caller passes the time and the acknowledged positions. Ticks of several
//! writers, and ticks that are sent twice, are harmless: readers take the latest time.

use std::collections::BTreeMap;
use std::ops::Range;

use schemas::codec::codec;
use schemas::event::{Event, EventHeader, Principal, RawEvent, Tick};
use schemas::id::Uuid;
use schemas::record::{OutRecord, Position};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

/// Tenant of records that belong to no customer.
const SYSTEM_TENANT: &str = "_system";

/// Builds rounds of ticks for one writer.
#[derive(Debug, Clone)]
pub struct Ticker {
    writer_id: String,
    epoch: TimestampMicros,
    /// By number of the partition.
    acked: BTreeMap<u32, i64>,
}

impl Ticker {
    /// A writer that started at `epoch`, for the partitions of these numbers; nothing is acknowledged yet.
    pub fn new(writer_id: impl Into<String>, epoch: TimestampMicros, partitions: Range<u32>) -> Self {
        Self { writer_id: writer_id.into(), epoch, acked: partitions.map(|partition| (partition, 0)).collect() }
    }

    /// Counts acknowledged records, ticks not among them; positions in other topics do not count.
    pub fn acknowledge(&mut self, positions: &[Position]) {
        for position in positions.iter().filter(|p| p.partition.topic == Topic::Events) {
            if let Some(count) = self.acked.get_mut(&position.partition.partition) {
                *count += 1;
            }
        }
    }

    /// One tick per partition, all at `at`, each with the records acknowledged there so far.
    pub fn round(&self, at: TimestampMicros) -> Vec<OutRecord> {
        self.acked.iter().map(|(partition, acked)| self.tick(at, *partition, *acked)).collect()
    }

    fn tick(&self, at: TimestampMicros, partition: u32, records_acked: i64) -> OutRecord {
        // The partition is part of the id: the ticks of one round are different records.
        let parts: [&[u8]; 5] = [
            b"tick",
            self.writer_id.as_bytes(),
            &self.epoch.0.to_be_bytes(),
            &partition.to_be_bytes(),
            &at.0.to_be_bytes(),
        ];
        let principal = Principal { r#type: "system".to_owned(), id: self.writer_id.clone(), ..Principal::default() };
        let h = EventHeader {
            event_id: Uuid::derive(&parts),
            event_time: at,
            tenant_id: SYSTEM_TENANT.to_owned(),
            agent_id: self.writer_id.clone(),
            seq: -1,
            producer_id: self.writer_id.clone(),
            producer_epoch: self.epoch.0,
            producer_seq: -1,
            principal,
            ..EventHeader::of_type("tick")
        };
        let tick = Tick { h, at, writer_id: self.writer_id.clone(), writer_epoch: self.epoch.0, records_acked };
        let event: RawEvent = Event::Tick(tick);
        OutRecord {
            topic: Topic::Events,
            // Addressed by number: time must reach every partition, also one to which no key maps.
            partition: Some(partition),
            timestamp: at,
            key: None,
            value: Some(codec().encode(&event)),
            headers: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use schemas::record::PartitionId;

    use super::*;

    fn acked(topic: Topic, partition: u32) -> Position {
        Position { partition: PartitionId { topic, partition }, offset: 0 }
    }

    fn ticks(records: &[OutRecord]) -> Vec<Tick> {
        let tick = |r: &OutRecord| match codec().decode(r.value.as_deref()).unwrap() {
            RawEvent::Tick(tick) => tick,
            other => panic!("not a tick: {other:?}"),
        };
        records.iter().map(tick).collect()
    }

    #[test]
    fn a_round_has_one_tick_per_partition_at_one_time() {
        let mut ticker = Ticker::new("gateway-0", TimestampMicros(5), 0..3);
        ticker.acknowledge(&[acked(Topic::Events, 1), acked(Topic::Events, 1), acked(Topic::Clean, 0)]);
        let round = ticker.round(TimestampMicros(1_000_000));
        assert_eq!(round.iter().map(|r| r.partition).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
        assert!(round.iter().all(|r| r.timestamp == TimestampMicros(1_000_000)));
        let ticks = ticks(&round);
        assert_eq!(ticks.iter().map(|t| t.records_acked).collect::<Vec<_>>(), [0, 2, 0]);
        assert!(ticks.iter().all(|t| t.at == TimestampMicros(1_000_000) && t.writer_epoch == 5));
        assert!(ticks.iter().all(|t| t.h.session_id.is_zero() && t.h.seq == -1 && t.h.producer_seq == -1));
    }

    #[test]
    fn counts_are_cumulative_and_ids_repeat_only_for_the_same_tick() {
        let mut ticker = Ticker::new("gateway-0", TimestampMicros(5), 0..2);
        ticker.acknowledge(&[acked(Topic::Events, 0)]);
        let first = ticker.round(TimestampMicros(1));
        assert_eq!(first, ticker.round(TimestampMicros(1)));
        ticker.acknowledge(&[acked(Topic::Events, 0)]);
        let (first, second) = (ticks(&first), ticks(&ticker.round(TimestampMicros(2))));
        assert_eq!((first[0].records_acked, second[0].records_acked), (1, 2));
        let ids: std::collections::BTreeSet<Uuid> = first.iter().chain(&second).map(|t| t.h.event_id).collect();
        assert_eq!(ids.len(), 4);
    }
}
