//! Replayed clean events as records of a log that is not the installation's own.
//!
//! Records keep partition, order, broker time, source and exact value; the key is made as the stage `pii`
//! makes it. Offsets are new. Ticks are made, as the archive keeps none.

use anyhow::Context as _;
use ingest::log::{Appender, Broker};
use schemas::codec::codec;
use schemas::event::CleanEvent;
use schemas::limits::{STEP_BYTES_MAX, STEP_RECORDS_MAX};
use schemas::record::{OutRecord, PartitionId, Record};
use schemas::topic::{Topic, session_key};
use sinks::manifest::Manifest;

use super::Taker;
use super::ticks::Ticks;
use crate::roles;

/// Appends to the clean topic of a log.
#[derive(Debug)]
pub struct IntoLog<A> {
    appender: A,
    partitions: u32,
    /// Generation of the topics that the records come from.
    generation: Option<u32>,
    ticks: Ticks,
    ticks_written: u64,
    waiting: Vec<OutRecord>,
    waiting_bytes: usize,
}

/// Makes the topics of a target log, unless they are there, and opens it.
///
/// # Errors
/// A topic has another number of partitions, the archive has more than `partitions`, or the clean topic is
/// not empty: what was appended before would be there twice.
pub async fn open<B: Broker>(
    broker: &B,
    partitions: u32,
    manifests: &[Manifest],
) -> anyhow::Result<IntoLog<B::Appender>> {
    if let Some(beyond) = manifests.iter().map(|m| m.publication.partition_id().index()).find(|n| *n >= partitions) {
        anyhow::bail!(
            "the archive has a partition {beyond} of {} and the target would have {partitions}: set log.partitions to \
             what the archived topic has",
            Topic::Clean
        );
    }
    roles::create_topics(broker, partitions).await?;
    for partition in broker.numbers(Topic::Clean).await? {
        let id = PartitionId { topic: Topic::Clean, partition };
        let end = broker.bounds(id).await?.end;
        anyhow::ensure!(
            end == 0,
            "the target's {}/{partition} has been written up to offset {end}, and what is replayed would be there twice: \
             name a new --kafka-namespace or directory, or delete that topic",
            Topic::Clean
        );
    }
    let appender = broker.appender().await?;
    let ticks = Ticks::default();
    Ok(IntoLog {
        appender,
        partitions,
        generation: None,
        ticks,
        ticks_written: 0,
        waiting: Vec::new(),
        waiting_bytes: 0,
    })
}

impl<A: Appender> IntoLog<A> {
    /// Tells every partition the time of the newest record; ticks that were written in all.
    ///
    /// # Errors
    /// The log cannot be written to.
    pub async fn finish(mut self) -> anyhow::Result<u64> {
        for tick in self.ticks.closing(self.partitions) {
            self.push(tick);
            self.ticks_written += 1;
        }
        self.append().await?;
        Ok(self.ticks_written)
    }

    fn push(&mut self, record: OutRecord) {
        self.waiting_bytes += record.value.as_deref().map_or(0, <[u8]>::len);
        self.waiting.push(record);
    }

    async fn append(&mut self) -> anyhow::Result<()> {
        let records = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if !records.is_empty() {
            let failed = "the replay was cut short: go on with an empty target";
            self.appender.append(records).await.context(failed)?;
        }
        Ok(())
    }
}

/// The record as the stage `pii` wrote it.
fn clean_record(record: Record) -> anyhow::Result<OutRecord> {
    let event: CleanEvent = codec().decode(record.value.as_deref()).map_err(|error| {
        anyhow::anyhow!("offset {} of the archive is no clean event: {}", record.at.offset, error.detail)
    })?;
    let h = event.h();
    Ok(OutRecord {
        topic: Topic::Clean,
        partition: Some(record.at.partition.partition),
        timestamp: record.timestamp,
        key: Some(session_key(&h.tenant_id, h.session_id).into()),
        value: record.value,
        headers: record.headers,
    })
}

impl<A: Appender> Taker for IntoLog<A> {
    async fn take(&mut self, mut record: Record) -> anyhow::Result<()> {
        let generation = record.at.partition.generation();
        anyhow::ensure!(
            *self.generation.get_or_insert(generation) == generation,
            "the range holds records from before and after `custody topics migrate`, whose sessions are in other \
             partitions: replay each side of it by itself, with --from and --to, into an empty target"
        );
        // The target is of the first generation.
        record.at.partition.partition = record.at.partition.index();
        if let Some(tick) = self.ticks.before(&record) {
            self.push(tick);
            self.ticks_written += 1;
        }
        self.push(clean_record(record)?);
        match self.waiting.len() >= STEP_RECORDS_MAX || self.waiting_bytes >= STEP_BYTES_MAX {
            true => self.append().await,
            false => Ok(()),
        }
    }

    async fn end_object(&mut self) -> anyhow::Result<()> {
        self.append().await
    }
}
