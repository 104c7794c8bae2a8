//! OTLP requests to events: from protobuf bytes to what the writer takes. Beside it, the decoding of
//! the same bytes alone, which no receiver can do without.
//!
//! Target: 60 k events/s per core. The request is the golden run of an agent (two model calls with
//! content, two tools, an evaluation, an HTTP span, the agent), 64 times with other ids, as a
//! collector's batch of 448 spans.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use common::cpu_time::{CpuTime, criterion};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ingest::gateway::otlp::{Context, Encoding, Mapped, OtlpConfig, TraceSessions, decode_traces, map_traces};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use schemas::time::TimestampMicros;

/// Runs in a request.
const RUNS: u8 = 64;
/// Events of one run.
const EVENTS_PER_RUN: u64 = 10;
/// A minute after the golden spans.
const ARRIVED: TimestampMicros = TimestampMicros::from_ms(1_768_208_460_000);

fn request() -> Vec<u8> {
    let golden = include_bytes!("../ingest/test-data/otlp/genai_run.traces.json");
    let golden = decode_traces(golden, Encoding::Json).expect("a golden request");
    let mut batch = golden.clone();
    let spans = &mut batch.resource_spans[0].scope_spans[0].spans;
    spans.clear();
    for run in 0..RUNS {
        for mut span in golden.resource_spans[0].scope_spans[0].spans.clone() {
            span.trace_id[0] = run + 1;
            spans.push(span);
        }
    }
    batch.encode_to_vec()
}

fn map(bytes: &[u8], sessions: &TraceSessions) -> Mapped {
    let config = OtlpConfig::default();
    let context = Context { tenant_id: "acme", arrived_at: ARRIVED, config: &config, sessions };
    map_traces(decode_traces(bytes, Encoding::Protobuf).expect("an encoded request"), &context)
}

fn bench(c: &mut Criterion<CpuTime>) {
    let (bytes, sessions) = (request(), TraceSessions::default());
    let events = u64::from(RUNS) * EVENTS_PER_RUN;
    let mapped = map(&bytes, &sessions);
    assert_eq!((mapped.events.len() as u64, mapped.rejected, mapped.ignored), (events, 0, u64::from(RUNS)));
    let mut group = c.benchmark_group("otlp");
    group.throughput(Throughput::Elements(events));
    group.bench_function("traces/custody", |b| {
        b.iter_batched(|| (), |()| map(&bytes, &sessions), BatchSize::PerIteration);
    });
    group.bench_function("traces/prost decode alone", |b| {
        let decode = || ExportTraceServiceRequest::decode(bytes.as_slice()).expect("an encoded request");
        b.iter_batched(|| (), |()| decode(), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = bench
}
criterion_main!(benches);
