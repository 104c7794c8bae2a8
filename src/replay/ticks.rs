//! Time for a replayed topic: the archive counts ticks and keeps none, and without them no stage would
//! ever close a window.
//!
//! A tick takes the source offset right before the record that shows the time, where one is free: there
//! the stages would have met a tick, or nothing. It is pure; times are those of the records.

use std::collections::BTreeMap;

use schemas::codec::codec;
use schemas::event::{CleanEvent, Event, EventHeader, Principal, Tick};
use schemas::id::{Sha256, Uuid};
use schemas::limits::SYSTEM_TENANT;
use schemas::record::{OutRecord, Record, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, session_key};

/// Log time between two ticks, milliseconds. Gateways write more of them by default (2 s), but nothing that
/// stages judge by is shorter than the default window of a minute.
const INTERVAL_MS: i64 = 30_000;
/// Who writes them.
const WRITER_ID: &str = "custody/replay";

/// How far one partition is.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Source offset behind the last record.
    source_next: u64,
    /// Time of the last tick.
    ticked: Option<TimestampMicros>,
}

/// Where ticks are due.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    partitions: BTreeMap<u32, Progress>,
    newest: Option<TimestampMicros>,
}

impl Ticks {
    /// The tick that is due before a clean record; takes the record into account.
    pub(super) fn before(&mut self, record: &Record) -> Option<OutRecord> {
        let number = record.at.partition.partition;
        let source = SourceRef::from_headers(&record.headers)?.offset;
        self.newest = self.newest.max(Some(record.timestamp));
        let progress = self.partitions.entry(number).or_default();
        let at = record.timestamp.floor_to_ms(INTERVAL_MS);
        let is_due = progress.ticked.is_none_or(|ticked| at > ticked);
        let free = source.checked_sub(1).filter(|free| *free >= progress.source_next);
        progress.source_next = progress.source_next.max(source + 1);
        let free = free.filter(|_| is_due)?;
        progress.ticked = Some(at);
        Some(tick(WRITER_ID, number, free, at))
    }

    /// The last ticks, one for each of so many partitions, all at the time of the newest record: stages that
    /// wait for every partition then go on to there. None where nothing was replayed.
    pub(super) fn closing(&self, partitions: u32) -> Vec<OutRecord> {
        let Some(newest) = self.newest else { return Vec::new() };
        let next = |number: &u32| self.partitions.get(number).map_or(0, |progress| progress.source_next);
        (0..partitions).map(|number| tick(WRITER_ID, number, next(&number), newest)).collect()
    }
}

/// A tick of the clean topic, made by `writer_id`, which names a record of the events topic as its source.
pub(crate) fn tick(writer_id: &str, partition: u32, source_offset: u64, at: TimestampMicros) -> OutRecord {
    let parts: [&[u8]; 4] = [b"tick", writer_id.as_bytes(), &partition.to_be_bytes(), &at.0.to_be_bytes()];
    let principal = Principal { r#type: "system".to_owned(), id: writer_id.to_owned(), ..Principal::default() };
    let h = EventHeader {
        event_id: Uuid::derive(&parts),
        event_time: at,
        tenant_id: SYSTEM_TENANT.to_owned(),
        agent_id: writer_id.to_owned(),
        seq: -1,
        producer_id: writer_id.to_owned(),
        producer_seq: -1,
        principal,
        ..EventHeader::of_type("tick")
    };
    // How many records were acknowledged is not known here: -1 claims nothing.
    let tick = Tick { h, at, writer_id: writer_id.to_owned(), writer_epoch: 0, records_acked: -1 };
    let event: CleanEvent = Event::Tick(tick);
    OutRecord {
        topic: Topic::Clean,
        partition: Some(partition),
        timestamp: at,
        key: Some(session_key("", Uuid::ZERO).into()),
        value: Some(codec().encode(&event)),
        headers: SourceRef { offset: source_offset, sha256: Sha256::ZERO }.to_headers(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, clippy::unwrap_used)]

    use schemas::record::{PartitionId, Position};

    use super::*;

    fn record(partition: u32, source: u64, at_ms: i64) -> Record {
        let at = Position { partition: PartitionId { topic: Topic::Clean, partition }, offset: source };
        let headers = SourceRef { offset: source, sha256: Sha256([1; 32]) }.to_headers();
        Record { at, timestamp: TimestampMicros::from_ms(at_ms), key: None, value: None, headers }
    }

    fn place(tick: &OutRecord) -> (u32, u64, i64) {
        let source = SourceRef::from_headers(&tick.headers).expect("a source");
        (tick.partition.expect("a partition"), source.offset, tick.timestamp.ms())
    }

    #[test]
    fn a_tick_stands_where_time_has_passed_and_a_source_offset_is_free() {
        let mut ticks = Ticks::default();
        let mut check = |partition, source, at_ms, expected: Option<(u64, i64)>| {
            let found = ticks.before(&record(partition, source, at_ms)).as_ref().map(place);
            assert_eq!(found, expected.map(|(source, ms)| (partition, source, ms)), "{partition} {source} {at_ms}");
        };
        check(0, 10, 61_000, Some((9, 60_000)));
        check(0, 12, 62_000, None); // the time is told already
        check(0, 13, 95_000, None); // no place is free
        check(0, 15, 96_000, Some((14, 90_000)));
        check(0, 20, 65_000, None); // time steps back
        check(1, 0, 61_000, None); // nothing stands before the first
        check(1, 2, 61_000, Some((1, 60_000)));
    }

    #[test]
    fn the_last_ticks_tell_every_partition_the_newest_time() {
        let mut ticks = Ticks::default();
        assert_eq!(ticks.closing(3), Vec::new());
        ticks.before(&record(0, 10, 61_000));
        ticks.before(&record(2, 4, 59_500));
        let places: Vec<_> = ticks.closing(3).iter().map(place).collect();
        assert_eq!(places, [(0, 11, 61_000), (1, 0, 61_000), (2, 5, 61_000)]);
    }

    #[test]
    fn a_tick_is_a_clean_event_that_every_stage_can_read() {
        let tick = Ticks::default().before(&record(0, 10, 61_000)).expect("due");
        let event: CleanEvent = codec().decode(tick.value.as_deref()).expect("clean");
        assert!(event.is_tick());
        assert_eq!(event.h().tenant_id, SYSTEM_TENANT);
    }
}
