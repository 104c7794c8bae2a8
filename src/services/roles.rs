//! Which roles a process runs, and how each is started from the configuration.

use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use futures::FutureExt as _;
use ingest::gateway::Gateway;
use ingest::log::Broker;
use processors::anomaly::{Features, Score};
use processors::completeness::{Completeness, Writers};
use processors::pii::{Pii, PiiConfig};
use processors::stage::Processor;
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
use crate::roles::{self, StagePlace};
use crate::runner::control::{Condition, Control};
use crate::runner::input::StageInput;

/// The roles of a process, upstream first.
pub(super) fn specs<B: Broker>(broker: &B, config: &Config, role: Role, opened: &mut Opened<B>) -> Vec<RoleSpec> {
    let mut specs = Vec::new();
    specs.extend(opened.gateway.take().map(|gateway| intake(gateway, config)));
    if let Some(keys) = &opened.keys {
        let pii = PiiConfig { keys: keys.clone(), policies: config.pii.policies() };
        let registry = opened.registry.clone();
        specs.push(stage_with(broker, "pii", roles::PII, registry, move || Pii::new(pii.clone())));
    }
    if role.runs(Role::Completeness) {
        let mut completeness = config.completeness.clone();
        completeness.source_partitions = opened.partitions;
        specs.push(stage(broker, "completeness", roles::COMPLETENESS, move || Completeness::new(completeness.clone())));
        let writers = config.writers.clone();
        specs.push(stage(broker, "writers", roles::WRITERS, move || Writers::new(writers.clone())));
    }
    if role.runs(Role::Anomaly) {
        let features = config.anomaly.features(opened.partitions);
        specs.push(stage(broker, "features", roles::FEATURES, move || Features::new(features.clone())));
        let score = config.anomaly.score();
        specs.push(stage(broker, "score", roles::SCORE, move || Score::new(score.clone())));
    }
    for (topic, archive_group, load_group) in roles::SINK_TOPICS {
        if let Some(store) = &opened.store {
            specs.push(archive(broker, config, topic, archive_group, store.clone()));
        }
        if let Some(clickhouse) = &opened.clickhouse {
            specs.push(load(broker, config, topic, load_group, clickhouse.clone()));
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

fn stage<B, P>(
    broker: &B,
    role: &'static str,
    place: StagePlace,
    make: impl Fn() -> P + Send + Sync + 'static,
) -> RoleSpec
where
    B: Broker,
    P: Processor + 'static,
    P::Input: StageInput,
{
    stage_with(broker, role, place, None, make)
}

fn stage_with<B, P>(
    broker: &B,
    role: &'static str,
    place: StagePlace,
    registry: Option<SchemaRegistry>,
    make: impl Fn() -> P + Send + Sync + 'static,
) -> RoleSpec
where
    B: Broker,
    P: Processor + 'static,
    P::Input: StageInput,
{
    let broker = broker.clone();
    let start = move |control| roles::stage_with(broker.clone(), place, make(), registry.clone(), control).boxed();
    RoleSpec { role, label: role.to_owned(), ask: None, start: Box::new(start) }
}

fn archive<B: Broker>(broker: &B, config: &Config, topic: Topic, group: &'static str, store: Store) -> RoleSpec {
    let (broker, settings, flush_ms) = (broker.clone(), config.archive.sink(), config.archive.flush_interval_ms);
    let start = move |control: Control| {
        let (broker, store, settings) = (broker.clone(), store.clone(), settings.clone());
        async move {
            let role = ArchiveRole::open(store, settings).await?.with_metrics(control.metrics.clone());
            let role = if topic == Topic::Clean { role } else { role.with_clock_flush(flush_ms) };
            roles::sink(broker, group, topic, role, control).await
        }
        .boxed()
    };
    RoleSpec { role: "archive", label: format!("archive {topic}"), ask: None, start: Box::new(start) }
}

fn load<B: Broker>(
    broker: &B,
    config: &Config,
    topic: Topic,
    group: &'static str,
    clickhouse: ClickHouseConfig,
) -> RoleSpec {
    let (broker, settings, flush_ms) = (broker.clone(), config.load.sink(), config.load.flush_interval_ms);
    let start = move |control: Control| {
        let (broker, clickhouse) = (broker.clone(), clickhouse.clone());
        async move {
            let sink = ClickHouseSink::open(&clickhouse).await?;
            let role = LoadRole::new(sink, settings, flush_ms).with_metrics(control.metrics.clone());
            roles::sink(broker, group, topic, role, control).await
        }
        .boxed()
    };
    RoleSpec { role: "load", label: format!("load {topic}"), ask: None, start: Box::new(start) }
}

fn alert<B: Broker>(broker: &B, config: &Config, metrics: AlertMetrics) -> RoleSpec {
    let (broker, settings) = (broker.clone(), config.alert.clone());
    let start = move |control: Control| {
        let (broker, settings, metrics) = (broker.clone(), settings.clone(), metrics.clone());
        async move { alert_role::run(broker, &control.identity.instance, &settings, &metrics, &control).await }.boxed()
    };
    RoleSpec { role: "alert", label: "alert".to_owned(), ask: None, start: Box::new(start) }
}
