//! Records that are no events, as broken clients send them: each must end as a dead letter with its
//! reason, and nothing else may be lost.

use bytes::Bytes;
use schemas::codec::codec;
use schemas::event::{EventHeader, ModelCall, RawEvent};
use schemas::id::Uuid;
use schemas::limits::EVENT_BYTES_MAX;
use schemas::time::TimestampMicros;

/// One value of each kind: empty, no frame, cut short, unknown schemas, trailing bytes, not UTF-8,
/// too large, and well-formed events with an impossible clock or header.
pub fn values() -> Vec<Bytes> {
    let good = encoded(|_| {});
    // Half of a good record: the frame is known, so that the reader only notices at its end.
    let cut = good.slice(..good.len() / 2);
    let mut trailing = good.to_vec();
    trailing.extend_from_slice(b"more");
    let mut not_utf8 = good.to_vec();
    // Inside the agent's name: the length stays right, only the text is not UTF-8.
    if let Some(at) = good.windows(6).position(|w| w == b"broken") {
        not_utf8[at] = 0xff;
    }
    vec![
        Bytes::new(),
        Bytes::from_static(b"hello"),
        cut,
        Bytes::from_static(b"\xc3\x01\x01\x02\x03\x04\x05\x06\x07\x08body"),
        Bytes::from_static(b"\x00\x7f\xff\xff\xffbody"),
        Bytes::from(trailing),
        Bytes::from(not_utf8),
        Bytes::from(vec![0xc3; EVENT_BYTES_MAX + 1]),
        encoded(|h| h.event_time = TimestampMicros(0)),
        encoded(|h| h.event_time = TimestampMicros::from_ms(6_311_433_600_000)),
        encoded(|h| h.tenant_id.clear()),
    ]
}

fn encoded(change: impl FnOnce(&mut EventHeader)) -> Bytes {
    let mut call = ModelCall {
        h: EventHeader {
            event_id: Uuid::derive(&[b"malformed"]),
            session_id: Uuid::derive(&[b"malformed session"]),
            tenant_id: "acme".to_owned(),
            agent_id: "broken-client".to_owned(),
            event_time: TimestampMicros::from_ms(1_768_208_400_000),
            ..EventHeader::of_type("model.call")
        },
        provider: "openai".to_owned(),
        ..ModelCall::default()
    };
    change(&mut call.h);
    codec().encode(&RawEvent::ModelCall(call))
}
