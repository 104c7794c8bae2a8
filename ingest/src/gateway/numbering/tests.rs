//! Laws of the numbers that a gateway gives, over any weave of tenants and sessions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::event::{Event, EventHeader, ModelCall, SessionEnded};
use schemas::text::Content;

use super::*;

fn arrived(tenant: u8, session: u8, event: RawEvent) -> Arrived {
    let mut event = event;
    let h = event.h_mut();
    (h.tenant_id, h.session_id) = (format!("t{tenant}"), Uuid([session; 16]));
    h.capture = "best_effort".to_owned();
    Arrived { content_sha256: Sha256([session; 32]), event, numbered: false, raw: None }
}

fn call(tenant: u8, session: u8) -> Arrived {
    arrived(
        tenant,
        session,
        Event::ModelCall(ModelCall { h: EventHeader::of_type("model.call"), ..Default::default() }),
    )
}

fn decoded(records: &[OutRecord]) -> Vec<EventHeader> {
    let header = |record: &OutRecord| codec().decode(record.value.as_deref()).map(|e: RawEvent| e.h().clone()).unwrap();
    records.iter().map(header).collect()
}

#[test]
fn an_end_is_kept_as_its_client_wrote_it_and_numbered_on() {
    let mut numbering = Numbering::new("g", TimestampMicros(5), 10);
    let h = EventHeader::of_type("session.ended");
    let ended = Event::SessionEnded(SessionEnded { h, event_count: 77, ..Default::default() });
    let mut request = [call(1, 1), arrived(1, 1, ended), call(1, 1)];
    let records = numbering.records(&mut request, TimestampMicros(6)).unwrap();
    assert_eq!(decoded(&records).iter().map(|h| h.seq).collect::<Vec<_>>(), [0, 1, 2]);
    let RawEvent::SessionEnded(ended) = codec().decode(records[1].value.as_deref()).unwrap() else { panic!("no end") };
    assert_eq!(ended.event_count, 77);
}

#[test]
fn what_is_numbered_already_is_not_touched() {
    let mut numbering = Numbering::new("g", TimestampMicros(5), 10);
    let own = Arrived { numbered: true, ..call(1, 1) };
    let records = numbering.records(&mut [call(1, 1), own.clone(), call(1, 1)], TimestampMicros(6)).unwrap();
    assert_eq!(records[1].value, Some(codec().encode(&own.event)));
    let seqs: Vec<i64> = decoded(&records).iter().map(|h| h.seq).collect();
    assert_eq!((seqs[0], seqs[2]), (0, 1));
}

#[test]
fn a_request_with_an_event_that_is_too_large_leaves_no_trace_in_the_numbers() {
    let mut numbering = Numbering::new("g", TimestampMicros(5), 10);
    numbering.records(&mut [call(1, 1), call(1, 0)], TimestampMicros(6)).unwrap();
    let mut clean = numbering.clone();
    let content = Content::plain("x".repeat(EVENT_BYTES_MAX));
    let large = arrived(1, 1, Event::ModelCall(ModelCall { input: Some(content), ..Default::default() }));
    let refused = numbering.records(&mut [call(1, 1), call(1, 2), call(1, 0), large, call(1, 1)], TimestampMicros(7));
    assert!(matches!(refused, Err(TooLarge { index: 3, bytes }) if bytes > EVENT_BYTES_MAX), "{refused:?}");
    let after =
        |numbering: &mut Numbering| numbering.records(&mut [call(1, 1), call(1, 2)], TimestampMicros(8)).unwrap();
    assert_eq!(after(&mut numbering), after(&mut clean));
}

proptest! {
    /// Gap-free from 0 and chained per (tenant, session, epoch); producer numbers gap-free from 0 per
    /// (tenant, epoch); epochs grow; never more sessions in an epoch than are remembered.
    #[test]
    fn numbers_are_gap_free_and_chained(
        requests in prop::collection::vec(prop::collection::vec((0..3_u8, 0..6_u8), 1..6), 0..30),
        sessions_max in 1..8_usize,
        step in 0..2_i64,
    ) {
        let mut numbering = Numbering::new("g", TimestampMicros(100), sessions_max);
        let mut next: BTreeMap<(i64, String), i64> = BTreeMap::new();
        let mut lines: BTreeMap<(i64, String, Uuid), (i64, Sha256)> = BTreeMap::new();
        let mut epoch = 0;
        for (at, request) in requests.into_iter().enumerate() {
            let mut request: Vec<Arrived> = request.into_iter().map(|(tenant, session)| call(tenant, session)).collect();
            let now = TimestampMicros(100 + step * at as i64);
            let records = numbering.records(&mut request, now).unwrap();
            for (record, h) in records.iter().zip(decoded(&records)) {
                prop_assert!(h.producer_epoch >= epoch, "epochs grow");
                epoch = h.producer_epoch;
                prop_assert_eq!(h.producer_id.as_str(), "gateway/g");
                let producer_seq = next.entry((epoch, h.tenant_id.clone())).or_default();
                prop_assert_eq!(h.producer_seq, *producer_seq);
                *producer_seq += 1;
                prop_assert_eq!(h.ext.get(CONTENT_SHA256_EXT), Some(&Sha256([h.session_id.0[0]; 32]).to_hex()));
                prop_assert_eq!(record.timestamp, now);
                let key = session_key(&h.tenant_id, h.session_id);
                prop_assert_eq!(record.key.as_deref(), Some(key.as_slice()));
                if h.session_id.is_zero() {
                    prop_assert_eq!((h.seq, h.prev_hash), (-1, Sha256::ZERO));
                    continue;
                }
                let line = lines.entry((epoch, h.tenant_id.clone(), h.session_id)).or_default();
                prop_assert_eq!((h.seq, h.prev_hash), *line);
                *line = (line.0 + 1, Sha256::of(record.value.as_deref().unwrap()));
            }
            let open = lines.keys().filter(|(of, ..)| *of == epoch).count();
            prop_assert!(open <= sessions_max, "{} sessions open", open);
        }
    }
}
