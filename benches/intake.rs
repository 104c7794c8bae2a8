//! JSON intake in batches of 100 events, beside `serde_json` reading the same bytes into `Value`,
//! which checks nothing and makes no event.
//!
//! Target: 40 k events/s per core at about 1 KiB. Two forms of the same events: `full` names every
//! field of the schema, `lean` only what an agent would write: no defaults, content as plain strings.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

#[path = "common/cpu_time.rs"]
mod cpu_time;

use cpu_time::{CpuTime, criterion};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ingest::gateway::body::{MediaType, parse};
use ingest::gateway::intake::IntakeContext;
use schemas::event::RawEvent;
use schemas::testing::{BROKER_TIME, intake_json, typical};
use serde_json::{Map, Value};

const BATCHES: u64 = 20;
const BATCH: u64 = 100;
const CONTEXT: IntakeContext<'static> = IntakeContext { tenant_id: None, arrived_at: BROKER_TIME };

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        number => *number == -1,
    }
}

fn lean(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    if members.contains_key("raw_bytes") && members["media_type"] == "text/plain" {
        return members["text"].clone();
    }
    let kept = members.into_iter().filter(|(_, value)| !is_default(value));
    kept.map(|(name, value)| (name, lean(value))).collect()
}

/// An event without defaults, its type before its data as an agent would write it.
fn lean_json(event: &RawEvent) -> String {
    let Value::Object(mut members) = lean(serde_json::from_str(&intake_json(event)).expect("own JSON")) else {
        unreachable!("an event is an object")
    };
    let data = Map::from_iter([("data".to_owned(), members.remove("data").expect("data"))]);
    let (head, tail) = (Value::Object(members).to_string(), Value::Object(data).to_string());
    format!("{},{}", head.trim_end_matches('}'), &tail[1..])
}

fn bodies(json: fn(&RawEvent) -> String) -> Vec<String> {
    let batch = |batch: u64| {
        let events = (batch * BATCH..(batch + 1) * BATCH).map(|index| json(&typical(index)));
        format!("[{}]", events.collect::<Vec<_>>().join(","))
    };
    (0..BATCHES).map(batch).collect()
}

fn read(body: &str) -> Vec<RawEvent> {
    let arrived = parse(MediaType::Json, &[], body.as_bytes(), &CONTEXT).expect("valid events");
    arrived.into_iter().map(|arrived| arrived.event).collect()
}

fn bench(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("intake");
    group.throughput(Throughput::Elements(BATCHES * BATCH)).sample_size(20);
    for (form, json) in [("full", intake_json as fn(&RawEvent) -> String), ("lean", lean_json)] {
        let bodies = bodies(json);
        let events = bodies.iter().flat_map(|body| read(body));
        assert!(events.eq((0..BATCHES * BATCH).map(typical)), "every event comes back as it was written");
        let bytes: usize = bodies.iter().map(String::len).sum();
        println!("{form}: {} bytes of JSON per event", bytes as u64 / (BATCHES * BATCH));
        group.bench_function(format!("{form}/custody"), |b| {
            b.iter(|| bodies.iter().map(|body| read(body).len()).sum::<usize>());
        });
        group.bench_function(format!("{form}/serde_json-value"), |b| {
            let value = |body: &String| serde_json::from_slice::<Value>(body.as_bytes()).is_ok();
            b.iter(|| bodies.iter().filter(|body| value(body)).count());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = bench
}
criterion_main!(benches);
