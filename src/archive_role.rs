//! The archive as a role: feeds partitions of the log to the archive sink.
//!
//! Positions come from the store; what is committed to the log is for lag metrics only.

use ingest::log::{Committed, Log};
use schemas::record::{PartitionId, Record};
use sinks::error::SinkError;
use sinks::parquet::archive::{ArchiveConfig, ArchiveSink, Receipt};
use sinks::parquet::store::Store;

use crate::runner::sink::{RoleError, SinkRole};

/// The role.
#[derive(Debug)]
pub struct ArchiveRole {
    sink: ArchiveSink,
}

impl ArchiveRole {
    /// Opens the archive; refuses a store that ignores create-only puts.
    ///
    /// # Errors
    /// The store cannot be used: the message says why and what to change.
    pub async fn open(store: Store, config: ArchiveConfig) -> Result<Self, SinkError> {
        let nonce = crate::clock::now().0.unsigned_abs();
        Ok(Self { sink: ArchiveSink::open(store, config, nonce).await? })
    }

    async fn publish<L: Log>(&mut self, log: &mut L) -> Result<(), RoleError> {
        let outcomes = self.sink.publish().await;
        report(log, outcomes).await
    }
}

impl SinkRole for ArchiveRole {
    async fn resume<L: Log>(&mut self, log: &mut L, partition: PartitionId) -> Result<u64, RoleError> {
        let next = match self.sink.position(partition).await? {
            Some(next) => next,
            None => log.bounds(partition).await?.start,
        };
        self.sink.assign(partition, next)?;
        Ok(next)
    }

    async fn take<L: Log>(
        &mut self,
        log: &mut L,
        _: PartitionId,
        records: Vec<Record>,
        _: u64,
    ) -> Result<(), RoleError> {
        self.sink.push(&records)?;
        match self.sink.sealed() {
            0 => Ok(()),
            _ => self.publish(log).await,
        }
    }

    async fn idle<L: Log>(&mut self, log: &mut L, is_end: bool) -> Result<(), RoleError> {
        if !is_end {
            // Only log time seals an object: a flush by the wall clock would cut files elsewhere on
            // a second run (invariant I6).
            return Ok(());
        }
        let outcomes = self.sink.flush().await?;
        report(log, outcomes).await
    }

    fn forget(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            self.sink.release(*partition);
        }
    }
}

/// Commits what was published for lag metrics, and raises the first failure.
async fn report<L: Log>(
    log: &mut L,
    outcomes: Vec<(PartitionId, Vec<Receipt>, Option<SinkError>)>,
) -> Result<(), RoleError> {
    for (partition, receipts, failure) in outcomes {
        if let Some(last) = receipts.last() {
            let committed = Committed { next: last.publication.offset_next, metadata: String::new() };
            log.commit_offset(partition, committed).await?;
        }
        if let Some(error) = failure {
            return Err(error.into());
        }
    }
    Ok(())
}
