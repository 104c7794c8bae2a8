//! Asks the log where its partitions end, for the lag.
//!
//! It runs beside the roles, so that the lag of a role that is stuck is seen to grow.

use std::time::Duration;

use ingest::log::Broker;

use crate::clock;
use crate::metrics::PartitionTable;

/// Asks again after each interval, and at once when partitions were assigned. Never returns.
pub(super) async fn watch<B: Broker>(broker: B, table: PartitionTable, interval: Duration) {
    loop {
        for partition in table.partitions() {
            match broker.bounds(partition).await {
                Ok(bounds) => table.ends(partition, bounds.end, clock::now()),
                Err(error) => {
                    // The roles say so too, and louder; the old ends stay.
                    tracing::debug!(%error, "no lag");
                    break;
                }
            }
        }
        tokio::select! {
            () = table.changed() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}
