//! Events of the size and mixture that benches measure with: about 1 KiB each.
//!
//! The figures are a plain guess at an agent's traffic: six in ten are model calls, the others tool
//! calls and their decisions. No personal data is planted here.

use super::{BROKER_TIME, Seed};
use crate::event::{Event, EventHeader, ModelCall, PolicyDecision, Principal, RawEvent, ToolCallCompleted};
use crate::id::{Sha256, SpanId, TraceId, Uuid};
use crate::text::Content;
use crate::time::TimestampMicros;

const WORDS: [&str; 16] = [
    "the", "invoice", "was", "sent", "to", "your", "team", "on", "monday", "and", "needs", "a", "review", "before",
    "payment", "closes",
];

/// Event number `index` of a typical stream; 1 KiB on average when encoded.
pub fn typical(index: u64) -> RawEvent {
    let mut seed = Seed::new(index);
    let h = |event_type: &str, seed: &mut Seed| header(index, event_type, seed);
    match index % 10 {
        0..6 => Event::ModelCall(ModelCall {
            h: h("model.call", &mut seed),
            call_id: format!("call-{index}"),
            provider: "anthropic".to_owned(),
            request_model: "claude-sonnet".to_owned(),
            response_model: "claude-sonnet-20260101".to_owned(),
            input: Some(Content::plain(prose(&mut seed, 360))),
            output: Some(Content::plain(prose(&mut seed, 280))),
            finish_reasons: vec!["stop".to_owned()],
            input_tokens: 200 + seed.below(2_000) as i64,
            output_tokens: 50 + seed.below(800) as i64,
            cost_micros: seed.below(40_000) as i64,
            latency_ms: 300 + seed.below(4_000) as i64,
            ttft_ms: 100 + seed.below(900) as i64,
            ..Default::default()
        }),
        6..9 => Event::ToolCallCompleted(ToolCallCompleted {
            h: h("tool.call.completed", &mut seed),
            tool_call_id: format!("tool-{index}"),
            tool_name: "crm.search".to_owned(),
            decision_id: format!("decision-{index}"),
            server: "crm.example".to_owned(),
            result: Some(Content::json(tool_result(&mut seed, 680))),
            latency_ms: seed.below(2_000) as i64,
            ..Default::default()
        }),
        _ => Event::PolicyDecision(PolicyDecision {
            h: h("policy.decision", &mut seed),
            decision_id: format!("decision-{index}"),
            subject_kind: "tool_call".to_owned(),
            subject_id: format!("tool-{}", index - 1),
            policy_id: "crm-read".to_owned(),
            policy_version: "7".to_owned(),
            effect: "ALLOW".to_owned(),
            latency_ms: 2,
            ..Default::default()
        }),
    }
}

fn header(index: u64, event_type: &str, seed: &mut Seed) -> EventHeader {
    let at = TimestampMicros(BROKER_TIME.0 + index as i64 * 100);
    EventHeader {
        event_id: Uuid::v7(at.ms() as u64, u128::from(seed.next()) << 64 | u128::from(seed.next())),
        event_time: at,
        clock_error_ms: 5,
        tenant_id: format!("tenant-{}", index % 8),
        agent_id: format!("agent-{}", index % 64),
        agent_version: "2.4.1".to_owned(),
        agent_instance_id: "pod-7f9c6d5b".to_owned(),
        session_id: Uuid::derive(&[&(index % 512).to_be_bytes()]),
        seq: (index / 512) as i64,
        prev_hash: Sha256(std::array::from_fn(|_| seed.next() as u8)),
        producer_id: "sdk-python/pod-7f9c6d5b".to_owned(),
        producer_epoch: BROKER_TIME.0,
        producer_seq: index as i64,
        principal: Principal {
            r#type: "user".to_owned(),
            id: format!("u-{:08x}", seed.below(1 << 32)),
            auth_method: "oidc".to_owned(),
            authn_event_id: format!("a-{:08x}", seed.below(1 << 32)),
        },
        trace_id: Some(TraceId(std::array::from_fn(|_| seed.next() as u8))),
        span_id: Some(SpanId(std::array::from_fn(|_| seed.next() as u8))),
        ..EventHeader::of_type(event_type)
    }
}

fn prose(seed: &mut Seed, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(seed.choose(&WORDS));
        text.push(' ');
    }
    text
}

fn tool_result(seed: &mut Seed, bytes: usize) -> String {
    let mut text = String::from("{\"rows\":[");
    while text.len() < bytes {
        let (id, word) = (seed.below(100_000), seed.choose(&WORDS));
        text.push_str(&format!("{{\"id\":{id},\"state\":\"{word}\",\"note\":\"{}\"}},", prose(seed, 40)));
    }
    text.pop();
    text.push_str("]}");
    text
}
