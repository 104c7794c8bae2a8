//! Requests over HTTP: authentication, body, events, acknowledgement; and the probes.
//!
//! Every handler is the same chain of refusals with one acknowledgement at its end. The parsers, the quotas
//! and the writer decide; this file calls them in order of their cost, cheapest first.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prost::Message;
use schemas::event::CONTENT_SHA256_EXT;
use serde::Serialize;
use tokio::time::Instant;

use super::answer::Refused;
use super::app::{App, Batch, EVENTS, OTLP_HTTP};
use super::body::{MediaType, parse};
use super::export::{Export, Signal, logs_response, traces_response};
use super::grpc;
use super::intake::{Arrived, IntakeContext, Problem, essence};
use super::limits::{check_length, read_body};
use super::otlp::Encoding;
use super::problem::Code;
use super::writer::Receipt;

/// How long an append may be in flight before the gateway reports that it is not ready, milliseconds.
const PENDING_MS_MAX: u64 = 10_000;

/// All routes, for both listeners.
pub(super) fn router(app: Arc<App>) -> Router {
    let http = Router::new()
        .route("/v1/events", post(events))
        .route("/v1/traces", post(traces))
        .route("/v1/logs", post(logs))
        // Liveness does not depend on the log: restarting the gateway does not bring the log back, and would
        // drop what is queued.
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
    if app.draining.load(Ordering::Relaxed) {
        Refused::from(Code::Draining.problem("the gateway is shutting down")).into_problem()
    } else if !app.writer.health().acknowledges((app.clock)(), PENDING_MS_MAX) {
        Refused::from(Code::LogUnavailable.problem("the log does not acknowledge")).into_problem()
    } else {
        "ok\n".into_response()
    }
}

async fn startupz(State(app): State<Arc<App>>) -> Response {
    if app.writer.health().has_started() {
        "ok\n".into_response()
    } else {
        Refused::from(Code::LogUnavailable.problem("the log has not acknowledged anything yet")).into_problem()
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
    // Cheapest first: who sends, then the head, and only then the body. A sender that is not admitted costs
    // no memory.
    let caller = app.admit(&parts.headers)?;
    // A client that cannot read the answer would not learn what was accepted, and would send it again.
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
    // After all events were parsed: the index in the answer must be that in the request.
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
    let json = |range: &str| ["*/*", "application/*", "application/json"].contains(&essence(range).as_str());
    if accept.is_empty() || accept.split(',').any(json) {
        Ok(())
    } else {
        Err(Code::NotAcceptable.problem("the answer is application/json"))
    }
}

/// The digest of what arrived tells a resent event from an equivocation. The gateway writes it for events that it
/// numbers; a client with its own numbers could claim one digest for two contents.
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
        // No encoding is known that the client could read, so that the answer is a plain problem document.
        None => Err(Code::UnsupportedMediaType.problem("send application/x-protobuf or application/json").into()),
    };
    match outcome {
        Ok(body) => {
            // 200 even if some items were refused: OTLP reports these as a partial success, and a client would
            // send all items again after another status.
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
    match essence(content_type).as_str() {
        "application/x-protobuf" => Some(Encoding::Protobuf),
        "application/json" => Some(Encoding::Json),
        _ => None,
    }
}

async fn take_otlp(app: &App, request: Request, signal: Signal, encoding: Encoding) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let caller = app.admit(&parts.headers)?;
    check_length(parts.version, &parts.headers)?;
    let mut share = app.budget.share();
    let body = read_body(&parts.headers, body, &app.body, &mut share).await?;
    let source = Export { protocol: OTLP_HTTP, signal, encoding };
    let (rejected, error_message) = source.write(app, &body, caller, share).await?;
    Ok(match signal {
        Signal::Traces => encoded(&traces_response(rejected, error_message), encoding),
        Signal::Logs => encoded(&logs_response(rejected, error_message), encoding),
    })
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
