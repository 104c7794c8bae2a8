//! Request bodies as OTLP messages: protobuf and OTLP's JSON (hexadecimal ids, integers as strings).
//!
//! Total: any bytes give a message or a problem that repeats nothing of them. Depth is bounded by the
//! decoders (100 messages, 128 JSON values); the size of the body is the server's to bound.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde::de::DeserializeOwned;

use crate::gateway::intake::Problem;

/// How a request body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`, and gRPC.
    Protobuf,
    /// `application/json`.
    Json,
}

/// Reads the body of `/v1/traces`.
///
/// # Errors
/// 400 where the bytes are not such a message; the client must not send them again.
pub fn decode_traces(bytes: &[u8], encoding: Encoding) -> Result<ExportTraceServiceRequest, Problem> {
    decode(bytes, encoding)
}

/// Reads the body of `/v1/logs`.
///
/// # Errors
/// As [`decode_traces`].
pub fn decode_logs(bytes: &[u8], encoding: Encoding) -> Result<ExportLogsServiceRequest, Problem> {
    decode(bytes, encoding)
}

fn decode<M: Message + Default + DeserializeOwned>(bytes: &[u8], encoding: Encoding) -> Result<M, Problem> {
    match encoding {
        Encoding::Protobuf => M::decode(bytes).map_err(|e| problem(e.to_string())),
        // opentelemetry-proto's serde forms know OTLP's deviations from protobuf's JSON: ids in hexadecimal,
        // not in base64.
        Encoding::Json => serde_json::from_slice(bytes).map_err(|e| problem(json_detail(&e))),
    }
}

/// Where and of which class; serde's own message would repeat the value at fault.
fn json_detail(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let class = match error.classify() {
        Category::Io => "unreadable",
        Category::Syntax => "not JSON",
        Category::Data => "not an OTLP message",
        Category::Eof => "cut off",
    };
    format!("the body is {class} at line {}, column {}", error.line(), error.column())
}

fn problem(detail: String) -> Problem {
    Problem {
        status: 400,
        code: "invalid_otlp",
        title: "the body is not an OTLP export request",
        detail,
        field: None,
        index: None,
    }
}
