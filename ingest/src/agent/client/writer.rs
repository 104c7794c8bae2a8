//! The writer's own state: the next numbers, the sessions that may resume, the number of drops.
//!
//! Pure apart from `load` and `save`. Sessions of an earlier process are kept apart until one of their
//! events arrives: a heartbeat must not report a session as open that no process continues.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use schemas::codec::{codec, validate_header};
use schemas::event::{Event, EventHeader, Heartbeat, RawEvent};
use schemas::id::Uuid;
use schemas::limits::EVENT_BYTES_MAX;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::{ClientError, NotTaken};
use crate::agent::sequencer::{Sequencer, SessionState};
use crate::agent::spool::{Spool, segments};

/// Key of the `ext` entry with which a writer's last heartbeat says that its epoch is over; the
/// stage `completeness` reads it.
pub const CLOSED_EXT: &str = "custody.producer_closed";
/// How long a session of an earlier process is remembered, milliseconds (seven days).
const KEPT_MS_MAX: i64 = 7 * 86_400_000;
/// Name of the file in the spool's directory.
const FILE: &str = "writer.json";

/// A session that may resume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    state: SessionState,
    last_time: TimestampMicros,
}

/// What is kept between processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Saved {
    /// Writer.
    producer_id: String,
    /// Epoch of the last process.
    producer_epoch: i64,
    /// Every record of the spool before this one is counted in `sessions`.
    pub(super) next_index: u64,
    sessions: BTreeMap<Uuid, Kept>,
}

/// Who the writer is.
#[derive(Debug, Clone)]
pub(super) struct WriterIdentity {
    /// Tenant of events that name none, and of heartbeats.
    pub(super) tenant_id: String,
    /// Agent of events that name none, and of heartbeats.
    pub(super) agent_id: String,
    /// Most sessions that are open at once.
    pub(super) sessions_max: usize,
}

/// Stamps events.
#[derive(Debug)]
pub(super) struct ClientWriter {
    identity: WriterIdentity,
    producer_id: String,
    epoch: i64,
    sequencer: Sequencer,
    /// Sessions of earlier processes.
    kept: BTreeMap<Uuid, Kept>,
    /// Last event of each session that is open here.
    last_times: BTreeMap<Uuid, TimestampMicros>,
    /// Events that got a number and are not in the spool.
    pub(super) dropped: u64,
    /// No more events are accepted.
    pub(super) is_closed: bool,
}

impl Saved {
    /// Reads what an earlier process kept in `dir`.
    pub(super) fn load(dir: &Path) -> Result<Self, ClientError> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| ClientError::State { path, reason: error.to_string() })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(ClientError::State { path, reason: error.to_string() }),
        }
    }

    /// Replaces what is kept in `dir`, durably.
    pub(super) fn save(&self, dir: &Path) -> Result<(), ClientError> {
        let path = dir.join(FILE);
        write_whole(&path, self)
            .map_err(|error| ClientError::State { path: path.clone(), reason: error.to_string() })?;
        Ok(segments::sync_dir(dir)?)
    }

    /// Applies a record of the spool that was appended after the state was stored.
    pub(super) fn replay(&mut self, index: u64, payload: &[u8]) {
        // Counted in the stored state already: counting it again would move its session on by one number.
        if index < self.next_index {
            return;
        }
        self.next_index = index + 1;
        let Ok(event) = codec().decode::<schemas::text::RawText>(Some(payload)) else { return };
        let h = event.h();
        match &event {
            _ if h.session_id.is_zero() => {}
            Event::SessionEnded(_) => drop(self.sessions.remove(&h.session_id)),
            event => {
                let default = || Kept { state: SessionState::default(), last_time: h.event_time };
                let kept = self.sessions.entry(h.session_id).or_insert_with(default);
                kept.state.replay(event, payload);
                kept.last_time = kept.last_time.max(h.event_time);
            }
        }
    }
}

fn write_whole(path: &Path, saved: &Saved) -> std::io::Result<()> {
    use std::io::Write as _;
    let new: PathBuf = path.with_extension("json.new");
    let mut file = segments::private().create(true).write(true).truncate(true).open(&new)?;
    file.write_all(&serde_json::to_vec(saved)?)?;
    // Before the rename: after a crash of the machine the file must be the old one or the new one, because
    // numbering cannot resume without it.
    file.sync_all()?;
    std::fs::rename(&new, path)
}

impl ClientWriter {
    /// A new epoch of the writer that `saved` is of, or of a new writer called `producer_id`.
    pub(super) fn start(identity: WriterIdentity, saved: Saved, producer_id: String, now: TimestampMicros) -> Self {
        // The stored name goes before the configured one: events in the spool were stamped with it, and the
        // sessions continue under it.
        let producer_id = if saved.producer_id.is_empty() { producer_id } else { saved.producer_id };
        // A clock that was set back must not repeat an epoch: `completeness` would see two different events
        // under the same number.
        let epoch = now.0.max(saved.producer_epoch.saturating_add(1));
        let mut kept = saved.sessions;
        // Sessions that crashed agents never ended would otherwise be kept by every later process.
        kept.retain(|_, kept| kept.last_time >= now.plus_ms(-KEPT_MS_MAX));
        let mut writer = Self {
            sequencer: Sequencer::new(producer_id.clone(), TimestampMicros(epoch)),
            identity,
            producer_id,
            epoch,
            kept,
            last_times: BTreeMap::new(),
            dropped: 0,
            is_closed: false,
        };
        writer.forget_oldest();
        writer
    }

    fn forget_oldest(&mut self) {
        while self.kept.len() > self.identity.sessions_max {
            // The one that is least likely to be continued.
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.last_time).map(|(id, _)| *id);
            oldest.and_then(|id| self.kept.remove(&id));
        }
    }

    /// What to keep, in step with `spool`.
    pub(super) fn saved(&self, spool: &Spool) -> Saved {
        let mut sessions = self.kept.clone();
        for (id, last_time) in &self.last_times {
            if let Some(state) = self.sequencer.session(*id) {
                sessions.insert(*id, Kept { state: state.clone(), last_time: *last_time });
            }
        }
        let (producer_id, producer_epoch) = (self.producer_id.clone(), self.epoch);
        Saved { producer_id, producer_epoch, next_index: spool.next(), sessions }
    }

    /// Checks an event, fills in what its agent left out, gives it its numbers, and encodes it. An
    /// event that is refused here has no number, unless it is too long: that is known only then, and
    /// counts as dropped.
    pub(super) fn stamp(&mut self, event: &mut RawEvent, now: TimestampMicros) -> Result<Bytes, NotTaken> {
        if self.is_closed {
            return Err(NotTaken::Closed);
        }
        self.complete(event, now);
        // The gateway's own rules: an event that it would refuse must not use a number, because its gap could
        // never be filled.
        validate_header(event.h(), now).map_err(|(_, reason)| NotTaken::Invalid(reason))?;
        let session_id = event.h().session_id;
        // Before the event gets its numbers: an event that is refused here must not leave a gap.
        self.take_up(session_id)?;
        let is_end = matches!(event, Event::SessionEnded(_));
        let at = event.h().event_time;
        let bytes = self.sequencer.stamp(event);
        if is_end {
            self.last_times.remove(&session_id);
        } else if !session_id.is_zero() {
            self.last_times.insert(session_id, at);
        }
        // The size is known only now, after the number was used. The drop is counted, so that the next
        // heartbeat explains the gap.
        if bytes.len() > EVENT_BYTES_MAX {
            self.dropped += 1;
            return Err(NotTaken::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Moves the session to the sequencer.
    fn take_up(&mut self, session_id: Uuid) -> Result<(), NotTaken> {
        if session_id.is_zero() || self.last_times.contains_key(&session_id) {
            return Ok(());
        }
        // Refused and not evicted: an agent that never ends its sessions gets an error to act on, instead of
        // gaps in old ones.
        if self.last_times.len() >= self.identity.sessions_max {
            return Err(NotTaken::TooManySessions(self.identity.sessions_max));
        }
        if let Some(kept) = self.kept.remove(&session_id) {
            self.sequencer.resume(session_id, kept.state);
        }
        Ok(())
    }

    fn complete(&self, event: &mut RawEvent, now: TimestampMicros) {
        let kind = event.kind();
        let h = event.h_mut();
        if h.event_type.is_empty() {
            kind.event_type().clone_into(&mut h.event_type);
        }
        if h.tenant_id.is_empty() {
            h.tenant_id.clone_from(&self.identity.tenant_id);
        }
        if h.agent_id.is_empty() {
            h.agent_id.clone_from(&self.identity.agent_id);
        }
        if h.event_time == TimestampMicros::default() {
            h.event_time = now;
        }
        if h.event_id.is_zero() {
            h.event_id = self.next_event_id(h.event_time);
        }
        "native".clone_into(&mut h.source);
        "guaranteed".clone_into(&mut h.capture);
    }

    /// A UUIDv7 whose random part is a digest of the writer, epoch and number of the event, which are unique.
    fn next_event_id(&self, at: TimestampMicros) -> Uuid {
        let number = self.sequencer.last_producer_seq() + 1;
        let parts: [&[u8]; 4] =
            [b"event", self.producer_id.as_bytes(), &self.epoch.to_be_bytes(), &number.to_be_bytes()];
        Uuid::v7(at.ms().unsigned_abs(), u128::from_be_bytes(Uuid::derive(&parts).0))
    }

    /// A heartbeat; the last one of an epoch says so.
    pub(super) fn heartbeat(&mut self, now: TimestampMicros, waiting: (u64, u64), is_last: bool) -> Bytes {
        let mut h = EventHeader::of_type("heartbeat");
        if is_last {
            h.ext.insert(CLOSED_EXT.to_owned(), "true".to_owned());
        }
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut event = Event::Heartbeat(Heartbeat {
            h,
            open_sessions: self.sequencer.open_sessions(),
            last_producer_seq: self.sequencer.last_producer_seq(),
            spool_events: number(waiting.0),
            spool_bytes: number(waiting.1),
            dropped_count: number(self.dropped),
            ..Heartbeat::default()
        });
        self.complete(&mut event, now);
        self.sequencer.stamp(&mut event)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use schemas::event::{ModelCall, SessionEnded};
    use schemas::id::Sha256;
    use schemas::text::{Content, RawText};

    use super::*;

    const NOW: TimestampMicros = TimestampMicros::from_ms(1_767_225_600_000);

    fn writer(saved: Saved) -> ClientWriter {
        let identity = WriterIdentity { tenant_id: "t".to_owned(), agent_id: "a".to_owned(), sessions_max: 2 };
        ClientWriter::start(identity, saved, "sdk/1".to_owned(), NOW)
    }

    fn call(session: u8) -> RawEvent {
        let mut call = ModelCall::default();
        call.h.session_id = Uuid([session; 16]);
        Event::ModelCall(call)
    }

    fn ended(session: u8) -> RawEvent {
        let mut ended = SessionEnded::default();
        ended.h.session_id = Uuid([session; 16]);
        Event::SessionEnded(ended)
    }

    #[test]
    fn what_an_agent_leaves_out_is_filled_in() {
        let mut event = call(1);
        let bytes = writer(Saved::default()).stamp(&mut event, NOW).unwrap();
        let h = event.h();
        assert_eq!((h.tenant_id.as_str(), h.agent_id.as_str(), h.event_type.as_str()), ("t", "a", "model.call"));
        assert_eq!((h.source.as_str(), h.capture.as_str(), h.event_time), ("native", "guaranteed", NOW));
        assert_eq!((h.event_id.0[6] >> 4, h.seq, h.producer_seq), (7, 0, 0));
        assert_eq!(codec().decode::<RawText>(Some(&bytes)).unwrap(), event);
    }

    #[test]
    fn a_refused_event_has_used_no_number() {
        let mut writer = writer(Saved::default());
        let mut bad = call(1);
        bad.h_mut().tenant_id = "a/b".to_owned();
        assert!(matches!(writer.stamp(&mut bad, NOW), Err(NotTaken::Invalid(_))));
        let mut long = call(1);
        if let Event::ModelCall(call) = &mut long {
            call.input = Some(Content::plain("x".repeat(EVENT_BYTES_MAX)));
        }
        let mut good = call(1);
        writer.stamp(&mut good, NOW).unwrap();
        assert_eq!((good.h().seq, good.h().producer_seq, writer.dropped), (0, 0, 0));
        assert!(matches!(writer.stamp(&mut long, NOW), Err(NotTaken::TooLong(_))));
        writer.stamp(&mut good, NOW).unwrap();
        assert_eq!((good.h().seq, good.h().producer_seq, writer.dropped), (2, 2, 1), "the gap is explained");
    }

    #[test]
    fn open_sessions_are_bounded_and_an_end_makes_room() {
        let mut writer = writer(Saved::default());
        writer.stamp(&mut call(1), NOW).unwrap();
        writer.stamp(&mut call(2), NOW).unwrap();
        assert!(matches!(writer.stamp(&mut call(3), NOW), Err(NotTaken::TooManySessions(2))));
        writer.stamp(&mut call(2), NOW).unwrap();
        writer.stamp(&mut ended(1), NOW).unwrap();
        writer.stamp(&mut call(3), NOW).unwrap();
    }

    #[test]
    fn a_session_goes_on_in_the_next_epoch_and_is_not_open_before() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(crate::agent::spool::SpoolConfig::new(dir.path(), 1 << 20), |_, _| {}).unwrap();
        let mut first = writer(Saved::default());
        let before = first.stamp(&mut call(1), NOW).unwrap();
        first.saved(&spool).save(dir.path()).unwrap();
        let mut saved = Saved::load(dir.path()).unwrap();
        // Stamped after the file was written: the spool has it.
        let after = first.stamp(&mut call(1), NOW).unwrap();
        let end = first.stamp(&mut ended(2), NOW).unwrap();
        for (index, record) in (0..).zip([&after, &end]) {
            saved.replay(index, record);
        }
        let mut second = writer(saved);
        assert!(second.sequencer.open_sessions().is_empty());
        let mut event = call(1);
        second.stamp(&mut event, NOW).unwrap();
        assert_eq!((event.h().seq, event.h().prev_hash, event.h().producer_seq), (2, Sha256::of(&after), 0));
        assert_ne!(Sha256::of(&before), Sha256::of(&after));
        assert_eq!(event.h().producer_epoch, NOW.0 + 1, "the clock did not move, the epoch did");
    }

    #[test]
    fn old_sessions_are_forgotten() {
        let mut saved = Saved::default();
        for (session, age_ms) in [(1, 0), (2, KEPT_MS_MAX + 1), (3, 10), (4, 20)] {
            let kept = Kept { state: SessionState::default(), last_time: NOW.plus_ms(-age_ms) };
            saved.sessions.insert(Uuid([session; 16]), kept);
        }
        let kept: Vec<u8> = writer(saved).kept.keys().map(|id| id.0[0]).collect();
        assert_eq!(kept, [1, 3]);
    }

    #[test]
    fn a_heartbeat_claims_the_last_number_and_the_drops() {
        let mut writer = writer(Saved::default());
        writer.stamp(&mut call(1), NOW).unwrap();
        writer.dropped = 3;
        let event = codec().decode::<RawText>(Some(&writer.heartbeat(NOW, (4, 400), true))).unwrap();
        let Event::Heartbeat(heartbeat) = event else { panic!("not a heartbeat") };
        assert_eq!((heartbeat.last_producer_seq, heartbeat.h.producer_seq, heartbeat.dropped_count), (0, 1, 3));
        assert_eq!((heartbeat.spool_events, heartbeat.spool_bytes, heartbeat.h.seq), (4, 400, -1));
        assert_eq!(heartbeat.h.ext.get(CLOSED_EXT).map(String::as_str), Some("true"));
        assert_eq!(heartbeat.open_sessions.len(), 1);
    }
}
