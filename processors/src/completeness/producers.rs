//! What one partition saw of each writer since its last report, and events outside of sessions.
//!
//! It judges no gaps: a writer's numbers are spread over all partitions, and only the stage
//! `writers` sees them together.

use schemas::event::{CleanEvent, EventHeader, SeqSpan, WriterSpan};
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::best_effort::{self, is_best_effort};
use super::key::{self, Key};
use super::seen::{Identity, Repeat, Seen};
use super::spans::{self, Range};
use crate::stage::{Sourced, StateChange};

/// Ranges per state entry: only the entry that grows is written again.
const CHUNK: usize = 256;
/// Most ranges of one report; a writer with more gets several. At 57 bytes each as JSON, 4 500 would
/// no longer fit into a state entry while they wait in the barrier.
const SPANS_PER_REPORT_MAX: usize = 3_000;
/// Key of the `ext` entry with which a writer's last heartbeat says that its epoch is over.
pub const CLOSED_EXT: &str = "custody.producer_closed";

/// Part of the key of a page of identities.
pub(super) const PAGE: u8 = 2;

/// The part that is one state entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Head {
    agent: String,
    /// Highest number that the writer claimed since the last report; -1 none.
    claimed: i64,
    closed: bool,
    pub(super) last_time: TimestampMicros,
    pub(super) clock_reported: bool,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            agent: String::new(),
            claimed: -1,
            closed: false,
            last_time: TimestampMicros(i64::MIN),
            clock_reported: false,
        }
    }
}

/// A writer's epoch, as one partition sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Producer {
    pub(super) head: Head,
    /// In order of arrival, neighbours merged.
    ranges: Vec<Range>,
    /// First chunk that changed since the last save.
    changed_chunk: Option<usize>,
    chunks_saved: usize,
    /// Identities of events outside of sessions, by producer_seq.
    pub(super) seen: Seen,
    pub(super) changed: bool,
}

impl Producer {
    /// An event of this writer that is no redelivery.
    pub(super) fn take(&mut self, h: &EventHeader, at: TimestampMicros) {
        self.changed = true;
        if self.head.agent.is_empty() {
            self.head.agent.clone_from(&h.agent_id);
        }
        self.head.last_time = self.head.last_time.max(at);
        if h.producer_seq < 0 {
            return;
        }
        let next = h.producer_seq.saturating_add(1);
        match self.ranges.last_mut() {
            // Events of one writer arrive in its order, so that the next number nearly always continues the last
            // range or lies above it.
            Some(last) if last.1 == h.producer_seq => last.1 = next,
            _ => self.ranges.push((h.producer_seq, next)),
        }
        // Everything before this chunk is full and unchanged, so that a long report is not written again with each
        // event.
        let chunk = (self.ranges.len() - 1) / CHUNK;
        self.changed_chunk = Some(self.changed_chunk.map_or(chunk, |first| first.min(chunk)));
    }

    /// What an event outside of sessions repeats, and whether its number is new; remembers it if so.
    pub(super) fn identify(&mut self, record: &Sourced<CleanEvent>) -> (Option<Repeat>, bool) {
        let h = record.value.h();
        let numbered_here = is_best_effort(h);
        // A gateway that numbers an event again changes its bytes, so that the digest of what arrived is compared.
        let identity =
            if numbered_here { best_effort::identity(record) } else { Identity::of(h.event_id, &record.source.sha256) };
        if h.producer_seq < 0 {
            // Without a number there is nothing to compare with.
            return (None, true);
        }
        match self.seen.repeat(h.producer_seq, identity) {
            Repeat::Unknown => {
                // One id at two numbers of a writer that numbers its own events is never a redelivery.
                let elsewhere = self.seen.known(identity);
                let elsewhere = elsewhere.map(|repeat| if numbered_here { repeat } else { Repeat::Equivocation });
                self.seen.insert(h.producer_seq, identity);
                self.changed = true;
                (elsewhere, true)
            }
            repeat => (Some(repeat), false),
        }
    }

    /// A heartbeat's claim.
    pub(super) fn claim(&mut self, last_producer_seq: i64, closed: bool) {
        self.head.claimed = self.head.claimed.max(last_producer_seq);
        self.head.closed |= closed;
        self.changed = true;
    }

    /// What there is to report, without who reports it; starts over.
    pub(super) fn report(&mut self) -> Vec<WriterSpan> {
        if self.ranges.is_empty() && self.head.claimed < 0 && !self.head.closed {
            return Vec::new();
        }
        self.changed = true;
        // All chunks are deleted with the step that reports them: a restart in between would report them twice.
        self.changed_chunk = Some(0);
        let (ranges, _) = spans::merged(std::mem::take(&mut self.ranges));
        // A claim is reported once; repeated, it would keep a silent writer from ever being silent.
        let claimed = std::mem::replace(&mut self.head.claimed, -1);
        let closed = std::mem::take(&mut self.head.closed);
        let report = |ranges: &[Range]| WriterSpan {
            agent_id: self.head.agent.clone(),
            spans: ranges.iter().map(|(first, next)| SeqSpan { first: *first, next: *next }).collect(),
            last_claimed: claimed,
            closed,
            ..WriterSpan::default()
        };
        if ranges.is_empty() {
            // `chunks` of nothing is nothing, and the claim or the goodbye of the writer would be lost.
            vec![report(&[])]
        } else {
            ranges.chunks(SPANS_PER_REPORT_MAX).map(report).collect()
        }
    }

    /// Appends what changed since the last call; `prefix` names this writer.
    pub(super) fn take_changes(&mut self, prefix: &Key, out: &mut Vec<StateChange>) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        out.push((head_key(prefix), Some(key::json(&self.head))));
        let chunks = self.ranges.chunks(CHUNK).len();
        if let Some(first) = self.changed_chunk.take() {
            for (index, chunk) in self.ranges.chunks(CHUNK).enumerate().skip(first) {
                let bytes: Vec<u8> =
                    chunk.iter().flat_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()]).flatten().collect();
                out.push((chunk_key(prefix, index), Some(bytes.into())));
            }
            // Chunks of the last save that are no longer there are deleted by number: the changelog has no prefix
            // delete.
            let gone = chunks..self.chunks_saved;
            out.extend(gone.map(|index| (chunk_key(prefix, index), None)));
            self.chunks_saved = chunks;
        }
        let pages = self.seen.take_changes().into_iter();
        out.extend(pages.map(|(number, bytes)| (page_key(prefix, number), bytes.map(Into::into))));
    }

    /// Keys of every entry it may have.
    pub(super) fn keys(&self, prefix: &Key) -> Vec<bytes::Bytes> {
        let chunks = (0..self.chunks_saved).map(|index| chunk_key(prefix, index));
        let pages = self.seen.numbers().map(|number| page_key(prefix, number));
        std::iter::once(head_key(prefix)).chain(chunks).chain(pages).collect()
    }

    /// Loads the entry with the rest of its key.
    pub(super) fn load(&mut self, mut parts: key::Parts<'_>, value: &[u8]) -> Result<(), String> {
        let malformed = || "malformed entry".to_owned();
        match parts.byte() {
            Some(0) => self.head = key::from_json(value)?,
            Some(1) => {
                let index = parts.number().and_then(|n| usize::try_from(n).ok()).ok_or_else(malformed)?;
                self.load_chunk(index, value).ok_or_else(malformed)?;
            }
            Some(PAGE) => {
                let number = parts.number().ok_or_else(malformed)?;
                self.seen.load(number, value).ok_or_else(malformed)?;
            }
            _ => return Err(malformed()),
        }
        Ok(())
    }

    /// Chunks may load in any order; all but the last are full.
    fn load_chunk(&mut self, index: usize, value: &[u8]) -> Option<()> {
        let mut ranges = Vec::with_capacity(CHUNK);
        for range in value.chunks(16) {
            let (first, next) = range.split_at_checked(8)?;
            ranges.push((i64::from_be_bytes(first.try_into().ok()?), i64::from_be_bytes(next.try_into().ok()?)));
        }
        let start = index.checked_mul(CHUNK)?;
        let end = start.checked_add(ranges.len())?;
        // A compacted topic keeps keys in the order of their last write, so that chunk 2 may load before chunk 1.
        self.ranges.resize(self.ranges.len().max(end), (0, 0));
        self.ranges[start..end].copy_from_slice(&ranges);
        self.chunks_saved = self.chunks_saved.max(index + 1);
        Some(())
    }
}

pub(super) fn head_key(prefix: &Key) -> bytes::Bytes {
    prefix.clone().byte(0).bytes()
}

/// A head that claims nothing, from another partition's.
pub(super) fn quiet(head: &[u8]) -> Result<bytes::Bytes, String> {
    let head: Head = key::from_json(head)?;
    Ok(key::json(&Head { claimed: -1, closed: false, ..head }))
}

fn chunk_key(prefix: &Key, index: usize) -> bytes::Bytes {
    prefix.clone().byte(1).number(index as i64).bytes()
}

fn page_key(prefix: &Key, number: i64) -> bytes::Bytes {
    prefix.clone().byte(PAGE).number(number).bytes()
}
