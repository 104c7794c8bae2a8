//! Records in the bytes of a segment: pure framing, apart from files.
//!
//! A segment is a [`HEAD_BYTES`] head and frames of CRC-32C (RFC 3720 appendix B.4), length, index
//! and payload, all integers little-endian; the checksum covers everything after itself. Bytes that are no
//! frame are skipped only up to the next valid frame with a possible index, and they are returned as a
//! [`Piece::Bad`], never dropped. It does not decide what is a torn tail.

use std::ops::Range;

use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// First bytes of a segment: what it is, and its layout version.
const MAGIC: [u8; 8] = *b"cstyspl1";
/// Length of a segment's head: the magic and the index of its first record.
pub const HEAD_BYTES: usize = 16;
/// Length of what precedes a payload.
pub const FRAME_BYTES: usize = 16;
/// Longest payload, bytes.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// The head of a segment that begins with record `first`.
pub fn head(first: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..].copy_from_slice(&first.to_le_bytes());
    head
}

/// The index of the first record, if `bytes` begin with a head.
pub fn first_of(bytes: &[u8]) -> Option<u64> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    rest.first_chunk().map(|index| u64::from_le_bytes(*index))
}

/// Appends a frame. A payload is at most [`PAYLOAD_BYTES_MAX`] long; the caller has checked.
pub fn put(index: u64, payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(payload);
    // Index and length are covered as well: a frame that was copied to another place or cut is not valid
    // there.
    let crc = checksum(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(Crc32Iscsi, bytes) as u32
}

/// What a frame says about itself before its payload is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    crc: u32,
    /// Length of the payload, bytes.
    pub(super) len: usize,
    /// Index of the record.
    pub(super) index: u64,
}

/// The head of the frame that `bytes` begin with, if there are enough of them and it is not too long.
pub(super) fn frame_head(bytes: &[u8]) -> Option<FrameHead> {
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
    let (crc, len) = (word(0)?, word(4)? as usize);
    let index = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
    // Before anything is read by it: a damaged length must not reserve gigabytes.
    (len <= PAYLOAD_BYTES_MAX).then_some(FrameHead { crc, len, index })
}

/// The payload of the frame that `bytes` begin with, and its index, if its checksum is right.
fn sound(bytes: &[u8], possible: impl FnOnce(u64) -> bool) -> Option<(u64, &[u8])> {
    let head = frame_head(bytes)?;
    let end = FRAME_BYTES + head.len;
    let covered = bytes.get(4..end)?;
    // The index first: it costs nothing, and spares the checksum at almost every position that `resync`
    // tries.
    let is_sound = possible(head.index) && checksum(covered) == head.crc;
    is_sound.then(|| (head.index, &bytes[FRAME_BYTES..end]))
}

/// A part of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A record.
    Record {
        /// Its index.
        index: u64,
        /// Its payload.
        payload: &'a [u8],
        /// Where its frame lies.
        at: Range<usize>,
    },
    /// Bytes that are no frame, and how many records are missing before the next one.
    Bad {
        /// Where they lie; empty if records are missing without a trace.
        at: Range<usize>,
        /// Records that should have been here.
        missing: u64,
    },
    /// Bytes after the last sound frame: a torn write, or damage, which only the caller can tell apart.
    Tail {
        /// Where they lie.
        at: Range<usize>,
    },
}

/// The pieces of a segment's bytes, in order; total: any bytes give pieces that cover all of them.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    bytes: &'a [u8],
    at: usize,
    next: u64,
}

impl<'a> Pieces<'a> {
    /// Reads frames from `at` on, where record `next` is expected.
    pub fn new(bytes: &'a [u8], at: usize, next: u64) -> Self {
        Self { bytes, at: at.min(bytes.len()), next }
    }

    /// Index that the next record should have.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    fn record(&mut self) -> Option<Piece<'a>> {
        let next = self.next;
        let (index, payload) = sound(&self.bytes[self.at..], |index| index == next)?;
        let at = self.at..self.at + FRAME_BYTES + payload.len();
        self.at = at.end;
        self.next = index.saturating_add(1);
        Some(Piece::Record { index, payload, at })
    }

    /// The place of the next sound frame and how many records lie before it. A missing record took a
    /// frame at least, which bounds the index and makes a sound frame inside of a payload unlikely.
    fn resync(&self) -> Option<(usize, u64)> {
        (self.at..self.bytes.len()).find_map(|at| {
            let most = self.next.saturating_add(((at - self.at) / FRAME_BYTES) as u64);
            let (index, _) = sound(&self.bytes[at..], |index| (self.next..=most).contains(&index))?;
            Some((at, index - self.next))
        })
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.at == self.bytes.len() {
            return None;
        }
        if let Some(record) = self.record() {
            return Some(record);
        }
        let from = self.at;
        match self.resync() {
            Some((to, missing)) => {
                self.at = to;
                self.next += missing;
                Some(Piece::Bad { at: from..to, missing })
            }
            None => {
                self.at = self.bytes.len();
                Some(Piece::Tail { at: from..self.at })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    fn segment(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = head(5).to_vec();
        for (index, payload) in (5..).zip(payloads) {
            put(index, payload, &mut bytes);
        }
        bytes
    }

    fn pieces(bytes: &[u8]) -> Vec<Piece<'_>> {
        Pieces::new(bytes, HEAD_BYTES, 5).collect()
    }

    fn records(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let record = |piece| match piece {
            Piece::Record { index, payload, .. } => Some((index, payload.to_vec())),
            _ => None,
        };
        pieces(bytes).into_iter().filter_map(record).collect()
    }

    #[test]
    fn the_checksum_is_crc32c_as_rfc_3720_gives_it() {
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(first_of(&head(77)), Some(77));
        assert_eq!(first_of(b"cstyspl2aaaaaaaa"), None);
    }

    #[test]
    fn a_damaged_record_costs_itself_and_nothing_else() {
        let mut bytes = segment(&[b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        let second = HEAD_BYTES + FRAME_BYTES + 3;
        bytes[second + FRAME_BYTES] ^= 1;
        assert_eq!(records(&bytes), [(5, b"one".to_vec()), (7, b"three".to_vec())]);
        let bad = Piece::Bad { at: second..second + FRAME_BYTES + 3, missing: 1 };
        assert_eq!(pieces(&bytes)[1], bad);
    }

    proptest! {
        #[test]
        fn what_was_put_is_read(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let bytes = segment(&payloads);
            let expected: Vec<_> = (5..).zip(payloads).collect();
            prop_assert_eq!(records(&bytes), expected);
        }

        #[test]
        fn pieces_cover_every_byte_and_records_are_true(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..20),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = segment(&payloads);
            for (at, value) in damage {
                let len = bytes.len() - HEAD_BYTES;
                bytes[HEAD_BYTES + at.index(len)] = value;
            }
            bytes.truncate(HEAD_BYTES + cut.index(bytes.len() - HEAD_BYTES + 1));
            let (mut at, mut next) = (HEAD_BYTES, 5);
            for piece in pieces(&bytes) {
                let range = match piece {
                    Piece::Record { index, payload, at } => {
                        prop_assert_eq!(index, next);
                        prop_assert_eq!(payload, &payloads[(index - 5) as usize][..]);
                        next = index + 1;
                        at
                    }
                    Piece::Bad { at, missing } => {
                        next += missing;
                        at
                    }
                    Piece::Tail { at } => at,
                };
                prop_assert_eq!(range.start, at);
                at = range.end;
            }
            prop_assert_eq!(at, bytes.len());
        }
    }
}
