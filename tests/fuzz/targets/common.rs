//! What must hold of every answer of intake, for the targets that read requests.

use ingest::gateway::body::{MediaType, parse};
use ingest::gateway::intake::IntakeContext;
use ingest::gateway::intake::Arrived;
use ingest::gateway::problem::{PROBLEMS_LISTED_MAX, Refusal};
use schemas::codec::{codec, validate_header};
use schemas::limits::EVENT_BYTES_MAX;
use schemas::testing::{BROKER_TIME, intake_json};
use schemas::text::RawText;

pub const CONTEXT: IntakeContext<'static> = IntakeContext { tenant_id: Some("acme"), arrived_at: BROKER_TIME };

/// An answer is a few problems of the client's making, or events that are no dead letters and that
/// come back as they are when they are written as JSON.
pub fn check(answer: Result<Vec<Arrived>, Refusal>) {
    match answer {
        Ok(events) => events.into_iter().for_each(check_event),
        Err(refusal) => {
            assert!(refusal.problems().all(|problem| (400..500).contains(&problem.status)));
            assert!(refusal.problems().count() <= PROBLEMS_LISTED_MAX);
            serde_json::from_str::<serde_json::Value>(&refusal.to_json()).expect("a problem is JSON");
        }
    }
}

fn check_event(arrived: Arrived) {
    let Arrived { mut event, numbered, .. } = arrived;
    assert_eq!(validate_header(event.h(), BROKER_TIME), Ok(()));
    let bytes = codec().encode(&event);
    assert!(bytes.len() <= EVENT_BYTES_MAX);
    assert_eq!(codec().decode::<RawText>(Some(&bytes)).as_ref(), Ok(&event));
    if !numbered {
        let h = event.h_mut();
        h.producer_id = "sdk/1".to_owned();
        h.seq = if h.session_id.is_zero() { -1 } else { 0 };
    }
    let written = intake_json(&event);
    let again = parse(MediaType::Json, &[], written.as_bytes(), &CONTEXT).expect("what was taken is taken again");
    assert_eq!(again[0].event, event);
}
