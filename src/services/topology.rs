//! Stops a process under whose feet the topics change.
//!
//! Every key was mapped to a partition by the count that the process started with: other partitions than those
//! are unknown, and unknown stops. A successor that was announced stops intake in order, so that everything that
//! it acknowledged is in the topics before they take no more.

use std::time::Duration;

use ingest::log::{Broker, LogError};
use schemas::topic::Topic;

use super::open::superseded;
use crate::config::{Config, Role};
use crate::operate::topics::miscounted;

/// How often the brokers are asked. `custody topics migrate` gives processes three times as long to see it.
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);

/// Returns why the process must stop; never, while nothing changes.
pub(super) async fn watch<B: Broker>(broker: &B, config: &Config, role: Role) -> anyhow::Error {
    loop {
        tokio::time::sleep(INTERVAL).await;
        match look(broker, config, role).await {
            Ok(Some(why)) => return anyhow::anyhow!(why),
            Ok(None) => {}
            // The roles say so too, and louder.
            Err(error) => tracing::debug!(%error, "the topics were not looked at"),
        }
    }
}

async fn look<B: Broker>(broker: &B, config: &Config, role: Role) -> Result<Option<String>, LogError> {
    if let Some(why) = superseded(&broker.successor().await?, role, config.log.generation) {
        return Ok(Some(why));
    }
    for &topic in Topic::ALL {
        // A topic that is gone is told by whoever reads or writes it.
        let found = broker.partitions_now(topic).await?;
        let changed = found.and_then(|found| miscounted(topic, found, config.log.partitions));
        if let Some(why) = changed {
            return Ok(Some(format!("the topics were changed while this process ran: {why}")));
        }
    }
    Ok(None)
}
