//! ClickHouse's HTTP interface over the engine in this process, so that the `clickhouse` crate, curl and any other HTTP
//! client take the same path as against a server.
//!
//! Bounds: a request body, a statement held in memory, a buffered answer and the number of statements at once, see
//! [`Limits`]. SELECTs in row formats stream block by block with back-pressure (see [`by_block`]); every other answer
//! is buffered, and the engine stops it at `result_bytes_max`. One connection per request, one statement at a time on
//! it. No users, no TLS, loopback only: this is for the process that started it.

mod body;
mod by_block;
mod compress;
mod execute;
mod failure;
mod multipart;
mod native_block;
mod request;
mod response;
pub(crate) mod run;
mod session;
mod sql;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request as HttpRequest, Response, StatusCode, header};
use tokio::sync::Semaphore;

use self::body::BodyReader;
use self::failure::{Code, Failure};
use self::request::Request;
use self::response::{Output, failed, set};
use self::session::Sessions;
use super::chdb::{Connection, Engine, EngineError};

/// What one request and all together may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a request body as sent.
    pub(crate) request_bytes_max: u64,
    /// Bytes of a statement, or form, that is held in memory; data of an INSERT is streamed and does not count.
    pub(crate) statement_bytes_max: u64,
    /// Bytes of a buffered answer before formatting, as `max_result_bytes` counts them (a constant column counts once
    /// per block).
    pub(crate) result_bytes_max: u64,
    /// Statements that run at once; more wait.
    pub(crate) statements_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: 4 << 30,
            statement_bytes_max: 64 << 20,
            result_bytes_max: 512 << 20,
            statements_max: 32,
        }
    }
}

/// Everything that requests share.
#[derive(Debug)]
pub(crate) struct Front {
    engine: Arc<Engine>,
    /// The engine closes its tables with its last connection; this one keeps it open.
    _keep: std::sync::Mutex<Connection>,
    sessions: Sessions,
    limits: Limits,
    running: Arc<Semaphore>,
    timezone: String,
}

impl Front {
    /// Opens the engine's data directory.
    ///
    /// # Errors
    /// The engine refuses the directory.
    pub(crate) fn open(engine: Arc<Engine>, limits: Limits) -> Result<Arc<Self>, EngineError> {
        let mut keep = engine.connect()?;
        let answer = keep.query(b"SELECT timezone()", "TSVRaw", &[])?;
        let timezone = String::from_utf8_lossy(answer.as_ref()).trim().to_owned();
        let running = Arc::new(Semaphore::new(limits.statements_max as usize));
        let sessions = Sessions::default();
        Ok(Arc::new(Self { engine, _keep: std::sync::Mutex::new(keep), sessions, limits, running, timezone }))
    }

    /// Waits until no statement runs any more.
    pub(crate) async fn idle(&self) {
        let _closed_means_idle = self.running.acquire_many(self.limits.statements_max).await;
    }
}

/// All paths.
pub(crate) fn router(front: Arc<Front>) -> Router {
    Router::new().fallback(handle).with_state(front)
}

async fn handle(State(front): State<Arc<Front>>, request: HttpRequest<Body>) -> Response<Body> {
    let bare = request.uri().query().is_none_or(str::is_empty) && request.method() != axum::http::Method::POST;
    match request.uri().path() {
        "/ping" | "/replicas_status" => Response::new("Ok.\n".into()),
        "/" if bare => Response::new("Ok.\n".into()),
        "/" | "/query" => statement(front, request).await,
        other => {
            let mut response = Response::new(Body::from(format!("There is no handle {other}\n")));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

async fn statement(front: Arc<Front>, http: HttpRequest<Body>) -> Response<Body> {
    let (parts, body) = http.into_parts();
    let parsed = Request::parse(&parts.method, &parts.uri, &parts.headers);
    let query_id = parsed.as_ref().ok().and_then(|request| request.query_id.clone());
    let common = common_headers(&front, &query_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()));
    let tag: String = uuid::Uuid::new_v4().simple().to_string().chars().take(16).collect();
    let opened = parsed.and_then(|request| Output::open(&request, tag.clone()).map(|sides| (request, sides)));
    let (request, (output, answered)) = match opened {
        Ok(opened) => opened,
        Err(failure) => return failed(&failure, common),
    };
    let Ok(permit) = Arc::clone(&front.running).acquire_owned().await else {
        return failed(&Failure::new(Code::NetworkError, "the embedded engine is stopping"), common);
    };
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = content_type.and_then(multipart::boundary).map(str::to_owned);
    let body = BodyReader::spawn(body, front.limits.request_bytes_max);
    tokio::task::spawn_blocking(move || {
        execute::run(&front, request, boundary.as_deref(), body, output);
        drop(permit);
    });
    answered.into_response(common, &tag).await
}

fn common_headers(front: &Front, query_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    set(&mut headers, "x-clickhouse-query-id", query_id);
    set(&mut headers, "x-clickhouse-timezone", &front.timezone);
    set(&mut headers, "x-clickhouse-server-display-name", "custody-embedded");
    headers
}
