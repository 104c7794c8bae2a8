//! A gateway on real sockets over a log in memory whose appends can be held back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use schemas::codec::codec;
use schemas::event::{EventHeader, RawEvent};
use schemas::record::{OutRecord, PartitionId, Position, Record};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::log::memory::MemoryBroker;
use crate::log::{Appender, Committed, LogError};

pub(super) const NOW: TimestampMicros = TimestampMicros(1_790_000_000_000_000);

pub(super) fn clock() -> TimestampMicros {
    NOW
}

/// A log in memory with a gate before its appends: each needs a permit and reports its arrival.
#[derive(Debug, Clone)]
pub(super) struct Gated {
    pub(super) inner: MemoryBroker,
    pub(super) gate: Arc<Semaphore>,
    pub(super) came: Arc<Semaphore>,
}

impl Gated {
    /// With topics of two partitions, and the gate open.
    pub(super) async fn open() -> Self {
        let gated = Self::closed().await;
        gated.lift();
        gated
    }

    /// As [`Gated::open`], with the gate closed.
    pub(super) async fn closed() -> Self {
        let inner = MemoryBroker::new();
        inner.create_topics(Topic::ALL, 2).await.unwrap();
        Self { inner, gate: Arc::new(Semaphore::new(0)), came: Arc::new(Semaphore::new(0)) }
    }

    /// Opens the gate for good.
    pub(super) fn lift(&self) {
        self.gate.add_permits(1 << 20);
    }

    /// Waits until one more append has reached the gate.
    pub(super) async fn has_come(&self) {
        self.came.acquire().await.unwrap().forget();
    }

    /// Every event in the log but ticks, per partition in order.
    pub(super) fn events(&self) -> Vec<RawEvent> {
        let of = |partition| self.inner.records(PartitionId { topic: Topic::Events, partition });
        let records = of(0).into_iter().chain(of(1));
        let events = records.map(|record| codec().decode(record.value.as_deref()).unwrap());
        events.filter(|event: &RawEvent| !event.is_tick()).collect()
    }

    /// Headers of [`Gated::events`].
    pub(super) fn headers(&self) -> Vec<EventHeader> {
        self.events().iter().map(|event| event.h().clone()).collect()
    }
}

pub(super) struct GatedAppender {
    inner: <MemoryBroker as Broker>::Appender,
    gated: Gated,
}

impl Appender for GatedAppender {
    async fn append(&mut self, records: Vec<OutRecord>) -> Result<Vec<Position>, LogError> {
        self.gated.came.add_permits(1);
        self.gated.gate.acquire().await.unwrap().forget();
        self.inner.append(records).await
    }
}

impl Broker for Gated {
    type Log = <MemoryBroker as Broker>::Log;
    type Appender = GatedAppender;

    async fn create_topics(&self, topics: &[Topic], partitions: u32) -> Result<(), LogError> {
        self.inner.create_topics(topics, partitions).await
    }

    async fn grow_topic(&self, topic: Topic, partitions: u32) -> Result<(), LogError> {
        self.inner.grow_topic(topic, partitions).await
    }

    async fn commit_first(&self, group: &str, partition: PartitionId, next: u64) -> Result<(), LogError> {
        self.inner.commit_first(group, partition, next).await
    }

    async fn partitions(&self, topic: Topic) -> Result<u32, LogError> {
        self.inner.partitions(topic).await
    }

    async fn partitions_now(&self, topic: Topic) -> Result<Option<u32>, LogError> {
        self.inner.partitions_now(topic).await
    }

    async fn consumer(&self, group: &str, topic: Topic, instance: &str) -> Result<Self::Log, LogError> {
        self.inner.consumer(group, topic, instance).await
    }

    async fn topic_settings(&self, topic: Topic) -> Result<Option<BTreeMap<String, String>>, LogError> {
        self.inner.topic_settings(topic).await
    }

    async fn broker_settings(&self) -> Result<Vec<BTreeMap<String, String>>, LogError> {
        self.inner.broker_settings().await
    }

    async fn bounds(&self, partition: PartitionId) -> Result<Range<u64>, LogError> {
        self.inner.bounds(partition).await
    }

    async fn committed(&self, group: &str, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        self.inner.committed(group, partition).await
    }

    async fn read(&self, partition: PartitionId, offset: u64) -> Result<(Vec<Record>, u64), LogError> {
        self.inner.read(partition, offset).await
    }

    async fn appender(&self) -> Result<Self::Appender, LogError> {
        Ok(GatedAppender { inner: self.inner.appender().await?, gated: self.clone() })
    }
}

/// A gateway that serves.
pub(super) struct Running {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) registry: Registry,
    stop: oneshot::Sender<()>,
    pub(super) task: JoinHandle<Result<(), GatewayError>>,
}

impl Running {
    /// Starts one on free ports; `change` changes its configuration.
    pub(super) async fn start(broker: &Gated, change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = GatewayConfig { http_listen: free, grpc_listen: free, ..GatewayConfig::default() };
        // One tick at the start, and no other in a test.
        config.tick_interval_ms = 3_600_000;
        change(&mut config);
        let mut registry = Registry::default();
        let gateway = Gateway::bind(config, "test", broker.clone(), clock, &mut registry).await.unwrap();
        let Addresses { http, grpc } = gateway.addresses();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(gateway.run(async { stopped.await.unwrap_or_default() }));
        Self { http, grpc, registry, stop, task }
    }

    /// Ends it in good order.
    pub(super) async fn stop(self) {
        self.begin_stop().await.unwrap().unwrap();
    }

    /// Says that it shall end.
    pub(super) fn begin_stop(self) -> JoinHandle<Result<(), GatewayError>> {
        self.stop.send(()).unwrap();
        self.task
    }

    /// Its metrics as text.
    pub(super) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Sends one request on a connection of its own.
    pub(super) async fn send(&self, request: Ask<'_>) -> Reply {
        exchange(self.http, &request.bytes()).await
    }

    /// `POST /v1/events` with a JSON body.
    pub(super) async fn post(&self, body: &str) -> Reply {
        self.send(Ask::post("/v1/events", "application/json", body.as_bytes())).await
    }
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Ask<'a> {
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, String)>,
    body: &'a [u8],
}

impl<'a> Ask<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: "GET", path, headers: Vec::new(), body: b"" }
    }

    pub(super) fn post(path: &'a str, content_type: &str, body: &'a [u8]) -> Self {
        let length = ("content-length", body.len().to_string());
        Self { method: "POST", path, headers: vec![("content-type", content_type.to_owned()), length], body }
    }

    pub(super) fn method(self, method: &'a str) -> Self {
        Self { method, ..self }
    }

    pub(super) fn with(mut self, name: &'a str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(held, _)| *held != name);
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self { method, path, headers, body } = self;
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n");
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        [format!("{text}\r\n").as_bytes(), body].concat()
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// Reads an answer of a connection that was closed after it; status 0 where there is none.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Self { status: 0, head: String::from_utf8_lossy(bytes).into_owned(), body: Vec::new() };
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim())
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Status and code of a problem, whose form is checked.
    #[track_caller]
    pub(super) fn problem(&self) -> (u16, String) {
        let json = self.json();
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(json["status"], self.status, "{json}");
        assert!(json["title"].is_string() && json["detail"].is_string(), "{json}");
        (self.status, json["code"].as_str().unwrap().to_owned())
    }
}

/// Sends bytes and reads until the other side closes.
pub(super) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The gateway may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    read_reply(&mut stream).await
}

/// Reads until the other side closes.
pub(super) async fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4_096];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        bytes.extend_from_slice(&chunk[..read]);
    }
    Reply::parse(&bytes)
}

/// A model call of a session as JSON.
pub(super) fn event(session: u8, id: u8) -> String {
    let uuid = |n: u8| schemas::id::Uuid([n; 16]);
    format!(
        r#"{{"event_type":"model.call","agent_id":"a","event_id":"{}","session_id":"{}","event_time":{},"data":{{"input_tokens":7}}}}"#,
        uuid(id),
        uuid(session),
        NOW.0
    )
}
