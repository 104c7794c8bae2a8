//! Changes of API keys, and the events that tell of them.
//!
//! A change is written into the key file together with what it changes, and leaves it when the log has
//! its event: neither a crash nor a log that is away makes a change that nobody hears of. The event's id
//! is a function of the change, so that telling of it twice is telling of it once.

use std::collections::BTreeMap;

use schemas::codec::codec;
use schemas::event::{AccessGranted, AccessRevoked, CredentialRotated, Event, EventHeader, Principal, RawEvent};
use schemas::id::{Sha256, Uuid};
use schemas::record::OutRecord;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::table::{ApiKey, KeyTable};
use super::{Action, OPERATOR_TENANT};
use crate::agent::sequencer::Sequencer;
use crate::gateway::intake::Arrived;

/// Agent id of events about the service's own doings.
pub const AGENT_ID: &str = "custody/gateway";
/// Writer of the events that `custody api-keys` brings to the log itself.
const COMMAND_PRODUCER: &str = "custody/api-keys";
/// Where events that got their numbers here keep the digest that tells a resend from another event.
const CONTENT_SHA256_EXT: &str = "custody.content_sha256";

/// What was done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was made.
    Created,
    /// It took the place of another one.
    Rotated,
    /// It was taken away.
    Revoked,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// What was done.
    pub kind: ChangeKind,
    /// The key, for a rotation the new one.
    pub key_id: String,
    /// For a rotation: the old key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_id: Option<String>,
    /// When, microseconds since 1970.
    pub at: TimestampMicros,
    /// Who did it.
    pub by: String,
    /// Why; may be empty.
    #[serde(default)]
    pub reason: String,
}

impl Change {
    /// The event that tells of the change: `access.granted`, `credential.rotated` or `access.revoked`, in
    /// the key's tenant, or [`OPERATOR_TENANT`] for a key of every tenant. `None` if the table does not
    /// know the key.
    pub fn event(&self, table: &KeyTable) -> Option<RawEvent> {
        let key = table.get(&self.key_id)?;
        let h = self.header(key);
        Some(match self.kind {
            ChangeKind::Created => Event::AccessGranted(AccessGranted {
                h,
                grantee_kind: "api_key".to_owned(),
                grantee: key.id.clone(),
                resource: resource_of(key),
                actions: actions_of(key),
                role: key.role.name().to_owned(),
                requested_by: self.by.clone(),
                effective_at: Some(self.at),
                expires_at: key.expires_at,
                ..AccessGranted::default()
            }),
            ChangeKind::Rotated => Event::CredentialRotated(CredentialRotated {
                h,
                credential_id: key.id.clone(),
                kind: "api_key".to_owned(),
                action: "ROTATED".to_owned(),
                old_id: self.replaced_id.clone().unwrap_or_default(),
                new_id: key.id.clone(),
                next_due: key.expires_at,
                reason: self.reason.clone(),
                ..CredentialRotated::default()
            }),
            ChangeKind::Revoked => Event::AccessRevoked(AccessRevoked {
                h,
                grantee_kind: "api_key".to_owned(),
                grantee: key.id.clone(),
                resource: resource_of(key),
                actions: actions_of(key),
                role: key.role.name().to_owned(),
                requested_by: self.by.clone(),
                effective_at: Some(self.at),
                expires_at: key.expires_at,
                ..AccessRevoked::default()
            }),
        })
    }

    fn header(&self, key: &ApiKey) -> EventHeader {
        let (event_type, kind) = match self.kind {
            ChangeKind::Created => ("access.granted", "created"),
            ChangeKind::Rotated => ("credential.rotated", "rotated"),
            ChangeKind::Revoked => ("access.revoked", "revoked"),
        };
        let parts: [&[u8]; 4] = [b"api key", kind.as_bytes(), key.id.as_bytes(), &self.at.0.to_be_bytes()];
        let principal = Principal { r#type: "user".to_owned(), id: self.by.clone(), ..Principal::default() };
        let mut h = own_header(event_type, Uuid::derive(&parts), self.at, principal);
        h.tenant_id = key.tenant_id.clone().unwrap_or_else(|| OPERATOR_TENANT.to_owned());
        if !self.reason.is_empty() {
            h.ext.insert("reason".to_owned(), self.reason.clone());
        }
        h.ext.insert("key.name".to_owned(), key.name.clone());
        h
    }
}

/// The header of an event that the service itself is the source of; tenant still to be set.
pub(super) fn own_header(event_type: &str, event_id: Uuid, at: TimestampMicros, principal: Principal) -> EventHeader {
    EventHeader {
        event_id,
        event_time: at,
        agent_id: AGENT_ID.to_owned(),
        principal,
        capture: "best_effort".to_owned(),
        ..EventHeader::of_type(event_type)
    }
}

/// An event of the service itself, as if a request had brought it.
pub(super) fn arrived(event: RawEvent) -> Arrived {
    let content_sha256 = Sha256::of(&codec().encode(&event));
    Arrived { event, numbered: false, content_sha256, raw: None }
}

/// The events of changes, to be handed to the writer.
pub fn events(changes: &[Change], table: &KeyTable) -> Vec<Arrived> {
    changes.iter().filter_map(|change| change.event(table)).map(arrived).collect()
}

/// The records of changes, for a command that has no gateway's writer: numbered from `now` on, per tenant,
/// since gaps are looked for per tenant.
pub fn records(changes: &[Change], table: &KeyTable, now: TimestampMicros) -> Vec<OutRecord> {
    let mut writers: BTreeMap<String, Sequencer> = BTreeMap::new();
    let record = |mut arrived: Arrived| {
        let h = arrived.event.h_mut();
        h.ext.insert(CONTENT_SHA256_EXT.to_owned(), arrived.content_sha256.to_hex());
        let writer = writers.entry(h.tenant_id.clone()).or_insert_with(|| Sequencer::new(COMMAND_PRODUCER, now));
        writer.record(&mut arrived.event)
    };
    events(changes, table).into_iter().map(record).collect()
}

fn resource_of(key: &ApiKey) -> String {
    format!("tenant/{}", key.tenant_id.as_deref().unwrap_or("*"))
}

fn actions_of(key: &ApiKey) -> Vec<String> {
    Action::ALL.into_iter().filter(|action| key.role.may(*action)).map(|action| action.name().to_owned()).collect()
}
