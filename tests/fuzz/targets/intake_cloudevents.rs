//! Whatever bytes a request holds, reading them as CloudEvents ends in events or in problems.
//!
//! It does not judge which problem is named: intake's own tests do.
#![no_main]

mod common;

use common::{CONTEXT, check};
use ingest::gateway::body::{MediaType, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(parse(MediaType::CloudEvent, &[], bytes, &CONTEXT));
    check(parse(MediaType::CloudEventBatch, &[], bytes, &CONTEXT));
    let head = b"{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/agents/a\",\"sessionid\":\"s\",";
    check(parse(MediaType::CloudEvent, &[], &[head, bytes, b"}"].concat(), &CONTEXT));
    // Lines up to an empty one are headers, what follows is the body.
    let text = String::from_utf8_lossy(bytes);
    let (headers, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut headers: Vec<(&str, &str)> = headers.lines().filter_map(|line| line.split_once(": ")).collect();
    headers.extend([("ce-specversion", "1.0"), ("ce-source", "s")]);
    check(parse(MediaType::CloudEventBinary, &headers, body.as_bytes(), &CONTEXT));
});
