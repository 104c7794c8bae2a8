//! Reads the dead-letter topic from its start, without joining a group.

use ingest::log::{Broker, LogError};
use schemas::record::PartitionId;
use schemas::topic::Topic;

use super::Letters;

/// Every letter that the topic still holds, with what became of it.
///
/// # Errors
/// The log cannot be read.
pub async fn letters<B: Broker>(broker: &B) -> Result<Letters, LogError> {
    let mut letters = Letters::default();
    for partition in broker.numbers(Topic::Dlq).await? {
        let id = PartitionId { topic: Topic::Dlq, partition };
        let bounds = broker.bounds(id).await?;
        let mut offset = bounds.start;
        while offset < bounds.end {
            let (records, next) = broker.read(id, offset).await?;
            records.iter().for_each(|record| letters.push(record));
            offset = next;
        }
    }
    Ok(letters)
}
