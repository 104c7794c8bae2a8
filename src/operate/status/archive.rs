//! The archive in a status: per topic the newest published object, and how long a record has waited for the next.
//!
//! The store says what is published, the log what is not. An object is published, and its rows are sealed, once
//! its manifest is there: the seal is the manifest chain. Listing is bounded: see `sinks::parquet::read::newest`.

use std::time::Duration;

use futures::StreamExt as _;
use futures::TryStreamExt as _;
use ingest::log::{Broker, LogError};
use schemas::codec::{Derived, codec};
use schemas::record::{PartitionId, Record};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use serde::{Deserialize, Serialize};
use sinks::error::SinkError;
use sinks::parquet::read::{self, Newest};
use sinks::parquet::store::Store;

use crate::sink_table::{PUBLISHED, Sink};

/// Steps of the log that are read for a partition's oldest record that is no tick. A tick every two seconds
/// fills one in two hours, and the archive passes over ticks by the hour.
const STEPS_MAX: usize = 4;
/// Partitions whose newest manifest is looked for at the same time.
const LISTINGS: usize = 16;
/// Longest wait for the store; a store that is away is repeated for longer than anybody looks on.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is archived, and what waits for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// Every archived topic.
    pub topics: Vec<TopicArchive>,
    /// Why the store could not be asked; empty if it could. No topic has a last object then.
    pub error: String,
}

/// The archive of a topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopicArchive {
    /// Topic.
    pub topic: String,
    /// The object of any partition that was published last; `None` if there is none or the store is away.
    pub last_object: Option<ObjectStatus>,
    /// Age of the oldest record that is not published, ticks not counted, seconds; 0 if none waits, `None` if
    /// there are so many ticks that no record was found behind them.
    pub oldest_unflushed_seconds: Option<f64>,
}

/// A published object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectStatus {
    /// Its key in the store.
    pub key: String,
    /// Its rows.
    pub rows: u64,
    /// When the store took its manifest, by the store's clock, milliseconds since the epoch.
    pub published_at_ms: i64,
    /// How long ago that was, seconds: the age of the newest sealed evidence.
    pub seal_age_seconds: f64,
}

/// What the log says of a topic.
struct Waiting {
    topic: Topic,
    /// Per partition an offset close to the end of what is archived.
    near: Vec<(PartitionId, u64)>,
    oldest_seconds: Option<f64>,
}

/// Asks the log, and the store if there is one.
///
/// # Errors
/// The log cannot be reached; a store that is away is part of the answer.
pub(super) async fn gather<B: Broker>(
    broker: &B,
    store: Result<&Store, &String>,
    now: TimestampMicros,
) -> Result<ArchiveStatus, LogError> {
    let mut waiting = Vec::new();
    for topic in PUBLISHED {
        waiting.push(waiting_of(broker, topic, &Sink::Archive.group(topic), now).await?);
    }
    let (last, error) = match store {
        Err(why) => (Vec::new(), why.clone()),
        Ok(store) => match tokio::time::timeout(STORE_TIMEOUT, last_objects(store, &waiting, now)).await {
            Ok(Ok(last)) => (last, String::new()),
            Ok(Err(error)) => (Vec::new(), error.to_string()),
            Err(_) => (Vec::new(), format!("no answer within {} s", STORE_TIMEOUT.as_secs())),
        },
    };
    let mut last = last.into_iter();
    let topic = |Waiting { topic, oldest_seconds, .. }| TopicArchive {
        topic: Topic::name(topic).to_owned(),
        last_object: last.next().flatten(),
        oldest_unflushed_seconds: oldest_seconds,
    };
    Ok(ArchiveStatus { topics: waiting.into_iter().map(topic).collect(), error })
}

async fn waiting_of<B: Broker>(
    broker: &B,
    topic: Topic,
    group: &str,
    now: TimestampMicros,
) -> Result<Waiting, LogError> {
    let mut waiting = Waiting { topic, near: Vec::new(), oldest_seconds: Some(0.0) };
    for partition in broker.numbers(topic).await? {
        let id = PartitionId { topic, partition };
        let bounds = broker.bounds(id).await?;
        let committed = broker.committed(group, id).await?.map(|c| c.next);
        waiting.near.push((id, committed.unwrap_or(bounds.end)));
        let next = committed.unwrap_or(bounds.start).clamp(bounds.start, bounds.end);
        let age = match oldest(broker, id, next, bounds.end).await? {
            Oldest::None => Some(0.0),
            Oldest::At(time) => Some(seconds_between(time, now)),
            Oldest::Unknown => None,
        };
        // The oldest of all; unknown only where no partition has a record to show.
        waiting.oldest_seconds = match (waiting.oldest_seconds, age) {
            (Some(a), Some(b)) => Some(f64::max(a, b)),
            (Some(known), None) | (None, Some(known)) if known > 0.0 => Some(known),
            _ => None,
        };
    }
    Ok(waiting)
}

/// The oldest record of a partition that is no tick.
enum Oldest {
    None,
    At(TimestampMicros),
    Unknown,
}

async fn oldest<B: Broker>(broker: &B, id: PartitionId, first: u64, end: u64) -> Result<Oldest, LogError> {
    let mut offset = first;
    for _ in 0..STEPS_MAX {
        if offset >= end {
            return Ok(Oldest::None);
        }
        let (records, next) = broker.read(id, offset).await?;
        if let Some(record) = records.iter().find(|record| !is_tick(record)) {
            return Ok(Oldest::At(record.timestamp));
        }
        offset = next;
    }
    Ok(if offset >= end { Oldest::None } else { Oldest::Unknown })
}

/// What cannot be read waits too.
fn is_tick(record: &Record) -> bool {
    matches!(codec().decode_derived(record.value.as_deref()), Ok(Derived::Event(event)) if event.is_tick())
}

/// The newest object of each topic, in their order.
async fn last_objects(
    store: &Store,
    topics: &[Waiting],
    now: TimestampMicros,
) -> Result<Vec<Option<ObjectStatus>>, SinkError> {
    let mut objects = Vec::new();
    for topic in topics {
        let near = topic.near.iter().copied();
        let listed = futures::stream::iter(near.map(|(id, near)| read::newest(store, id, near)));
        let newest: Vec<Option<Newest>> = listed.buffered(LISTINGS).try_collect().await?;
        let last = newest.into_iter().flatten().max_by_key(|newest| newest.published_at);
        objects.push(match last {
            Some(newest) => Some(object(store, newest, now).await?),
            None => None,
        });
    }
    Ok(objects)
}

async fn object(store: &Store, newest: Newest, now: TimestampMicros) -> Result<ObjectStatus, SinkError> {
    let manifest = read::manifest(store, &newest.key).await?;
    Ok(ObjectStatus {
        key: manifest.object.key,
        rows: manifest.publication.rows,
        published_at_ms: newest.published_at.ms(),
        seal_age_seconds: seconds_between(newest.published_at, now),
    })
}

/// Not below 0: other clocks may be ahead.
fn seconds_between(time: TimestampMicros, now: TimestampMicros) -> f64 {
    (now.0.saturating_sub(time.0) as f64 / 1e6).max(0.0)
}
