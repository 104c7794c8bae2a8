//! Replay: what the archive holds of a range of event time goes into a database or into a log again.
//!
//! `plan` decides where, and refuses what would harm the installation itself; `walk` reads and chooses;
//! `database` and `log` take what was chosen. Nothing here writes to the archive.

pub mod database;
pub mod log;
pub mod plan;
pub(crate) mod ticks;

use schemas::record::Record;
use serde::Serialize;
use sinks::manifest::Manifest;
use sinks::parquet::range::{self, TimeRange};
use sinks::parquet::read;
use sinks::parquet::store::Store;

/// What takes replayed records.
pub trait Taker {
    /// Takes one record; per partition they come in order of offset.
    fn take(&mut self, record: Record) -> impl Future<Output = anyhow::Result<()>>;

    /// The object has ended: finishes what is in hand.
    fn end_object(&mut self) -> impl Future<Output = anyhow::Result<()>>;
}

/// What a walk did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Objects of the archive.
    pub objects: u64,
    /// Objects that were read: the others hold nothing of the range.
    pub objects_read: u64,
    /// Rows in these.
    pub rows_read: u64,
    /// Rows of the range.
    pub rows_kept: u64,
}

impl Tally {
    /// As a sentence's part.
    pub fn to_text(&self) -> String {
        let Self { objects, objects_read, rows_read, rows_kept } = self;
        format!("{objects_read} of {objects} objects read, {rows_kept} of {rows_read} rows kept")
    }
}

/// Hands every archived record of the range to `taker`: per partition in order of offset. `progress` is told
/// after each object.
///
/// # Errors
/// The archive cannot be read, or `taker` failed: the message names the object.
pub async fn walk<T: Taker>(
    store: &Store,
    manifests: &[Manifest],
    range: &TimeRange,
    taker: &mut T,
    mut progress: impl FnMut(),
) -> anyhow::Result<Tally> {
    let mut tally = Tally { objects: manifests.len() as u64, ..Tally::default() };
    for manifest in manifests {
        if range::touches(store, manifest, range).await? {
            tally.objects_read += 1;
            for row in read::rows(store, manifest).await? {
                let (time, record) = row?;
                tally.rows_read += 1;
                if range.contains(time) {
                    tally.rows_kept += 1;
                    taker.take(record).await?;
                }
            }
            taker.end_object().await?;
        }
        progress();
    }
    Ok(tally)
}
