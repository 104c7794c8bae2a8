//! Reads a spool in order, without its lock: only what is known to be written is read.
//!
//! Damage that occurs after the open is kept aside like any other. It never deletes or acknowledges.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use bytes::Bytes;

use super::frame::{FRAME_BYTES, HEAD_BYTES, Piece, Pieces, frame_head};
use super::{Damage, Segment, SpoolError, segments};

/// Records in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Index and payload of each.
    pub records: Vec<(u64, Bytes)>,
    /// Index after the last one, and after whatever is missing: acknowledge up to here.
    pub next: u64,
    /// Damage that was met.
    pub damage: Vec<Damage>,
}

/// A place in a spool.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    next: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    first: u64,
    file: File,
    /// Where the frame of record `index` begins.
    at: u64,
    index: u64,
}

/// How much of a batch there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMax {
    /// Most records; at least 1.
    pub events: usize,
    /// Most bytes of payloads; one record is handed out however long it is.
    pub bytes: usize,
}

impl Reader {
    /// A reader that begins with record `next`.
    pub(super) fn new(dir: PathBuf, next: u64) -> Self {
        Self { dir, next, open: None }
    }

    /// Index of the record that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The records from [`Reader::next`] on that lie in `segment`, which is [`super::Spool::segment_at`]
    /// of it, and before `limit`. The batch is empty if there are none yet.
    ///
    /// # Errors
    /// [`SpoolError::Io`]: nothing was consumed; try again.
    pub fn read(&mut self, segment: Segment, limit: u64, max: BatchMax) -> Result<Batch, SpoolError> {
        let mut batch = Batch { next: self.next, ..Batch::default() };
        let limit = limit.min(segment.next);
        // Records between the segments were lost to damage, which was reported at open.
        self.next = self.next.max(segment.first);
        let mut chunk = max.bytes.saturating_add(64 << 10);
        while self.next < limit {
            let before = (batch.records.len(), self.next);
            self.fill(segment, limit, max, chunk, &mut batch)?;
            batch.next = self.next;
            if (batch.records.len(), self.next) == before {
                // No progress: a frame, or a damaged range, is longer than the chunk. Read the rest of the segment.
                chunk = usize::MAX;
            } else if !batch.records.is_empty() {
                break;
            }
        }
        batch.next = batch.next.max(self.next);
        Ok(batch)
    }

    fn fill(
        &mut self,
        segment: Segment,
        limit: u64,
        max: BatchMax,
        chunk: usize,
        batch: &mut Batch,
    ) -> Result<(), SpoolError> {
        let mut open = match self.open.take() {
            Some(open) if open.first == segment.first => open,
            _ => self.open(segment.first)?,
        };
        let bytes = read_at(&mut open, segment, chunk)
            .map_err(SpoolError::io("read", &segments::path(&self.dir, segment.first)))?;
        // The length at the time of the call; a segment that is still written to may have grown since, and is
        // read on by the next call.
        let is_end = open.at + bytes.len() as u64 >= segment.bytes;
        let mut pieces = Pieces::new(&bytes, 0, open.index);
        let (mut at, mut payload_bytes) = (0, 0);
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Record { index, payload, at: frame } => {
                    let is_wanted = index >= self.next;
                    let is_over = batch.records.len() >= max.events || payload_bytes + payload.len() > max.bytes;
                    // The first record is always handed out, however long: a record above the limit would
                    // otherwise block the spool for good.
                    if index >= limit || (is_wanted && is_over && !batch.records.is_empty()) {
                        break;
                    }
                    if is_wanted {
                        payload_bytes += payload.len();
                        let start = frame.start + FRAME_BYTES;
                        batch.records.push((index, bytes.slice(start..frame.end)));
                        self.next = index + 1;
                    }
                    (at, open.index) = (frame.end, index + 1);
                }
                // What looks like damage may be a frame that the chunk cuts: read on from here before judging.
                Piece::Bad { at: frame, .. } if !is_end && reaches_beyond(&bytes, frame.start) => break,
                Piece::Bad { at: frame, missing } => {
                    let next = pieces.next_index();
                    self.damaged(&open, frame.clone(), &bytes, missing, batch)?;
                    self.next = self.next.max(next);
                    (at, open.index) = (frame.end, next);
                }
                // The whole segment was read and no valid frame follows: this is damage, not a frame that is still
                // being written, because the segment's length counts completed frames only.
                Piece::Tail { at: frame } if is_end => {
                    let missing = segment.next - open.index;
                    self.damaged(&open, frame.clone(), &bytes, missing, batch)?;
                    self.next = self.next.max(segment.next);
                    (at, open.index) = (frame.end, segment.next);
                }
                // The chunk ends here; the next one decides.
                Piece::Tail { .. } => break,
            }
        }
        if bytes.is_empty() {
            // The bytes end before the segment's last record, for example because the file was truncated after the
            // open. The missing records are counted, so that the reader can continue with the next segment.
            self.damaged(&open, 0..0, &bytes, segment.next - open.index, batch)?;
            self.next = segment.next;
        }
        open.at += at as u64;
        self.open = Some(open);
        Ok(())
    }

    fn open(&self, first: u64) -> Result<Open, SpoolError> {
        let path = segments::path(&self.dir, first);
        let file = File::open(&path).map_err(SpoolError::io("open", &path))?;
        Ok(Open { first, file, at: HEAD_BYTES as u64, index: first })
    }

    fn damaged(
        &self,
        open: &Open,
        at: std::ops::Range<usize>,
        bytes: &Bytes,
        missing: u64,
        batch: &mut Batch,
    ) -> Result<(), SpoolError> {
        let place = open.at + at.start as u64;
        let damage = segments::keep_aside(&self.dir, open.first, place, &bytes[at], missing)?;
        batch.damage.push(damage);
        Ok(())
    }
}

/// Whether the frame at `at` claims to end after `bytes`.
fn reaches_beyond(bytes: &[u8], at: usize) -> bool {
    frame_head(&bytes[at..]).is_none_or(|head| head.len > bytes.len() - at - FRAME_BYTES)
}

/// The bytes from the reader's place on, up to `chunk` of them and only within the segment's valid part.
fn read_at(open: &mut Open, segment: Segment, chunk: usize) -> std::io::Result<Bytes> {
    let left = segment.bytes.saturating_sub(open.at).min(chunk as u64);
    let mut bytes = Vec::with_capacity(left as usize);
    open.file.seek(SeekFrom::Start(open.at))?;
    (&open.file).take(left).read_to_end(&mut bytes)?;
    Ok(Bytes::from(bytes))
}
