//! Carries the state of every stage into the partitions of the next generation, and reads back what it wrote.
//!
//! The old state is final: its input was read to its end in the same step that wrote it. Carrying it over twice
//! therefore writes the same, and an interrupted attempt is brought in line with the next.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ingest::log::kafka::KafkaBroker;
use ingest::log::{Appender as _, Broker, LogError};
use processors::rekey::{Change, StateEntry};
use schemas::limits::STEP_BYTES_MAX;
use schemas::record::{OutRecord, PartitionId};
use schemas::topic::Topic;

use super::{Migration, say};
use crate::clock;
use crate::operate::status::ASKED_AT_A_TIME;
use crate::stage_table::STAGES;

type Entries = BTreeMap<(u32, Bytes), Bytes>;

impl Migration<'_> {
    /// Carries everything over.
    pub(super) async fn carry(&self) -> anyhow::Result<()> {
        let change = Change { from: self.from(), to: self.request.partitions, first: self.old.first_partition() };
        for spec in &STAGES {
            let Some(topic) = spec.state else { continue };
            self.create(topic).await?;
            let state: Vec<StateEntry> = entries(&self.old, topic)
                .await?
                .into_iter()
                .map(|((partition, key), value)| StateEntry { partition, key, value })
                .collect();
            let wanted = (spec.rekey)(&state, &change)?;
            self.write(topic, &wanted.entries).await?;
            say(format_args!(
                "{}: {} state entries became {}, written and read back",
                spec.group,
                state.len(),
                wanted.entries.len()
            ));
            for (what, count) in &wanted.left {
                say(format_args!("  NOT CARRIED: {count} {what}"));
            }
        }
        Ok(())
    }

    /// Brings a state topic of the next generation in line with `wanted`.
    async fn write(&self, topic: Topic, wanted: &Entries) -> anyhow::Result<()> {
        let held = entries(&self.new, topic).await?;
        let first = self.new.first_partition();
        let at = clock::now();
        let record = |(partition, key): &(u32, Bytes), value: Option<&Bytes>| OutRecord {
            topic,
            partition: Some(first + partition),
            timestamp: at,
            key: Some(key.clone()),
            value: value.cloned(),
            headers: Vec::new(),
        };
        let gone = held.keys().filter(|place| !wanted.contains_key(*place)).map(|place| record(place, None));
        let changed = wanted.iter().filter(|(place, value)| held.get(*place) != Some(*value));
        let mut appender = self.new.appender().await?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for next in gone.chain(changed.map(|(place, value)| record(place, Some(value)))) {
            bytes += next.value.as_ref().map_or(0, Bytes::len) + next.key.as_ref().map_or(0, Bytes::len);
            batch.push(next);
            if bytes >= STEP_BYTES_MAX {
                appender.append(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        appender.append(batch).await?;
        anyhow::ensure!(
            entries(&self.new, topic).await? == *wanted,
            "{} does not hold what was written to it: does a role of the next generation run already? Stop it and run \
             the command again",
            self.new.wire_name(topic)
        );
        Ok(())
    }
}

/// The live entries of a state topic, by partition within its generation.
async fn entries(broker: &KafkaBroker, topic: Topic) -> anyhow::Result<Entries> {
    let restored = broker.numbers(topic).await?.map(|partition| async move {
        let id = PartitionId { topic, partition };
        Ok::<_, LogError>((id.index(), broker.state(id).await?))
    });
    // Intake has begun again, but no row comes before this has ended.
    let restored: Vec<_> = stream::iter(restored).buffered(ASKED_AT_A_TIME).try_collect().await?;
    let of = |(index, of): (u32, Vec<(Bytes, Bytes)>)| of.into_iter().map(move |(key, value)| ((index, key), value));
    Ok(restored.into_iter().flat_map(of).collect())
}
