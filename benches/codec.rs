//! Encoding and decoding events, beside apache-avro's own serde path on the same schema and events.
//!
//! Target: 500 k events/s per core each way at about 1 KiB.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use common::cpu_time::{CpuTime, criterion};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use schemas::codec::{codec, published_schemas};
use schemas::event::{Event, ModelCall, RawEvent};
use schemas::text::RawText;

const COUNT: usize = 5_000;

/// Model calls of about 1 KiB: both codecs see the same record type.
fn model_calls() -> Vec<ModelCall<RawText>> {
    let sized = common::events(24 * COUNT).into_iter();
    let sized = sized.filter(|event| common::ABOUT_A_KIB.contains(&codec().encode(event).len()));
    let calls = sized.filter_map(|event| match event {
        Event::ModelCall(call) => Some(call),
        _ => None,
    });
    calls.take(COUNT).collect()
}

fn bench(c: &mut Criterion<CpuTime>) {
    let calls = model_calls();
    let schema = published_schemas().iter().find(|s| s.name == "ModelCall").expect("ModelCall");
    let schema = Schema::parse_str(&schema.json).expect("schema");
    let writer = GenericDatumWriter::builder(&schema).human_readable(false).build().expect("writer");
    let reader = GenericDatumReader::builder(&schema).human_readable(false).build().expect("reader");

    let events: Vec<RawEvent> = calls.iter().cloned().map(Event::ModelCall).collect();
    let frames: Vec<_> = events.iter().map(|e| codec().encode(e)).collect();
    let bytes: usize = frames.iter().map(|f| f.len()).sum();
    for ((event, call), frame) in events.iter().zip(&calls).zip(&frames) {
        assert_eq!(
            &writer.write_ser_to_vec(call).expect("peer encodes"),
            &frame[10..],
            "both codecs write the same bytes"
        );
        assert_eq!(&codec().decode::<RawText>(Some(frame)).expect("own bytes"), event);
    }
    assert_eq!(events.len(), COUNT, "the fleet has enough model calls of that size");
    println!("{} events of {} bytes on average", events.len(), bytes / events.len());

    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Elements(COUNT as u64)).sample_size(20);
    group
        .bench_function("encode/custody", |b| b.iter(|| events.iter().map(|e| codec().encode(e).len()).sum::<usize>()));
    group.bench_function("encode/apache-avro", |b| {
        b.iter(|| calls.iter().map(|e| writer.write_ser_to_vec(e).expect("valid").len()).sum::<usize>());
    });
    group.bench_function("decode/custody", |b| {
        b.iter(|| frames.iter().filter(|f| codec().decode::<RawText>(Some(f)).is_ok()).count());
    });
    group.bench_function("decode/apache-avro", |b| {
        let read = |f: &[u8]| reader.read_deser::<ModelCall<RawText>>(&mut &f[10..]);
        b.iter(|| frames.iter().filter(|f| read(f).is_ok()).count());
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = bench
}
criterion_main!(benches);
