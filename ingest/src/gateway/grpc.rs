//! Requests over gRPC: the trace and logs services of OTLP.
//!
//! The same steps as over HTTP, in gRPC's words: who sends is asked before the message is read. It has
//! no listener of its own; both listeners take both.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use tokio::time::Instant;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::{Code as GrpcCode, Status};

use super::answer::{CODE_METADATA, Refused};
use super::auth::Caller;
use super::otlp::{self, Mapped};
use super::problem::Code;
use super::router::{App, Batch, OTLP_GRPC, logs_response, traces_response};

/// Code, in metrics, of messages that are not gRPC, not OTLP or too large.
const MALFORMED: &str = "malformed_grpc";

/// Whether a request speaks gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The services' routes.
pub(super) fn router(app: Arc<App>) -> Router {
    let bytes_max = app.body.bytes_max;
    let export = Export(Arc::clone(&app));
    let traces = TraceServiceServer::new(export.clone())
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(bytes_max);
    let logs = LogsServiceServer::new(export)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(bytes_max);
    Router::new()
        .route_service(&path::<TraceServiceServer<Export>>(), traces)
        .route_service(&path::<LogsServiceServer<Export>>(), logs)
        .layer(from_fn_with_state(app, gate))
}

fn path<S: NamedService>() -> String {
    format!("/{}/{{*method}}", S::NAME)
}

/// Lets known senders in, bounds the time of the whole call, and counts its answer.
async fn gate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let caller = match app.admit(request.headers()) {
        Ok(caller) => caller,
        Err(refused) => return refusal(&app, begun, refused),
    };
    request.extensions_mut().insert(caller);
    let timeout = app.body.read_timeout + app.request_timeout;
    let Ok(mut response) = tokio::time::timeout(timeout, next.run(request)).await else {
        let problem = Code::RequestTimeout.problem(format!("send the whole message within {} ms", timeout.as_millis()));
        return refusal(&app, begun, problem.into());
    };
    // The services never answer INTERNAL: it is tonic's word for a message that cannot be decoded.
    if grpc_status(&response) == Some(GrpcCode::Internal) {
        let invalid = HeaderValue::from(GrpcCode::InvalidArgument as i32);
        response.headers_mut().insert(Status::GRPC_STATUS, invalid);
    }
    let code = grpc_status(&response);
    app.answered(OTLP_GRPC, begun, http_status(code));
    if code.is_some_and(|code| code != GrpcCode::Ok) && !response.headers().contains_key(CODE_METADATA) {
        // What tonic refuses by itself has no code of ours.
        app.refused(MALFORMED);
    }
    response
}

fn refusal(app: &App, begun: Instant, refused: Refused) -> Response {
    app.answered(OTLP_GRPC, begun, refused.status());
    app.refused(refused.code());
    refused.into_grpc().into_http::<tonic::body::Body>().into_response()
}

fn grpc_status(response: &Response) -> Option<GrpcCode> {
    response.headers().get(Status::GRPC_STATUS).map(|value| GrpcCode::from_bytes(value.as_bytes()))
}

fn http_status(code: Option<GrpcCode>) -> u16 {
    match code {
        None | Some(GrpcCode::Ok) => 200,
        Some(GrpcCode::Unauthenticated) => 401,
        Some(GrpcCode::PermissionDenied) => 403,
        Some(GrpcCode::Unimplemented) => 404,
        Some(GrpcCode::DeadlineExceeded) => 408,
        Some(GrpcCode::OutOfRange) => 413,
        Some(GrpcCode::ResourceExhausted) => 429,
        Some(GrpcCode::Unavailable) => 503,
        Some(_) => 400,
    }
}

/// Both services.
#[derive(Clone)]
struct Export(Arc<App>);

impl Export {
    async fn export<M: Message>(
        &self,
        request: tonic::Request<M>,
        map: impl FnOnce(M, &otlp::Context<'_>) -> Mapped,
    ) -> Result<(i64, String), Status> {
        self.take(request, map).await.map_err(|refused| {
            self.0.refused(refused.code());
            refused.into_grpc()
        })
    }

    async fn take<M: Message>(
        &self,
        request: tonic::Request<M>,
        map: impl FnOnce(M, &otlp::Context<'_>) -> Mapped,
    ) -> Result<(i64, String), Refused> {
        let Self(app) = self;
        let (_, mut extensions, message) = request.into_parts();
        let Some(caller) = extensions.remove::<Caller>() else {
            return Err(Code::Unauthenticated.problem("send an API key").into());
        };
        let bytes = message.encoded_len();
        let mut share = app.budget.share();
        share.hold(bytes)?;
        let Mapped { events, rejected, error_message, .. } = map(message, &app.otlp_context(&caller));
        app.metrics.count(OTLP_GRPC, "refused", u64::try_from(rejected).unwrap_or(0));
        app.write(Batch { protocol: OTLP_GRPC, caller, events, bytes, share }).await?;
        Ok((rejected, error_message))
    }
}

#[tonic::async_trait]
impl TraceService for Export {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        let (rejected, message) = self.export(request, otlp::map_traces).await?;
        Ok(tonic::Response::new(traces_response(rejected, message)))
    }
}

#[tonic::async_trait]
impl LogsService for Export {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        let (rejected, message) = self.export(request, otlp::map_logs).await?;
        Ok(tonic::Response::new(logs_response(rejected, message)))
    }
}
