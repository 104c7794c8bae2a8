//! What a stage found, and how it becomes a `detection.raised` record.
//!
//! It decides nothing; it only fills in the header that every derived event has.

use std::collections::BTreeMap;

use schemas::codec::Derived;
use schemas::event::{DetectionRaised, Event, EventHeader, Principal};
use schemas::id::Uuid;
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, joined_key, session_key};

use crate::stage::{Outgoing, ProcessorId, Route};

/// Whom a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Subject {
    pub(super) tenant: String,
    pub(super) agent: String,
    pub(super) environment: String,
    /// Zero where it is not about one session.
    pub(super) session: Uuid,
}

impl Subject {
    /// The one that an event belongs to.
    pub(super) fn of(h: &EventHeader) -> Self {
        Self {
            tenant: h.tenant_id.clone(),
            agent: h.agent_id.clone(),
            environment: h.environment.clone(),
            session: h.session_id,
        }
    }

    fn key(&self) -> Vec<u8> {
        if self.session.is_zero() {
            joined_key(&self.tenant, &self.agent)
        } else {
            session_key(&self.tenant, self.session)
        }
    }
}

/// A finding before it has an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) subject: Subject,
    pub(super) kind: &'static str,
    pub(super) severity: &'static str,
    pub(super) count: i64,
    pub(super) target: Option<Uuid>,
    pub(super) reason: String,
    pub(super) attributes: BTreeMap<String, String>,
}

impl Finding {
    /// About `subject`, standing for one thing.
    pub(super) fn new(subject: Subject, kind: &'static str, severity: &'static str, reason: String) -> Self {
        Self { subject, kind, severity, count: 1, target: None, reason, attributes: BTreeMap::new() }
    }

    /// Stands for `count` things.
    pub(super) fn count(mut self, count: i64) -> Self {
        self.count = count;
        self
    }

    /// Is about that event.
    pub(super) fn target(mut self, event_id: Uuid) -> Self {
        self.target = Some(event_id);
        self
    }

    /// A fact behind it.
    pub(super) fn fact(mut self, name: &str, value: impl ToString) -> Self {
        self.attributes.insert(name.to_owned(), value.to_string());
        self
    }

    /// The record, with the id and times of its cause.
    pub(super) fn into_outgoing(self, cause: Cause) -> Outgoing {
        let Self { subject, kind, severity, count, target, reason, attributes } = self;
        let key = subject.key();
        // Detector and principal without the version, so that who raised it stays the same over upgrades; the
        // producer id has it.
        let name = format!("custody/{}", cause.stage.name);
        let h = EventHeader {
            event_id: cause.event_id,
            event_time: cause.event_time,
            tenant_id: subject.tenant,
            environment: subject.environment,
            agent_id: subject.agent,
            session_id: subject.session,
            // It is in no session's numbering: with a number it would itself be counted as an event of the session.
            seq: -1,
            producer_id: format!("custody/{}", cause.stage),
            producer_seq: -1,
            principal: Principal { r#type: "system".to_owned(), id: name.clone(), ..Principal::default() },
            causation_id: cause.causation_id,
            source: "derived".to_owned(),
            capture: "derived".to_owned(),
            ..EventHeader::of_type("detection.raised")
        };
        let detection = DetectionRaised {
            h,
            detection_id: cause.event_id.to_string(),
            kind: kind.to_owned(),
            detector: name,
            detector_version: cause.stage.version.to_string(),
            severity: severity.to_owned(),
            disposition: "open".to_owned(),
            target_event_id: target,
            count,
            reason,
            attributes,
            ..DetectionRaised::default()
        };
        let value = Derived::Event(Event::DetectionRaised(detection));
        let (topic, route, broker_time) = (Topic::Findings, Route::Same, cause.broker_time);
        Outgoing { topic, route, key, source: None, broker_time, value }
    }
}

/// What a derived record takes from the record that caused it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause {
    pub(super) stage: ProcessorId,
    pub(super) event_id: Uuid,
    pub(super) causation_id: Option<Uuid>,
    pub(super) event_time: TimestampMicros,
    pub(super) broker_time: TimestampMicros,
}

/// `text` where it is a plain label that may be shown; anything else could hold personal data.
pub(super) fn label(text: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/:".contains(&b);
    // A writer chooses its own name, and no scanner looks at it: what is not shaped like a name is not repeated in a
    // reason, which goes to sinks and receivers (I9).
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) { text } else { "(not shown)" }
}
