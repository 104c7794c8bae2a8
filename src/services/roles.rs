//! Which roles a process runs, and how each is started from the configuration.

use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use futures::FutureExt as _;
use ingest::gateway::Gateway;
use ingest::log::Broker;
use schemas::topic::Topic;
use sinks::clickhouse::client::ClickHouseConfig;
use sinks::clickhouse::insert::ClickHouseSink;
use sinks::parquet::store::Store;

use super::open::Opened;
use super::supervise::RoleSpec;
use crate::alert_role::{self, AlertMetrics};
use crate::archive_role::ArchiveRole;
use crate::clock;
use crate::config::{Config, Role};
use crate::load_role::LoadRole;
use crate::registry::SchemaRegistry;
use crate::roles;
use crate::runner::control::{Condition, Control};
use crate::sink_table::{PUBLISHED, Sink};
use crate::stage_table::{STAGES, StageSettings, StageSpec};

/// The roles of a process, upstream first.
pub(super) fn specs<B: Broker>(broker: &B, config: &Config, role: Role, opened: &mut Opened<B>) -> Vec<RoleSpec> {
    let mut specs = Vec::new();
    specs.extend(opened.gateway.take().map(|gateway| intake(gateway, config)));
    let settings = StageSettings::of(config, opened.partitions, opened.keys.clone());
    for spec in STAGES.iter().filter(|spec| role.runs(spec.role)) {
        // What stages write is of our own schemas: only records of others need a registry.
        let registry = opened.registry.clone().filter(|_| spec.source == Topic::Events);
        specs.push(stage(broker, spec, settings.clone(), registry));
    }
    for topic in PUBLISHED {
        if let Some(store) = &opened.store {
            specs.push(archive(broker, config, topic, store.clone()));
        }
        if let Some(clickhouse) = &opened.clickhouse {
            specs.push(load(broker, config, topic, clickhouse.clone()));
        }
    }
    // Whoever runs everything may have nobody to tell; the role on its own was refused without receivers.
    if role.runs(Role::Alert) && !config.alert.receivers.is_empty() {
        specs.push(alert(broker, config, opened.alerts.clone()));
    }
    specs
}

/// The gateway runs once: what it fails of, a second start of it would fail of too.
fn intake<B: Broker>(gateway: Gateway<B>, config: &Config) -> RoleSpec {
    let (writer, pending_ms_max) = (gateway.writer(), config.gateway.request_timeout_ms);
    let ask = move || match writer.health() {
        health if health.acknowledges(clock::now(), pending_ms_max) => Condition::Running,
        health if health.has_started() => Condition::Retrying,
        _ => Condition::Starting,
    };
    let gateway = Mutex::new(Some(gateway));
    let start = move |control: Control| {
        let gateway = gateway.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let gateway = gateway.context("it was started before")?;
            Ok(gateway.run(control.stop.raised()).await?)
        }
        .boxed()
    };
    RoleSpec { role: "gateway", label: "gateway".to_owned(), ask: Some(Box::new(ask)), start: Box::new(start) }
}

fn stage<B: Broker>(
    broker: &B,
    spec: &'static StageSpec,
    settings: StageSettings,
    registry: Option<SchemaRegistry>,
) -> RoleSpec {
    let broker = broker.clone();
    let start = move |control| roles::stage(broker.clone(), spec.stage, &settings, registry.clone(), control);
    RoleSpec { role: spec.name, label: spec.name.to_owned(), ask: None, start: Box::new(start) }
}

fn archive<B: Broker>(broker: &B, config: &Config, topic: Topic, store: Store) -> RoleSpec {
    let (broker, settings, flush_ms) = (broker.clone(), config.archive.sink(), config.archive.flush_interval_ms);
    let start = move |control: Control| {
        let (broker, store, settings) = (broker.clone(), store.clone(), settings.clone());
        async move {
            let role = ArchiveRole::open(store, settings).await?.with_metrics(control.metrics.clone());
            // Without ticks, log time stands still while nothing happens, and a file would stay open.
            let role = if topic.has_ticks() { role } else { role.with_clock_flush(flush_ms) };
            roles::sink(broker, &Sink::Archive.group(topic), topic, role, control).await
        }
        .boxed()
    };
    RoleSpec { role: Sink::Archive.spec().name, label: format!("archive {topic}"), ask: None, start: Box::new(start) }
}

fn load<B: Broker>(broker: &B, config: &Config, topic: Topic, clickhouse: ClickHouseConfig) -> RoleSpec {
    let (broker, settings, flush_ms) = (broker.clone(), config.load.sink(), config.load.flush_interval_ms);
    let start = move |control: Control| {
        let (broker, clickhouse) = (broker.clone(), clickhouse.clone());
        async move {
            let sink = ClickHouseSink::open(&clickhouse).await?;
            let role = LoadRole::new(sink, settings, flush_ms).with_metrics(control.metrics.clone());
            roles::sink(broker, &Sink::Load.group(topic), topic, role, control).await
        }
        .boxed()
    };
    RoleSpec { role: Sink::Load.spec().name, label: format!("load {topic}"), ask: None, start: Box::new(start) }
}

fn alert<B: Broker>(broker: &B, config: &Config, metrics: AlertMetrics) -> RoleSpec {
    let (broker, settings) = (broker.clone(), config.alert.clone());
    let start = move |control: Control| {
        let (broker, settings, metrics) = (broker.clone(), settings.clone(), metrics.clone());
        async move { alert_role::run(broker, &control.identity.instance, &settings, &metrics, &control).await }.boxed()
    };
    RoleSpec { role: "alert", label: "alert".to_owned(), ask: None, start: Box::new(start) }
}
