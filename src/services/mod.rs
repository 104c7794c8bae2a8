//! The roles as services: opened, tested, run, watched and drained.
//!
//! Everything that a process needs is opened before its first role runs, so that a bad configuration
//! never starts half a service. Which role does what is in `roles`, how one is kept alive in
//! `supervise`.

pub mod health;
mod keys;
mod lag;
mod open;
mod roles;
mod signals;
mod supervise;
#[cfg(test)]
mod tests;
pub(crate) mod topology;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use ingest::gateway::Gateway;
use ingest::log::Broker;
use ingest::log::kafka::KafkaBroker;
use ingest::log::local::LocalBroker;
use prometheus_client::registry::Registry;
use sinks::clickhouse::client::ClickHouse;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use self::supervise::{Ask, RoleSpec, Start};

use self::health::{AskStatus, Health, Registries};
use self::open::Opened;
pub(crate) use self::open::missing_files;
use self::supervise::Running;
use crate::clock;
use crate::config::{Config, ConfigArgs, Role};
use crate::metrics::{Metrics, ProcessCollector};
use crate::operate::connect;
use crate::operate::status::Sources;
use crate::registry::SchemaRegistry;
use crate::runner::control::{Control, Identity};
use crate::{operate, telemetry};

/// Runs a role until a signal ends it.
///
/// # Errors
/// The configuration, an opening or a role failed: the message names it and the remedy.
pub fn run(role: Role, args: &ConfigArgs, verbose: u8) -> anyhow::Result<ExitCode> {
    let config = args.load()?.for_role(role)?;
    // Before anything is read, since a record of a schema that is not known becomes a dead letter.
    config.schemas.configure()?;
    // Roles block on disk and compute; more threads than cores lets the system share them fairly.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_all().build()?;
    runtime.block_on(async {
        let traces = telemetry::init_service(&config.telemetry, role, &config.instance(), verbose)?;
        let stop = signals::first()?;
        let outcome = match connect::kafka(&config)? {
            Some(kafka) => serve(KafkaBroker::new(kafka)?, &config, role, stop).await,
            // Other roles were refused the embedded log.
            None => serve(LocalBroker::open(config.data_dir.join("log"), None)?, &config, role, stop).await,
        };
        traces.close().await;
        outcome.map(|()| ExitCode::SUCCESS)
    })
}

/// Runs a role on a log until `stop` resolves; returns when everything in hand is finished.
///
/// # Errors
/// What could not be opened, which role failed, or which did not end in time.
pub async fn serve<B: Broker>(
    broker: B,
    config: &Config,
    role: Role,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let listen = &config.telemetry.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on telemetry.listen = {listen:?}: choose a free address"))?;
    serve_on(broker, config, role, stop, listener).await
}

/// As [`serve`], with the listener of probes and metrics.
///
/// # Errors
/// As [`serve`].
pub async fn serve_on<B: Broker>(
    broker: B,
    config: &Config,
    role: Role,
    stop: impl Future<Output = ()> + Send,
    listener: TcpListener,
) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    registry.register_collector(Box::new(ProcessCollector::new(clock::now())));
    let (health, registries) = (Health::default(), Registries::default());
    registries.add(registry);
    let address = listener.local_addr()?;
    // Probes answer while things are opened, which may take as long as a broker is away.
    let probes = tokio::spawn(health::serve(listener, health.clone(), registries.clone()));
    let identity = Identity { role: role.name(), instance: config.instance(), namespace: config.log.namespace.clone() };
    let control = Control { identity, metrics, ..Control::default() };
    tokio::pin!(stop);
    let outcome = tokio::select! {
        biased;
        () = &mut stop => Ok(None),
        opened = open::open(&broker, config, role, &registries) => opened.map(Some),
    };
    let outcome = match outcome {
        Ok(None) => Ok(()),
        Err(error) => Err(error),
        Ok(Some(mut opened)) => {
            announce(config, role, &opened, address);
            health.answer_status(status(&broker, config, &opened)?);
            let outcome = run_roles(&broker, config, role, &mut opened, &control, &health, stop).await;
            opened.close().await;
            outcome
        }
    };
    probes.abort();
    outcome
}

/// Starts every role and drains them at the end.
async fn run_roles<B: Broker>(
    broker: &B,
    config: &Config,
    role: Role,
    opened: &mut Opened<B>,
    control: &Control,
    health: &Health,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (mut intake, mut rest) = (Running::default(), Running::default());
    for spec in roles::specs(broker, config, role, opened) {
        let running = if spec.ask.is_some() { &mut intake } else { &mut rest };
        running.start(spec, control, health);
    }
    let schemas = opened.registry.clone().map(|registry| ask(registry, config, health));
    let interval = Duration::from_millis(config.telemetry.lag_interval_ms);
    let lag = tokio::spawn(lag::watch(broker.clone(), control.metrics.partitions.clone(), interval));
    let topology = topology::watch(broker, config, role);
    health.started.raise();
    tracing::info!(role = role.name(), instance = control.identity.instance, "started");
    let outcome = tokio::select! {
        biased;
        () = stop => Ok(()),
        outcome = intake.ended() => outcome,
        outcome = rest.ended() => outcome,
        why = topology => Err(why),
    };
    health.draining.raise();
    tracing::info!("draining");
    let drained = drain(intake, rest, Duration::from_millis(config.lifecycle.drain_timeout_ms)).await;
    lag.abort();
    if let Some(asking) = schemas {
        asking.abort();
    }
    outcome.and(drained)
}

/// Asks the schema registry beside the roles; whether it answers is part of readiness.
fn ask(registry: SchemaRegistry, config: &Config, health: &Health) -> JoinHandle<()> {
    let (asked, namespace) = (registry.clone(), config.log.namespace.clone());
    health.watch("schema registry", false, Box::new(move || asked.condition()));
    tokio::spawn(async move { registry.run(&namespace).await })
}

/// Gathers what `custody status` prints.
fn status<B: Broker>(broker: &B, config: &Config, opened: &Opened<B>) -> anyhow::Result<AskStatus> {
    let broker = broker.clone();
    let not_opened = || "this role does not open it; ask the archive's role, or `custody status`".to_owned();
    let sources = Arc::new(Sources {
        clickhouse: opened.clickhouse.as_ref().map(ClickHouse::new).transpose()?,
        store: opened.store.clone().ok_or_else(not_opened),
        receivers: config.alert.receivers.keys().cloned().collect(),
    });
    Ok(Box::new(move || {
        let (broker, sources) = (broker.clone(), Arc::clone(&sources));
        async move {
            let status = operate::status::gather(&broker, &sources, clock::now()).await?;
            Ok(serde_json::to_string(&status)?)
        }
        .boxed()
    }))
}

/// Tells intake to stop, then everything else; returns once all have ended.
///
/// # Errors
/// A role failed, or some did not end in time: the message names them.
async fn drain(mut intake: Running, mut rest: Running, limit: Duration) -> anyhow::Result<()> {
    let drained = tokio::time::timeout(limit, async {
        // What was accepted is in the log before anything else stops.
        let first = intake.stop().await;
        let second = rest.stop().await;
        first.and(second)
    })
    .await;
    drained.unwrap_or_else(|_| {
        let unfinished: Vec<&str> = intake.unfinished().into_iter().chain(rest.unfinished()).collect();
        Err(anyhow::anyhow!(
            "not drained within lifecycle.drain_timeout_ms = {}: {}; what they had in hand is read again",
            limit.as_millis(),
            unfinished.join(", ")
        ))
    })
}

/// Says where everything is, and how to send a first event.
fn announce<B: Broker>(config: &Config, role: Role, opened: &Opened<B>, telemetry: SocketAddr) {
    let addresses = opened.gateway.as_ref().map(Gateway::addresses);
    if role != Role::Up {
        if let Some(at) = addresses {
            tracing::info!(http = %at.http, grpc = %at.grpc, "listening");
        }
        return tracing::info!(%telemetry, "probes and metrics");
    }
    println!("custody up: data in {}, log {}", config.data_dir.display(), config.log.url);
    let scheme = if config.gateway.tls_cert_file.is_some() { "https" } else { "http" };
    if let Some(at) = addresses {
        println!("  intake      {scheme}://{} (JSON, CloudEvents, OTLP/HTTP), {} (OTLP/gRPC)", at.http, at.grpc);
    }
    if let Some(clickhouse) = &opened.clickhouse {
        println!("  ClickHouse  {} (database {})", clickhouse.url, clickhouse.database);
    }
    println!("  metrics     http://{telemetry}/metrics, probes /livez /readyz /startupz");
    if let (Some(at), Some(clickhouse)) = (addresses, &opened.clickhouse) {
        println!("Send your first event, and find it:");
        println!(
            "  curl {scheme}://{}/v1/events -H 'content-type: application/json' -d \
             '{{\"event_type\":\"session.started\",\"agent_id\":\"a\",\"session_id\":\"s\"}}'",
            at.http
        );
        println!(
            "  curl '{}/?database={}' -d 'SELECT event_type, agent_id, session_id FROM events'",
            clickhouse.url, clickhouse.database
        );
    }
}
