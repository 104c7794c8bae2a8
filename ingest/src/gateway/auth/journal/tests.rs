//! Counts in, one event per key and minute out.

use std::collections::BTreeSet;

use super::super::{Authenticator, Identity, Open};
use super::*;

const NOW: TimestampMicros = TimestampMicros(1_790_000_000_000_000);

fn caller(key_id: &str, tenant_id: &str) -> Caller {
    let identity = Open::on(&[]).unwrap().authenticate(None, NOW).unwrap();
    Caller { identity: Identity { key_id: key_id.to_owned(), ..identity }, tenant_id: tenant_id.to_owned() }
}

fn denied(code: DenialCode, key_id: Option<&str>) -> Denied {
    let key_id = key_id.map(str::to_owned);
    Denied { code, detail: String::new(), tenant_id: key_id.as_ref().map(|_| "acme".to_owned()), key_id }
}

/// Type, tenant, key, requests, events or reason.
fn shown(events: &[Arrived]) -> Vec<String> {
    let show = |arrived: &Arrived| {
        let Event::Extension(Extension { h, attributes, .. }) = &arrived.event else { panic!("{arrived:?}") };
        let at = |name: &str| attributes.get(name).cloned().unwrap_or_default();
        format!("{} {} {} {} {}{}", h.event_type, h.tenant_id, at("key_id"), at("requests"), at("events"), at("reason"))
    };
    events.iter().map(show).collect()
}

#[test]
fn uses_are_counted_by_key_tenant_and_minute() {
    let journal = Journal::new("g", NOW, 100);
    let minute = NOW.floor_to_ms(WINDOW_MS);
    for n in 0..1_000 {
        journal.used(&caller("cst_a", "acme"), 3, minute.plus_ms(n));
    }
    journal.used(&caller("cst_a", "beta"), 1, minute);
    journal.used(&caller("cst_a", "acme"), 5, minute.plus_ms(60_000));
    assert!(journal.due(minute.plus_ms(59_999)).is_empty(), "the minute is not over");
    let first = journal.due(minute.plus_ms(60_000));
    assert_eq!(shown(&first), ["access.used acme cst_a 1000 3000", "access.used beta cst_a 1 1"]);
    assert_eq!(first[0].event.h().event_time, minute.plus_ms(999), "when it was used last");
    assert!(journal.due(minute.plus_ms(60_000)).is_empty(), "reported once");
    assert_eq!(shown(&journal.drain()), ["access.used acme cst_a 1 5"], "the end does not wait for the minute");
}

#[test]
fn denials_are_counted_by_reason_and_key() {
    let journal = Journal::new("g", NOW, 100);
    for _ in 0..500 {
        journal.denied(&denied(DenialCode::CredentialUnknown, None), NOW);
    }
    journal.denied(&denied(DenialCode::CredentialRevoked, Some("cst_a")), NOW);
    journal.denied(&denied(DenialCode::RoleForbidden, Some("cst_a")), NOW);
    let expected = [
        "access.denied custody  500 credential_unknown",
        "access.denied acme cst_a 1 credential_revoked",
        "access.denied acme cst_a 1 role_forbidden",
    ];
    assert_eq!(shown(&journal.drain()), expected);
}

#[test]
fn beyond_the_bound_the_rest_is_counted_together() {
    let journal = Journal::new("g", NOW, 2);
    for key in 0..1_000 {
        journal.used(&caller(&format!("cst_{key:04}"), "acme"), 2, NOW);
    }
    journal.used(&caller("cst_0000", "acme"), 2, NOW);
    journal.denied(&denied(DenialCode::CredentialUnknown, None), NOW);
    let expected = [
        "access.used acme cst_0000 2 4",
        "access.used acme cst_0001 1 2",
        "access.used custody others 998 1996",
        "access.denied custody  1 credential_unknown",
    ];
    assert_eq!(shown(&journal.drain()), expected);
    journal.used(&caller("cst_0999", "acme"), 1, NOW);
    assert_eq!(shown(&journal.drain()), ["access.used acme cst_0999 1 1"], "room again");
}

#[test]
fn ids_are_the_events_own_and_headers_are_valid() {
    let journals = [Journal::new("g", NOW, 10), Journal::new("h", NOW, 10), Journal::new("g", NOW.plus_ms(1), 10)];
    let mut ids = BTreeSet::new();
    for journal in &journals {
        for _ in 0..3 {
            journal.used(&caller("cst_a", "acme"), 1, NOW);
            for arrived in journal.drain() {
                let h = arrived.event.h();
                assert_eq!(schemas::codec::validate_header(h, NOW), Ok(()));
                assert!(ids.insert(h.event_id), "one key, one minute, and yet another event");
            }
        }
    }
    assert_eq!(ids.len(), 9);
}
