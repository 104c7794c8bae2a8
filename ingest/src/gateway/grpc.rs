//! Requests over gRPC: the trace and logs services of OTLP.
//!
//! The same steps as over HTTP, in gRPC's terms: the sender is authenticated before the message is read, and
//! a message is checked as bytes before it is decoded. It has no listener of its own: both listeners serve
//! both protocols.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tokio::time::Instant;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::Grpc;
use tonic::{Code as GrpcCode, Status};

use super::answer::{CODE_METADATA, Refused};
use super::app::{App, OTLP_GRPC};
use super::auth::Caller;
use super::export::{Export, Signal, logs_response, traces_response};
use super::otlp::Encoding;
use super::problem::Code;

/// Path of the trace service's only method.
const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Path of the logs service's only method.
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Code, in metrics, of messages that are not gRPC or too large.
const MALFORMED: &str = "malformed_grpc";

/// Whether a request speaks gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The services' routes.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(TRACES, post(|State(app), request| unary(app, Signal::Traces, request)))
        .route(LOGS, post(|State(app), request| unary(app, Signal::Logs, request)))
        .layer(from_fn_with_state(Arc::clone(&app), gate))
        .with_state(app)
}

/// Authenticates the sender, bounds the time of the whole call, and counts its answer.
async fn gate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let caller = match app.admit(request.headers()) {
        Ok(caller) => caller,
        Err(refused) => return refusal(&app, begun, refused),
    };
    request.extensions_mut().insert(caller);
    // tonic reads a message without a deadline: a client could hold a stream open by sending its message
    // byte by byte. The sum covers the slowest message that HTTP would accept and the longest wait for the
    // log.
    let timeout = app.body.read_timeout + app.request_timeout;
    let Ok(response) = tokio::time::timeout(timeout, next.run(request)).await else {
        let problem = Code::RequestTimeout.problem(format!("send the whole message within {} ms", timeout.as_millis()));
        return refusal(&app, begun, problem.into());
    };
    // A failed unary call is answered with headers only, so that its status is here. A successful one has
    // its status in the trailers, which have not been sent yet.
    let code = response.headers().get(Status::GRPC_STATUS).map(|value| GrpcCode::from_bytes(value.as_bytes()));
    app.answered(OTLP_GRPC, begun, http_status(code));
    if code.is_some_and(|code| code != GrpcCode::Ok) && !response.headers().contains_key(CODE_METADATA) {
        // tonic itself refused the call (too large, bad framing): that status carries no code of ours, and the refusal
        // has not been counted yet.
        app.refused(MALFORMED);
    }
    response
}

fn refusal(app: &App, begun: Instant, refused: Refused) -> Response {
    app.answered(OTLP_GRPC, begun, refused.status());
    app.refused(refused.code());
    refused.into_grpc().into_http::<tonic::body::Body>().into_response()
}

fn http_status(code: Option<GrpcCode>) -> u16 {
    match code {
        None | Some(GrpcCode::Ok) => 200,
        Some(GrpcCode::Unauthenticated) => 401,
        Some(GrpcCode::PermissionDenied) => 403,
        Some(GrpcCode::Unimplemented) => 404,
        Some(GrpcCode::DeadlineExceeded) => 408,
        // tonic's status for a message above `max_decoding_message_size`.
        Some(GrpcCode::OutOfRange) => 413,
        Some(GrpcCode::ResourceExhausted) => 429,
        Some(GrpcCode::Unavailable) => 503,
        Some(_) => 400,
    }
}

async fn unary(app: Arc<App>, signal: Signal, request: Request) -> Response {
    let mut grpc =
        Grpc::new(Whole).accept_compressed(CompressionEncoding::Gzip).max_decoding_message_size(app.body.bytes_max);
    grpc.unary(ExportMethod { app, signal }, request.map(tonic::body::Body::new)).await.into_response()
}

/// The one method of a service.
#[derive(Clone)]
struct ExportMethod {
    app: Arc<App>,
    signal: Signal,
}

impl ExportMethod {
    async fn take(&self, request: tonic::Request<Bytes>) -> Result<Bytes, Refused> {
        let (_, mut extensions, body) = request.into_parts();
        // `gate` has put it there. Fail closed if a route is ever added outside of the gate.
        let Some(caller) = extensions.remove::<Caller>() else {
            return Err(Code::Unauthenticated.problem("send an API key").into());
        };
        let mut share = self.app.budget.share();
        // tonic has buffered the whole message before it calls a service, so that the budget is charged only
        // now: it bounds what waits for the log, not what is being received.
        share.hold(body.len())?;
        let source = Export { protocol: OTLP_GRPC, signal: self.signal, encoding: Encoding::Protobuf };
        let (rejected, message) = source.write(&self.app, &body, caller, share).await?;
        Ok(match self.signal {
            Signal::Traces => traces_response(rejected, message).encode_to_vec(),
            Signal::Logs => logs_response(rejected, message).encode_to_vec(),
        }
        .into())
    }
}

impl tower::Service<tonic::Request<Bytes>> for ExportMethod {
    type Response = tonic::Response<Bytes>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // Back-pressure is the budget's and the queue's, which answer with a status that a client can act on.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let answer = this.take(request).await.map_err(|refused| {
                this.app.refused(refused.code());
                refused.into_grpc()
            })?;
            Ok(tonic::Response::new(answer))
        })
    }
}

/// Messages as bytes: they are decoded after `expansion` has checked them.
#[derive(Debug, Clone, Copy, Default)]
struct Whole;

impl Codec for Whole {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Whole {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Whole {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
