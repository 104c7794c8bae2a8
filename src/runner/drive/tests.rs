//! How the loop ends. What it does with records is tested with the stages and the services.

use std::ops::Range;

use bytes::Bytes;
use ingest::log::memory::MemoryBroker;
use ingest::log::{Broker as _, Committed, Log, LogError, LogEvent, Txn};
use processors::completeness::{Writers, WritersConfig};
use schemas::record::PartitionId;
use schemas::testing::PATIENCE;
use schemas::topic::Topic;

use super::drive;
use crate::roles;
use crate::runner::control::{Control, Flag};
use crate::runner::core::{OutputPartitions, RunnerCore};
use crate::stage_table::Stage;

/// A log that never tells a state, as while a transaction in it is not decided.
struct Undecided<L> {
    log: L,
    is_asked: Flag,
}

impl<L: Log> Log for Undecided<L> {
    async fn restore(&mut self, _: PartitionId) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        self.is_asked.raise();
        std::future::pending().await
    }

    async fn next(&mut self) -> Result<LogEvent, LogError> {
        self.log.next().await
    }

    async fn commit(&mut self, txn: Txn) -> Result<(), LogError> {
        self.log.commit(txn).await
    }

    async fn seek(&mut self, partition: PartitionId, offset: u64) -> Result<(), LogError> {
        self.log.seek(partition, offset).await
    }

    async fn hold(&mut self, partition: PartitionId) -> Result<(), LogError> {
        self.log.hold(partition).await
    }

    async fn committed(&mut self, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        self.log.committed(partition).await
    }

    async fn commit_offset(&mut self, partition: PartitionId, committed: Committed) -> Result<(), LogError> {
        self.log.commit_offset(partition, committed).await
    }

    async fn bounds(&mut self, partition: PartitionId) -> Result<Range<u64>, LogError> {
        self.log.bounds(partition).await
    }

    async fn close(self) -> Result<(), LogError> {
        self.log.close().await
    }
}

#[tokio::test]
async fn a_stage_that_waits_for_its_state_ends_when_it_is_told_to() {
    let (broker, control) = (MemoryBroker::new(), Control::default());
    roles::create_topics(&broker, 1).await.expect("topics");
    let log = broker.consumer(Stage::Writers.spec().group, Stage::Writers.spec().source, "0").await.expect("a member");
    let mut log = Undecided { log, is_asked: Flag::default() };
    let mut core = RunnerCore::new(
        Writers::new(WritersConfig::default()),
        Stage::Writers.spec().state,
        OutputPartitions::default(),
    );
    let is_asked = log.is_asked.clone();
    let told = async {
        is_asked.raised().await;
        control.stop.raise();
    };
    let driven = drive(&mut core, &mut log, Some(Topic::StateWriters), None, &control, Stage::Writers.spec().group);
    let both = async { tokio::join!(driven, told) };
    let (ended, ()) = tokio::time::timeout(PATIENCE, both).await.expect("it ends");
    ended.expect("in order");
}
