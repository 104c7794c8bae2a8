//! A gateway to put load on, and the bodies to do it with: see `benches/gateway_load.sh`.
//!
//! `gateway_load bodies FOLDER` writes one JSON batch and one OTLP batch of 100; eight `@` stand where
//! every event needs its own id. `gateway_load serve` listens until its input ends. Its log acknowledges
//! and counts but keeps nothing: a log that keeps events in memory would hide what the gateway holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ingest::gateway::{Gateway, GatewayConfig};
use ingest::log::memory::MemoryBroker;
use ingest::log::{Appender, Broker, Committed, LogError};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prometheus_client::registry::Registry;
use prost::Message as _;
use schemas::record::{OutRecord, PartitionId, Position, Record};
use schemas::time::TimestampMicros;
use schemas::topic::{Topic, partition_of};
use tokio::time::Instant;

const BATCH: usize = 100;
const SESSIONS: usize = 10;
const PLACE: &str = "@@@@@@@@";
const PROMPT: &str = "Find the three flights from Berlin to Lisbon on Friday that leave after noon, compare their \
                      prices with and without a checked bag, and book the cheapest one that arrives before eight.";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().skip(1).map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["bodies", folder] => {
            std::fs::write(format!("{folder}/events.json"), json()).unwrap();
            std::fs::write(format!("{folder}/traces.pb"), otlp()).unwrap();
        }
        ["serve"] => serve(),
        _ => println!("usage: gateway_load bodies FOLDER | serve"),
    }
}

/// A clock that begins at a fixed time.
fn now() -> TimestampMicros {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = START.get_or_init(Instant::now).elapsed();
    TimestampMicros(1_790_000_000_000_000 + i64::try_from(since.as_micros()).unwrap())
}

fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let log = Counted::new().await;
        let free = "127.0.0.1:0".parse().unwrap();
        let mut config = GatewayConfig { http_listen: free, grpc_listen: free, ..GatewayConfig::default() };
        (config.quota.default.events_per_second, config.quota.default.bytes_per_second) = (0, 0);
        let mut registry = Registry::default();
        let gateway = Gateway::bind(config, "load", log.clone(), now, &mut registry).await.unwrap();
        println!("{} {}", gateway.addresses().http, gateway.addresses().grpc);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = stop.send(());
        });
        gateway.run(async { stopped.await.unwrap_or_default() }).await.unwrap();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        println!("records {}", log.records.load(Ordering::Relaxed));
        text.lines().filter(|l| l.contains("_total")).for_each(|line| println!("{line}"));
    });
}

fn json() -> String {
    let events = (0..BATCH).map(|n| {
        let session = n % SESSIONS;
        let (event_type, data) = match n % 3 {
            0 => (
                "model.call",
                format!(
                    r#"{{"provider":"openai","request_model":"gpt-5","input_tokens":{n},"output_tokens":128,"cost_micros":420,"input":"{PROMPT}"}}"#
                ),
            ),
            1 => (
                "tool.call.attempted",
                format!(r#"{{"tool_call_id":"call-{PLACE}","tool_name":"search_flights","side_effect_class":"read"}}"#),
            ),
            _ => (
                "tool.call.completed",
                format!(r#"{{"tool_call_id":"call-{PLACE}","status":"ok","latency_ms":182,"result":{{"flights":[{{"id":"TP535","price":129}},{{"id":"LH1790","price":188}}]}}}}"#),
            ),
        };
        format!(
            r#"{{"event_type":"{event_type}","event_id":"01890000-0000-7000-8000-0000{PLACE}","agent_id":"travel-assistant","agent_version":"1.4.2","session_id":"01890000-0000-7000-8000-00000000{session:04}","data":{data}}}"#
        )
    });
    format!("[{}]", events.collect::<Vec<_>>().join(","))
}

fn otlp() -> Vec<u8> {
    let text = |value: &str| Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    let number = |value: i64| Some(AnyValue { value: Some(Value::IntValue(value)) });
    let pair = |key: &str, value| KeyValue { key: key.to_owned(), value, ..KeyValue::default() };
    let at = u64::try_from(now().0).unwrap() * 1_000;
    let span = |n: usize| {
        let mut attributes = vec![
            pair("gen_ai.conversation.id", text(&format!("conversation-{}", n % SESSIONS))),
            pair("gen_ai.agent.id", text("travel-assistant")),
            pair("gen_ai.agent.name", text("Travel assistant")),
        ];
        let name = match n % 2 {
            0 => {
                attributes.extend([
                    pair("gen_ai.operation.name", text("chat")),
                    pair("gen_ai.provider.name", text("openai")),
                    pair("gen_ai.request.model", text("gpt-5")),
                    pair("gen_ai.response.model", text("gpt-5-2026-06-01")),
                    pair("gen_ai.usage.input_tokens", number(812)),
                    pair("gen_ai.usage.output_tokens", number(128)),
                    pair("server.address", text("api.openai.com")),
                ]);
                "chat gpt-5"
            }
            _ => {
                attributes.extend([
                    pair("gen_ai.operation.name", text("execute_tool")),
                    pair("gen_ai.tool.name", text("search_flights")),
                    pair("gen_ai.tool.call.id", text(&format!("call-{n}"))),
                    pair("gen_ai.tool.type", text("function")),
                ]);
                "execute_tool search_flights"
            }
        };
        Span {
            trace_id: vec![u8::try_from(n % SESSIONS).unwrap() + 1; 16],
            span_id: PLACE.as_bytes().to_vec(),
            name: name.to_owned(),
            start_time_unix_nano: at,
            end_time_unix_nano: at + 250_000_000,
            attributes,
            ..Span::default()
        }
    };
    let scope = InstrumentationScope { name: "opentelemetry.instrumentation.openai".to_owned(), ..Default::default() };
    let scope_spans = ScopeSpans { scope: Some(scope), spans: (0..BATCH).map(span).collect(), ..ScopeSpans::default() };
    let attributes = vec![pair("service.name", text("travel")), pair("service.version", text("1.4.2"))];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let resource_spans = vec![ResourceSpans { resource, scope_spans: vec![scope_spans], ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// A log that gives positions and keeps only how many.
#[derive(Debug, Clone)]
struct Counted {
    inner: MemoryBroker,
    records: Arc<AtomicU64>,
}

impl Counted {
    const PARTITIONS: u32 = 8;

    async fn new() -> Self {
        let inner = MemoryBroker::new();
        inner.create_topics(Topic::ALL, Self::PARTITIONS).await.unwrap();
        Self { inner, records: Arc::default() }
    }
}

impl Appender for Counted {
    async fn append(&mut self, records: Vec<OutRecord>) -> Result<Vec<Position>, LogError> {
        let place = |record: OutRecord| {
            let by_key = || partition_of(record.key.as_deref().unwrap_or_default(), Self::PARTITIONS);
            let partition = PartitionId { topic: record.topic, partition: record.partition.unwrap_or_else(by_key) };
            Position { partition, offset: self.records.fetch_add(1, Ordering::Relaxed) }
        };
        Ok(records.into_iter().map(place).collect())
    }
}

impl Broker for Counted {
    type Log = <MemoryBroker as Broker>::Log;
    type Appender = Self;

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
        Ok(self.clone())
    }
}
