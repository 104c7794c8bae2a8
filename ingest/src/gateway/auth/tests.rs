//! Roles, tenants and headers: the whole question of [`admit`], and that no answer repeats a secret.

use axum::http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use schemas::codec::codec;

use super::change_event::{events, records};
use super::credential::{Minted, Presented, mint};
use super::table::{Act, KeyTable, NewKey, Rotation};
use super::*;

const NOW: TimestampMicros = TimestampMicros(1_790_000_000_000_000);

fn act(at: TimestampMicros) -> Act {
    Act { by: "ada".to_owned(), at, reason: "test".to_owned() }
}

fn new_key(role: Role, tenant: Option<&str>) -> NewKey {
    let expires_at = Some(NOW.plus_ms(60_000));
    NewKey { name: "fleet".to_owned(), role, tenant_id: tenant.map(str::to_owned), expires_at }
}

/// A table as an authenticator, without a file.
#[derive(Default)]
struct Table(KeyTable);

impl Authenticator for Table {
    fn authenticate(&self, secret: Option<&str>, now: TimestampMicros) -> Result<Identity, Denied> {
        let missing = || Denied::of_stranger(DenialCode::CredentialMissing, "none");
        self.0.decide(&Presented::read(secret.ok_or_else(missing)?)?, now)
    }
}

fn with_key(role: Role, tenant: Option<&str>) -> (Table, Minted) {
    let (mut table, minted) = (Table::default(), mint([7; 32]));
    table.0.create(&minted, new_key(role, tenant), &act(NOW)).unwrap();
    (table, minted)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

#[test]
fn each_role_may_do_what_it_may() {
    use Action::{Manage, Read, Send};
    let check = |role: Role, expected: &[Action]| {
        for action in Action::ALL {
            let (table, minted) = with_key(role, Some("acme"));
            let bearer = format!("Bearer {}", minted.secret.expose());
            let answer = admit(&table, &headers(&[("authorization", &bearer)]), action, NOW);
            let code = answer.as_ref().err().map(|denied| (denied.code, denied.status()));
            let forbidden = (!expected.contains(&action)).then_some((DenialCode::RoleForbidden, 403));
            assert_eq!(code, forbidden, "{role} {}", action.name());
        }
    };
    check(Role::Owner, &[Send, Read, Manage]);
    check(Role::Admin, &[Send, Read, Manage]);
    check(Role::Member, &[Send, Read]);
    check(Role::Viewer, &[Read]);
    check(Role::Auditor, &[Read]);
}

#[test]
fn a_forbidden_role_is_told_which_roles_may() {
    let (table, minted) = with_key(Role::Viewer, Some("acme"));
    let headers = headers(&[("x-api-key", minted.secret.expose())]);
    let denied = admit(&table, &headers, Action::Send, NOW).unwrap_err();
    let expected =
        format!("key {} has the role viewer, which may not send: use a key of role owner, admin, member", minted.id);
    assert_eq!((denied.to_string(), denied.key_id.as_deref()), (expected, Some(minted.id.as_str())));
    assert_eq!(denied.tenant_id.as_deref(), Some("acme"));
}

#[test]
fn a_tenant_is_the_keys_or_the_named_one() {
    let check = |bound: Option<&str>, requested: Option<&str>, expected: Result<&str, DenialCode>| {
        let (table, minted) = with_key(Role::Owner, bound);
        let mut pairs = vec![("x-api-key", minted.secret.expose())];
        pairs.extend(requested.map(|tenant| (TENANT_HEADER, tenant)));
        let answer = admit(&table, &headers(&pairs), Action::Send, NOW);
        let answer = answer.map(|caller| caller.tenant_id).map_err(|denied| denied.code);
        assert_eq!(answer, expected.map(str::to_owned), "bound to {bound:?}, asks for {requested:?}");
    };
    let long = "x".repeat(257);
    check(Some("acme"), None, Ok("acme"));
    check(Some("acme"), Some("acme"), Ok("acme"));
    check(Some("acme"), Some("other"), Err(DenialCode::TenantForbidden));
    check(Some("acme"), Some("ACME"), Err(DenialCode::TenantForbidden));
    check(None, Some("other"), Ok("other"));
    check(None, None, Ok(DEFAULT_TENANT));
    check(None, Some(""), Err(DenialCode::TenantInvalid));
    check(None, Some("a/b"), Err(DenialCode::TenantInvalid));
    check(None, Some("_system"), Err(DenialCode::TenantInvalid));
    check(None, Some("é"), Err(DenialCode::TenantInvalid));
    check(None, Some(&long), Err(DenialCode::TenantInvalid));
}

#[test]
fn a_credential_is_one_bearer_token_or_api_key() {
    let (table, minted) = with_key(Role::Member, Some("acme"));
    let key = minted.secret.expose();
    let [bearer, lower, basic] = ["Bearer", "bearer", "Basic"].map(|scheme| format!("{scheme} {key}"));
    let check = |pairs: &[(&'static str, &str)], expected: Result<(), DenialCode>| {
        let answer = admit(&table, &headers(pairs), Action::Send, NOW).map(|_| ()).map_err(|denied| denied.code);
        assert_eq!(answer, expected, "{pairs:?}");
    };
    check(&[("authorization", &bearer)], Ok(()));
    check(&[("authorization", &lower)], Ok(()));
    check(&[("x-api-key", key)], Ok(()));
    check(&[("authorization", &bearer), ("x-api-key", key)], Ok(()));
    check(&[], Err(DenialCode::CredentialMissing));
    check(&[("authorization", &basic)], Err(DenialCode::CredentialMalformed));
    check(&[("authorization", "Bearer")], Err(DenialCode::CredentialMalformed));
    check(&[("authorization", "Bearer ")], Err(DenialCode::CredentialMalformed));
    check(&[("authorization", key)], Err(DenialCode::CredentialMalformed));
    check(&[("authorization", "")], Err(DenialCode::CredentialMalformed));
    check(&[("authorization", "Bearer é")], Err(DenialCode::CredentialMalformed));
    check(&[("x-api-key", "cst_")], Err(DenialCode::CredentialMalformed));
    let other = mint([8; 32]);
    check(&[("x-api-key", other.secret.expose())], Err(DenialCode::CredentialUnknown));
    check(&[("authorization", &bearer), ("x-api-key", other.secret.expose())], Err(DenialCode::CredentialMalformed));
    check(&[("x-api-key", key), ("x-api-key", other.secret.expose())], Err(DenialCode::CredentialMalformed));
}

#[test]
fn a_denial_is_a_problem_with_a_challenge_where_it_is_401() {
    for code in DenialCode::ALL {
        let denied = Denied::of_stranger(code, "why");
        assert_eq!(denied.challenge().is_some(), denied.status() == 401, "{code:?}");
        let is_of_key = denied.challenge().is_some_and(|challenge| challenge.contains("invalid_token"));
        assert_eq!(is_of_key, denied.status() == 401 && code != DenialCode::CredentialMissing, "{code:?}");
        let problem = Problem::from(denied);
        assert_eq!((problem.status, problem.code, problem.detail.as_str()), (code.status(), code.name(), "why"));
    }
    let names: std::collections::BTreeSet<&str> = DenialCode::ALL.into_iter().map(DenialCode::name).collect();
    assert_eq!(names.len(), DenialCode::ALL.len());
}

#[test]
fn without_keys_only_loopback_is_listened_on() {
    let check = |listen: &[&str], refused: Option<&str>| {
        let listen: Vec<SocketAddr> = listen.iter().map(|address| address.parse().unwrap()).collect();
        let answer = Open::on(&listen).err().map(|needed| needed.listen.to_string());
        assert_eq!(answer.as_deref(), refused, "{listen:?}");
    };
    check(&["127.0.0.1:4318", "[::1]:4317"], None);
    check(&["127.8.8.8:1"], None);
    check(&["[::ffff:127.0.0.1]:1"], None);
    check(&["127.0.0.1:4318", "0.0.0.0:4317"], Some("0.0.0.0:4317"));
    check(&["[::]:1"], Some("[::]:1"));
    check(&["192.168.0.1:1"], Some("192.168.0.1:1"));
    let open = Open::on(&[]).unwrap();
    let caller = admit(&open, &headers(&[(TENANT_HEADER, "acme")]), Action::Send, NOW).unwrap();
    assert_eq!((caller.tenant_id.as_str(), caller.identity.tenant_id), ("acme", None));
    assert_eq!(admit(&open, &HeaderMap::new(), Action::Send, NOW).unwrap().tenant_id, DEFAULT_TENANT);
}

#[test]
fn role_names_read_back() {
    for role in Role::ALL {
        assert_eq!(Role::from_name(role.name()), Some(role));
        assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
    }
    assert_eq!(Role::from_name("Owner"), None);
}

/// Everything that a key's life leaves behind: debug output, file, errors, events, records.
fn traces(random: [u8; 32], tampered: usize) -> (String, Vec<u8>) {
    let minted = mint(random);
    let key = minted.secret.expose().to_owned();
    let mut table = KeyTable::default();
    let mut shown = format!("{minted:?} {:?}", minted.secret);
    table.create(&minted, new_key(Role::Viewer, Some("acme")), &act(NOW)).unwrap();
    shown += &format!("{:?}", Presented::read(&key).unwrap());
    let mut wrong = key.clone().into_bytes();
    wrong[tampered] = if wrong[tampered] == b'A' { b'B' } else { b'A' };
    let wrong = String::from_utf8(wrong).unwrap();
    let table = Table(table);
    let calls: [(&str, &str, Action, TimestampMicros); 5] = [
        ("x-api-key", &key, Action::Read, NOW),
        ("x-api-key", &key, Action::Send, NOW),
        ("x-api-key", &key, Action::Read, NOW.plus_ms(60_000)),
        ("x-api-key", &wrong, Action::Read, NOW),
        ("authorization", &key, Action::Read, NOW),
    ];
    let journal = journal::Journal::new("g", NOW, 10);
    for (name, value, action, now) in calls {
        let mut headers = HeaderMap::new();
        headers.insert(axum::http::HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        headers.insert(TENANT_HEADER, HeaderValue::try_from(key.as_str()).unwrap());
        match admit(&table, &headers, action, now) {
            Ok(caller) => shown += &format!("{caller:?}"),
            Err(denied) => {
                journal.denied(&denied, now);
                shown += &format!("{denied} {denied:?} {:?}", Problem::from(denied.clone()));
            }
        }
    }
    let Table(mut table) = table;
    let rotation = Rotation { overlap_ms: 0, expires_at: None };
    for error in [
        table.rotate(&key, &minted, &rotation, &act(NOW)).unwrap_err(),
        table.rotate(&minted.id, &minted, &rotation, &act(NOW)).unwrap_err(),
        table.revoke(&key, &act(NOW)).unwrap_err(),
        KeyTable::parse(format!("{{\"version\":1,\"keys\":[\"{key}\"]}}").as_bytes()).unwrap_err(),
        KeyTable::parse(format!("{{\"version\":1,\"{key}\":1,\"keys\":[]}}").as_bytes()).unwrap_err(),
        KeyTable::parse(String::from_utf8(table.to_json()).unwrap().replace(&minted.id, &key).as_bytes()).unwrap_err(),
    ] {
        shown += &format!("{error} {error:?}");
    }
    table.revoke(&minted.id, &act(NOW)).unwrap();
    shown += &format!("{table:?}");
    let mut bytes = table.to_json();
    for arrived in events(table.pending(), &table).into_iter().chain(journal.drain()) {
        shown += &format!("{arrived:?}");
        bytes.extend_from_slice(&codec().encode(&arrived.event));
    }
    for record in records(table.pending(), &table, NOW) {
        bytes.extend_from_slice(record.value.as_deref().unwrap_or_default());
    }
    (shown, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The secret is in no debug output, message, file, event or record: not whole and not in part.
    #[test]
    fn a_secret_leaves_no_trace(random: [u8; 32], tampered in 13_usize..56) {
        let (shown, bytes) = traces(random, tampered);
        let minted = mint(random);
        let secret = minted.secret.expose().split_at(13).1.as_bytes();
        prop_assert!(shown.contains(&minted.id));
        for part in secret.windows(12) {
            prop_assert!(!shown.as_bytes().windows(12).any(|window| window == part), "{shown}");
            prop_assert!(!bytes.windows(12).any(|window| window == part));
        }
        prop_assert!(!bytes.windows(32).any(|window| window == random));
    }
}
