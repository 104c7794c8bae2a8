//! Gap-free numbers and hash chains for the sessions of one writer.
//!
//! A writer stamps each event once, in order, and sends the resulting bytes unchanged: the next event's
//! `prev_hash` covers exactly these. It sends nothing, reads no clock and generates no id.

use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::codec::codec;
use schemas::event::{Event, EventHeader, OpenSession, SessionEnded};
use schemas::id::{Sha256, Uuid};
use schemas::record::OutRecord;
use schemas::text::Text;
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, session_key};
use serde::{Deserialize, Serialize};

/// What the next event of a session follows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Number of the next event, 0-based.
    pub next_seq: i64,
    /// SHA-256 of the bytes of the event before it; zeros at 0.
    pub prev_hash: Sha256,
    /// Events so far by type.
    pub counts_by_type: BTreeMap<String, i64>,
    /// Input and output tokens of all model calls so far; calls that do not say count as 0.
    pub total_tokens: i64,
    /// Cost of all model calls so far, 1e-6 USD; calls that do not say count as 0.
    pub total_cost_micros: i64,
    /// `event_time` of the first event.
    pub first_time: Option<TimestampMicros>,
}

/// Numbers the events of one writer.
#[derive(Debug, Clone)]
pub struct Sequencer {
    producer_id: String,
    producer_epoch: i64,
    producer_seq: i64,
    sessions: BTreeMap<Uuid, SessionState>,
}

impl Sequencer {
    /// A writer that starts at `epoch`; the same `producer_id` must never start twice at one epoch.
    pub fn new(producer_id: impl Into<String>, epoch: TimestampMicros) -> Self {
        Self { producer_id: producer_id.into(), producer_epoch: epoch.0, producer_seq: 0, sessions: BTreeMap::new() }
    }

    /// Continues a session whose state an earlier process of this writer kept.
    pub fn resume(&mut self, session_id: Uuid, state: SessionState) {
        self.sessions.insert(session_id, state);
    }

    /// What the next event of a session follows; `None` before its first and after its last.
    pub fn session(&self, session_id: Uuid) -> Option<&SessionState> {
        self.sessions.get(&session_id)
    }

    /// Sessions that have begun and not ended, with the last number used in each.
    pub fn open_sessions(&self) -> Vec<OpenSession> {
        let open = self.sessions.iter().map(|(id, session)| OpenSession { id: *id, last_seq: session.next_seq - 1 });
        open.collect()
    }

    /// The last `producer_seq` used; -1 before the first.
    pub fn last_producer_seq(&self) -> i64 {
        self.producer_seq - 1
    }

    /// Stamps `seq`, `prev_hash` and the producer's numbers, fills in a `session.ended` summary,
    /// and encodes. The session is that of `h.session_id`; its `session.ended` ends it, and the
    /// sequencer forgets it: stamp no event of it afterwards. An event without a session (a
    /// heartbeat, a register entry) has a zero session id and gets the producer's numbers only.
    pub fn stamp<T: Text>(&mut self, event: &mut Event<T>) -> Bytes {
        let session_id = event.h().session_id;
        if session_id.is_zero() {
            return self.stamp_sessionless(event);
        }
        let session = self.sessions.entry(session_id).or_default();
        let h = event.h_mut();
        h.seq = session.next_seq;
        h.prev_hash = session.prev_hash;
        // Before the summary below, which counts its own event as well.
        session.count(event);
        if let Event::SessionEnded(ended) = event {
            session.summarise(ended);
        }
        self.number(event.h_mut());
        let bytes = codec().encode(event);
        match event {
            Event::SessionEnded(_) => {
                // Memory is bounded by the sessions that are open, not by those that ever were.
                self.sessions.remove(&session_id);
            }
            _ => self.sessions.entry(session_id).or_default().follow(&bytes),
        }
        bytes
    }

    fn stamp_sessionless<T: Text>(&mut self, event: &mut Event<T>) -> Bytes {
        let h = event.h_mut();
        h.seq = -1;
        h.prev_hash = Sha256::ZERO;
        self.number(h);
        codec().encode(event)
    }

    fn number(&mut self, h: &mut EventHeader) {
        h.producer_id.clone_from(&self.producer_id);
        h.producer_epoch = self.producer_epoch;
        h.producer_seq = self.producer_seq;
        self.producer_seq += 1;
    }

    /// [`Sequencer::stamp`] as a record of [`Topic::Events`], keyed by the session, at its `event_time`.
    pub fn record<T: Text>(&mut self, event: &mut Event<T>) -> OutRecord {
        let value = self.stamp(event);
        let h = event.h();
        OutRecord {
            topic: Topic::Events,
            partition: None,
            timestamp: h.event_time,
            key: Some(session_key(&h.tenant_id, h.session_id).into()),
            value: Some(value),
            headers: Vec::new(),
        }
    }

    /// The last event of a session: `h` says who and when, the summary is the sequencer's.
    pub fn end<T: Text>(&mut self, h: EventHeader, status: &str) -> (Event<T>, Bytes) {
        let h = EventHeader { event_type: "session.ended".to_owned(), ..h };
        let mut event = Event::SessionEnded(SessionEnded { h, status: status.to_owned(), ..SessionEnded::default() });
        let bytes = self.stamp(&mut event);
        (event, bytes)
    }
}

impl SessionState {
    /// Applies an event of the session that an earlier process stamped, and its bytes: the next one
    /// follows it, whatever was lost before it.
    pub fn replay<T: Text>(&mut self, event: &Event<T>, bytes: &[u8]) {
        self.count(event);
        self.next_seq = event.h().seq;
        self.follow(bytes);
    }

    fn follow(&mut self, bytes: &[u8]) {
        self.next_seq += 1;
        self.prev_hash = Sha256::of(bytes);
    }

    fn count<T: Text>(&mut self, event: &Event<T>) {
        let h = event.h();
        *self.counts_by_type.entry(h.event_type.clone()).or_default() += 1;
        self.first_time.get_or_insert(h.event_time);
        if let Event::ModelCall(call) = event {
            // -1 means that the call does not say; the sums of a client that reports absurd numbers must not
            // wrap.
            let tokens = call.input_tokens.max(0).saturating_add(call.output_tokens.max(0));
            self.total_tokens = self.total_tokens.saturating_add(tokens);
            self.total_cost_micros = self.total_cost_micros.saturating_add(call.cost_micros.max(0));
        }
    }

    fn summarise(&self, ended: &mut SessionEnded) {
        ended.event_count = self.next_seq + 1;
        ended.final_hash = self.prev_hash;
        ended.counts_by_type.clone_from(&self.counts_by_type);
        ended.total_tokens = self.total_tokens;
        ended.total_cost_micros = self.total_cost_micros;
        let first = self.first_time.unwrap_or(ended.h.event_time);
        ended.duration_ms = (ended.h.event_time.0.saturating_sub(first.0) / 1_000).max(-1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use schemas::event::{ModelCall, RawEvent, SessionStarted};

    use super::*;

    fn header(session: u8, ms: i64) -> EventHeader {
        let event_time = TimestampMicros::from_ms(ms);
        EventHeader { session_id: Uuid([session; 16]), tenant_id: "t".to_owned(), event_time, ..Default::default() }
    }

    fn started(session: u8) -> RawEvent {
        let h = EventHeader { event_type: "session.started".to_owned(), ..header(session, 1_000) };
        Event::SessionStarted(SessionStarted { h, ..Default::default() })
    }

    fn call(session: u8, ms: i64) -> RawEvent {
        let h = EventHeader { event_type: "model.call".to_owned(), ..header(session, ms) };
        let call = ModelCall { h, input_tokens: 10, output_tokens: -1, cost_micros: 7, ..Default::default() };
        Event::ModelCall(call)
    }

    fn numbers(event: &RawEvent) -> (i64, i64) {
        (event.h().seq, event.h().producer_seq)
    }

    #[test]
    fn sessions_have_their_own_numbers_and_the_writer_one_for_all() {
        let mut sequencer = Sequencer::new("w", TimestampMicros(9));
        let mut events = [started(1), started(2), call(1, 2_000), call(2, 2_000), call(1, 3_000)];
        let bytes: Vec<Bytes> = events.iter_mut().map(|e| sequencer.stamp(e)).collect();
        assert_eq!(events.each_ref().map(numbers), [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4)]);
        let prev = |i: usize| events[i].h().prev_hash;
        assert_eq!((prev(0), prev(1)), (Sha256::ZERO, Sha256::ZERO));
        assert_eq!((prev(2), prev(3), prev(4)), (Sha256::of(&bytes[0]), Sha256::of(&bytes[1]), Sha256::of(&bytes[2])));
        assert!(events.iter().all(|e| (e.h().producer_id.as_str(), e.h().producer_epoch) == ("w", 9)));
    }

    #[test]
    fn the_summary_counts_itself_and_hashes_the_event_before() {
        let mut sequencer = Sequencer::new("w", TimestampMicros(9));
        sequencer.stamp(&mut started(1));
        sequencer.stamp(&mut call(1, 2_000));
        let last = sequencer.stamp(&mut call(1, 3_000));
        let (event, _) = sequencer.end::<schemas::text::RawText>(header(1, 4_500), "ok");
        let Event::SessionEnded(ended) = event else { panic!("not the end") };
        assert_eq!((ended.h.seq, ended.event_count), (3, 4));
        assert_eq!((ended.final_hash, ended.h.prev_hash), (Sha256::of(&last), Sha256::of(&last)));
        let counts = [("model.call", 2), ("session.ended", 1), ("session.started", 1)];
        assert_eq!(ended.counts_by_type, counts.map(|(k, v)| (k.to_owned(), v)).into());
        assert_eq!((ended.total_tokens, ended.total_cost_micros, ended.duration_ms), (20, 14, 3_500));
        assert_eq!(sequencer.session(Uuid([1; 16])), None);
    }

    #[test]
    fn a_resumed_session_goes_on_without_a_gap() {
        let mut first = Sequencer::new("w", TimestampMicros(1));
        let bytes = first.stamp(&mut started(1));
        let kept = first.session(Uuid([1; 16])).cloned().unwrap();
        let mut second = Sequencer::new("w", TimestampMicros(2));
        second.resume(Uuid([1; 16]), kept);
        let mut event = call(1, 2_000);
        second.stamp(&mut event);
        assert_eq!((numbers(&event), event.h().prev_hash), ((1, 0), Sha256::of(&bytes)));
    }

    #[test]
    fn a_replayed_session_is_where_the_stamped_one_is() {
        let mut sequencer = Sequencer::new("w", TimestampMicros(1));
        let mut state = SessionState::default();
        for mut event in [started(1), call(1, 2_000), call(1, 3_000)] {
            let bytes = sequencer.stamp(&mut event);
            state.replay(&event, &bytes);
        }
        assert_eq!(sequencer.session(Uuid([1; 16])), Some(&state));
    }

    #[test]
    fn a_record_is_keyed_by_its_session() {
        let record = Sequencer::new("w", TimestampMicros(1)).record(&mut call(3, 2_000));
        assert_eq!(record.key.as_deref(), Some(session_key("t", Uuid([3; 16])).as_slice()));
        assert_eq!((record.topic, record.timestamp), (Topic::Events, TimestampMicros::from_ms(2_000)));
    }

    #[test]
    fn an_event_without_a_session_gets_the_producers_numbers_only() {
        let mut writer = Sequencer::new("w", TimestampMicros(1));
        let mut in_session: RawEvent =
            Event::SessionStarted(SessionStarted { h: header(1, 0), ..SessionStarted::default() });
        writer.stamp(&mut in_session);
        let h = EventHeader { session_id: Uuid::ZERO, ..header(1, 1) };
        let mut alone: RawEvent = Event::SessionStarted(SessionStarted { h, ..SessionStarted::default() });
        writer.stamp(&mut alone);
        assert_eq!((alone.h().seq, alone.h().producer_seq), (-1, 1));
        assert!(alone.h().prev_hash.is_zero());
        assert_eq!(writer.last_producer_seq(), 1);
        let open = writer.open_sessions();
        assert_eq!((open.len(), open[0].id, open[0].last_seq), (1, in_session.h().session_id, 0));
    }
}
