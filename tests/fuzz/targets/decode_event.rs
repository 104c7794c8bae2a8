//! Whatever bytes a topic holds, decoding them ends in a record or in a reason, and a record that was
//! read is written and read again as the same bytes.
//!
//! It does not judge which reason is given: the codec's own tests do.
#![no_main]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use schemas::codec::{Codec, codec, published_schemas};
use schemas::text::{CleanText, RawText, Text};

/// The registry id of [`foreign_schema`].
const FOREIGN_ID: u8 = 1;

/// A record that is not in the catalogue, with every shape that the foreign reader knows.
fn foreign_schema() -> String {
    let event = published_schemas().iter().find(|schema| schema.name == "Tick").expect("Tick is published");
    let event: serde_json::Value = serde_json::from_str(&event.json).expect("a published schema is JSON");
    let header = event["fields"][0].clone();
    serde_json::json!({"type": "record", "name": "Other", "namespace": "other", "fields": [
        header,
        {"name": "numbers", "type": {"type": "array", "items": ["null", "int", "long", "float", "double"]}},
        {"name": "colours", "type": {"type": "map", "values":
            {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}}},
        {"name": "rest", "type": ["null", "boolean", "bytes", "string",
            {"type": "fixed", "name": "Four", "size": 4}]},
    ]})
    .to_string()
}

fn reader() -> &'static Codec {
    static READER: OnceLock<Codec> = OnceLock::new();
    READER.get_or_init(|| {
        let ids = BTreeMap::from([(u32::from(FOREIGN_ID), foreign_schema())]);
        codec().clone().with_registry_ids(ids).expect("the foreign schema can be read with")
    })
}

fn read_as<T: Text>(value: &[u8]) {
    let Ok(event) = reader().decode::<T>(Some(value)) else { return };
    let written = codec().encode(&event);
    let again = codec().decode::<T>(Some(&written)).expect("what was written can be read");
    assert_eq!(codec().encode(&again), written);
}

fn read(value: &[u8]) {
    read_as::<RawText>(value);
    read_as::<CleanText>(value);
    if let Ok(record) = reader().decode_derived(Some(value)) {
        let written = codec().encode_derived(&record);
        let again = codec().decode_derived(Some(&written)).expect("what was written can be read");
        assert_eq!(codec().encode_derived(&again), written);
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    // Fingerprints are not found by chance: the first byte picks one, so that records are reached.
    let Some((pick, body)) = bytes.split_first() else { return };
    let frame = match published_schemas().get(usize::from(*pick)) {
        Some(schema) => [&[0xC3, 0x01], &schema.fingerprint[..]].concat(),
        None => vec![0, 0, 0, 0, FOREIGN_ID],
    };
    read(&[&frame, body].concat());
});
