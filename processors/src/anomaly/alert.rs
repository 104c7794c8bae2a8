//! What both stages share about alerts: identity, severity names, the record around them.
//!
//! It decides nothing.

use schemas::codec::Derived;
use schemas::event::Alert;
use schemas::id::Sha256;
use schemas::topic::Topic;

use super::wire::wire_fields;
use crate::stage::{Outgoing, Route};

/// What an alert or a window is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct SubjectKey {
    pub(super) tenant_id: String,
    /// agent, dependency, tool.
    pub(super) kind: String,
    pub(super) environment: String,
    pub(super) subject: String,
}

wire_fields!(SubjectKey { tenant_id, kind, environment, subject });

/// Most sample events in a signal or an alert.
pub(super) const SAMPLES_MAX: usize = 8;

/// Identity of an alert: tenant, subject, environment, metric and class; never value or time.
/// Each part is prefixed by its length, so that no two lists of parts share a preimage.
pub(super) fn fingerprint(key: &SubjectKey, class: &str, metric: &str) -> String {
    let mut preimage = Vec::new();
    for part in [&key.tenant_id, &key.kind, &key.environment, &key.subject, metric, class] {
        // ("ab", "c") and ("a", "bc") must be two alerts: receivers merge by this.
        preimage.extend((part.len() as u64).to_be_bytes());
        preimage.extend(part.as_bytes());
    }
    schemas::id::hex(&Sha256::of(&preimage).0[..16])
}

/// An alert about `key` with identity and routing labels filled in.
pub(super) fn about(key: &SubjectKey, class: &str, metric: &str) -> Alert {
    let labels = [
        ("alertname", class),
        ("tenant", key.tenant_id.as_str()),
        ("environment", key.environment.as_str()),
        (key.kind.as_str(), key.subject.as_str()),
    ];
    Alert {
        fingerprint: fingerprint(key, class, metric),
        alert_class: class.to_owned(),
        tenant_id: key.tenant_id.clone(),
        subject_kind: key.kind.clone(),
        subject: key.subject.clone(),
        environment: key.environment.clone(),
        metric: metric.to_owned(),
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Alert::default()
    }
}

/// The alert as a record. A subject's signals meet in one partition, so that the history of an alert
/// has one order there.
pub(super) fn outgoing(alert: Alert) -> Outgoing {
    Outgoing {
        topic: Topic::Alerts,
        route: Route::Same,
        key: alert.fingerprint.clone().into_bytes(),
        source: None,
        broker_time: alert.updated_at,
        value: Derived::Alert(alert),
    }
}

/// At most `bytes_max` bytes of `text`, cut between characters.
pub(super) fn clipped(text: &str, bytes_max: usize) -> &str {
    // A cut inside a character would not be text, and slicing there panics (I4).
    &text[..text.floor_char_boundary(bytes_max)]
}
