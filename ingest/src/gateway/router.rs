//! Requests over HTTP: who sends, what it holds, whether it is in the log; and the probes.
//!
//! Every handler is the same chain of refusals with one acknowledgement at its end. The parsers, the
//! quotas and the writer decide; this file only asks them in the right order, and before the next step
//! costs more than the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;
use schemas::event::CONTENT_SHA256_EXT;
use schemas::time::TimestampMicros;
use serde::Serialize;
use tokio::time::Instant;

use super::answer::Refused;
use super::auth::journal::Journal;
use super::auth::{Action, Authenticator, Caller, admit};
use super::body::{IntakeContext, MediaType, parse};
use super::intake::{Arrived, Problem};
use super::limits::{BodyLimits, Budget, Share, check_length, read_body};
use super::metrics::{GatewayMetrics, RefusalLabels, RequestLabels};
use super::otlp::{self, Encoding, Mapped, OtlpConfig, TraceSessions};
use super::problem::Code;
use super::quota::Quotas;
use super::writer::{Receipt, WriterHandle};
use super::{expansion, grpc};

/// Name of `POST /v1/events` in metrics.
pub(super) const EVENTS: &str = "events";
/// Name of OTLP/HTTP in metrics.
pub(super) const OTLP_HTTP: &str = "otlp_http";
/// Name of OTLP/gRPC in metrics.
pub(super) const OTLP_GRPC: &str = "otlp_grpc";
/// Longest that an append may be under way before the gateway says that it is not ready.
const PENDING_MS_MAX: u64 = 10_000;

/// What every handler needs.
pub(super) struct App {
    pub(super) writer: WriterHandle,
    pub(super) authenticator: Arc<dyn Authenticator>,
    pub(super) journal: Journal,
    pub(super) quotas: Quotas,
    pub(super) budget: Budget,
    pub(super) metrics: GatewayMetrics,
    pub(super) clock: fn() -> TimestampMicros,
    pub(super) body: BodyLimits,
    pub(super) otlp: OtlpConfig,
    pub(super) sessions: TraceSessions,
    pub(super) request_timeout: std::time::Duration,
    pub(super) draining: AtomicBool,
}

/// A request's events on their way to the writer.
pub(super) struct Batch {
    /// Protocol, as in metrics.
    pub(super) protocol: &'static str,
    /// From whom.
    pub(super) caller: Caller,
    /// Events.
    pub(super) events: Vec<Arrived>,
    /// Bytes of the body.
    pub(super) bytes: usize,
    /// Share of the budget.
    pub(super) share: Share,
}

impl App {
    /// Who sends.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        let now = (self.clock)();
        Ok(admit(&*self.authenticator, headers, Action::Send, now)
            .inspect_err(|denied| self.journal.denied(denied, now))?)
    }

    /// Charges the quota and waits for the log.
    pub(super) async fn write(&self, batch: Batch) -> Result<Receipt, Refused> {
        let Batch { protocol, caller, events, bytes, share } = batch;
        let count = events.len() as u64;
        let outcome = match self.quotas.admit(&caller.tenant_id, count, bytes as u64) {
            Ok(()) => self.writer.submit(events, Some(share)).await.map_err(Refused::from),
            Err(over) => Err(Refused::from(over)),
        };
        match &outcome {
            Ok(receipt) => {
                self.metrics.count(protocol, "accepted", receipt.accepted);
                self.metrics.count(protocol, "duplicate", receipt.duplicates);
                self.journal.used(&caller, count, (self.clock)());
            }
            Err(_) => self.metrics.count(protocol, "refused", count),
        }
        outcome
    }

    /// Counts an answered request.
    pub(super) fn answered(&self, protocol: &'static str, begun: Instant, status: u16) {
        self.metrics.requests.get_or_create(&RequestLabels { protocol, status }).inc();
        self.metrics.request_seconds.observe(begun.elapsed().as_secs_f64());
    }

    /// Counts a refused request.
    pub(super) fn refused(&self, reason: &'static str) {
        self.metrics.refusals.get_or_create(&RefusalLabels { reason }).inc();
    }
}

/// All routes, for both listeners.
pub(super) fn router(app: Arc<App>) -> Router {
    let http = Router::new()
        .route("/v1/events", post(events))
        .route("/v1/traces", post(traces))
        .route("/v1/logs", post(logs))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(Arc::clone(&app));
    http.merge(grpc::router(app))
}

async fn method_not_allowed() -> Response {
    Refused::from(Code::MethodNotAllowed.problem("the header Allow lists those that it takes")).into_problem()
}

async fn not_found(headers: HeaderMap) -> Response {
    if grpc::is_grpc(&headers) {
        return tonic::Status::unimplemented("there is no such service here")
            .into_http::<tonic::body::Body>()
            .into_response();
    }
    let detail = "send events to /v1/events, and OTLP to /v1/traces and /v1/logs";
    Refused::from(Code::NotFound.problem(detail)).into_problem()
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    match () {
        () if app.draining.load(Ordering::Relaxed) => {
            Refused::from(Code::Draining.problem("the gateway is shutting down")).into_problem()
        }
        () if !app.writer.health().acknowledges((app.clock)(), PENDING_MS_MAX) => {
            Refused::from(Code::LogUnavailable.problem("the log does not acknowledge")).into_problem()
        }
        () => "ok\n".into_response(),
    }
}

async fn startupz(State(app): State<Arc<App>>) -> Response {
    match app.writer.health().has_started() {
        true => "ok\n".into_response(),
        false => {
            Refused::from(Code::LogUnavailable.problem("the log has not acknowledged anything yet")).into_problem()
        }
    }
}

async fn events(State(app): State<Arc<App>>, request: Request) -> Response {
    let begun = Instant::now();
    match take_events(&app, request).await {
        Ok(Receipt { accepted, duplicates }) => {
            app.answered(EVENTS, begun, 202);
            let body = format!("{{\"accepted\":{accepted},\"duplicates\":{duplicates}}}");
            (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(refused) => {
            app.answered(EVENTS, begun, refused.status());
            app.refused(refused.code());
            refused.into_problem()
        }
    }
}

async fn take_events(app: &App, request: Request) -> Result<Receipt, Refused> {
    let (parts, body) = request.into_parts();
    let caller = app.admit(&parts.headers)?;
    accepts_json(&parts.headers)?;
    check_length(parts.version, &parts.headers)?;
    let media = MediaType::of(
        text(&parts.headers, header::CONTENT_TYPE.as_str())?,
        parts.headers.contains_key("ce-specversion"),
    )?;
    let cloud = cloud_event_headers(&parts.headers)?;
    let mut share = app.budget.share();
    let body = read_body(&parts.headers, body, &app.body, &mut share).await?;
    let context = IntakeContext { tenant_id: Some(&caller.tenant_id), arrived_at: (app.clock)() };
    let events = parse(media, &cloud, &body, &context)?;
    check_reserved(&events)?;
    let batch = Batch { protocol: EVENTS, caller, events, bytes: body.len(), share };
    app.write(batch).await
}

/// A header's text, if it is there.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let invalid = |_| Code::MalformedRequest.problem(format!("the header {name} is not visible ASCII"));
    headers.get(name).map(|value| value.to_str().map_err(invalid)).transpose()
}

/// The headers of a CloudEvent in binary form.
fn cloud_event_headers(headers: &HeaderMap) -> Result<Vec<(&str, &str)>, Problem> {
    let cloud = headers.keys().filter(|name| name.as_str().starts_with("ce-"));
    cloud.map(|name| Ok((name.as_str(), text(headers, name.as_str())?.unwrap_or_default()))).collect()
}

fn accepts_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(accept) = text(headers, header::ACCEPT.as_str())? else { return Ok(()) };
    let json = |range: &str| {
        let essence = range.split(';').next().unwrap_or_default().trim();
        ["*/*", "application/*", "application/json"].iter().any(|name| essence.eq_ignore_ascii_case(name))
    };
    match accept.is_empty() || accept.split(',').any(json) {
        true => Ok(()),
        false => Err(Code::NotAcceptable.problem("the answer is application/json")),
    }
}

/// A client with its own numbers could claim one digest for two contents; the gateway writes it for
/// all others.
fn check_reserved(events: &[Arrived]) -> Result<(), Problem> {
    let claims = |arrived: &Arrived| arrived.numbered && arrived.event.h().ext.contains_key(CONTENT_SHA256_EXT);
    match events.iter().position(claims) {
        None => Ok(()),
        Some(index) => {
            let field = format!("/ext/{CONTENT_SHA256_EXT}");
            Err(Code::Reserved.problem("leave it out; gateways write it").at(field).in_event(index))
        }
    }
}

/// The two signals of OTLP that hold events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Spans.
    Traces,
    /// Log records.
    Logs,
}

async fn traces(State(app): State<Arc<App>>, request: Request) -> Response {
    export(&app, request, Signal::Traces).await
}

async fn logs(State(app): State<Arc<App>>, request: Request) -> Response {
    export(&app, request, Signal::Logs).await
}

async fn export(app: &App, request: Request, signal: Signal) -> Response {
    let begun = Instant::now();
    let encoding = encoding(request.headers());
    let outcome = match encoding {
        Some(encoding) => take_otlp(app, request, signal, encoding).await,
        None => Err(Code::UnsupportedMediaType.problem("send application/x-protobuf or application/json").into()),
    };
    match outcome {
        Ok(body) => {
            app.answered(OTLP_HTTP, begun, 200);
            body
        }
        Err(refused) => {
            app.answered(OTLP_HTTP, begun, refused.status());
            app.refused(refused.code());
            match encoding {
                Some(encoding) => refused.into_otlp(encoding),
                None => refused.into_problem(),
            }
        }
    }
}

fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let content_type = text(headers, header::CONTENT_TYPE.as_str()).ok().flatten().unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    match () {
        () if essence.eq_ignore_ascii_case("application/x-protobuf") => Some(Encoding::Protobuf),
        () if essence.eq_ignore_ascii_case("application/json") => Some(Encoding::Json),
        () => None,
    }
}

async fn take_otlp(app: &App, request: Request, signal: Signal, encoding: Encoding) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let caller = app.admit(&parts.headers)?;
    check_length(parts.version, &parts.headers)?;
    let mut share = app.budget.share();
    let body = read_body(&parts.headers, body, &app.body, &mut share).await?;
    let source = Otlp { protocol: OTLP_HTTP, signal, encoding };
    let (rejected, error_message) = source.write(app, &body, caller, share).await?;
    Ok(match signal {
        Signal::Traces => encoded(&traces_response(rejected, error_message), encoding),
        Signal::Logs => encoded(&logs_response(rejected, error_message), encoding),
    })
}

/// How an OTLP request came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Otlp {
    pub(super) protocol: &'static str,
    pub(super) signal: Signal,
    pub(super) encoding: Encoding,
}

impl Otlp {
    /// Writes what a body holds; how many of its items were refused, and why.
    pub(super) async fn write(
        self,
        app: &App,
        body: &[u8],
        caller: Caller,
        share: Share,
    ) -> Result<(i64, String), Refused> {
        let Mapped { events, rejected, error_message, .. } = map(app, self.signal, self.encoding, body, &caller)?;
        app.metrics.count(self.protocol, "refused", u64::try_from(rejected).unwrap_or(0));
        app.write(Batch { protocol: self.protocol, caller, events, bytes: body.len(), share }).await?;
        Ok((rejected, error_message))
    }
}

/// The events of an OTLP body.
fn map(app: &App, signal: Signal, encoding: Encoding, body: &[u8], caller: &Caller) -> Result<Mapped, Problem> {
    match encoding {
        Encoding::Protobuf => expansion::check_protobuf(body)?,
        Encoding::Json => expansion::check_json(body)?,
    }
    let arrived_at = (app.clock)();
    let context =
        otlp::Context { tenant_id: &caller.tenant_id, arrived_at, config: &app.otlp, sessions: &app.sessions };
    match signal {
        Signal::Traces => {
            let request = otlp::decode_traces(body, encoding)?;
            expansion::check_traces(&request)?;
            Ok(otlp::map_traces(request, &context))
        }
        Signal::Logs => {
            let request = otlp::decode_logs(body, encoding)?;
            expansion::check_logs(&request)?;
            Ok(otlp::map_logs(request, &context))
        }
    }
}

/// The answer to an export of spans of which `rejected` were refused.
pub(super) fn traces_response(rejected: i64, error_message: String) -> ExportTraceServiceResponse {
    let partial = (rejected > 0).then_some(ExportTracePartialSuccess { rejected_spans: rejected, error_message });
    ExportTraceServiceResponse { partial_success: partial }
}

/// The answer to an export of log records of which `rejected` were refused.
pub(super) fn logs_response(rejected: i64, error_message: String) -> ExportLogsServiceResponse {
    let partial = (rejected > 0).then_some(ExportLogsPartialSuccess { rejected_log_records: rejected, error_message });
    ExportLogsServiceResponse { partial_success: partial }
}

fn encoded<M: Message + Serialize>(message: &M, encoding: Encoding) -> Response {
    match encoding {
        Encoding::Protobuf => {
            ([(header::CONTENT_TYPE, "application/x-protobuf")], message.encode_to_vec()).into_response()
        }
        Encoding::Json => {
            // Writing to memory does not fail, so there is always a document.
            let body = serde_json::to_vec(message).unwrap_or_default();
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
    }
}
