//! The client against a real HTTP server that misbehaves by a script: nothing is lost, nothing is
//! reordered, and what is refused is kept with its reason.
//!
//! The server reads bodies with the gateway's own parser. It is no test of the gateway itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use ingest::agent::avro_body::MEDIA_TYPE;
use ingest::agent::client::{Client, ClientConfig, NotTaken};
use ingest::agent::spool::Fsync;
use ingest::gateway::avro_batch;
use ingest::gateway::intake::Arrived;
use ingest::gateway::intake::IntakeContext;
use ingest::gateway::problem::{Code, Refusal};
use ingest::gateway::{Gateway, GatewayConfig};
use ingest::log::Broker as _;
use ingest::log::memory::MemoryBroker;
use prometheus_client::registry::Registry;
use schemas::codec::codec;
use schemas::event::{Event, ModelCall, RawEvent, SessionEnded, SessionStarted};
use schemas::id::{Sha256, Uuid};
use schemas::record::PartitionId;
use schemas::secret::Secret;
use schemas::testing::until;
use schemas::text::Content;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

const NOW: TimestampMicros = TimestampMicros::from_ms(1_767_225_600_000);
/// Longer than any test: what waits for it waits for something else.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// What the server does with a request; 202 when the script is over.
#[derive(Debug, Clone, Copy)]
enum Step {
    Accept,
    /// 429 with `Retry-After: 0`.
    Busy,
    Unavailable,
    /// 200 from something that is no gateway.
    Portal,
    /// 401: the key is wrong.
    Unauthorized,
    /// Refuses the events whose model call has this marker as its id, by name.
    RefuseNamed(&'static str),
    /// Refuses any batch that has such an event, without saying which.
    RefuseUnnamed(&'static str),
    /// 413 for more events than this.
    TooLarge(usize),
    /// The connection breaks before anything is taken.
    Reset,
    /// The events are taken, and the connection breaks before the answer.
    LostAnswer,
    /// The events are taken, and the answer never comes.
    Silence,
}

#[derive(Debug, Default)]
struct Server {
    script: Mutex<VecDeque<Step>>,
    /// Steps that hold for every request behind the script.
    always: Mutex<Option<Step>>,
    taken: Mutex<Vec<Arrived>>,
    authorization: Mutex<Option<String>>,
}

async fn events(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(text(header::CONTENT_TYPE).as_deref(), Some(MEDIA_TYPE));
    *server.authorization.lock().unwrap() = text(header::AUTHORIZATION);
    let body = match text(header::CONTENT_ENCODING).as_deref() {
        Some("gzip") => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
            plain.into()
        }
        _ => body,
    };
    let context = IntakeContext { tenant_id: Some("default"), arrived_at: NOW };
    let arrived = avro_batch::parse(&body, &context).unwrap();
    let step = server.script.lock().unwrap().pop_front();
    let step = step.or(*server.always.lock().unwrap()).unwrap_or(Step::Accept);
    answer(&server, step, arrived).await
}

async fn answer(server: &Server, step: Step, arrived: Vec<Arrived>) -> Response {
    let marked = |marker: &str| -> Vec<usize> {
        let is_marked = |a: &Arrived| matches!(&a.event, Event::ModelCall(call) if call.call_id == marker);
        arrived.iter().enumerate().filter(|(_, a)| is_marked(a)).map(|(index, _)| index).collect()
    };
    let take = || server.taken.lock().unwrap().extend(arrived.clone());
    match step {
        Step::Accept => {
            take();
            StatusCode::ACCEPTED.into_response()
        }
        Step::Busy => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0")]).into_response(),
        Step::Unavailable => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Step::Portal => (StatusCode::OK, "welcome to the hotel").into_response(),
        Step::Unauthorized => problem(&Code::Unauthenticated.problem("no such key").into()),
        Step::RefuseNamed(marker) => {
            let problems =
                marked(marker).into_iter().map(|index| Code::Reserved.problem("no").at("/h").in_event(index));
            match Refusal::of(problems) {
                Some(refusal) => problem(&refusal),
                None => {
                    take();
                    StatusCode::ACCEPTED.into_response()
                }
            }
        }
        Step::RefuseUnnamed(marker) if !marked(marker).is_empty() => problem(&Code::InvalidValue.problem("no").into()),
        Step::TooLarge(most) if arrived.len() > most => problem(&Code::BodyTooLarge.problem("no").into()),
        Step::RefuseUnnamed(_) | Step::TooLarge(_) => {
            take();
            StatusCode::ACCEPTED.into_response()
        }
        // Unwinding ends the connection's task, and with it the connection.
        Step::Reset => std::panic::resume_unwind(Box::new("reset")),
        Step::LostAnswer => {
            take();
            std::panic::resume_unwind(Box::new("lost answer"))
        }
        Step::Silence => {
            take();
            std::future::pending().await
        }
    }
}

fn problem(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], refusal.to_json()).into_response()
}

/// A server on a thread of its own, for as long as the test runs.
fn serve(server: &Arc<Server>) -> SocketAddr {
    let (send, receive) = std::sync::mpsc::channel();
    let server = server.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            let app = Router::new().route("/v1/events", post(events)).with_state(server);
            axum::serve(listener, app).await.unwrap();
        });
    });
    receive.recv().unwrap()
}

fn scripted(script: impl IntoIterator<Item = Step>) -> (Arc<Server>, SocketAddr) {
    let server = Arc::new(Server { script: Mutex::new(script.into_iter().collect()), ..Server::default() });
    let address = serve(&server);
    (server, address)
}

fn config(address: SocketAddr, dir: &Path) -> ClientConfig {
    ClientConfig {
        batch_events_max: 7,
        linger_ms: 1,
        block_ms_max: 3_600_000,
        fsync: Fsync::Never,
        request_timeout_ms: 500,
        backoff_ms_min: 1,
        backoff_ms_max: 5,
        heartbeat_interval_ms: 0,
        ..ClientConfig::new(format!("http://{address}/"), dir, || NOW)
    }
}

fn session(number: usize) -> Uuid {
    Uuid::derive(&[b"session", &number.to_be_bytes()])
}

fn call(number: usize, id: &str) -> RawEvent {
    let mut call = ModelCall { call_id: id.to_owned(), input: Some(Content::plain("hello")), ..ModelCall::default() };
    call.h.session_id = session(number);
    Event::ModelCall(call)
}

fn start(number: usize) -> RawEvent {
    let mut started = SessionStarted::default();
    started.h.session_id = session(number);
    Event::SessionStarted(started)
}

fn end(number: usize) -> RawEvent {
    let mut ended = SessionEnded::default();
    ended.h.session_id = session(number);
    Event::SessionEnded(ended)
}

/// Sends `count` calls in three sessions, and waits until all are delivered.
fn send(client: &Client, count: usize) {
    for index in 0..count {
        client.emit(call(index % 3, &format!("c{index}"))).unwrap();
    }
}

/// The records in the order in which they came first.
fn distinct(server: &Server) -> Vec<Arrived> {
    let mut seen = std::collections::BTreeSet::new();
    let taken = server.taken.lock().unwrap();
    taken.iter().filter(|arrived| seen.insert(arrived.content_sha256)).cloned().collect()
}

/// Every number of the writer is there, in order, and every session's chain holds, to the byte.
fn check_whole(server: &Server, count: usize) {
    let arrived = distinct(server);
    let numbers: Vec<i64> = arrived.iter().map(|a| a.event.h().producer_seq).collect();
    assert_eq!(numbers, (0..count as i64).collect::<Vec<_>>());
    check_chains(&arrived);
    // A record that is sent again follows the ones that were sent with it the first time.
    let taken = server.taken.lock().unwrap();
    for pair in taken.windows(2) {
        let (a, b) = (pair[0].event.h().producer_seq, pair[1].event.h().producer_seq);
        assert!(b <= a + 1, "{b} came after {a}");
    }
}

fn check_chains(arrived: &[Arrived]) {
    let mut last = std::collections::BTreeMap::new();
    for record in arrived.iter().filter(|a| !a.event.h().session_id.is_zero()) {
        let h = record.event.h();
        let before = last.insert(h.session_id, (h.seq, Sha256::of(record.raw.as_ref().unwrap())));
        let expected = before.map_or((0, Sha256::ZERO), |(seq, hash)| (seq + 1, hash));
        assert_eq!((h.seq, h.prev_hash), expected);
    }
}

fn check(script: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = scripted(script.iter().copied());
    let client = Client::start(config(address, dir.path())).unwrap();
    send(&client, 60);
    let closed = client.close(FOR_EVER);
    assert!(closed.is_drained, "{script:?}: {closed:?}");
    assert_eq!((closed.stats.acked, closed.stats.dropped, closed.stats.refused), (60, 0, 0), "{script:?}");
    check_whole(&server, 60);
}

#[test]
fn no_answer_loses_or_reorders_anything() {
    use Step::*;
    check(&[]);
    check(&[Busy, Busy, Accept, Busy]);
    check(&[Unavailable, Accept, Unavailable, Unavailable, Unavailable]);
    check(&[Reset, Accept, Reset, Reset]);
    check(&[LostAnswer, Accept, LostAnswer, LostAnswer]);
    check(&[Accept, Silence, Accept]);
    check(&[Portal, Unauthorized, Portal, Accept]);
    check(&[TooLarge(3), TooLarge(3), TooLarge(1), Accept, TooLarge(2)]);
    check(&[Busy, Reset, LostAnswer, Unavailable, Silence, TooLarge(2), LostAnswer, Portal, Reset, Busy, LostAnswer]);
}

fn refused_lines(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("refused/refused.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check_refused(step: Step, code: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = scripted([Step::Busy]);
    *server.always.lock().unwrap() = Some(step);
    let client = Client::start(config(address, dir.path())).unwrap();
    for index in 0..40 {
        client.emit(call(0, if index % 9 == 4 { "bad" } else { "good" })).unwrap();
    }
    let closed = client.close(FOR_EVER);
    assert!(closed.is_drained);
    assert_eq!((closed.stats.acked, closed.stats.refused), (36, 4));
    let bad: Vec<i64> = refused_lines(dir.path()).iter().map(|line| line["seq"].as_i64().unwrap()).collect();
    assert_eq!(bad, [4, 13, 22, 31]);
    assert!(refused_lines(dir.path()).iter().all(|line| line["code"] == code && line["record"].is_string()));
    let good: Vec<i64> = distinct(&server).iter().map(|a| a.event.h().seq).collect();
    assert_eq!(good, (0..40).filter(|seq| !bad.contains(seq)).collect::<Vec<_>>());
}

#[test]
fn what_is_refused_is_kept_with_its_reason_and_the_rest_arrives() {
    check_refused(Step::RefuseNamed("bad"), "reserved");
    check_refused(Step::RefuseUnnamed("bad"), "invalid_value");
}

#[test]
fn a_client_that_stops_leaves_the_rest_to_the_next_and_its_sessions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = scripted([]);
    *server.always.lock().unwrap() = Some(Step::Unavailable);
    let first = Client::start(config(address, dir.path())).unwrap();
    first.emit(start(0)).unwrap();
    first.emit(call(0, "a")).unwrap();
    drop(first);
    let second = Client::start(config(address, dir.path())).unwrap();
    second.emit(call(0, "b")).unwrap();
    let closed = second.close(Duration::ZERO);
    assert_eq!((closed.is_drained, closed.stats.spooled_events), (false, 3));
    *server.always.lock().unwrap() = None;
    let third = Client::start(config(address, dir.path())).unwrap();
    third.emit(end(0)).unwrap();
    assert!(third.close(FOR_EVER).is_drained);
    let arrived = distinct(&server);
    check_chains(&arrived);
    let epochs: std::collections::BTreeSet<i64> = arrived.iter().map(|a| a.event.h().producer_epoch).collect();
    assert_eq!((arrived.len(), epochs.len()), (4, 3), "each start is an epoch of its own");
    let Event::SessionEnded(ended) = &arrived[3].event else { panic!("not the end") };
    assert_eq!((ended.event_count, ended.counts_by_type["model.call"]), (4, 2));
}

#[test]
fn an_agent_is_let_go_when_nobody_takes_its_events_and_the_drops_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = scripted([]);
    *server.always.lock().unwrap() = Some(Step::Unavailable);
    let config = ClientConfig {
        block_ms_max: 1,
        spool_bytes_max: 64 << 10,
        heartbeat_interval_ms: 3_600_000,
        ..config(address, dir.path())
    };
    let client = Client::start(config).unwrap();
    let (mut taken, mut dropped) = (0, 0);
    while dropped < 5 {
        // The server takes nothing: that this comes back at all is the claim.
        match client.emit(call(0, &"x".repeat(200))) {
            Ok(_) => taken += 1,
            Err(NotTaken::Full) => dropped += 1,
            Err(other) => panic!("{other}"),
        }
    }
    let stats = client.stats();
    assert_eq!((stats.taken, stats.dropped, stats.spooled_events), (taken, 5, taken));
    assert!(stats.last_error.is_some());
    *server.always.lock().unwrap() = None;
    assert!(client.close(FOR_EVER).is_drained);
    let arrived = distinct(&server);
    let Event::Heartbeat(last) = &arrived.last().unwrap().event else { panic!("no heartbeat") };
    assert_eq!((last.dropped_count, last.last_producer_seq), (5, taken as i64 + 4));
    assert_eq!(last.spool_events, taken as i64);
    assert_eq!(last.open_sessions[0].last_seq, taken as i64 + 4, "a dropped event has its number");
    assert_eq!(last.h.ext["custody.producer_closed"], "true");
    assert!(matches!(client.emit(call(0, "late")), Err(NotTaken::Closed)));
}

#[test]
fn heartbeats_come_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = scripted([]);
    let config = ClientConfig { heartbeat_interval_ms: 1, ..config(address, dir.path()) };
    let client = Client::start(config).unwrap();
    until("acknowledged", || client.stats().acked >= 3);
    client.close(FOR_EVER);
    let arrived = distinct(&server);
    let closing = |a: &Arrived| a.event.h().ext.contains_key("custody.producer_closed");
    assert!(arrived.iter().all(|a| matches!(a.event, Event::Heartbeat(_))));
    assert_eq!(arrived.iter().filter(|a| closing(a)).count(), 1);
    assert!(closing(arrived.last().unwrap()));
}

#[test]
fn the_key_goes_with_each_request_and_every_policy_delivers() {
    for (fsync, gzip) in [(Fsync::Always, true), (Fsync::IntervalMs(1), false), (Fsync::Never, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (server, address) = scripted([Step::LostAnswer, Step::Busy]);
        let api_key = Secret::new("cst_ab_secret");
        let client = Client::start(ClientConfig { fsync, gzip, api_key, ..config(address, dir.path()) }).unwrap();
        send(&client, 30);
        let durable = client.emit(call(1, "last")).unwrap().is_durable;
        assert_eq!(durable, fsync == Fsync::Always);
        assert!(client.close(FOR_EVER).is_drained, "{fsync:?}");
        check_whole(&server, 31);
        assert_eq!(server.authorization.lock().unwrap().as_deref(), Some("Bearer cst_ab_secret"));
    }
}

#[test]
fn a_long_run_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = scripted([]);
    let config = ClientConfig { spool_bytes_max: 256 << 10, batch_events_max: 100, ..config(address, dir.path()) };
    let client = Client::start(config).unwrap();
    send(&client, 3_000);
    assert!(client.close(FOR_EVER).is_drained);
    check_whole(&server, 3_000);
    let segments = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "seg"));
    assert!(segments.count() <= 1, "what is acknowledged is deleted");
}

/// A gateway on a log in memory, on a thread of its own.
fn serve_gateway(broker: MemoryBroker) -> SocketAddr {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            broker.create_topics(Topic::ALL, 2).await.unwrap();
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let config = GatewayConfig { http_listen: any, grpc_listen: any, ..GatewayConfig::default() };
            let gateway = Gateway::bind(config, "test", broker, || NOW, &mut Registry::default()).await.unwrap();
            send.send(gateway.addresses().http).unwrap();
            gateway.run(std::future::pending()).await.unwrap();
        });
    });
    receive.recv().unwrap()
}

#[test]
fn the_gateway_appends_what_the_client_stamped_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let address = serve_gateway(broker.clone());
    let config = ClientConfig { heartbeat_interval_ms: 3_600_000, ..config(address, dir.path()) };
    let client = Client::start(ClientConfig { request_timeout_ms: 60_000, ..config }).unwrap();
    for session in 0..3 {
        client.emit(start(session)).unwrap();
    }
    send(&client, 60);
    for session in 0..3 {
        client.emit(end(session)).unwrap();
    }
    let closed = client.close(FOR_EVER);
    assert_eq!((closed.is_drained, closed.stats.acked, closed.stats.refused), (true, 67, 0), "{closed:?}");
    let records = (0..2).flat_map(|partition| broker.records(PartitionId { topic: Topic::Events, partition }));
    let arrived = records.map(|record| {
        let raw = record.value.unwrap();
        let event: RawEvent = codec().decode(Some(&raw)).unwrap();
        Arrived { event, numbered: true, content_sha256: Sha256::of(&raw), raw: Some(raw) }
    });
    let arrived: Vec<Arrived> = arrived.filter(|record| !record.event.is_tick()).collect();
    let mut numbers: Vec<i64> = arrived.iter().map(|a| a.event.h().producer_seq).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..67).collect::<Vec<_>>());
    // A session is in one partition, in order.
    check_chains(&arrived);
}

#[test]
fn a_wrong_configuration_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let good = || config("127.0.0.1:1".parse().unwrap(), dir.path());
    let bad: [ClientConfig; 4] = [
        ClientConfig { endpoint: "not a url".to_owned(), ..good() },
        ClientConfig { batch_events_max: 0, ..good() },
        ClientConfig { api_key: Secret::new("a\nb"), ..good() },
        ClientConfig { ca_file: Some(dir.path().join("absent.pem")), ..good() },
    ];
    for config in bad {
        assert!(Client::start(config).is_err());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let one = Client::start(good()).unwrap();
    assert!(Client::start(good()).is_err(), "a spool has one process");
    drop(one);
}
