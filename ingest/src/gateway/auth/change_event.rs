//! The events that record changes of API keys, and those that the service itself is the source of.
//!
//! An event's id is a function of its change, so that recording a change twice gives one event. It changes no
//! key and writes nothing.

use std::collections::BTreeMap;

use schemas::codec::codec;
use schemas::event::{
    AccessGranted, AccessRevoked, CONTENT_SHA256_EXT, CredentialRotated, Event, EventHeader, Principal, RawEvent,
};
use schemas::id::{Sha256, Uuid};
use schemas::record::OutRecord;
use schemas::time::TimestampMicros;

use super::change::{Change, ChangeKind};
use super::table::{ApiKey, KeyTable};
use super::{Action, OPERATOR_TENANT};
use crate::agent::sequencer::Sequencer;
use crate::gateway::intake::Arrived;

/// Agent id of events about the service itself.
pub const AGENT_ID: &str = "custody/gateway";
/// Producer of the events that `custody api-keys` appends itself.
const COMMAND_PRODUCER: &str = "custody/api-keys";

impl Change {
    /// The event that records the change: `access.granted`, `credential.rotated` or `access.revoked`, in
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
        // Kind, key and time identify a change. The command and any number of gateways may append its event,
        // and all of them give it this id.
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

/// An event of the service itself, in the form of a received one.
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
        // As the gateway's writer does: the same change that a gateway appends as well is then a repeat and
        // not another version of the event.
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
