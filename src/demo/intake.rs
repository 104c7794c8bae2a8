//! Brings the fleet's records into the log, in order, and continues where a killed run stopped.
//!
//! The stream is a pure function of its configuration, and intake appends each partition's records
//! in stream order: the first `n` records of a partition are there if its next offset is `n`.

use std::collections::BTreeMap;

use anyhow::Context;
use ingest::log::{Appender, Broker, ErrorClass, Log};
use schemas::record::{OutRecord, PartitionId};
use schemas::topic::Topic;

use crate::fleet::stream::Stream;
use crate::runner::control::Control;

/// Records in one append: enough to share an fsync, few enough to keep latency low.
const APPEND_RECORDS_MAX: usize = 1_000;

/// Records that each partition of the events topic holds already.
///
/// # Errors
/// The log cannot be asked.
pub(crate) async fn present<B: Broker>(broker: &B, partitions: u32) -> anyhow::Result<BTreeMap<u32, u64>> {
    let mut log = broker.consumer("custody-demo-intake", Topic::Events, "0").await?;
    let mut present = BTreeMap::new();
    for partition in 0..partitions {
        let bounds = log.bounds(PartitionId { topic: Topic::Events, partition }).await?;
        present.insert(partition, bounds.end);
    }
    log.close().await?;
    Ok(present)
}

/// Appends what is not `present` yet; tells `progress` after each append.
///
/// # Errors
/// The log refused for good, or intake was told to stop.
pub(crate) async fn run<B: Broker>(
    broker: &B,
    stream: &mut Stream<'_>,
    mut present: BTreeMap<u32, u64>,
    control: &Control,
    mut progress: impl FnMut(&Stream<'_>),
) -> anyhow::Result<()> {
    let mut appender = broker.appender().await?;
    loop {
        let mut batch: Vec<OutRecord> = Vec::with_capacity(APPEND_RECORDS_MAX);
        let exhausted = loop {
            let Some(record) = stream.next() else { break true };
            match present.get_mut(&record.partition.unwrap_or_default()) {
                Some(count) if *count > 0 => *count -= 1,
                _ => batch.push(record),
            }
            if batch.len() == APPEND_RECORDS_MAX {
                break false;
            }
        };
        control.records.add(batch.len() as u64);
        append(&mut appender, batch).await?;
        progress(stream);
        if exhausted {
            return Ok(());
        }
        anyhow::ensure!(!control.stop.is_raised(), "interrupted: run the same command again to continue");
    }
}

/// Appends one batch. An append that may have been written in part is not repeated: the records
/// carry no new positions, and doing it twice would add duplicates that nobody planted.
async fn append<A: Appender>(appender: &mut A, batch: Vec<OutRecord>) -> anyhow::Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    match appender.append(batch).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.class, ErrorClass::Retry { .. }) => {
            Err(error).context("the log did not acknowledge a batch: run the same command again to continue")
        }
        Err(error) => Err(error.into()),
    }
}
