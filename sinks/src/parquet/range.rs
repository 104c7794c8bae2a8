//! A range of event time, and which archive objects can hold rows of it.
//!
//! A manifest bounds an object's broker times only; the bounds of event time stand in its Parquet
//! footer, as the statistics of a column. Event time is what the producer's clock said: no proof of time.

use arrow::array::{AsArray as _, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::statistics::Statistics;
use schemas::limits::CLOCK_AHEAD_MS_MAX;
use schemas::table::Table;
use schemas::time::TimestampMicros;

use crate::error::SinkError;
use crate::manifest::Manifest;
use crate::parquet::read::damaged;
use crate::parquet::store::Store;
use crate::publication::Publication;

/// Bytes that are read first of an object's end; the footer of one row group is a quarter of it.
const FOOTER_BYTES: u64 = 64 << 10;

/// Event times in `[first, next)`; a missing end is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeRange {
    /// Earliest.
    pub first: Option<TimestampMicros>,
    /// Behind the latest.
    pub next: Option<TimestampMicros>,
}

impl TimeRange {
    /// Whether it leaves nothing out.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a time lies in it.
    pub fn contains(&self, time: TimestampMicros) -> bool {
        self.touches(time, time)
    }

    /// Whether a time between `min` and `max`, both included, can lie in it.
    pub fn touches(&self, min: TimestampMicros, max: TimestampMicros) -> bool {
        self.first.is_none_or(|first| max >= first) && self.next.is_none_or(|next| min < next)
    }

    /// Whether the manifest alone leaves it possible that a row lies in the range. An event is refused
    /// whose clock runs more than a day ahead of the broker's; how late one may arrive has no bound.
    pub fn may_touch(&self, publication: &Publication) -> bool {
        let Some(max) = publication.broker_time_max_us else { return false };
        self.first.is_none_or(|first| TimestampMicros(max).plus_ms(CLOCK_AHEAD_MS_MAX) >= first)
    }
}

/// The column that an archive table's rows are chosen by: when it happened or, for a state of an
/// alert, the log time of that state.
fn time_column(table: Table) -> &'static str {
    match table {
        Table::Alerts => "updated_at",
        _ => "event_time",
    }
}

/// The times that a batch's rows are chosen by; `None` where the column is missing.
pub(crate) fn times(table: Table, batch: &RecordBatch) -> Option<&TimestampMicrosecondArray> {
    batch.column_by_name(time_column(table))?.as_primitive_opt::<TimestampMicrosecondType>()
}

/// Whether an object can hold rows of the range: asks the manifest, then the object's footer.
///
/// # Errors
/// As [`read::rows`](crate::parquet::read::rows).
pub async fn touches(store: &Store, manifest: &Manifest, range: &TimeRange) -> Result<bool, SinkError> {
    if !range.may_touch(&manifest.publication) {
        return Ok(false);
    }
    let Some(table) = Table::archive_of(manifest.publication.topic) else { return Ok(true) };
    if range.is_all() {
        return Ok(true);
    }
    let footer = footer(store, manifest).await?;
    // Without statistics nothing can be left out.
    Ok(bounds(&footer, time_column(table)).is_none_or(|(min, max)| range.touches(min, max)))
}

/// Reads the end of an object: at most two requests.
async fn footer(store: &Store, manifest: &Manifest) -> Result<ParquetMetaData, SinkError> {
    let (key, size) = (&manifest.object.key, manifest.object.bytes);
    let mut wanted = FOOTER_BYTES;
    loop {
        let first = size.saturating_sub(wanted);
        let tail: Bytes = store.get_range(key, first..size).await?.ok_or_else(|| damaged(key, "it is missing"))?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&tail, size) {
            Ok(()) => return reader.finish().map_err(|error| damaged(key, error)),
            Err(ParquetError::NeedMoreData(needed)) if first > 0 && needed as u64 > wanted => wanted = needed as u64,
            Err(error) => return Err(damaged(key, error)),
        }
    }
}

/// Least and greatest value of a time column over all row groups; `None` where one does not say.
fn bounds(footer: &ParquetMetaData, column: &str) -> Option<(TimestampMicros, TimestampMicros)> {
    let mut all: Option<(i64, i64)> = None;
    for group in footer.row_groups() {
        let chunk = group.columns().iter().find(|chunk| chunk.column_path().string() == column)?;
        let Some(Statistics::Int64(statistics)) = chunk.statistics() else { return None };
        let (min, max) = (*statistics.min_opt()?, *statistics.max_opt()?);
        all = Some(all.map_or((min, max), |(low, high)| (low.min(min), high.max(max))));
    }
    all.map(|(min, max)| (TimestampMicros(min), TimestampMicros(max)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::testing::fixture::{CLEAN, NINE};

    fn at(ms: i64) -> TimestampMicros {
        TimestampMicros::from_ms(NINE + ms)
    }

    fn range(first: Option<i64>, next: Option<i64>) -> TimeRange {
        TimeRange { first: first.map(at), next: next.map(at) }
    }

    #[test]
    fn a_range_holds_its_first_time_and_not_its_next() {
        let check = |first, next, expected: [bool; 4]| {
            let range = range(first, next);
            assert_eq!([9, 10, 19, 20].map(|ms| range.contains(at(ms))), expected, "{range:?}");
        };
        check(Some(10), Some(20), [false, true, true, false]);
        check(Some(10), None, [false, true, true, true]);
        check(None, Some(20), [true, true, true, false]);
        check(None, None, [true; 4]);
        check(Some(20), Some(10), [false; 4]);
    }

    #[test]
    fn only_a_manifest_that_ended_a_day_before_the_range_leaves_it_out() {
        let check = |max: Option<i64>, first: Option<i64>, expected: bool| {
            let mut publication = Publication::open(CLEAN, 0, at(0));
            publication.broker_time_max_us = max.map(|ms| at(ms).0);
            assert_eq!(range(first, None).may_touch(&publication), expected, "{max:?} {first:?}");
        };
        check(Some(0), None, true);
        check(Some(0), Some(86_400_000), true);
        check(Some(0), Some(86_400_001), false);
        // Any event may arrive late.
        check(Some(900_000_000), Some(0), true);
        check(None, None, false);
    }
}
