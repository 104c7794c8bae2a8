//! Intake over the network: requests in, acknowledged records out.
//!
//! Protocols turn bytes into [`intake::Arrived`] events, and one writer numbers and appends them. It does
//! not look for personal data and does not judge what events say.

mod answer;
mod app;
pub mod auth;
pub mod avro_batch;
pub mod body;
mod cloudevents;
mod config;
mod event_json;
mod expansion;
mod export;
mod grpc;
pub mod intake;
pub mod limits;
pub mod metrics;
pub mod numbering;
pub mod otlp;
pub mod problem;
pub mod quota;
mod router;
mod server;
mod upkeep;
pub mod validate;
pub mod writer;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use prometheus_client::registry::Registry;
use schemas::time::TimestampMicros;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use self::config::GatewayConfig;

use self::app::App;
use self::auth::journal::Journal;
use self::auth::key_file::{KeyFile, KeyFileError};
use self::auth::{Authenticator, KeysNeeded, Open};
use self::limits::Budget;
use self::metrics::GatewayMetrics;
use self::otlp::TraceSessions;
use self::quota::{QuotaConfigError, Quotas};
use self::server::Guard;
use self::upkeep::Upkeep;
use self::writer::{GatewayWriter, WriterConfig, WriterHandle};
use crate::log::{Broker, LogError};

/// Why a gateway does not start, or stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Values that contradict each other: correct the configuration.
    #[error("gateway: {}", .0.join("; "))]
    Config(Vec<String>),
    /// A quota that cannot be kept: correct the configuration.
    #[error("gateway: {0}")]
    Quota(#[from] QuotaConfigError),
    /// Everybody could send: configure keys, or listen on loopback.
    #[error("gateway: {0}")]
    KeysNeeded(#[from] KeysNeeded),
    /// The key file cannot be used.
    #[error("gateway: {0}")]
    Keys(#[from] KeyFileError),
    /// An address cannot be listened on: choose another, or stop the process that uses it.
    #[error("gateway cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("gateway cannot use {} and its key for TLS: {source}", cert.display())]
    Tls {
        /// The certificate file.
        cert: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log will never accept what was sent: correct what the message names.
    #[error("gateway: {0}")]
    Log(#[from] LogError),
}

/// A gateway that listens. No request is answered before [`Gateway::run`].
pub struct Gateway<B> {
    config: GatewayConfig,
    http: TcpListener,
    grpc: TcpListener,
    addresses: Addresses,
    tls: Option<RustlsConfig>,
    app: Arc<App>,
    keys: Option<Arc<KeyFile>>,
    writer: GatewayWriter<B>,
}

impl<B> std::fmt::Debug for Gateway<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Where a gateway listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// HTTP.
    pub http: SocketAddr,
    /// gRPC.
    pub grpc: SocketAddr,
}

impl<B: Broker> Gateway<B> {
    /// Checks the configuration, reads keys and certificates, and binds both addresses. `instance` is
    /// stable over restarts; no two gateways of one log have the same.
    ///
    /// # Errors
    /// It cannot start; the error says what to change. The log is not contacted: without it a gateway starts, is
    /// not ready, and answers 503.
    pub async fn bind(
        config: GatewayConfig,
        instance: &str,
        broker: B,
        clock: fn() -> TimestampMicros,
        registry: &mut Registry,
    ) -> Result<Self, GatewayError> {
        // All of them at once: an operator who gets one problem per start needs a restart for each.
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(GatewayError::Config(problems));
        }
        let quotas = Quotas::new(&config.quota)?;
        let (keys, authenticator) = access(&config, clock())?;
        let tls = tls(&config).await?;
        // Last of what can fail: a process that cannot read its keys or certificates must not accept
        // connections that it will never answer.
        let (http, grpc) = (listen(config.http_listen)?, listen(config.grpc_listen)?);
        let addresses = Addresses { http: http.1, grpc: grpc.1 };
        let metrics = GatewayMetrics::default();
        metrics.register(registry);
        let (writer, handle) = GatewayWriter::new(writer_config(&config, instance), broker, clock, metrics.clone());
        let app = App {
            writer: handle,
            authenticator,
            // The start time is part of the ids of its events: two runs of one instance count their events
            // from 0, and must not give two events one id.
            journal: Journal::new(instance, clock(), config.access_entries_max),
            quotas,
            budget: Budget::new(config.queue_bytes_max, metrics.queue_bytes.clone()),
            metrics,
            clock,
            body: config.body_limits(),
            otlp: config.otlp.clone(),
            sessions: TraceSessions::default(),
            request_timeout: Duration::from_millis(config.request_timeout_ms),
            draining: AtomicBool::new(false),
        };
        Ok(Self { config, http: http.0, grpc: grpc.0, addresses, tls, app: Arc::new(app), keys, writer })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The handle of its writer, for events that this process itself is the source of.
    pub fn writer(&self) -> WriterHandle {
        self.app.writer.clone()
    }

    /// Serves until `shutdown`, then stops accepting, finishes and answers what it has, and ends within
    /// `drain_timeout_ms`. What is not in the log by then was not acknowledged, so clients send it again.
    ///
    /// # Errors
    /// A listener failed, or the log will never accept what was sent.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), GatewayError> {
        let Self { config, http, grpc, addresses, tls, app, keys, writer } = self;
        let (close, closed) = watch::channel(false);
        let guard = Guard::new(&config, app.metrics.connections_refused.clone());
        let routes = router::router(Arc::clone(&app));
        let handle = Handle::new();
        let serve =
            |listener| server::serve(listener, routes.clone(), guard.clone(), tls.clone(), &config, handle.clone());
        let servers = async {
            let failed = |address, source| GatewayError::Listen { address, source };
            let http = async { serve(http).await.map_err(|source| failed(addresses.http, source)) };
            let grpc = async { serve(grpc).await.map_err(|source| failed(addresses.grpc, source)) };
            futures::future::try_join(http, grpc).await.map(|_| ())
        };
        // A task of its own: during the drain below only the servers are awaited, and the handlers they wait
        // for need a writer that keeps appending.
        let mut writer = tokio::spawn(writer.run(closed));
        let mut upkeep = Upkeep { app: Arc::clone(&app), keys, pending: Vec::new() };
        tokio::pin!(servers);
        let lost = tokio::select! {
            () = shutdown => None,
            () = upkeep.run() => None,
            // Without a shutdown a server ends only with an error, and then no request is left to drain.
            ended = &mut servers => return ended,
            ended = &mut writer => Some(joined(ended)),
        };
        // Before the listeners close: `/readyz` answers 503 from here on, so that load balancers stop sending
        // here.
        app.draining.store(true, Ordering::Relaxed);
        let drain = Duration::from_millis(config.drain_timeout_ms);
        let deadline = Instant::now() + drain;
        handle.graceful_shutdown(Some(drain));
        let drained = timeout_at(deadline, async {
            servers.await?;
            // The writer ended first, so that its error is the reason to stop; there is no task left that
            // `close` could reach, and nothing more can be appended.
            if let Some(ended) = lost {
                return Ok(ended?);
            }
            // After the servers have ended, so that the last requests are counted.
            upkeep.finish().await;
            // Only now, after the servers and the last counts: the writer must take everything that they submit
            // before its queue is closed.
            let _ = close.send(true);
            Ok::<_, GatewayError>(joined((&mut writer).await)?)
        });
        drained.await.unwrap_or_else(|_| {
            writer.abort();
            tracing::warn!(
                "stopped before the log had accepted everything; what it did not accept was not acknowledged"
            );
            Ok(())
        })
    }
}

/// How the writer's task ended.
fn joined(ended: Result<Result<(), LogError>, tokio::task::JoinError>) -> Result<(), LogError> {
    ended.unwrap_or_else(|error| Err(LogError::fatal("gateway writer", error.to_string())))
}

fn writer_config(config: &GatewayConfig, instance: &str) -> WriterConfig {
    WriterConfig {
        instance: instance.to_owned(),
        queue_requests_max: config.queue_requests_max,
        request_timeout_ms: config.request_timeout_ms,
        tick_interval_ms: config.tick_interval_ms,
        idempotence_entries_max: config.idempotence_entries_max,
        idempotence_ttl_ms: config.idempotence_ttl_ms,
        sessions_max: config.sessions_max,
    }
}

type Access = (Option<Arc<KeyFile>>, Arc<dyn Authenticator>);

fn access(config: &GatewayConfig, now: TimestampMicros) -> Result<Access, GatewayError> {
    match &config.api_keys_file {
        // Fail closed: without keys every caller is an owner of every tenant, which is acceptable on loopback
        // addresses only.
        None => Ok((None, Arc::new(Open::on(&[config.http_listen, config.grpc_listen])?))),
        Some(path) => {
            let interval_ms = i64::try_from(config.api_keys_check_interval_ms).unwrap_or(i64::MAX);
            let keys = Arc::new(KeyFile::open(path, interval_ms, now)?);
            Ok((Some(Arc::clone(&keys)), keys))
        }
    }
}

async fn tls(config: &GatewayConfig) -> Result<Option<RustlsConfig>, GatewayError> {
    let Some((cert, key)) = config.tls_cert_file.as_ref().zip(config.tls_key_file.as_ref()) else { return Ok(None) };
    let failed = |source| GatewayError::Tls { cert: cert.clone(), source };
    // rustls panics when it builds a configuration without a provider. Choosing one is the decision of the
    // process, so axum-server is built without any.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(failed(io::Error::other("the process has no default crypto provider")));
    }
    RustlsConfig::from_pem_file(cert, key).await.map(Some).map_err(failed)
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let bound = server::bind(address).and_then(|listener| listener.local_addr().map(|bound| (listener, bound)));
    bound.map_err(|source| GatewayError::Listen { address, source })
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
