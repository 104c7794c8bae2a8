//! What lies in a bucket or in offset metadata may be anybody's: reading it ends in a value or in an
//! error, and a value that was read is written as the very bytes it came from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sinks::clickhouse::intent::{encode_intent, parse_intent};
use sinks::manifest::Manifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_bytes(bytes) {
        assert_eq!(manifest.to_bytes(), bytes, "a manifest that is not canonical was taken");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(Some(intent)) = parse_intent(text) {
        assert!(intent.offset_first < intent.offset_next, "an intent to insert nothing was taken");
        assert_eq!(parse_intent(&encode_intent(&intent)), Ok(Some(intent)));
    }
});
