//! OTLP over both transports: answers in the client's own encoding, also to bad requests.

use std::io::Write as _;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use tonic::Code;

use crate::gateway::testing::*;

fn pair(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// A request with one chat span, or one that has no ids at all.
fn traces(span_id: u8, good: bool) -> ExportTraceServiceRequest {
    let nanos = u64::try_from(NOW.0).unwrap() * 1_000;
    let span = Span {
        trace_id: if good { vec![1; 16] } else { Vec::new() },
        span_id: if good { vec![span_id; 8] } else { Vec::new() },
        name: "chat m".to_owned(),
        start_time_unix_nano: nanos,
        end_time_unix_nano: nanos,
        attributes: vec![
            pair("gen_ai.operation.name", "chat"),
            pair("gen_ai.request.model", "m"),
            pair("gen_ai.agent.id", "a"),
            pair("gen_ai.conversation.id", "c"),
        ],
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

fn logs() -> ExportLogsServiceRequest {
    let record = LogRecord {
        time_unix_nano: u64::try_from(NOW.0).unwrap() * 1_000,
        event_name: "gen_ai.client.inference.operation.details".to_owned(),
        trace_id: vec![1; 16],
        span_id: vec![9; 8],
        attributes: vec![
            pair("gen_ai.operation.name", "chat"),
            pair("gen_ai.agent.id", "a"),
            pair("gen_ai.request.model", "m"),
        ],
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
}

const PROTOBUF: &str = "application/x-protobuf";

#[tokio::test]
async fn http_takes_both_encodings_and_gzip_and_a_repeat_is_known() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let binary = traces(1, true).encode_to_vec();
    let reply = gateway.send(Ask::post("/v1/traces", PROTOBUF, &binary)).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some(PROTOBUF)));
    assert_eq!(ExportTraceServiceResponse::decode(&*reply.body).unwrap(), ExportTraceServiceResponse::default());
    let once = log.events().len();
    assert!(once >= 1);

    let json = serde_json::to_vec(&traces(2, true)).unwrap();
    let reply = gateway.send(Ask::post("/v1/traces", "application/json; charset=utf-8", &json)).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    assert_eq!(log.events().len(), 2 * once);

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&binary).unwrap();
    let zipped = encoder.finish().unwrap();
    let ask = Ask::post("/v1/traces", PROTOBUF, &zipped).with("content-encoding", "gzip");
    assert_eq!(gateway.send(ask).await.status, 200);
    assert_eq!(log.events().len(), 2 * once, "the same span again is no new event");
    assert!(log.headers().iter().all(|h| h.source == "otlp" && h.capture == "best_effort"));

    let reply = gateway.send(Ask::post("/v1/logs", PROTOBUF, &logs().encode_to_vec())).await;
    assert_eq!(reply.status, 200);
    ExportLogsServiceResponse::decode(&*reply.body).unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn spans_that_cannot_be_taken_are_told_in_otlps_own_way() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let mut mixed = traces(1, true);
    mixed.resource_spans.extend(traces(2, false).resource_spans);
    let reply = gateway.send(Ask::post("/v1/traces", PROTOBUF, &mixed.encode_to_vec())).await;
    assert_eq!(reply.status, 200);
    let partial = ExportTraceServiceResponse::decode(&*reply.body).unwrap().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 1);
    assert!(!partial.error_message.is_empty());
    assert!(!log.events().is_empty());
    assert!(gateway.metrics().contains(r#"custody_gateway_events_total{protocol="otlp_http",outcome="refused"} 1"#));
    gateway.stop().await;
}

/// `google.rpc.Status` without its details.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

#[tokio::test]
async fn refusals_over_http_are_a_status_in_the_requests_encoding() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let reply = gateway.send(Ask::post("/v1/traces", PROTOBUF, b"\xff\xff")).await;
    assert_eq!((reply.status, reply.header("content-type")), (400, Some(PROTOBUF)));
    let status = RpcStatus::decode(&*reply.body).unwrap();
    assert!(status.code == Code::InvalidArgument as i32 && !status.message.is_empty(), "{status:?}");
    let reply = gateway.send(Ask::post("/v1/logs", "application/json", b"{")).await;
    assert_eq!((reply.status, reply.header("content-type")), (400, Some("application/json")));
    assert_eq!(reply.json()["code"], Code::InvalidArgument as i32);
    let ask = Ask::post("/v1/traces", PROTOBUF, b"").with("x-custody-tenant", "_system");
    assert_eq!(RpcStatus::decode(&*gateway.send(ask).await.body).unwrap().code, Code::PermissionDenied as i32);
    assert!(log.events().is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn grpc_is_taken_on_both_addresses() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    for (address, span) in [(gateway.grpc, 1), (gateway.http, 2)] {
        let mut client = TraceServiceClient::connect(format!("http://{address}"))
            .await
            .unwrap()
            .send_compressed(tonic::codec::CompressionEncoding::Gzip);
        let answer = client.export(traces(span, true)).await.unwrap().into_inner();
        assert_eq!(answer.partial_success, None);
        let answer = client.export(traces(span, false)).await.unwrap().into_inner();
        assert_eq!(answer.partial_success.unwrap().rejected_spans, 1);
    }
    let mut client = LogsServiceClient::connect(format!("http://{}", gateway.grpc)).await.unwrap();
    client.export(logs()).await.unwrap();
    assert!(log.events().len() >= 2);
    let metrics = gateway.metrics();
    assert!(metrics.contains(r#"custody_gateway_requests_total{protocol="otlp_grpc",status="200"} 5"#), "{metrics}");
    gateway.stop().await;
}

/// Sends bytes as the message of an export.
async fn export_bytes(address: std::net::SocketAddr, method: &str, bytes: Vec<u8>) -> tonic::Status {
    #[derive(Clone, Default)]
    struct Raw;
    impl tonic::codec::Codec for Raw {
        type Encode = Vec<u8>;
        type Decode = ();
        type Encoder = Self;
        type Decoder = Self;
        fn encoder(&mut self) -> Self {
            Self
        }
        fn decoder(&mut self) -> Self {
            Self
        }
    }
    impl tonic::codec::Encoder for Raw {
        type Item = Vec<u8>;
        type Error = tonic::Status;
        fn encode(&mut self, item: Vec<u8>, into: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
            bytes::BufMut::put_slice(into, &item);
            Ok(())
        }
    }
    impl tonic::codec::Decoder for Raw {
        type Item = ();
        type Error = tonic::Status;
        fn decode(&mut self, from: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
            bytes::Buf::advance(from, bytes::Buf::remaining(from));
            Ok(Some(()))
        }
    }
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = method.parse().unwrap();
    client.unary(tonic::Request::new(bytes), path, Raw).await.map(|_| ()).unwrap_err()
}

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[tokio::test]
async fn grpc_tells_what_is_wrong_in_its_own_codes() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |config| {
        config.body_bytes_max = 1_000;
        let small =
            crate::gateway::quota::TenantQuota { bytes_per_second: 1, bytes_burst: 1_024, ..Default::default() };
        config.quota.tenants.insert("small".to_owned(), small);
    })
    .await;
    let address = gateway.grpc;
    assert_eq!(export_bytes(address, EXPORT, b"\xff\xff".to_vec()).await.code(), Code::InvalidArgument);
    assert_eq!(export_bytes(address, EXPORT, vec![0; 2_000]).await.code(), Code::OutOfRange);
    assert_eq!(export_bytes(address, "/no.such.Service/Export", Vec::new()).await.code(), Code::Unimplemented);
    let mut client = TraceServiceClient::connect(format!("http://{address}")).await.unwrap();
    let as_tenant = |span, tenant: &str| {
        let mut request = tonic::Request::new(traces(span, true));
        request.metadata_mut().insert("x-custody-tenant", tenant.parse().unwrap());
        request
    };
    assert_eq!(client.export(as_tenant(1, "_system")).await.unwrap_err().code(), Code::PermissionDenied);
    let first = client.export(as_tenant(1, "small")).await;
    let status = client.export(as_tenant(2, "small")).await.unwrap_err();
    assert!(first.is_ok());
    assert_eq!(
        (status.code(), status.metadata().get("custody-code").unwrap()),
        (Code::ResourceExhausted, &"quota_exceeded".parse().unwrap())
    );
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(details.contains("google.rpc.RetryInfo"), "{details:?}");
    let metrics = gateway.metrics();
    for code in ["malformed_grpc", "invalid_otlp", "tenant_invalid", "quota_exceeded"] {
        let line = format!("custody_gateway_refusals_total{{reason=\"{code}\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn grpc_is_unavailable_where_the_log_does_not_answer() {
    let log = Gated::closed().await;
    let gateway = Running::start(&log, |config| config.request_timeout_ms = 50).await;
    let mut client = TraceServiceClient::connect(format!("http://{}", gateway.grpc)).await.unwrap();
    let status = client.export(traces(1, true)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!status.details().is_empty());
    log.lift();
    gateway.stop().await;
}

#[tokio::test]
async fn messages_that_are_hollow_are_refused_on_both_transports() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let hollow = ExportTraceServiceRequest { resource_spans: vec![ResourceSpans::default(); 100_000] }.encode_to_vec();
    let reply = gateway.send(Ask::post("/v1/traces", PROTOBUF, &hollow)).await;
    assert_eq!((reply.status, reply.header("content-type")), (413, Some(PROTOBUF)));
    let status = export_bytes(gateway.grpc, EXPORT, hollow).await;
    assert_eq!(
        (status.code(), status.metadata().get("custody-code").unwrap()),
        (Code::InvalidArgument, &"too_many_items".parse().unwrap())
    );
    gateway.stop().await;
}
