//! Whatever bytes a request holds, reading them as OTLP ends in a message or a problem, and mapping a
//! message ends in events that the stages take, in refusals with a reason, or in spans left out.
//!
//! It does not judge what an attribute means: golden requests do.
#![no_main]

use ingest::gateway::otlp::{
    Context, Encoding, Mapped, OtlpConfig, TraceSessions, decode_logs, decode_traces, map_logs, map_traces,
};
use libfuzzer_sys::fuzz_target;
use schemas::codec::{codec, validate_header};
use schemas::time::TimestampMicros;

/// 2026-01-12T09:01Z.
const ARRIVED: TimestampMicros = TimestampMicros::from_ms(1_768_208_460_000);

fn check(mapped: &Mapped) {
    assert_eq!(mapped.rejected == 0, mapped.error_message.is_empty());
    for arrived in &mapped.events {
        assert_eq!(validate_header(arrived.event.h(), ARRIVED), Ok(()));
        let bytes = codec().encode(&arrived.event);
        let again = codec().decode::<schemas::text::RawText>(Some(&bytes)).expect("what was mapped can be read");
        assert_eq!(codec().encode(&again), bytes);
    }
}

fn intake(bytes: &[u8], encoding: Encoding) {
    let config = OtlpConfig { keep_other: true };
    // Each mapping with a memory of its own: the second would know what the first learnt.
    let map = |map: &dyn Fn(&Context<'_>) -> Mapped| {
        map(&Context { tenant_id: "acme", arrived_at: ARRIVED, config: &config, sessions: &TraceSessions::default() })
    };
    if let Ok(request) = decode_traces(bytes, encoding) {
        let mapped = map(&|context| map_traces(request.clone(), context));
        check(&mapped);
        assert_eq!(map(&|context| map_traces(request.clone(), context)), mapped);
    }
    if let Ok(request) = decode_logs(bytes, encoding) {
        let mapped = map(&|context| map_logs(request.clone(), context));
        check(&mapped);
        assert_eq!(map(&|context| map_logs(request.clone(), context)), mapped);
    }
}

fuzz_target!(|bytes: &[u8]| {
    intake(bytes, Encoding::Protobuf);
    intake(bytes, Encoding::Json);
});
