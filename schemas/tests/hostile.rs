//! Any bytes are an event or a reason: no panic, and no more memory than a multiple of the bytes.
//!
//! The allocator of this test counts. It looks at the codec through its public face alone.

#![allow(clippy::expect_used, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::codec::{Codec, codec, published_schemas};
use schemas::event::{EventHeader, EventKind, RawEvent, Tick};
use schemas::limits::EVENT_BYTES_MAX;
use schemas::reject::RejectReason;
use schemas::testing;
use schemas::text::{CleanText, RawText};

/// Largest memory per byte of a value: a list of principals, 4 bytes each on the wire, and 96 bytes
/// and three empty texts in memory, held twice while the list grows.
const BYTES_PER_BYTE_MAX: usize = 128;
/// What an error and the smallest event take.
const BYTES_MIN: usize = 16 << 10;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; the counters are this thread's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = NOW.try_with(|now| {
            now.set(now.get().saturating_add(layout.size()));
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
        });
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(layout.size())));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Decodes in every way and gives the peak of memory over what was there before.
fn peak_bytes(codec: &Codec, value: &[u8]) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    let _ = codec.decode::<RawText>(Some(value));
    let _ = codec.decode::<CleanText>(Some(value));
    let _ = codec.decode_derived(Some(value));
    PEAK.get() - before
}

fn allowed(value: &[u8]) -> usize {
    BYTES_MIN + BYTES_PER_BYTE_MAX * value.len()
}

/// A codec that knows every record under its registry id, and in another version under its id + 1000.
fn with_other_versions() -> Codec {
    let schemas = || (0..).zip(published_schemas());
    let ours = schemas().map(|(id, schema)| (id, schema.json.clone()));
    let others = schemas().map(|(id, schema)| {
        let extra = r#"{"name":"more","type":["null",{"type":"map","values":{"type":"array","items":"bytes"}}],"default":null}]}"#;
        let text = schema.json.strip_suffix("]}").expect("a record");
        (id + 1_000, format!("{text},{extra}"))
    });
    codec().clone().with_registry_ids(ours.chain(others).collect::<BTreeMap<_, _>>()).expect("readable")
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let count = published_schemas().len();
    let fingerprint =
        (0..count).prop_map(|index| [&[0xC3, 0x01], &published_schemas()[index].fingerprint[..]].concat());
    let id = (0..count as u32, any::<bool>())
        .prop_map(|(id, other)| [&[0], &(id + u32::from(other) * 1_000).to_be_bytes()[..]].concat());
    prop_oneof![fingerprint, id, prop::collection::vec(any::<u8>(), 0..12)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_an_event_or_a_reason(frame in any_frame(), body in prop::collection::vec(any::<u8>(), 0..600)) {
        thread_local!(static CODEC: Codec = with_other_versions());
        let value = [frame, body].concat();
        prop_assert!(CODEC.with(|codec| peak_bytes(codec, &value)) <= allowed(&value));
    }

    #[test]
    fn damaged_events_are_an_event_or_a_reason(
        kind in prop::sample::select(EventKind::ALL),
        seed: u64,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut value = codec().encode(&testing::event::<RawText>(kind, seed)).to_vec();
        for (at, byte) in damage {
            let at = at.index(value.len());
            value[at] = byte;
        }
        prop_assert!(peak_bytes(codec(), &value) <= allowed(&value));
    }
}

/// Zeros read as empty texts, false, and collections without end: the smallest records there are.
#[test]
fn the_densest_values_stay_within_their_memory() {
    let codec = with_other_versions();
    for filler in [0u8, 1, 2, 4, 6, 0x7f, 0x80, 0xfe, 0xff] {
        for (id, schema) in (0u32..).zip(published_schemas()) {
            for frame in [id, id + 1_000] {
                let mut value = [&[0], &frame.to_be_bytes()[..]].concat();
                value.resize(64 << 10, filler);
                let peak = peak_bytes(&codec, &value);
                assert!(peak <= allowed(&value), "{} of {filler}: {peak} bytes", schema.name);
            }
        }
    }
}

/// An event header whose delegation chain claims `count` principals of nothing.
#[test]
fn a_chain_of_empty_principals_stays_within_its_memory() {
    let header = EventHeader::of_type("tick");
    let probe = codec().encode(&RawEvent::Tick(Tick { h: header, ..Default::default() }));
    // Behind the chain stand three absent ids, no subjects, and the text "unclassified" with its length.
    let at = probe.windows(12).position(|bytes| bytes == b"unclassified").expect("data class") - 6;
    let principals = (EVENT_BYTES_MAX - probe.len() - 16) / 4;
    let mut chain = Vec::new();
    let mut rest = (principals as u64) << 1;
    while rest >= 0x80 {
        chain.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    chain.push(rest as u8);
    chain.resize(chain.len() + principals * 4, 0);
    chain.push(0);
    let value = [&probe[..at], &chain[..], &probe[at + 1..]].concat();
    let event = codec().decode::<RawText>(Some(&value)).expect("an event");
    assert_eq!(event.h().on_behalf_of.len(), principals);
    drop(event);
    assert!(peak_bytes(codec(), &value) <= allowed(&value));
    let over = vec![0; EVENT_BYTES_MAX + 1];
    assert_eq!(codec().decode::<RawText>(Some(&over)).map_err(|e| e.reason).err(), Some(RejectReason::TooLarge));
}
