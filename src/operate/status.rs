//! How far everything is: lag of every role, what was published last, what is open.
//!
//! Facts are read from outside the roles' groups, so that asking disturbs nobody. It does not judge.

pub mod archive;
#[cfg(test)]
mod tests;
mod text;

use std::borrow::Cow;
use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use ingest::log::{Broker, LogError};
use schemas::record::PartitionId;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use serde::{Deserialize, Serialize};
use sinks::alerts::config::group_of;
use sinks::clickhouse::client::ClickHouse;
use sinks::parquet::store::Store;

use self::archive::ArchiveStatus;
use crate::dlq::scan;
use crate::sink_table::{PUBLISHED, SINKS, SinkSpec};
use crate::stage_table::{STAGES, StageSpec};

/// The state of an installation at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// When it was asked, milliseconds since the epoch.
    pub asked_at_ms: i64,
    /// Every group that reads a topic.
    pub readers: Vec<ReaderStatus>,
    /// What is archived, and what waits for it.
    #[serde(default)]
    pub archive: ArchiveStatus,
    /// Open dead letters by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// What ClickHouse holds; `None` if it cannot be asked.
    pub clickhouse: Option<TableStatus>,
    /// Why ClickHouse could not be asked; empty if it could.
    pub clickhouse_error: String,
}

/// What is asked beside the log.
#[derive(Debug, Clone)]
pub struct Sources {
    /// ClickHouse, if there is one to ask.
    pub clickhouse: Option<ClickHouse>,
    /// The archive's store, or why it cannot be asked.
    pub store: Result<Store, String>,
    /// Names of the alert receivers, each of which has a group of its own.
    pub receivers: Vec<String>,
}

/// A group that reads a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Role.
    pub role: &'static str,
    /// Consumer group.
    pub group: Cow<'static, str>,
    /// Topic.
    pub topic: Topic,
}

/// The role of alert receivers.
const ALERT: &str = "alert";

/// Every group of the pipeline but those of alert receivers, which the configuration names: stages upstream first,
/// then sinks.
pub fn pipeline_readers() -> Vec<Reader> {
    let of_stage = |spec: &StageSpec| Reader { role: spec.name, group: Cow::Borrowed(spec.group), topic: spec.source };
    let of_sink = |spec: &SinkSpec| {
        let (role, sink) = (spec.name, spec.sink);
        PUBLISHED.map(|topic| Reader { role, group: sink.group(topic), topic })
    };
    STAGES.iter().map(of_stage).chain(SINKS.iter().flat_map(of_sink)).collect()
}

/// Every group of an installation with these alert receivers.
pub fn readers(receivers: &[String]) -> Vec<Reader> {
    let of = |name: &String| Reader { role: ALERT, group: Cow::Owned(group_of(name)), topic: Topic::Alerts };
    pipeline_readers().into_iter().chain(receivers.iter().map(of)).collect()
}

/// Names of all roles that read a topic, as `custody status` shows them.
pub fn reader_roles() -> Vec<&'static str> {
    let mut roles: Vec<&str> = pipeline_readers().iter().map(|reader| reader.role).collect();
    roles.dedup();
    roles.push(ALERT);
    roles
}

/// How far a group is in a topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReaderStatus {
    /// Role, e.g. `archive`.
    pub role: String,
    /// Consumer group.
    pub group: String,
    /// Topic.
    pub topic: String,
    /// Records between the committed position and the end, over all partitions.
    pub lag_records: u64,
    /// Age of the oldest record that is not committed yet, tick or not, seconds; 0 at the end.
    pub lag_seconds: f64,
    /// Partitions that nobody has committed in, though they hold records.
    pub partitions_unread: u32,
    /// Committed position by partition.
    pub committed_next: BTreeMap<u32, u64>,
}

/// What ClickHouse holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Rows of the events table.
    pub events: u64,
    /// Newest event time of a row, empty if there is none.
    pub newest_event_time: String,
    /// Newest sessions first.
    pub sessions: Vec<SessionStatus>,
}

/// A session as the tables show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Tenant.
    pub tenant_id: String,
    /// Agent.
    pub agent_id: String,
    /// Session.
    pub session_id: String,
    /// Its events.
    pub events: u64,
    /// Newest event time.
    pub last_event_time: String,
}

/// Partitions or topics that are asked about at a time. On Kafka a read takes a connection of its own, a third of
/// a second on two busy cores: one after the other, 64 partitions would take 21 s.
pub(super) const ASKED_AT_A_TIME: usize = 8;
/// Sessions that a status lists.
const SESSIONS_MAX: usize = 10;

/// Asks the log, the archive's store and ClickHouse.
///
/// # Errors
/// The log cannot be reached; a store or a ClickHouse that is away is part of the answer.
pub async fn gather<B: Broker>(broker: &B, sources: &Sources, now: TimestampMicros) -> Result<Status, LogError> {
    let mut groups = Vec::new();
    for reader in readers(&sources.receivers) {
        groups.push(reader_status(broker, &reader, now).await?);
    }
    let archive = archive::gather(broker, sources.store.as_ref(), now).await?;
    let letters = scan::letters(broker).await?;
    let dead_letters = letters.open_by_reason().into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect();
    let (clickhouse, clickhouse_error) = match &sources.clickhouse {
        None => (None, "not configured".to_owned()),
        Some(server) => match tables(server).await {
            Ok(tables) => (Some(tables), String::new()),
            Err(error) => (None, error.to_string()),
        },
    };
    Ok(Status { asked_at_ms: now.ms(), readers: groups, archive, dead_letters, clickhouse, clickhouse_error })
}

/// How far a group is in its topic.
///
/// # Errors
/// The log cannot be reached.
pub async fn reader_status<B: Broker>(
    broker: &B,
    reader: &Reader,
    now: TimestampMicros,
) -> Result<ReaderStatus, LogError> {
    let mut status = ReaderStatus {
        role: reader.role.to_owned(),
        group: reader.group.clone().into_owned(),
        topic: reader.topic.name().to_owned(),
        lag_records: 0,
        lag_seconds: 0.0,
        partitions_unread: 0,
        committed_next: BTreeMap::new(),
    };
    let group = &reader.group;
    let positions = broker.numbers(reader.topic).await?.map(|partition| async move {
        let id = PartitionId { topic: reader.topic, partition };
        let bounds = broker.bounds(id).await?;
        let committed = broker.committed(group, id).await?.map(|c| c.next);
        let next = committed.unwrap_or(bounds.start).clamp(bounds.start, bounds.end);
        // Control records of transactions count among the offsets, but are nobody's lag.
        let (records, _) = if next < bounds.end { broker.read(id, next).await? } else { (Vec::new(), next) };
        let oldest = records.into_iter().next();
        Ok::<_, LogError>((partition, bounds, committed, oldest))
    });
    let positions: Vec<_> = stream::iter(positions.collect::<Vec<_>>()).buffered(ASKED_AT_A_TIME).try_collect().await?;
    for (partition, bounds, committed, oldest) in positions {
        status.partitions_unread += u32::from(committed.is_none() && bounds.start < bounds.end);
        status.committed_next.extend(committed.map(|next| (partition, next)));
        if let Some(oldest) = oldest {
            status.lag_records += bounds.end - oldest.at.offset;
            let age_seconds = (now.0 - oldest.timestamp.0) as f64 / 1e6;
            status.lag_seconds = status.lag_seconds.max(age_seconds);
        }
    }
    Ok(status)
}

async fn tables(server: &ClickHouse) -> Result<TableStatus, sinks::error::SinkError> {
    #[derive(Deserialize)]
    struct Totals {
        events: u64,
        newest_event_time: String,
    }
    let database = server.database();
    let totals: Vec<Totals> = server
        .rows(&format!(
            "SELECT count() AS events, if(count() = 0, '', toString(max(event_time))) AS newest_event_time FROM {database}.events"
        ))
        .await?;
    let sessions = server
        .rows(&format!(
            "SELECT e.tenant_id AS tenant_id, any(e.agent_id) AS agent_id, toString(e.session_id) AS session_id, \
             count() AS events, toString(max(e.event_time)) AS last_event_time FROM {database}.events AS e \
             WHERE e.session_id != toUUID('00000000-0000-0000-0000-000000000000') \
             AND e.event_time > (SELECT max(event_time) FROM {database}.events) - INTERVAL 1 DAY \
             GROUP BY e.tenant_id, e.session_id ORDER BY max(e.event_time) DESC LIMIT {SESSIONS_MAX}"
        ))
        .await?;
    let totals = totals.into_iter().next();
    Ok(TableStatus {
        events: totals.as_ref().map_or(0, |t| t.events),
        newest_event_time: totals.map(|t| t.newest_event_time).unwrap_or_default(),
        sessions,
    })
}
