//! What lies in a segment of a spool may be damaged anyhow: reading covers every byte with pieces in
//! order, and a byte that breaks costs its own record alone.
//!
//! It does not judge what is a torn tail: the spool's own tests do.
#![no_main]

use ingest::agent::spool::frame::{self, HEAD_BYTES, Piece, Pieces};
use libfuzzer_sys::fuzz_target;

const FIRST: u64 = 7;
const PAYLOADS: [&[u8]; 4] = [b"", b"one", &[0; 40], &[0xff; 17]];

/// The indexes of the records that are found.
fn read(bytes: &[u8]) -> Vec<u64> {
    let (mut at, mut next) = (HEAD_BYTES.min(bytes.len()), FIRST);
    let mut found = Vec::new();
    for piece in Pieces::new(bytes, HEAD_BYTES, FIRST) {
        let range = match piece {
            Piece::Record { index, payload, at } => {
                assert_eq!(index, next, "a record out of order");
                let mut again = Vec::new();
                frame::put(index, payload, &mut again);
                assert_eq!(again, bytes[at.clone()], "a record that was not written so");
                next += 1;
                found.push(index);
                at
            }
            Piece::Bad { at, missing } => {
                next += missing;
                at
            }
            Piece::Tail { at } => at,
        };
        assert_eq!(range.start, at, "bytes between pieces");
        at = range.end;
    }
    assert_eq!(at, bytes.len(), "bytes behind the last piece");
    found
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let mut good = frame::head(FIRST).to_vec();
    let mut places = Vec::new();
    for (index, payload) in (FIRST..).zip(PAYLOADS) {
        let start = good.len();
        frame::put(index, payload, &mut good);
        places.push(start..good.len());
    }
    let [at, mask, ..] = bytes else { return };
    let start = HEAD_BYTES + usize::from(*at) % (good.len() - HEAD_BYTES);
    let mut damaged = good;
    damaged[start] ^= (*mask).max(1);
    let found = read(&damaged);
    for (index, place) in (FIRST..).zip(places) {
        if !place.contains(&start) {
            assert!(found.contains(&index), "record {index} was not damaged");
        }
    }
});
