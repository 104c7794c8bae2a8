//! Probes, metrics and status over HTTP.
//!
//! `/livez` says that the process answers, and nothing about anybody else: restarting it would not bring
//! back a broker. `/startupz` says that everything was opened. `/readyz` says that every role goes on; where
//! the process takes requests it speaks for intake alone, since an outage behind the log must not stop
//! intake.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::supervise::Ask;
use crate::runner::control::{Condition, Flag};

/// Content type of the OpenMetrics text format, version 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How the process is doing.
#[derive(Clone, Default)]
pub struct Health {
    /// Everything was opened and every role started.
    pub started: Flag,
    /// The process is on its way out.
    pub draining: Flag,
    roles: Arc<Mutex<BTreeMap<String, Watched>>>,
    status: Arc<OnceLock<AskStatus>>,
}

/// Gathers the status of the installation as JSON.
pub type AskStatus = Box<dyn Fn() -> BoxFuture<'static, anyhow::Result<String>> + Send + Sync>;

struct Watched {
    ask: Ask,
    takes_requests: bool,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").field("ready", &self.ready()).finish_non_exhaustive()
    }
}

impl Health {
    /// Watches a role; `ask` tells how it is doing.
    pub fn watch(&self, label: &str, takes_requests: bool, ask: Ask) {
        let watched = Watched { ask, takes_requests };
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).insert(label.to_owned(), watched);
    }

    /// Says who gathers the status; the first one stays.
    pub fn answer_status(&self, ask: AskStatus) {
        let _kept = self.status.set(ask);
    }

    /// Whether the process is ready, and the condition of every role.
    pub fn ready(&self) -> (bool, BTreeMap<String, &'static str>) {
        let roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let takes_requests = roles.values().any(|w| w.takes_requests);
        let asked = roles.values().filter(|w| w.takes_requests || !takes_requests);
        let is_up = asked.map(|w| (w.ask)()).all(|c| c == Condition::Running);
        let conditions = roles.iter().map(|(label, w)| (label.clone(), (w.ask)().name())).collect();
        (self.started.is_raised() && !self.draining.is_raised() && is_up, conditions)
    }
}

#[derive(Clone)]
struct Shared {
    health: Health,
    registries: Registries,
}

/// Everything that `/metrics` shows: what is opened later adds a registry of its own.
#[derive(Debug, Clone, Default)]
pub struct Registries(Arc<Mutex<Vec<Registry>>>);

impl Registries {
    /// Shows one more.
    pub fn add(&self, registry: Registry) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(registry);
    }

    /// The text of a scrape, OpenMetrics 1.0.
    ///
    /// # Errors
    /// A metric cannot be written: a defect.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        for registry in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            prometheus_client::encoding::text::encode_registry(&mut text, registry)?;
        }
        prometheus_client::encoding::text::encode_eof(&mut text)?;
        Ok(text)
    }
}

/// Serves probes and metrics for as long as it is polled.
///
/// # Errors
/// The listener failed.
pub async fn serve(listener: TcpListener, health: Health, registries: Registries) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/startupz", get(startupz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(Shared { health, registries });
    axum::serve(listener, router).await
}

async fn startupz(State(shared): State<Shared>) -> Response {
    match shared.health.started.is_raised() {
        true => "ok\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let (is_ready, roles) = shared.health.ready();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({"ready": is_ready, "draining": shared.health.draining.is_raised(), "roles": roles});
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// What `custody status` prints: the embedded log belongs to this process, nobody else can ask it.
async fn status(State(shared): State<Shared>) -> Response {
    let Some(ask) = shared.health.status.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response();
    };
    match ask().await {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match shared.registries.text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::control::ConditionCell;

    #[test]
    fn readiness_is_every_roles_but_intakes_alone_where_there_is_intake() {
        let health = Health::default();
        let (pii, load, gateway) = (ConditionCell::default(), ConditionCell::default(), ConditionCell::default());
        let ask = |cell: &ConditionCell| -> Ask {
            let cell = cell.clone();
            Box::new(move || cell.get())
        };
        health.watch("pii", false, ask(&pii));
        health.watch("load", false, ask(&load));
        let check = |expected: bool, why: &str| assert_eq!(health.ready().0, expected, "{why}");
        check(false, "nothing has started");
        health.started.raise();
        pii.set(Condition::Running);
        check(false, "load is starting");
        load.set(Condition::Running);
        check(true, "both run");
        load.set(Condition::Retrying);
        check(false, "load cannot reach its server");
        health.watch("gateway", true, ask(&gateway));
        check(false, "the gateway is starting");
        gateway.set(Condition::Running);
        check(true, "an outage behind the log does not stop intake");
        assert_eq!(health.ready().1.get("load"), Some(&"retrying"));
        health.draining.raise();
        check(false, "it is on its way out");
    }
}
