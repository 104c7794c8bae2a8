//! The answer to a refused request, in the terms of each protocol.
//!
//! One refusal, three forms: problem+json, a `google.rpc.Status` body (OTLP/HTTP), a gRPC status. It
//! decides nothing.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message;
use serde_json::json;
use tonic::Code as GrpcCode;
use tonic::metadata::MetadataValue;

use super::auth::Denied;
use super::intake::Problem;
use super::otlp::Encoding;
use super::problem::{PROBLEM_JSON, Refusal};
use super::quota::OverQuota;

/// Metadata of a gRPC status that holds the stable code of the refusal.
pub(super) const CODE_METADATA: &str = "custody-code";
/// `Retry-After` for a full queue, seconds: the queue empties in less.
const OVERLOADED_RETRY_S: u64 = 1;
/// `Retry-After` for an unavailable log, seconds.
const UNAVAILABLE_RETRY_S: u64 = 2;

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    refusal: Box<Refusal>,
    retry_after_s: Option<u64>,
    challenge: Option<&'static str>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        // An OTLP client gives a batch up on 429 without a delay, and other clients retry at once: both
        // statuses always carry one.
        let retry_after_s = match refusal.status() {
            429 => Some(OVERLOADED_RETRY_S),
            503 => Some(UNAVAILABLE_RETRY_S),
            _ => None,
        };
        Self { refusal: Box::new(refusal), retry_after_s, challenge: None }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Refusal::from(problem).into()
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        let challenge = denied.challenge();
        Self { challenge, ..Problem::from(denied).into() }
    }
}

impl From<OverQuota> for Refused {
    fn from(over: OverQuota) -> Self {
        Self { retry_after_s: over.retry_after_s(), ..Problem::from(over).into() }
    }
}

impl Refused {
    /// HTTP status.
    pub(super) fn status(&self) -> u16 {
        self.refusal.status()
    }

    /// Stable code of the first problem.
    pub(super) fn code(&self) -> &'static str {
        self.refusal.first.code
    }

    /// As `application/problem+json`.
    pub(super) fn into_problem(self) -> Response {
        self.response(PROBLEM_JSON, self.refusal.to_json().into_bytes())
    }

    /// As OTLP/HTTP wants it: a `google.rpc.Status` in the request's own encoding.
    pub(super) fn into_otlp(self, encoding: Encoding) -> Response {
        // OTLP/HTTP requires a `google.rpc.Status` as the body of every 4xx and 5xx, in the encoding of the
        // request.
        let (code, message) = (self.grpc_code() as i32, self.message());
        match encoding {
            Encoding::Protobuf => {
                let status = RpcStatus { code, message, details: self.retry_info().into_iter().collect() };
                self.response("application/x-protobuf", status.encode_to_vec())
            }
            Encoding::Json => {
                let retry = self.retry_after_s.map(
                    |s| json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{s}s")}),
                );
                let details: Vec<_> = retry.into_iter().collect();
                let body = json!({"code": code, "message": message, "details": details});
                self.response("application/json", body.to_string().into_bytes())
            }
        }
    }

    /// As a gRPC status.
    pub(super) fn into_grpc(self) -> tonic::Status {
        let (code, message) = (self.grpc_code(), self.message());
        let details = match self.retry_info() {
            None => Vec::new(),
            Some(retry) => {
                // `grpc-status-details-bin` holds a whole status that repeats code and message, not only the
                // details.
                RpcStatus { code: code as i32, message: message.clone(), details: vec![retry] }.encode_to_vec()
            }
        };
        let mut status = tonic::Status::with_details(code, message, details.into());
        // Several of our codes share a gRPC code; clients and metrics need the stable one.
        status.metadata_mut().insert(CODE_METADATA, MetadataValue::from_static(self.code()));
        status
    }

    /// The gRPC code for the HTTP status. OTLP clients retry on UNAVAILABLE, and on RESOURCE_EXHAUSTED only if the
    /// status carries RetryInfo.
    fn grpc_code(&self) -> GrpcCode {
        match self.status() {
            401 => GrpcCode::Unauthenticated,
            403 => GrpcCode::PermissionDenied,
            404 | 405 => GrpcCode::Unimplemented,
            408 => GrpcCode::DeadlineExceeded,
            429 => GrpcCode::ResourceExhausted,
            503 => GrpcCode::Unavailable,
            _ => GrpcCode::InvalidArgument,
        }
    }

    fn message(&self) -> String {
        let Problem { title, detail, field, .. } = &self.refusal.first;
        let field = field.as_ref().map(|field| format!(" ({field})")).unwrap_or_default();
        format!("{title}: {detail}{field}")
    }

    fn retry_info(&self) -> Option<Any> {
        let seconds = i64::try_from(self.retry_after_s?).unwrap_or(i64::MAX);
        let info = RetryInfo { retry_delay: Some(Duration { seconds, nanos: 0 }) };
        Some(Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info.encode_to_vec() })
    }

    fn response(&self, media_type: &'static str, body: Vec<u8>) -> Response {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let mut response = (status, [(header::CONTENT_TYPE, media_type)], body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Duration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Duration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::gateway::problem::Code;

    #[test]
    fn every_status_has_its_grpc_code() {
        let cases = [
            (Code::MalformedJson, GrpcCode::InvalidArgument),
            (Code::Unauthenticated, GrpcCode::Unauthenticated),
            (Code::WrongTenant, GrpcCode::PermissionDenied),
            (Code::RequestTimeout, GrpcCode::DeadlineExceeded),
            (Code::BodyTooLarge, GrpcCode::InvalidArgument),
            (Code::Overloaded, GrpcCode::ResourceExhausted),
            (Code::LogUnavailable, GrpcCode::Unavailable),
        ];
        for (code, expected) in cases {
            assert_eq!(Refused::from(code.problem("why")).into_grpc().code(), expected, "{code:?}");
        }
    }

    #[test]
    fn a_client_that_should_retry_gets_the_delay() {
        let status = Refused::from(Code::Overloaded.problem("why")).into_grpc();
        let details = RpcStatus::decode(status.details()).unwrap();
        let info = RetryInfo::decode(details.details[0].value.as_slice()).unwrap();
        assert_eq!(info.retry_delay, Some(Duration { seconds: 1, nanos: 0 }));
        assert!(Refused::from(Code::BodyTooLarge.problem("why")).into_grpc().details().is_empty());
        let response = Refused::from(Code::LogUnavailable.problem("why")).into_problem();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
