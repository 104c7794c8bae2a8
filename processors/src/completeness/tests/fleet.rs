//! Events of made-up sessions, correctly numbered and chained over made-up digests, and their run.

use std::collections::BTreeMap;

use schemas::codec::Derived;
use schemas::event::*;
use schemas::id::{Sha256, Uuid};
use schemas::record::{PartitionId, Position, SourceRef};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, partition_of, session_key};

use crate::completeness::{Completeness, CompletenessConfig, CompletenessState};
use crate::stage::{Outgoing, Processor, Sourced};

/// Where the log begins: an hour's start, ms.
pub(super) const START_MS: i64 = 1_790_002_800_000;
pub(super) const TENANT: &str = "acme";

/// An event and the digest of its bytes.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) event: CleanEvent,
    pub(super) digest: Sha256,
}

impl Made {
    pub(super) fn h(&mut self) -> &mut EventHeader {
        self.event.h_mut()
    }
}

/// What happens in a log; small lists of it only.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)]
pub(super) enum Item {
    Event(Made),
    /// Time passes by so many ms, and a tick says so.
    Tick(i64),
    /// A tick says that so many ms have passed since the start.
    TickAt(i64),
}

/// A writer: numbers events and chains them.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) name: String,
    pub(super) next: i64,
    serial: u128,
}

impl Writer {
    pub(super) fn new(name: &str) -> Self {
        let serial = u128::from(name.bytes().map(u64::from).sum::<u64>()) << 32;
        Self { name: name.to_owned(), next: 0, serial }
    }

    /// Numbers an event and gives it an id and a digest.
    pub(super) fn write(&mut self, mut event: CleanEvent) -> Made {
        let event_type = event.kind().event_type().to_owned();
        let h = event.h_mut();
        self.serial += 1;
        h.event_id = Uuid(self.serial.to_be_bytes());
        if h.event_type.is_empty() {
            h.event_type = event_type;
        }
        h.event_time = TimestampMicros::from_ms(START_MS);
        h.tenant_id = TENANT.to_owned();
        h.agent_id = "agent".to_owned();
        h.producer_id.clone_from(&self.name);
        h.producer_epoch = 7;
        h.producer_seq = self.next;
        self.next += 1;
        let digest = Sha256::of(&h.event_id.0);
        Made { event, digest }
    }

    /// A session of these events between its start and its end.
    pub(super) fn session(&mut self, id: u8, template: &str, events: Vec<CleanEvent>) -> Vec<Made> {
        let count = events.len() as i64 + 2;
        let started = SessionStarted { expected_steps: count, template_id: template.to_owned(), ..Default::default() };
        let mut made: Vec<Made> = Vec::new();
        let mut counts_by_type = BTreeMap::new();
        let all = std::iter::once(Event::SessionStarted(started)).chain(events);
        for event in all {
            let next = self.chained(id, made.last(), event);
            *counts_by_type.entry(next.event.h().event_type.clone()).or_default() += 1;
            made.push(next);
        }
        counts_by_type.insert("session.ended".to_owned(), 1);
        let final_hash = made.last().unwrap().digest;
        let ended = SessionEnded { event_count: count, final_hash, counts_by_type, ..Default::default() };
        let ended = self.chained(id, made.last(), Event::SessionEnded(ended));
        made.push(ended);
        made
    }

    /// An event that follows `before` in its session.
    pub(super) fn chained(&mut self, id: u8, before: Option<&Made>, event: CleanEvent) -> Made {
        let mut made = self.write(event);
        let h = made.h();
        h.session_id = session_id(id);
        h.seq = before.map_or(0, |before| before.event.h().seq + 1);
        h.prev_hash = before.map_or(Sha256::ZERO, |before| before.digest);
        made
    }

    /// Its last heartbeat, outside of sessions.
    pub(super) fn goodbye(&mut self) -> Made {
        let mut heartbeat = Heartbeat { last_producer_seq: self.next - 1, ..Default::default() };
        heartbeat.h.seq = -1;
        heartbeat.h.ext.insert(crate::completeness::CLOSED_EXT.to_owned(), "true".to_owned());
        self.write(Event::Heartbeat(heartbeat))
    }
}

pub(super) fn session_id(id: u8) -> Uuid {
    Uuid([id; 16])
}

pub(super) fn model_call() -> CleanEvent {
    Event::ModelCall(ModelCall::default())
}

/// The partition of a made event: of its session, or of its writer.
pub(super) fn home(made: &Made, partitions: u32) -> u32 {
    let h = made.event.h();
    match h.session_id.is_zero() {
        true => partition_of(h.producer_id.as_bytes(), partitions),
        false => partition_of(&session_key(&h.tenant_id, h.session_id), partitions),
    }
}

/// A record of a partition of the clean topic; an event that has no time of its own happened then.
pub(super) fn record(
    partition: u32,
    offset: u64,
    ms: i64,
    mut event: CleanEvent,
    sha256: Sha256,
) -> Sourced<CleanEvent> {
    if event.h().event_time == TimestampMicros::from_ms(START_MS) {
        event.h_mut().event_time = TimestampMicros::from_ms(ms);
    }
    let at = Position { partition: PartitionId { topic: Topic::Clean, partition }, offset };
    let source = SourceRef { offset, sha256 };
    Sourced { at, broker_time: TimestampMicros::from_ms(ms), source, value: event }
}

pub(super) fn tick(ms: i64) -> Tick {
    let h = EventHeader { seq: -1, ..EventHeader::of_type("tick") };
    Tick { h, at: TimestampMicros::from_ms(ms), records_acked: -1, ..Default::default() }
}

/// Items as the records of one partition, `step_ms` apart.
pub(super) fn records(partition: u32, step_ms: i64, items: &[Item]) -> Vec<Sourced<CleanEvent>> {
    let mut ms = START_MS;
    let items = items.iter().enumerate();
    items
        .map(|(offset, item)| match item {
            Item::Event(made) => {
                ms += step_ms;
                record(partition, offset as u64, ms, made.event.clone(), made.digest)
            }
            Item::Tick(_) | Item::TickAt(_) => {
                ms = match item {
                    Item::TickAt(at) => START_MS + at,
                    Item::Tick(after) => ms + after,
                    Item::Event(_) => ms,
                };
                record(partition, offset as u64, ms, Event::Tick(tick(ms)), Sha256::ZERO)
            }
        })
        .collect()
}

/// Everything that a partition derives.
pub(super) fn run(config: &CompletenessConfig, records: &[Sourced<CleanEvent>]) -> Vec<Outgoing> {
    let stage = Completeness::new(config.clone());
    stage.process(&mut CompletenessState::default(), records).derived
}

/// Findings among derived records.
pub(super) fn findings(derived: &[Outgoing]) -> Vec<DetectionRaised> {
    let finding = |outgoing: &Outgoing| match &outgoing.value {
        Derived::Event(Event::DetectionRaised(finding)) => Some(finding.clone()),
        _ => None,
    };
    derived.iter().filter_map(finding).collect()
}

/// Kind and count of each finding.
pub(super) fn kinds(findings: &[DetectionRaised]) -> Vec<(String, i64)> {
    findings.iter().map(|finding| (finding.kind.clone(), finding.count)).collect()
}
