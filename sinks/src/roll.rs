//! When an archive object is complete: a function of the log's prefix and of nothing else.
//!
//! Time is the records' broker time, ticks included, so that a replay cuts the same objects
//! (invariant I6). It holds no records and starts no timer.

use schemas::time::TimestampMicros;

/// Milliseconds in an hour.
const HOUR_MS: i64 = 3_600_000;

/// Bounds of one archive object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollPolicy {
    /// Raw value bytes after which the object is complete. One PUT writes it whole (multipart
    /// uploads have no create-only mode), so it must stay below what a store takes in one request.
    pub file_bytes_max: u64,
    /// Rows after which the object is complete.
    pub rows_max: u64,
    /// Log time between the object's first row and the record that completes it, milliseconds.
    pub flush_interval_ms: i64,
}

impl Default for RollPolicy {
    fn default() -> Self {
        Self { file_bytes_max: 64 << 20, rows_max: 1_000_000, flush_interval_ms: 60_000 }
    }
}

/// What an unfinished object has taken in so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intake {
    /// Broker time of the first record, tick or not: it names the object's hour.
    pub opened_at: TimestampMicros,
    /// Broker time of the first row; `None` while only ticks came.
    pub first_row_at: Option<TimestampMicros>,
    /// Raw value bytes of the rows.
    pub raw_bytes: u64,
    /// Rows.
    pub rows: u64,
}

impl Intake {
    /// An object that starts with a record of that broker time and holds nothing yet.
    pub fn open(at: TimestampMicros) -> Self {
        Self { opened_at: at, first_row_at: None, raw_bytes: 0, rows: 0 }
    }

    /// Counts a row.
    pub fn add_row(&mut self, at: TimestampMicros, raw_bytes: u64) {
        self.first_row_at.get_or_insert(at);
        self.raw_bytes += raw_bytes;
        self.rows += 1;
    }
}

/// Why an object is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seal {
    /// `file_bytes_max` is reached.
    Bytes,
    /// `rows_max` is reached.
    Rows,
    /// `flush_interval_ms` of log time has passed.
    Age,
    /// The next record belongs to a later hour.
    Hour,
    /// The caller asked for it: shutdown, revocation, an idle log.
    Flush,
}

impl RollPolicy {
    /// Whether the object must be sealed before a record (or tick) of broker time `at` is added.
    ///
    /// A range of ticks alone is sealed by the hour only, as an object without rows: the position
    /// moves on, and "nothing happened" is evidence too. A record of an *earlier* hour does not
    /// seal: topics that several partitions feed may swing around an hour's edge, and one object
    /// per swing would be one object per record.
    pub fn before(&self, intake: &Intake, at: TimestampMicros) -> Option<Seal> {
        let is_later_hour = at.floor_to_ms(HOUR_MS) > intake.opened_at.floor_to_ms(HOUR_MS);
        let is_old = intake.first_row_at.is_some_and(|first| at >= first.plus_ms(self.flush_interval_ms));
        match (is_later_hour, is_old) {
            (true, _) => Some(Seal::Hour),
            (false, true) => Some(Seal::Age),
            (false, false) => None,
        }
    }

    /// Whether the object must be sealed after the row that was just added.
    pub fn after(&self, intake: &Intake) -> Option<Seal> {
        let is_full = intake.raw_bytes >= self.file_bytes_max;
        let is_long = intake.rows >= self.rows_max;
        match (is_full, is_long) {
            (true, _) => Some(Seal::Bytes),
            (false, true) => Some(Seal::Rows),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RollPolicy = RollPolicy { file_bytes_max: 100, rows_max: 5, flush_interval_ms: 1_000 };
    /// 2026-11-20T09:59:59Z, one second before an hour's edge.
    const BEFORE_TEN: i64 = 1_795_168_799_000;

    fn at(ms: i64) -> TimestampMicros {
        TimestampMicros::from_ms(ms)
    }

    /// Seals in the order they happen: (index of the record in front of which the object ends, why).
    fn cuts(policy: &RollPolicy, records: &[(i64, Option<u64>)]) -> Vec<(usize, Seal)> {
        let (mut out, mut open) = (Vec::new(), None::<Intake>);
        for (index, (ms, row)) in records.iter().enumerate() {
            if let Some(seal) = open.as_ref().and_then(|intake| policy.before(intake, at(*ms))) {
                out.push((index, seal));
                open = None;
            }
            let intake = open.get_or_insert_with(|| Intake::open(at(*ms)));
            if let Some(bytes) = row {
                intake.add_row(at(*ms), *bytes);
                if let Some(seal) = policy.after(intake) {
                    out.push((index + 1, seal));
                    open = None;
                }
            }
        }
        out
    }

    #[test]
    fn an_object_is_cut_where_the_policy_says() {
        let t = 1_795_168_000_000;
        let check = |records: &[(i64, Option<u64>)], expected: &[(usize, Seal)]| {
            assert_eq!(cuts(&POLICY, records), expected, "{records:?}");
        };
        check(&[], &[]);
        check(&[(t, Some(10))], &[]);
        check(&[(t, Some(99)), (t, Some(1)), (t, Some(1))], &[(2, Seal::Bytes)]);
        check(&[(t, Some(500))], &[(1, Seal::Bytes)]);
        check(&[(t, Some(1)); 6], &[(5, Seal::Rows)]);
        check(&[(t, Some(1)), (t + 999, Some(1))], &[]);
        check(&[(t, Some(1)), (t + 1_000, Some(1))], &[(1, Seal::Age)]);
        check(&[(t, Some(1)), (t + 1_000, None)], &[(1, Seal::Age)]);
        check(&[(t, None), (t + 5_000, Some(1)), (t + 5_500, Some(1))], &[]);
        check(&[(t, None), (t + 60_000, None)], &[]);
        check(&[(BEFORE_TEN, None), (BEFORE_TEN + 1_000, None)], &[(1, Seal::Hour)]);
        check(&[(BEFORE_TEN, Some(1)), (BEFORE_TEN + 1_000, Some(1))], &[(1, Seal::Hour)]);
        check(&[(BEFORE_TEN + 1_000, Some(1)), (BEFORE_TEN, Some(1)), (BEFORE_TEN + 1_001, Some(1))], &[]);
        check(&[(-1, Some(1)), (0, Some(1))], &[(1, Seal::Hour)]);
    }

    proptest! {
        /// Answers kafka-connect-storage-cloud#529: late and disordered records make no tiny files.
        #[test]
        fn a_longer_log_never_moves_an_earlier_cut(
            records in prop::collection::vec((0i64..10_000_000, prop::option::of(0u64..60)), 0..80),
            keep in 0usize..80,
        ) {
            let all = cuts(&POLICY, &records);
            let prefix = cuts(&POLICY, &records[..keep.min(records.len())]);
            prop_assert_eq!(&all[..prefix.len()], &prefix[..]);
        }

        #[test]
        fn no_object_exceeds_its_bounds_by_more_than_one_row(
            records in prop::collection::vec((0i64..10_000_000, prop::option::of(0u64..60)), 0..80),
        ) {
            let mut first = 0;
            for (next, _) in cuts(&POLICY, &records) {
                let rows: Vec<u64> = records[first..next].iter().filter_map(|r| r.1).collect();
                prop_assert!(rows.len() as u64 <= POLICY.rows_max);
                let all_but_last: u64 = rows.iter().rev().skip(1).sum();
                prop_assert!(all_but_last < POLICY.file_bytes_max);
                first = next;
            }
        }
    }
}
