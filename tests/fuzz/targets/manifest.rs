//! What lies in a bucket or in offset metadata may be anybody's: reading it ends in a value or in an
//! error; a manifest that was read is written as the very bytes it came from, an intent as the same one.
//!
//! A good manifest and a good intent with a piece replaced get further than bytes alone would.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schemas::id::Sha256;
use schemas::record::PartitionId;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use sinks::clickhouse::intent::{Intent, encode_intent, parse_intent};
use sinks::manifest::{FORMAT, Manifest, ObjectRef};
use sinks::publication::Publication;

fn publication() -> Publication {
    let partition = PartitionId { topic: Topic::Clean, partition: 3 };
    let mut publication = Publication::open(partition, 100, TimestampMicros::from_ms(1_795_168_799_000));
    publication.offset_next = 103;
    publication.rows = 3;
    publication.counts_by_type = [("model.call".to_owned(), 3)].into();
    publication
}

fn manifest() -> Manifest {
    let publication = publication();
    let object = ObjectRef { bytes: 42, key: publication.data_key(), sha256: Sha256([9; 32]) };
    let writer = "custody/0.1.0".to_owned();
    Manifest { format: FORMAT, object, prev_manifest_sha256: Sha256::ZERO, publication, writer }
}

/// `good` with the bytes at a place of the input's choice replaced by the rest of the input.
fn with_piece(good: &[u8], input: &[u8]) -> Option<Vec<u8>> {
    let ([at_high, at_low, len], piece) = input.split_first_chunk()?;
    let at = usize::from(u16::from_be_bytes([*at_high, *at_low])) % good.len();
    let end = good.len().min(at + usize::from(*len));
    Some([&good[..at], piece, &good[end..]].concat())
}

fn read(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::from_bytes(bytes) {
        assert_eq!(manifest.to_bytes(), bytes, "a manifest that is not canonical was taken");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(Some(intent)) = parse_intent(text) {
        assert!(intent.offset_first < intent.offset_next, "an intent to insert nothing was taken");
        assert_eq!(parse_intent(&encode_intent(&intent)), Ok(Some(intent)));
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let intent = encode_intent(&Intent::of(&publication()));
    for good in [manifest().to_bytes(), intent.into_bytes()] {
        with_piece(&good, bytes).iter().for_each(|changed| read(changed));
    }
});
