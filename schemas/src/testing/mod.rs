//! Seeded, valid events of every kind, for the tests and benches of every crate.
//!
//! The same seed always gives the same event (no randomness of its own, invariant I1). Field values
//! are arbitrary within their types and the header is one that
//! [`validate_header`](crate::codec::validate_header) accepts; sequences of events that belong
//! together are made elsewhere.

pub mod adversarial;
mod sample;
mod typical;
mod wait;

pub(crate) use sample::Sample;
pub use sample::Seed;
pub use typical::typical;
pub use wait::{PATIENCE, until, until_async};

use crate::codec::Derived;
use crate::event::{Event, EventHeader, EventKind, RawEvent, read_record, with_record};
use crate::text::Text;
use crate::time::TimestampMicros;

/// A broker time that every event made here fits: 2026-01-01T00:00Z.
pub const BROKER_TIME: TimestampMicros = TimestampMicros::from_ms(1_767_225_600_000);

/// A valid event of that kind; content is raw or redacted as `T` asks for.
pub fn event<T: Text>(kind: EventKind, seed: u64) -> Event<T> {
    let mut seed = Seed::new(seed);
    macro_rules! sample {
        ($name:ident) => {
            Event::$name(Sample::sample(&mut seed))
        };
    }
    let mut event: Event<T> = read_record!(kind, sample);
    make_valid(event.h_mut(), kind, &mut seed);
    event
}

/// An event in the JSON form that intake reads: the header's fields, then the type's own under `data`,
/// each in the order of the schema, none left out.
pub fn intake_json(event: &RawEvent) -> String {
    let whole = with_record!(event, record => serde_json::to_string(record)).unwrap_or_default();
    let header = serde_json::to_string(event.h()).unwrap_or_default();
    let own = whole.strip_prefix("{\"h\":").and_then(|rest| rest.strip_prefix(&*header)).unwrap_or_default();
    let own = own.strip_prefix(',').unwrap_or(own);
    format!("{},\"data\":{{{own}}}", header.strip_suffix('}').unwrap_or_default())
}

/// A derived record, of each type in turn.
pub fn derived(seed: u64) -> Derived {
    let mut numbers = Seed::new(seed);
    match seed % 6 {
        0 => {
            let kind = EventKind::ALL[numbers.below(EventKind::ALL.len() as u64) as usize];
            Derived::Event(event(kind, numbers.next()))
        }
        1 => Derived::Signal(Sample::sample(&mut numbers)),
        2 => Derived::WriterSpan(Sample::sample(&mut numbers)),
        3 => Derived::Watermark(Sample::sample(&mut numbers)),
        4 => Derived::Alert(Sample::sample(&mut numbers)),
        _ => Derived::ControlTotal(Sample::sample(&mut numbers)),
    }
}

/// Replaces what an arbitrary header may get wrong.
fn make_valid(h: &mut EventHeader, kind: EventKind, seed: &mut Seed) {
    h.spec_version = 1;
    h.event_id = crate::id::Uuid::v7(BROKER_TIME.ms() as u64, u128::from(seed.next()));
    h.event_type = match kind {
        EventKind::Extension => "acme.custom".to_owned(),
        known => known.event_type().to_owned(),
    };
    h.event_time = TimestampMicros(BROKER_TIME.0 - seed.below(60_000_000) as i64);
    h.tenant_id = format!("tenant-{}", seed.below(4));
    h.agent_id = format!("agent-{}", seed.below(16));
    h.seq = seed.below(1_000) as i64;
    h.producer_seq = seed.below(1_000_000) as i64;
}
