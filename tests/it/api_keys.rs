//! `custody api-keys` as people run it: real processes on a real key file and a real log.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ingest::gateway::auth::credential::mint;
use ingest::gateway::auth::journal::Journal;
use ingest::gateway::auth::key_file::{self, KeyFile};
use ingest::gateway::auth::{Authenticator, Caller, DenialCode, Denied, Identity, change_event};
use ingest::log::local::LocalBroker;
use ingest::log::memory::MemoryBroker;
use ingest::log::{Appender, Broker, Log, LogEvent};
use processors::pii::TokenKeys;
use schemas::codec::codec;
use schemas::event::{CleanEvent, Event, RawEvent};
use schemas::record::{PartitionId, Record};
use schemas::text::RawText;
use schemas::topic::Topic;

use custody::config::Config;
use custody::runner::control::Control;
use custody::stage_table::{Stage, StageSettings};
use custody::{clock, roles};

fn api_keys(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_custody"));
    command.args(["api-keys", "--data-dir"]).arg(dir).args(args).args(["-vv"]);
    command.env("CUSTODY_LOG", "trace").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("utf-8")
}

fn run(dir: &Path, args: &[&str]) -> Output {
    api_keys(dir, args).output().expect("custody")
}

/// Standard output of a command that succeeds, without the last line feed.
fn ok(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

fn id_of(key: &str) -> &str {
    &key[..12]
}

const CREATE: [&str; 7] = ["create", "--name", "fleet", "--tenant", "acme", "--by", "ada"];

#[test]
fn commands_at_once_lose_no_key() {
    let dir = tempfile::tempdir().expect("folder");
    let children: Vec<_> = (0..8).map(|_| api_keys(dir.path(), &CREATE).spawn().expect("custody")).collect();
    let mut keys: Vec<String> = Vec::new();
    for child in children {
        let output = child.wait_with_output().expect("custody");
        assert!(output.status.success(), "{}", text(&output.stderr));
        keys.push(text(&output.stdout).trim_end().to_owned());
    }
    let path = dir.path().join("api-keys.json");
    let table = key_file::load(&path).expect("key file");
    assert_eq!((table.keys().count(), table.pending().len()), (8, 8), "no log: every event is kept");
    let file = KeyFile::open(&path, 1_000, clock::now()).expect("key file");
    for key in &keys {
        let identity = file.authenticate(Some(key), clock::now()).expect("a key that was printed");
        assert_eq!((identity.key_id.as_str(), identity.tenant_id.as_deref()), (id_of(key), Some("acme")));
    }
    let listed: Vec<serde_json::Value> =
        serde_json::from_str(&ok(dir.path(), &["list", "--json"])).expect("a JSON array");
    assert_eq!(listed.len(), 8);
    assert!(listed.iter().all(|row| row["status"] == "active" && row["created_by"] == "ada"), "{listed:?}");
}

#[test]
fn a_key_is_printed_once_and_shown_nowhere_else() {
    let dir = tempfile::tempdir().expect("folder");
    let first = run(dir.path(), &CREATE);
    let key = text(&first.stdout).trim_end().to_owned();
    let successor = run(dir.path(), &["rotate", id_of(&key), "--overlap", "0s"]);
    assert!(first.status.success() && successor.status.success(), "{}", text(&successor.stderr));
    let next = text(&successor.stdout).trim_end().to_owned();
    let mut shown = text(&first.stderr) + &text(&successor.stderr);
    // A whole key pasted where an id belongs, in commands that fail for it.
    for args in [["revoke", &key], ["rotate", &next], ["list", "--json"], ["revoke", id_of(&next)]] {
        let output = run(dir.path(), &args);
        shown += &(text(&output.stdout) + &text(&output.stderr));
    }
    shown += &std::fs::read_to_string(dir.path().join("api-keys.json")).expect("key file");
    for key in [&key, &next] {
        assert_eq!(key.len(), 56);
        assert!(shown.contains(id_of(key)));
        let secret = &key.as_bytes()[13..];
        assert!(secret.windows(12).all(|part| !shown.contains(&text(part))), "{shown}");
    }
    assert!(shown.contains("there is no key"), "{shown}");
}

/// All records of the events topic of a log on disk.
async fn told(broker: &LocalBroker) -> Vec<RawEvent> {
    let mut consumer = broker.consumer("test", Topic::Events, "0").await.expect("consumer");
    let mut events = Vec::new();
    loop {
        match consumer.next().await.expect("record") {
            LogEvent::Fetched { records, .. } => events.extend(records.iter().map(decoded::<RawText>)),
            LogEvent::Idle => return events,
            _ => {}
        }
    }
}

fn decoded<T: schemas::text::Text>(record: &Record) -> Event<T> {
    codec().decode::<T>(record.value.as_deref()).expect("an event")
}

async fn open(dir: &Path) -> LocalBroker {
    let broker = LocalBroker::open(dir.join("log"), None).expect("log");
    roles::create_topics(&broker, 2).await.expect("topics");
    broker
}

#[tokio::test]
async fn every_change_is_told_to_the_log_now_or_later() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("api-keys.json");
    drop(open(dir.path()).await);
    let key = ok(dir.path(), &CREATE);
    let next = ok(dir.path(), &["rotate", id_of(&key), "--by", "ada"]);
    assert_eq!(key_file::load(&path).expect("key file").pending(), []);

    let broker = open(dir.path()).await;
    let output = run(dir.path(), &["revoke", id_of(&next), "--by", "ada", "--reason", "leaked"]);
    assert!(output.status.success() && text(&output.stderr).contains("warning: the log has not been told"));
    let file = KeyFile::open(&path, 1_000, clock::now()).expect("key file");
    let denied = file.authenticate(Some(&next), clock::now()).expect_err("revoked");
    assert_eq!(denied.code, DenialCode::CredentialRevoked, "in force although the log does not know yet");
    assert!(file.authenticate(Some(&key), clock::now()).is_ok(), "within the overlap");

    // The gateway that holds the log open takes the event over.
    let (changes, _) = file.overdue(clock::now().plus_ms(10_000));
    let records = change_event::records(&changes, &file.table(), clock::now());
    broker.appender().await.expect("appender").append(records).await.expect("appended");
    file.settle(&changes).expect("settled");
    assert_eq!(key_file::load(&path).expect("key file").pending(), []);

    let mut events = told(&broker).await;
    events.sort_by_key(|event| event.h().event_time);
    let shown: Vec<(&str, &str)> =
        events.iter().map(|event| (event.h().event_type.as_str(), event.h().tenant_id.as_str())).collect();
    assert_eq!(shown, ["access.granted", "credential.rotated", "access.revoked"].map(|kind| (kind, "acme")));
    assert!(events.iter().all(|event| event.h().principal.id == "ada"), "{events:?}");
}

#[tokio::test]
async fn events_about_keys_pass_the_chain_with_their_ids() {
    let dir = tempfile::tempdir().expect("folder");
    let key = ok(dir.path(), &CREATE);
    let path = dir.path().join("api-keys.json");
    let now = clock::now();
    let file = KeyFile::open(&path, 1_000, now).expect("key file");
    // Ids are random digits; none of them may look like a card, a phone number or a secret.
    let journal = Journal::new("g", now, 1_000);
    let identity = file.authenticate(Some(&key), now).expect("valid");
    for n in 0..=255 {
        let identity = Identity { key_id: mint([n; 32]).id, ..identity.clone() };
        let denied = Denied {
            code: DenialCode::CredentialExpired,
            detail: String::new(),
            key_id: Some(identity.key_id.clone()),
            tenant_id: identity.tenant_id.clone(),
        };
        journal.denied(&denied, now);
        journal.used(&Caller { identity, tenant_id: "acme".to_owned() }, 100, now);
    }
    let (_, mut arrived) = file.overdue(now.plus_ms(10_000));
    arrived.extend(journal.drain());
    let mut sequencer = ingest::agent::sequencer::Sequencer::new("gateway/g", now);
    let records: Vec<_> = arrived.iter_mut().map(|arrived| sequencer.record(&mut arrived.event)).collect();

    let broker = MemoryBroker::new();
    roles::create_topics(&broker, 1).await.expect("topics");
    broker.appender().await.expect("appender").append(records).await.expect("appended");
    let control = Control::default();
    control.upstream_done.raise();
    let settings = StageSettings::of(&Config::default(), 1, Some(TokenKeys::new([7; 32])));
    roles::stage(broker.clone(), Stage::Pii, &settings, None, control).await.expect("pii");
    let of = |topic| broker.records(PartitionId { topic, partition: 0 });
    assert_eq!(of(Topic::Dlq).len(), 0);
    let clean: Vec<CleanEvent> = of(Topic::Clean).iter().map(decoded).collect();
    let ids: BTreeSet<&str> = clean
        .iter()
        .filter_map(|event| match event {
            Event::AccessGranted(granted) => Some(granted.grantee.as_str()),
            Event::Extension(extension) => Some(extension.attributes["key_id"].as_str()),
            _ => None,
        })
        .collect();
    let minted: Vec<String> = (0..=255).map(|n| mint([n; 32]).id).collect();
    assert_eq!(clean.len(), 513);
    assert_eq!(ids, minted.iter().map(String::as_str).chain([id_of(&key)]).collect());
    assert_eq!(of(Topic::Findings).len(), 0, "nothing personal in them");
}
