//! A schema registry that is away, that lies, and that comes back: what becomes of records meanwhile.
//!
//! The registry here answers whatever a test tells it to, mostly what no real one would; a real one
//! answers in `tests/live/registry.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse as _;
use custody::config::{RegistrySection, Role};
use custody::registry::{Held, RegistryClient, SchemaRegistry};
use custody::runner::control::Condition;
use ingest::log::Broker as _;
use schemas::codec::{Registered, codec, published_schemas};
use schemas::event::RawEvent;
use schemas::record::header::DLQ_REASON;
use schemas::record::{OutRecord, Record, SourceRef};
use schemas::topic::Topic;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::services::{Service, append, append_events, config, count, event, id, installed, records, wait};

const JSON: &str = "application/vnd.schemaregistry.v1+json";

/// What is answered under a path: status, media type, body.
type Answers = BTreeMap<String, (u16, &'static str, Vec<u8>)>;

#[derive(Default)]
struct Told {
    answers: Answers,
    /// Answered to every question while it is set.
    fault: Option<(u16, &'static str)>,
    asked: Vec<(String, String)>,
}

/// A server that answers what it is told to.
#[derive(Clone)]
struct Fake {
    told: Arc<Mutex<Told>>,
    url: String,
}

impl Fake {
    async fn start() -> Self {
        // Fails only if another test has installed it.
        let _present = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let url = format!("http://{}/apis/ccompat/v7/", listener.local_addr().expect("address"));
        let fake = Self { told: Arc::default(), url };
        let router = axum::Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake.tell("schemas/types", 200, JSON, "[\"AVRO\"]");
        fake.tell("subjects", 200, JSON, "[]");
        fake
    }

    fn tell(&self, path: &str, status: u16, media_type: &'static str, body: impl Into<Vec<u8>>) {
        let answer = (status, media_type, body.into());
        self.told.lock().expect("told").answers.insert(format!("/apis/ccompat/v7/{path}"), answer);
    }

    fn hold(&self, id: u32, schema: &str) {
        self.tell(&format!("schemas/ids/{id}"), 200, JSON, json!({ "schema": schema }).to_string());
    }

    fn fail(&self, fault: Option<(u16, &'static str)>) {
        self.told.lock().expect("told").fault = fault;
    }

    fn times_asked(&self, path: &str) -> usize {
        self.told.lock().expect("told").asked.iter().filter(|(asked, _)| asked.ends_with(path)).count()
    }

    fn section(&self) -> RegistrySection {
        RegistrySection { url: self.url.clone(), ..RegistrySection::default() }
    }

    fn client(&self) -> RegistryClient {
        RegistryClient::new(&self.section()).expect("a client").expect("a registry")
    }
}

async fn answer(State(fake): State<Fake>, headers: HeaderMap, request: Request) -> axum::response::Response {
    let mut told = fake.told.lock().expect("told");
    let authorization = headers.get(header::AUTHORIZATION).map(|v| v.to_str().expect("text").to_owned());
    told.asked.push((request.uri().path().to_owned(), authorization.unwrap_or_default()));
    let not_found = || (404, JSON, br#"{"error_code":40403,"message":"Schema not found"}"#.to_vec());
    let (status, media_type, body) = match told.fault {
        Some((status, body)) => (status, "text/html", body.into()),
        None => told.answers.get(request.uri().path()).cloned().unwrap_or_else(not_found),
    };
    (StatusCode::from_u16(status).expect("a status"), [(header::CONTENT_TYPE, media_type)], body).into_response()
}

fn schema_of(record: &str) -> Value {
    let published = published_schemas().iter().find(|schema| schema.name == record).expect("a record");
    serde_json::from_str(&published.json).expect("json")
}

/// Behind a Confluent frame; a single-object frame is ten bytes.
fn framed(schema: u32, record: OutRecord, more: &[u8]) -> OutRecord {
    let body = record.value.clone().expect("a value").slice(10..);
    let value = [&[0], &schema.to_be_bytes()[..], &body, more].concat();
    OutRecord { value: Some(value.into()), ..record }
}

#[tokio::test]
async fn only_the_registry_s_own_word_is_a_fact() {
    let fake = Fake::start().await;
    let huge = |open: &str| [open.as_bytes(), &vec![b' '; 2 << 20]].concat();
    let check = async |status, media_type, body: Vec<u8>, expected: Result<Held, &str>| {
        fake.tell("schemas/ids/7", status, media_type, body);
        match (fake.client().schema(7).await, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error} has no {part:?}"),
            (found, expected) => panic!("{status}: {found:?}, not {expected:?}"),
        }
    };
    check(200, JSON, br#"{"schema":"\"int\""}"#.to_vec(), Ok(Held::Avro("\"int\"".to_owned()))).await;
    check(404, JSON, br#"{"error_code":40403,"message":"Schema 7 not found"}"#.to_vec(), Ok(Held::Nothing)).await;
    check(404, "text/html", b"<html>404</html>".to_vec(), Err("schemas.registry.url")).await;
    check(404, JSON, br#"{"error_code":404,"message":"HTTP 404"}"#.to_vec(), Err("404: HTTP 404")).await;
    check(500, JSON, br#"{"error_code":50001,"message":"store"}"#.to_vec(), Err("50001: store")).await;
    check(302, "text/html", Vec::new(), Err("status 302")).await;
    check(401, "text/html", Vec::new(), Err("schemas.registry.user")).await;
    check(200, "text/html", b"<html>sign in</html>".to_vec(), Err("not what a registry says")).await;
    check(200, JSON, br#"{"schema":"\"i"#.to_vec(), Err("not what a registry says")).await;
    check(200, "text/html", huge("<html>"), Err("more than 1048576 bytes")).await;
    let large = "it is larger than 1048576 bytes; register a smaller one";
    check(200, JSON, huge("{\"schema\":\""), Ok(Held::Other(large.to_owned()))).await;
    let deep = format!(r#"{{"schema":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    check(200, JSON, deep.into_bytes(), Err("not what a registry says")).await;
}

#[tokio::test]
async fn a_connection_that_breaks_or_hangs_is_an_outage() {
    let _present = rustls::crypto::ring::default_provider().install_default();
    let check = async |reply: Option<&'static [u8]>, part: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let section = RegistrySection { url, request_timeout_ms: 300, ..RegistrySection::default() };
        let client = RegistryClient::new(&section).expect("a client").expect("a registry");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = [0; 1024];
            let _asked = stream.read(&mut head).await.expect("a request");
            match reply {
                Some(reply) => stream.write_all(reply).await.expect("sent"),
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            outcome = client.schema(7) => outcome.expect_err("no answer"),
            () = async { serve.await; std::future::pending().await } => unreachable!("pending"),
        };
        assert!(error.to_string().contains(part), "{error} has no {part:?}");
    };
    check(None, "request_timeout_ms").await;
    check(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{\"schema\":"), "schema 7").await;
    let gone = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("a free port");
    let section = RegistrySection { url: format!("http://{gone}"), ..RegistrySection::default() };
    let error = RegistryClient::new(&section).expect("a client").expect("a registry").types().await;
    assert!(error.expect_err("nobody listens").to_string().contains("start the registry"));
}

#[tokio::test]
async fn credentials_are_sent_and_read_again_from_their_files() {
    let fake = Fake::start().await;
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("secret");
    let last = || fake.told.lock().expect("told").asked.last().expect("a question").1.clone();
    let ask = async |section: &RegistrySection| {
        let client = RegistryClient::new(section).expect("a client").expect("a registry");
        client.types().await
    };
    ask(&fake.section()).await.expect("types");
    assert_eq!(last(), "");
    std::fs::write(&file, "open\n").expect("written");
    let basic = RegistrySection { user: "custody".to_owned(), password_file: file.clone(), ..fake.section() };
    ask(&basic).await.expect("types");
    assert_eq!(last(), "Basic Y3VzdG9keTpvcGVu");
    let bearer = RegistrySection { token_file: file.clone(), ..fake.section() };
    let client = RegistryClient::new(&bearer).expect("a client").expect("a registry");
    for token in ["one", "two"] {
        std::fs::write(&file, format!("{token}\n")).expect("written");
        client.types().await.expect("types");
        assert_eq!(last(), format!("Bearer {token}"));
    }
    std::fs::remove_file(&file).expect("removed");
    let error = client.types().await.expect_err("no token").to_string();
    assert!(error.contains("schemas.registry.token_file") && !error.contains("two"), "{error}");
    std::fs::write(&file, "not a certificate").expect("written");
    let refused = RegistryClient::new(&RegistrySection { ca_file: file, ..fake.section() }).expect_err("refused");
    assert!(refused.to_string().contains("schemas.registry.ca_file"), "{refused}");
}

/// Ids that are known, after waiting for them.
async fn known(registry: &SchemaRegistry, ids: &[u32]) -> BTreeMap<u32, Registered> {
    let ids: BTreeSet<u32> = ids.iter().copied().collect();
    let mut known = BTreeMap::new();
    wait("known", async || {
        known.extend(registry.resolve(&ids).await);
        known.len() == ids.len()
    })
    .await;
    known
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_once_is_known_for_ever_and_what_is_not_there_is_asked_again() {
    let fake = Fake::start().await;
    let text = schema_of("ModelCall").to_string();
    // What is asked for at the start: subjects of the topic and of our records.
    fake.tell(
        "subjects",
        200,
        JSON,
        r#"["x.custody.events.v2-value","custody.v1.Tick","other","custody.events.v1-y"]"#,
    );
    let version = |id| json!({"subject": "s", "version": 1, "id": id, "schema": text}).to_string();
    for (subject, id) in [("x.custody.events.v2-value", 1), ("custody.v1.Tick", 2)] {
        fake.tell(&format!("subjects/{subject}/versions"), 200, JSON, "[1]");
        fake.tell(&format!("subjects/{subject}/versions/1"), 200, JSON, version(id));
    }
    let registry = SchemaRegistry::new(fake.client());
    let asking = tokio::spawn({
        let registry = registry.clone();
        async move { registry.run("x.").await }
    });
    // Asked for before the start is over, an id would be asked for by itself.
    wait("warm", async || registry.condition() == Condition::Running).await;
    let warm = known(&registry, &[1, 2]).await;
    assert!(warm.values().all(|fact| matches!(fact, Registered::Readable(_))), "{warm:?}");
    assert_eq!((fake.times_asked("schemas/ids/1"), fake.times_asked("other/versions")), (0, 0));

    let absent = known(&registry, &[3, u32::MAX]).await;
    assert!(absent.values().all(|fact| matches!(fact, Registered::Absent)), "{absent:?}");
    assert_eq!(fake.times_asked("4294967295"), 0, "no id is so large");
    fake.hold(3, &text);
    assert!(matches!(known(&registry, &[3]).await[&3], Registered::Readable(_)), "it was registered since");

    fake.fail(Some((503, "away")));
    assert!(registry.resolve(&BTreeSet::from([4])).await.is_empty());
    let still = registry.resolve(&BTreeSet::from([1, 3, 4])).await;
    assert_eq!(still.keys().copied().collect::<Vec<_>>(), [1, 3], "an outage changes nothing for known ids");
    fake.fail(None);
    assert!(matches!(known(&registry, &[4]).await[&4], Registered::Absent));
    asking.abort();
}

/// A schema of a later version: one more field, with a default.
fn evolved(record: &str) -> String {
    let mut schema = schema_of(record);
    let fields = schema["fields"].as_array_mut().expect("fields");
    fields.push(json!({"name": "temperature_milli", "type": "long", "default": 0}));
    schema.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_waits_for_its_schema_while_the_others_go_on() {
    let fake = Fake::start().await;
    let dir = tempfile::tempdir().expect("directory");
    let broker = installed(dir.path()).await;
    let mut config = config(dir.path());
    config.schemas.registry = fake.section();
    let record_of = |record: &OutRecord| {
        let event: RawEvent = codec().decode(record.value.as_deref()).expect("an event");
        event.kind().record_name()
    };

    fake.fail(Some((502, "<html>bad gateway</html>")));
    append_events(&broker, 0..10).await;
    // Partition 1: of our schema, of a later version of it, and of our own frame behind them.
    let first = event(1, 10);
    fake.hold(11, &schema_of(record_of(&first)).to_string());
    let later = event(1, 11);
    fake.hold(12, &evolved(record_of(&later)));
    append(&broker, vec![framed(11, first, &[]), framed(12, later, &[84]), event(1, 12)]).await;
    // Partition 2: of no schema at all, and of one that is no Avro.
    fake.tell("schemas/ids/14", 200, JSON, r#"{"schema":"{}","schemaType":"PROTOBUF"}"#);
    append(&broker, vec![framed(13, event(2, 10), &[]), framed(14, event(2, 11), &[]), event(2, 12)]).await;

    let service = Service::start(&broker, &config, Role::Pii).await;
    wait("read up to the unknown schemas", async || count(&broker, Topic::Clean).await == 40).await;
    wait("known to be away", async || service.get("/readyz").await.1.contains("\"schema registry\":\"retrying\""))
        .await;
    let (status, body) = service.get("/readyz").await;
    assert_eq!((status, service.get("/livez").await.0), (503, 200), "{body}");
    append_events(&broker, 20..30).await;
    wait("the others go on", async || count(&broker, Topic::Clean).await == 60).await;
    let lag = |partition: u32| format!("topic=\"custody.events.v1\",partition=\"{partition}\"}} 13");
    for partition in [1, 2] {
        wait("its lag grows", async || service.get("/metrics").await.1.contains(&lag(partition))).await;
    }
    let metrics = service.get("/metrics").await.1;
    assert!(metrics.contains("custody_schema_registry_up 0"), "{metrics}");
    assert!(metrics.contains("custody_schemas_awaited 4"), "{metrics}");
    assert_eq!(count(&broker, Topic::Dlq).await, 0, "no record is at fault");

    // Who waits can be stopped, and waits again.
    service.stop().await.expect("drained");
    let service = Service::start(&broker, &config, Role::Pii).await;
    wait("asked again", async || service.get("/metrics").await.1.contains("custody_schemas_awaited 4")).await;
    assert_eq!((count(&broker, Topic::Clean).await, count(&broker, Topic::Dlq).await), (60, 0));

    fake.fail(None);
    wait("all that is good", async || count(&broker, Topic::Clean).await == 84).await;
    service.until_ready().await;
    let metrics = service.get("/metrics").await.1;
    assert!(metrics.contains("custody_schema_registry_up 1") && metrics.contains("custody_schemas_awaited 0"));
    service.stop().await.expect("drained");
    let letters = records(&broker, id(Topic::Dlq, 2)).await;
    let reason = |record: &Record| {
        let reason = record.headers.iter().find(|(name, _)| name == DLQ_REASON).expect("a reason");
        String::from_utf8(reason.1.to_vec()).expect("text")
    };
    assert_eq!(letters.iter().map(reason).collect::<Vec<_>>(), ["unknown_schema", "unusable_schema"]);
    assert_eq!(count(&broker, Topic::Dlq).await, 2);
    // In the order of the source, each once.
    for partition in 0..4 {
        let clean = records(&broker, id(Topic::Clean, partition)).await;
        let sources: Vec<u64> =
            clean.iter().map(|r| SourceRef::from_headers(&r.headers).expect("a source").offset).collect();
        let end = broker.bounds(id(Topic::Events, partition)).await.expect("bounds").end;
        let expected: Vec<u64> = (0..end).filter(|o| partition != 2 || !(10..12).contains(o)).collect();
        assert_eq!(sources, expected, "partition {partition}");
    }
}
