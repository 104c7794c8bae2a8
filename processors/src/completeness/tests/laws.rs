//! The five laws under adversarial input: small domains, so that everything collides.

use proptest::prelude::*;
use schemas::codec::Derived;
use schemas::event::*;
use schemas::id::{Sha256, Uuid};
use schemas::record::{PartitionId, Position, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use super::fleet::{START_MS, TENANT, record, session_id, tick};
use crate::completeness::{Completeness, CompletenessConfig, Writers, WritersConfig};
use crate::five_laws;
use crate::stage::Sourced;

fn event(kind: u8, id: u8) -> CleanEvent {
    let (call, digest) = (format!("t{}", id % 2), Some(Sha256([id % 3; 32])));
    match kind {
        0 => Event::SessionStarted(SessionStarted {
            expected_steps: i64::from(id % 5) - 1,
            template_id: "t".to_owned(),
            ..Default::default()
        }),
        1 => Event::SessionEnded(SessionEnded { event_count: i64::from(id % 6), ..Default::default() }),
        2 => Event::ToolCallAttempted(ToolCallAttempted {
            tool_call_id: call,
            side_effect_class: "write".to_owned(),
            action_digest: digest,
            ..Default::default()
        }),
        3 => Event::PolicyDecision(PolicyDecision {
            subject_kind: "tool_call".to_owned(),
            subject_id: call,
            effect: ["ALLOW", "DENY", "REQUIRE_APPROVAL"][usize::from(id % 3)].to_owned(),
            ..Default::default()
        }),
        4 => Event::ApprovalRequested(ApprovalRequested {
            tool_call_id: call,
            approval_id: "a".to_owned(),
            action_digest: digest,
            expires_at: Some(TimestampMicros::from_ms(START_MS)),
            ..Default::default()
        }),
        5 => Event::ApprovalDecided(ApprovalDecided {
            approval_id: "a".to_owned(),
            decision: ["approve", "deny", "edit"][usize::from(id % 3)].to_owned(),
            ..Default::default()
        }),
        6 => Event::ToolCallCompleted(ToolCallCompleted { tool_call_id: call, ..Default::default() }),
        7 => {
            let open = |session: u8, last_seq| OpenSession { id: session_id(session), last_seq };
            Event::Heartbeat(Heartbeat {
                open_sessions: vec![open(1, i64::from(id)), open(id, 3)],
                last_producer_seq: i64::from(id),
                ..Default::default()
            })
        }
        8 => Event::Extension(Extension { h: EventHeader::of_type("acme.custom"), ..Default::default() }),
        _ => Event::ModelCall(ModelCall::default()),
    }
}

prop_compose! {
    fn any_event()(
        kind in 0..11_u8,
        id in 0..14_u8,
        session in 0..4_u8,
        seq in prop_oneof![8 => 0..9_i64, 1 => Just(-1), 1 => Just(1_000_000_000_000), 1 => Just(i64::MAX)],
        producer_seq in prop_oneof![8 => 0..9_i64, 1 => Just(-1), 1 => Just(i64::MAX)],
        producer in 0..3_i64,
        prev in 0..4_u8,
        bytes in 0..12_u8,
        content in prop_oneof![2 => Just(None), 1 => (0..4_u8).prop_map(Some)],
        event_ms in prop_oneof![6 => Just(0), 1 => Just(-200_000_000_i64), 1 => Just(900_000_i64), 1 => Just(-START_MS)],
    ) -> (CleanEvent, Sha256) {
        let mut event = event(kind, id);
        let event_type = event.kind().event_type();
        let h = event.h_mut();
        if h.event_type.is_empty() {
            h.event_type = event_type.to_owned();
        }
        h.event_id = Uuid([id; 16]);
        h.tenant_id = TENANT.to_owned();
        h.session_id = session_id(session);
        h.seq = seq;
        h.prev_hash = Sha256([prev; 32]);
        h.producer_id = format!("w{}", producer % 2);
        h.producer_epoch = producer;
        h.producer_seq = producer_seq;
        h.event_time = TimestampMicros::from_ms(START_MS + event_ms);
        if let Some(content) = content {
            h.capture = "best_effort".to_owned();
            h.ext.insert(CONTENT_SHA256_EXT.to_owned(), Sha256([content; 32]).to_hex());
        }
        (event, Sha256([bytes; 32]))
    }
}

/// An event or a tick, how long after the one before it, and how far its source offset moves.
fn any_log() -> impl Strategy<Value = Vec<Sourced<CleanEvent>>> {
    let after = prop_oneof![6 => 0..2_000_i64, 2 => 50_000..90_000_i64, 1 => 1_000_000..4_000_000_i64, 1 => Just(100_000_000_i64)];
    let skew = prop_oneof![6 => Just(0_i64), 1 => -5_000..5_000_i64, 1 => Just(i64::MAX / 2_000)];
    let acked = prop_oneof![Just(-1_i64), 0..30_i64];
    let ticks = (skew, acked, 0..2_i64);
    let item = prop_oneof![4 => any_event().prop_map(Ok), 1 => ticks.prop_map(Err)];
    let step = prop_oneof![8 => Just(1_i64), 1 => Just(0), 1 => Just(3)];
    proptest::collection::vec((item, after, step), 0..60).prop_map(|items| {
        let (mut ms, mut source) = (START_MS, 0);
        let records = items.into_iter().enumerate().map(|(offset, (item, after, step))| {
            ms += after;
            source += step;
            let (event, sha256) = item.unwrap_or_else(|(skew, records_acked, writer)| {
                let tick = Tick { records_acked, writer_epoch: writer, ..tick(ms.saturating_add(skew)) };
                (Event::Tick(tick), Sha256::ZERO)
            });
            let mut record = record(0, offset as u64, ms, event, sha256);
            record.source.offset = source as u64;
            record
        });
        records.collect()
    })
}

fn completeness() -> Completeness {
    let steps = vec!["session.started".to_owned(), "model.call".to_owned()];
    let templates = [("t".to_owned(), steps)].into();
    Completeness::new(CompletenessConfig { templates, sessions_max: 3, retention_ms: 2_000_000, ..Default::default() })
}

five_laws!(completeness_obeys_the_five_laws, completeness(), any_log(), 400);

fn any_reports() -> impl Strategy<Value = Vec<Sourced<Derived>>> {
    let spans = proptest::collection::vec((-2..12_i64, 0..6_i64), 0..4);
    let far = prop_oneof![9 => Just(0_i64), 1 => Just(i64::MAX / 2)];
    let span = (0..2_i64, 0..7_i64, 0..2_i32, 0..3_i64, spans, far, -1..20_i64, any::<bool>());
    let span =
        span.prop_map(|(producer, producer_epoch, source_partition, ordinal, spans, far, last_claimed, closed)| {
            let spans = spans.into_iter().map(|(first, len)| SeqSpan { first: first + far, next: first + far + len });
            let (tenant_id, producer_id) = (TENANT.to_owned(), format!("w{producer}"));
            let spans = spans.collect();
            let span = WriterSpan {
                tenant_id,
                producer_id,
                producer_epoch,
                source_partition,
                ordinal,
                spans,
                last_claimed,
                closed,
                ..Default::default()
            };
            Derived::WriterSpan(span)
        });
    let partitions = prop_oneof![20 => Just(2), 1 => Just(3), 1 => Just(0)];
    let mark = (-1..3_i32, partitions, prop_oneof![0..20_i64, 500..600_i64]).prop_map(
        |(source_partition, source_partitions, minutes)| {
            let at = TimestampMicros::from_ms(START_MS + minutes * 60_000);
            Derived::Watermark(Watermark { at, source_partition, source_partitions })
        },
    );
    let item = prop_oneof![6 => span, 6 => mark, 1 => Just(Derived::Alert(Alert::default()))];
    proptest::collection::vec((item, 0..3_i64), 0..60).prop_map(|items| {
        let mut ms = START_MS;
        let records = items.into_iter().enumerate().map(|(offset, (value, minutes))| {
            ms += minutes * 60_000;
            let at = Position { partition: PartitionId { topic: Topic::Writers, partition: 0 }, offset: offset as u64 };
            Sourced { at, broker_time: TimestampMicros::from_ms(ms), source: SourceRef::default(), value }
        });
        records.collect()
    })
}

fn writers() -> Writers {
    Writers::new(WritersConfig { retention_ms: 3_600_000, ..Default::default() })
}

five_laws!(writers_obeys_the_five_laws, writers(), any_reports(), 200);
