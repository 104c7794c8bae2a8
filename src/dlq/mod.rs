//! Dead letters as an operator sees them: what was refused, why, and whether it is still open.
//!
//! Pure: records in, letters out. A letter is closed by a later record of the same partition that
//! names it (a *resolution*); nothing is ever taken out of the topic.

pub mod repair;
pub mod scan;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use schemas::record::{Headers, OutRecord, PartitionId, Position, Record, header, header_value};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

/// Header of a resolution: what was done with the letter.
const RESOLUTION: &str = "custody-dlq-resolution";
/// Header of a resolution: offset of its letter in the same partition, decimal.
const RESOLVED_OFFSET: &str = "custody-dlq-offset";
/// Header of a resolution: why, in the operator's words.
const RESOLUTION_NOTE: &str = "custody-dlq-note";
/// Header of a replayed record: the letter that it was.
pub const REPLAYED_FROM: &str = "custody-replayed-from";

/// Names of the headers that were added when the record became a letter.
const ADDED: [&str; 8] = [
    header::DLQ_REASON,
    header::DLQ_TOPIC,
    header::DLQ_PARTITION,
    header::DLQ_OFFSET,
    header::DLQ_STAGE,
    header::DLQ_MESSAGE,
    header::DLQ_RECEIVER,
    header::DLQ_STATUS,
];

/// Place of a letter in [`Topic::Dlq`], written `PARTITION/OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterId {
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(partition, offset)| {
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        });
        parsed.ok_or_else(|| format!("{text:?} is not PARTITION/OFFSET, e.g. 0/12, as `custody dlq list` prints it"))
    }
}

/// What was done with a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Its bytes were appended to their topic again.
    Replayed,
    /// An operator decided that it stays refused.
    Discarded,
}

impl Resolution {
    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where it stands.
    pub id: LetterId,
    /// Where the record stood; `None` if the headers do not say.
    pub source: Option<Position>,
    /// Reason code.
    pub reason: String,
    /// Stage that refused it.
    pub stage: String,
    /// One sentence.
    pub message: String,
    /// Broker time of the source record.
    pub timestamp: TimestampMicros,
    /// Original key.
    pub key: Option<Bytes>,
    /// Original value bytes, untouched.
    pub value: Option<Bytes>,
    /// Original headers.
    pub headers: Headers,
    /// How it was closed; `None` while it is open.
    pub resolution: Option<String>,
}

/// What a record of the dead-letter topic is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Letter(Box<Letter>),
    Resolution(LetterId, String),
}

/// Whether a record of [`Topic::Dlq`] closes a letter and is none itself.
pub fn is_resolution(record: &Record) -> bool {
    header_value(&record.headers, RESOLUTION).is_some()
}

fn entry(record: &Record) -> Entry {
    let text = |name: &str| {
        header_value(&record.headers, name).map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
    };
    let partition = record.at.partition.partition;
    if let (true, Ok(offset)) = (is_resolution(record), text(RESOLVED_OFFSET).parse()) {
        return Entry::Resolution(LetterId { partition, offset }, text(RESOLUTION));
    }
    let source = || {
        let topic = Topic::from_name(&text(header::DLQ_TOPIC))?;
        let partition = text(header::DLQ_PARTITION).parse().ok()?;
        let offset = text(header::DLQ_OFFSET).parse().ok()?;
        Some(Position { partition: PartitionId { topic, partition }, offset })
    };
    Entry::Letter(Box::new(Letter {
        id: LetterId { partition, offset: record.at.offset },
        source: source(),
        reason: text(header::DLQ_REASON),
        stage: text(header::DLQ_STAGE),
        message: text(header::DLQ_MESSAGE),
        timestamp: record.timestamp,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.iter().filter(|(name, _)| !ADDED.contains(&name.as_str())).cloned().collect(),
        resolution: None,
    }))
}

/// The letters of a dead-letter topic, each with its resolution, folded from its records.
#[derive(Debug, Default)]
pub struct Letters(BTreeMap<LetterId, Letter>);

impl Letters {
    /// Takes the next record of a partition, in offset order.
    pub fn push(&mut self, record: &Record) {
        match entry(record) {
            Entry::Letter(letter) => {
                self.0.insert(letter.id, *letter);
            }
            Entry::Resolution(id, how) => {
                if let Some(letter) = self.0.get_mut(&id) {
                    letter.resolution = Some(how);
                }
            }
        }
    }

    /// One letter.
    pub fn get(&self, id: LetterId) -> Option<&Letter> {
        self.0.get(&id)
    }

    /// All of them, oldest first in each partition.
    pub fn iter(&self) -> impl Iterator<Item = &Letter> {
        self.0.values()
    }

    /// Open letters per reason.
    pub fn open_by_reason(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for letter in self.iter().filter(|l| l.resolution.is_none()) {
            *counts.entry(letter.reason.as_str()).or_default() += 1;
        }
        counts
    }
}

/// The record that closes a letter.
pub fn resolution_record(id: LetterId, how: Resolution, note: &str, at: TimestampMicros) -> OutRecord {
    let text = |name: &str, value: String| (name.to_owned(), Bytes::from(value));
    OutRecord {
        topic: Topic::Dlq,
        partition: Some(id.partition),
        timestamp: at,
        key: None,
        value: None,
        headers: vec![
            text(RESOLUTION, how.name().to_owned()),
            text(RESOLVED_OFFSET, id.offset.to_string()),
            text(RESOLUTION_NOTE, note.to_owned()),
        ],
    }
}

/// The record that brings a letter's bytes back to where they came from.
///
/// # Errors
/// A letter that no agent sent: only records of [`Topic::Events`] can be appended again, what stages
/// refuse of each other's output is a fault of the software.
pub fn replay_record(letter: &Letter, at: TimestampMicros) -> Result<OutRecord, String> {
    let source = letter.source.ok_or("its headers do not say where it came from")?;
    if source.partition.topic != Topic::Events {
        return Err(format!("it came from {}, where only stages write", source.partition.topic));
    }
    let mut headers = letter.headers.clone();
    headers.retain(|(name, _)| name != REPLAYED_FROM);
    headers.push((REPLAYED_FROM.to_owned(), Bytes::from(letter.id.to_string())));
    Ok(OutRecord {
        topic: Topic::Events,
        partition: Some(source.partition.partition),
        timestamp: at,
        key: letter.key.clone(),
        value: letter.value.clone(),
        headers,
    })
}

#[cfg(test)]
mod tests;
