//! Whatever bytes a request holds, reading them as JSON events ends in events or in problems.
//!
//! It does not judge which problem is named: intake's own tests do.
#![no_main]

mod common;

use common::{CONTEXT, check};
use ingest::gateway::body::{MediaType, parse};
use libfuzzer_sys::fuzz_target;
use schemas::event::EventKind;

fuzz_target!(|bytes: &[u8]| {
    check(parse(MediaType::Json, &[], bytes, &CONTEXT));
    check(parse(MediaType::Ndjson, &[], bytes, &CONTEXT));
    // Types are not found by chance: the first byte picks one, the rest are further members.
    let Some((pick, members)) = bytes.split_first() else { return };
    let event_type = EventKind::ALL.get(usize::from(*pick)).map_or("acme.x", |kind| kind.event_type());
    let head = format!("{{\"event_type\":\"{event_type}\",\"agent_id\":\"a\",\"session_id\":\"s\",");
    let event = [head.as_bytes(), members, b"}"].concat();
    let alone = parse(MediaType::Json, &[], &event, &CONTEXT);
    // One event is read in one pass, a batch with something wrong in it event by event.
    let batch = parse(MediaType::Json, &[], &[b"[", &event[..], b",0]"].concat(), &CONTEXT).expect_err("0 is no event");
    // The grammar of a batch is looked at first, and members may hold the end of an event.
    match &alone {
        _ if batch.first.code == "malformed_json" => {}
        Ok(_) => assert_eq!(batch.first.index, Some(1)),
        Err(refusal) if refusal.first.code == "malformed_json" => {}
        Err(refusal) => {
            let place = (batch.first.code, &batch.first.field, batch.first.index);
            assert_eq!(place, (refusal.first.code, &refusal.first.field, Some(0)));
        }
    }
    check(alone);
});
