//! The decision on a key, the changes, and the file's format.

use super::super::credential::mint;
use super::*;

const NOW: TimestampMicros = TimestampMicros(1_790_000_000_000_000);
const GOLDEN: &str = include_str!("golden_v1.json");

fn act(at: TimestampMicros) -> Act {
    Act { by: "ada".to_owned(), at, reason: String::new() }
}

fn new_key(expires_in_ms: Option<i64>) -> NewKey {
    NewKey {
        name: "fleet".to_owned(),
        role: Role::Member,
        tenant_id: Some("acme".to_owned()),
        expires_at: expires_in_ms.map(|ms| NOW.plus_ms(ms)),
    }
}

fn one_key(expires_in_ms: Option<i64>) -> (KeyTable, Minted) {
    let (mut table, minted) = (KeyTable::default(), mint([1; 32]));
    table.create(&minted, new_key(expires_in_ms), &act(NOW)).unwrap();
    (table, minted)
}

fn decide(table: &KeyTable, minted: &Minted, at: TimestampMicros) -> Result<String, (DenialCode, String)> {
    let presented = Presented::read(minted.secret.expose()).unwrap();
    table.decide(&presented, at).map(|identity| identity.key_id).map_err(|denied| (denied.code, denied.detail))
}

fn after(micros: i64) -> TimestampMicros {
    TimestampMicros(NOW.0 + micros)
}

#[test]
fn a_key_ends_at_its_microsecond() {
    let (table, minted) = one_key(Some(1));
    let id = &minted.id;
    assert_eq!(decide(&table, &minted, after(999)), Ok(id.clone()));
    let expired = (DenialCode::CredentialExpired, format!("key {id} has expired: ask for another one"));
    assert_eq!(decide(&table, &minted, after(1_000)), Err(expired));
    let (table, minted) = one_key(None);
    assert!(decide(&table, &minted, TimestampMicros(i64::MAX)).is_ok());
}

#[test]
fn a_revoked_key_is_refused_whatever_the_clock_says() {
    let (mut table, minted) = one_key(Some(1));
    let id = minted.id.clone();
    table.revoke(&id, &act(after(500))).unwrap();
    let revoked = (DenialCode::CredentialRevoked, format!("key {id} was revoked: ask for another one"));
    for at in [NOW, after(500), after(5_000), TimestampMicros(0)] {
        assert_eq!(decide(&table, &minted, at), Err(revoked.clone()), "{at:?}");
    }
    assert_eq!(table.revoke(&id, &act(NOW)), Err(KeyError::Over { id, status: "revoked" }));
}

#[test]
fn a_rotated_key_is_accepted_for_the_overlap_and_no_longer_than_before() {
    let check = |expires_in_ms: Option<i64>, overlap_ms: i64, end_ms: i64| {
        let (mut table, old) = one_key(expires_in_ms);
        let new = mint([2; 32]);
        let change = table.rotate(&old.id, &new, &Rotation { overlap_ms, expires_at: None }, &act(NOW)).unwrap();
        assert_eq!((change.key_id.as_str(), change.replaced_id.as_deref()), (new.id.as_str(), Some(old.id.as_str())));
        let end = end_ms * 1_000;
        if end > 0 {
            assert_eq!(decide(&table, &old, after(end - 1)), Ok(old.id.clone()));
        }
        let replaced =
            (DenialCode::CredentialExpired, format!("key {} was replaced by {}: use that one", old.id, new.id));
        assert_eq!(decide(&table, &old, after(end)), Err(replaced));
        assert_eq!(decide(&table, &new, NOW), Ok(new.id.clone()));
        let lifetime = table.get(&new.id).unwrap().expires_at.map(|at| at.0 - NOW.0);
        assert_eq!(lifetime, expires_in_ms.map(|ms| ms * 1_000), "as long as the old one");
    };
    check(None, 60_000, 60_000);
    check(Some(100_000), 60_000, 60_000);
    check(Some(10_000), 60_000, 10_000);
    check(None, 0, 0);
    check(None, -5, 0);
}

#[test]
fn what_is_over_is_not_rotated() {
    let rotate = |table: &mut KeyTable, id: &str, at| {
        let how = Rotation { overlap_ms: 60_000, expires_at: Some(NOW) };
        table.rotate(id, &mint([9; 32]), &how, &act(at)).unwrap_err().to_string()
    };
    let (mut table, old) = one_key(Some(1));
    assert!(rotate(&mut table, &old.id, after(1_000)).contains("is expired already"));
    assert!(rotate(&mut table, "cst_00000000", NOW).contains("there is no key cst_00000000"));
    table.rotate(&old.id, &mint([2; 32]), &Rotation { overlap_ms: 1, expires_at: None }, &act(NOW)).unwrap();
    assert!(rotate(&mut table, &old.id, NOW).contains("is rotated already"));
    table.revoke(&old.id, &act(NOW)).unwrap();
    assert!(rotate(&mut table, &old.id, NOW).contains("is revoked already"));
}

#[test]
fn a_wrong_secret_for_a_known_id_is_answered_as_an_unknown_key() {
    let (table, minted) = one_key(None);
    let text = String::from_utf8(table.to_json()).unwrap();
    let other = Sha256::of(b"another secret with the same checksum");
    let table = KeyTable::parse(text.replace(&minted.sha256.to_hex(), &other.to_hex()).as_bytes()).unwrap();
    let stranger = decide(&table, &minted, NOW).unwrap_err();
    assert_eq!(decide(&KeyTable::default(), &minted, NOW), Err(stranger.clone()));
    assert_eq!(stranger.0, DenialCode::CredentialUnknown);
    let presented = Presented::read(minted.secret.expose()).unwrap();
    assert_eq!(table.decide(&presented, NOW).unwrap_err().key_id, None);
}

#[test]
fn a_key_that_cannot_be_is_not_made() {
    let check = |new: NewKey, expected: &str| {
        let error = KeyTable::default().create(&mint([1; 32]), new, &act(NOW)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(NewKey { tenant_id: None, ..new_key(None) }, "the role member must be bound to a tenant");
    check(NewKey { tenant_id: Some("a/b".to_owned()), ..new_key(None) }, "the tenant's name has a slash");
    check(NewKey { tenant_id: Some("_system".to_owned()), ..new_key(None) }, "reserved");
    check(NewKey { name: String::new(), ..new_key(None) }, "the name must have");
    check(NewKey { name: "a\nb".to_owned(), ..new_key(None) }, "the name must have");
    let owner = NewKey { role: Role::Owner, tenant_id: None, ..new_key(None) };
    assert!(KeyTable::default().create(&mint([1; 32]), owner, &act(NOW)).is_ok());
    let (mut table, minted) = one_key(None);
    assert_eq!(table.create(&minted, new_key(None), &act(NOW)), Err(KeyError::Twice(minted.id.clone())));
    let nobody = Act { by: String::new(), ..act(NOW) };
    assert_eq!(table.revoke(&minted.id, &nobody), Err(KeyError::Act));
}

/// The keys of the golden file: an owner's, one rotated, one revoked, and pending changes.
fn golden() -> KeyTable {
    let [first, second, third] = [1, 2, 3].map(|n| mint([n; 32]));
    let mut table = KeyTable::default();
    table.create(&first, new_key(Some(86_400_000)), &act(NOW)).unwrap();
    let owner = NewKey { name: "operator".to_owned(), role: Role::Owner, tenant_id: None, expires_at: None };
    table.create(&third, owner, &act(after(1))).unwrap();
    let how = Rotation { overlap_ms: 3_600_000, expires_at: None };
    let due = Act { reason: "due".to_owned(), ..act(after(2)) };
    table.rotate(&first.id, &second, &how, &due).unwrap();
    table.revoke(&third.id, &act(after(3))).unwrap();
    let oldest = table.pending()[..2].to_vec();
    assert!(table.settle(&oldest));
    table
}

#[test]
fn the_format_of_version_1_is_pinned() {
    assert_eq!(String::from_utf8(golden().to_json()).unwrap(), GOLDEN);
    assert_eq!(KeyTable::parse(GOLDEN.as_bytes()), Ok(golden()));
}

#[test]
fn a_broken_file_is_refused_with_its_reason() {
    let check = |text: &str, expected: &str| {
        let error = KeyTable::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("", "the text ends early at line 1, column 0");
    check("[]", "a field is missing, unknown or of another type");
    check(&GOLDEN[..200], "the text ends early");
    check(&GOLDEN.replace("\"version\": 1", "\"version\": 2"), "format version 2");
    check(&GOLDEN.replace("\"name\"", "\"nickname\""), "unknown");
    check(&GOLDEN.replace("\"owner\"", "\"root\""), "another type");
    check(&GOLDEN.replace("\"owner\"", "\"admin\""), "the role admin must be bound to a tenant");
    check(&GOLDEN.replace("\"id\": \"cst_", "\"id\": \"key_"), "an id is not cst_");
    let ids: Vec<String> = golden().keys().map(|key| key.id.clone()).collect();
    check(&GOLDEN.replace(&ids[0], &ids[1]), "is there twice");
    check(&GOLDEN.replacen("\"replaced_by\": \"cst_", "\"replaced_by\": \"cst_x", 1), "replaced_by names a key");
    check(&GOLDEN.replacen("\"key_id\": \"cst_", "\"key_id\": \"cst_x", 1), "a pending change is of a key");
    let empty = r#"{"version":1,"keys":[]}"#;
    assert_eq!(KeyTable::parse(empty.as_bytes()), Ok(KeyTable::default()));
}

#[test]
fn changes_are_told_as_the_events_of_their_kind() {
    use schemas::event::Event;

    let [first, second] = [1, 2].map(|n| mint([n; 32]));
    let mut table = KeyTable::default();
    table.create(&first, new_key(Some(1_000)), &act(NOW)).unwrap();
    table.rotate(&first.id, &second, &Rotation { overlap_ms: 10, expires_at: None }, &act(after(1))).unwrap();
    let leaked = Act { reason: "leaked".to_owned(), ..act(after(2)) };
    table.revoke(&second.id, &leaked).unwrap();
    let events = super::super::change_event::events(table.pending(), &table);
    let [Event::AccessGranted(granted), Event::CredentialRotated(rotated), Event::AccessRevoked(revoked)] =
        [&events[0].event, &events[1].event, &events[2].event]
    else {
        panic!("{events:?}")
    };
    assert_eq!(
        (granted.grantee.as_str(), granted.resource.as_str(), granted.role.as_str()),
        (first.id.as_str(), "tenant/acme", "member")
    );
    assert_eq!((&granted.actions, granted.effective_at), (&vec!["send".to_owned(), "read".to_owned()], Some(NOW)));
    assert_eq!((&rotated.old_id, &rotated.new_id, rotated.action.as_str()), (&first.id, &second.id, "ROTATED"));
    assert_eq!((&revoked.grantee, revoked.h.ext.get("reason").map(String::as_str)), (&second.id, Some("leaked")));
    for (arrived, at) in events.iter().zip([NOW, after(1), after(2)]) {
        let h = arrived.event.h();
        assert_eq!((h.event_time, h.tenant_id.as_str(), h.principal.id.as_str()), (at, "acme", "ada"));
        assert!(!arrived.numbered && arrived.event.is_known_type() && !h.event_id.is_zero());
        assert_eq!(schemas::codec::validate_header(h, at), Ok(()));
    }
    let again = super::super::change_event::events(table.pending(), &table);
    assert_eq!(events, again, "telling twice is telling once");
    let numbers = |records: Vec<schemas::record::OutRecord>| {
        let decode = |r: &schemas::record::OutRecord| {
            schemas::codec::codec().decode::<schemas::text::RawText>(r.value.as_deref()).unwrap().h().clone()
        };
        records.iter().map(decode).map(|h| (h.seq, h.producer_seq)).collect::<Vec<_>>()
    };
    let records = super::super::change_event::records(table.pending(), &table, after(9));
    assert_eq!(numbers(records), [(-1, 0), (-1, 1), (-1, 2)]);
}

#[test]
fn a_change_is_overdue_after_ten_seconds_and_settled_once() {
    let (mut table, _) = one_key(None);
    assert_eq!(table.overdue(NOW.plus_ms(9_999)), []);
    let overdue = table.overdue(NOW.plus_ms(10_000));
    assert_eq!(overdue, table.pending());
    assert!(table.settle(&overdue));
    assert!(!table.settle(&overdue));
    assert_eq!(table.pending(), []);
}
