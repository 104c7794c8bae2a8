//! Opens what roles need and tests it, before the first of them runs.
//!
//! A server that is not there yet is waited for; a setting that is wrong ends the start. What was opened
//! for one role is not opened for another: a process asks only for what its own roles use.

use std::collections::BTreeMap;

use anyhow::Context as _;
use ingest::gateway::Gateway;
use ingest::log::{Broker, Successor};
use processors::pii::TokenKeys;
use prometheus_client::registry::Registry;
use schemas::record::PartitionId;
use schemas::topic::Topic;
use sinks::alerts::receiver::Receiver;
use sinks::clickhouse::client::{ClickHouse, ClickHouseConfig};
use sinks::clickhouse::insert::ClickHouseSink;
use sinks::clickhouse::migrate;
use sinks::error::{ErrorClass, SinkError};
use sinks::parquet::store::Store;
use sinks::retry::Backoff;

use super::health::Registries;
use super::keys;
use super::supervise::{Remedy, remedy};
use crate::alert_role::AlertMetrics;
use crate::clock;
use crate::commands::engine;
use crate::config::{Config, Role};
use crate::embedded::{EmbeddedClickHouse, EmbeddedOptions};
use crate::operate::{self, connect};
use crate::registry::{RegistryClient, SchemaRegistry};
use crate::roles;
use crate::stage_table::Stage;

/// Memory that the embedded engine may take, bytes.
const ENGINE_BYTES_MAX: u64 = 4 << 30;

/// What was opened.
#[derive(Debug)]
pub(super) struct Opened<B> {
    /// The gateway, which listens already.
    pub(super) gateway: Option<Gateway<B>>,
    /// Partitions of the events topic.
    pub(super) partitions: u32,
    /// For the stage `pii`.
    pub(super) keys: Option<TokenKeys>,
    /// For the stage `pii`, where others' schemas are asked for.
    pub(super) registry: Option<SchemaRegistry>,
    /// For notifications.
    pub(super) alerts: AlertMetrics,
    /// For the archive.
    pub(super) store: Option<Store>,
    /// For the loader.
    pub(super) clickhouse: Option<ClickHouseConfig>,
    /// The engine that was started, if one was.
    pub(super) engine: Option<EmbeddedClickHouse>,
}

/// Tries until it succeeds or a person must look.
async fn persist<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let delays = Backoff { initial_ms: 250, max_ms: 5_000 }.delays(0);
    for delay in delays {
        match attempt().await {
            Err(error) if remedy(&error) == Remedy::Again => {
                tracing::warn!("{what} is not there yet, trying again: {error:#}");
                tokio::time::sleep(delay).await;
            }
            outcome => return outcome.with_context(|| format!("cannot use {what}")),
        }
    }
    anyhow::bail!("{what} never answered")
}

/// Opens everything that `role` needs.
///
/// # Errors
/// What cannot be used and the remedy.
pub(super) async fn open<B: Broker>(
    broker: &B,
    config: &Config,
    role: Role,
    registries: &Registries,
) -> anyhow::Result<Opened<B>> {
    let partitions = persist("the log", || topics(broker, config, role)).await?;
    let mut opened = Opened {
        gateway: None,
        partitions,
        keys: None,
        registry: None,
        alerts: AlertMetrics::default(),
        store: None,
        clickhouse: None,
        engine: None,
    };
    if role.runs(Role::Gateway) {
        let mut registry = Registry::default();
        let instance = config.instance();
        let bound = Gateway::bind(config.gateway.clone(), &instance, broker.clone(), clock::now, &mut registry).await;
        opened.gateway = Some(bound?);
        registries.add(registry);
    }
    if role.runs(Role::Pii) {
        opened.keys = Some(token_keys(broker, config, role).await?);
        // It is not waited for: what is known, and what is of our own schemas, needs no registry.
        opened.registry = RegistryClient::new(&config.schemas.registry)?.map(SchemaRegistry::new);
        if let Some(schemas) = &opened.registry {
            let mut registry = Registry::default();
            schemas.register(&mut registry);
            registries.add(registry);
        }
    }
    if role.runs(Role::Alert) {
        // Reads the files of their secrets.
        Receiver::open_all(&config.alert)?;
        let mut registry = Registry::default();
        opened.alerts.register(&mut registry);
        registries.add(registry);
    }
    if role.runs(Role::Archive) {
        let nonce = clock::now().0.unsigned_abs();
        let store = Store::open(&config.store())?;
        persist("the object store", async || {
            store.self_test(nonce).await?;
            Ok(())
        })
        .await?;
        opened.store = Some(store);
    }
    if role.runs(Role::Load) {
        let engine = start_engine(config).await?;
        let clickhouse = connect::clickhouse_at(config, engine.url())?;
        // From here on a failure must not leave the engine to the end of the process.
        opened.engine = Some(engine);
        if let Err(error) = persist("ClickHouse", || tables(&clickhouse)).await {
            opened.close().await;
            return Err(error);
        }
        opened.clickhouse = Some(clickhouse);
    }
    Ok(opened)
}

impl<B> Opened<B> {
    /// Ends what was started.
    pub(super) async fn close(&mut self) {
        if let Some(engine) = self.engine.take()
            && let Err(error) = engine.stop().await
        {
            tracing::warn!("{error}");
        }
    }
}

/// Makes the topics (`up`) or checks that they are there; partitions of the events topic.
async fn topics<B: Broker>(broker: &B, config: &Config, role: Role) -> anyhow::Result<u32> {
    let (partitions, generation) = (config.log.partitions, config.log.generation);
    if let Some(why) = superseded(&broker.successor().await?, role, generation) {
        anyhow::bail!(why);
    }
    if role == Role::Up && generation == 1 {
        roles::create_topics(broker, partitions).await?;
        roles::start_receivers(broker, &config.alert.groups()).await?;
        return Ok(partitions);
    }
    for &topic in topics_of(role) {
        // Later generations are made in order by a migration: what is not there yet must not be made here.
        let found = broker.partitions_now(topic).await?.with_context(|| match generation {
            1 => format!("topic {topic} does not exist: run `custody topics create` first"),
            _ => format!(
                "generation {generation} of topic {topic} does not exist: `custody topics migrate` makes it, go on with it \
                 until it says that this role may start"
            ),
        })?;
        if let Some(why) = operate::topics::miscounted(topic, found, partitions) {
            anyhow::bail!(why);
        }
    }
    Ok(partitions)
}

/// The topics that a role needs to start. Intake needs no more than what it writes to, so that it may go on
/// while a migration is still draining what came before.
fn topics_of(role: Role) -> &'static [Topic] {
    match role {
        Role::Gateway => &[Topic::Events],
        _ => Topic::ALL,
    }
}

/// Why a role of this generation of the topics must not run, if it must not.
pub(super) fn superseded(successor: &Successor, role: Role, generation: u32) -> Option<String> {
    let next = generation + 1;
    let partitions = successor.announced?;
    let set = format!("set log.generation = {next} and log.partitions = {partitions}");
    match (successor.is_complete, role.runs(Role::Gateway)) {
        (true, _) => Some(format!("the topics have gone on to generation {next}: {set}")),
        (false, true) => Some(format!(
            "`custody topics migrate` is under way and generation {generation} of the topics takes no more events: {set}, \
             once it says so"
        )),
        (false, false) => None,
    }
}

async fn token_keys<B: Broker>(broker: &B, config: &Config, role: Role) -> anyhow::Result<TokenKeys> {
    let path = config.pii_keys_file();
    if role != Role::Up {
        return keys::read(&path);
    }
    let mut is_first = config.log.generation == 1;
    for partition in broker.numbers(Topic::Events).await? {
        let at = PartitionId { topic: Topic::Events, partition };
        let committed = persist("the log", async || Ok(broker.committed(Stage::Pii.spec().group, at).await?)).await?;
        is_first &= committed.is_none();
    }
    keys::read_or_make(&path, is_first)
}

async fn start_engine(config: &Config) -> anyhow::Result<EmbeddedClickHouse> {
    let options = EmbeddedOptions {
        url: Some(config.clickhouse.url.clone()).filter(|url| !url.is_empty()),
        data_dir: engine::engine_dir(&config.data_dir),
        port: config.clickhouse.port,
        memory_bytes_max: Some(ENGINE_BYTES_MAX),
        ..EmbeddedOptions::default()
    };
    EmbeddedClickHouse::start(&options).await.context("cannot start ClickHouse")
}

/// Brings the layout up to date and checks it. A user who may not change it will do where it is current.
async fn tables(config: &ClickHouseConfig) -> anyhow::Result<()> {
    let server = ClickHouse::new(config)?;
    let migrated = migrate::migrate(&server).await;
    match (migrated, ClickHouseSink::open(config).await) {
        (_, Ok(_)) => Ok(()),
        // Why it could not be made says more than that it is not there.
        (Err(error), Err(SinkError { class: ErrorClass::Config, .. })) => Err(error.into()),
        (_, Err(error)) => Err(error.into()),
    }
}

/// Files of secrets by setting, for `config check`: those that cannot be read.
pub(crate) fn missing_files(config: &Config, role: Role) -> Vec<String> {
    let mut files: BTreeMap<String, std::path::PathBuf> = BTreeMap::new();
    for (name, path) in &config.log.librdkafka_file.0 {
        files.insert(format!("log.librdkafka_file {name:?}"), path.into());
    }
    if !config.log.oauth_token_file.as_os_str().is_empty() {
        files.insert("log.oauth_token_file".to_owned(), config.log.oauth_token_file.clone());
    }
    if role.runs(Role::Load) && !config.clickhouse.ca_file.as_os_str().is_empty() {
        files.insert("clickhouse.ca_file".to_owned(), config.clickhouse.ca_file.clone());
    }
    if role.runs(Role::Load) && !config.clickhouse.password_file.as_os_str().is_empty() {
        files.insert("clickhouse.password_file".to_owned(), config.clickhouse.password_file.clone());
    }
    if role.runs(Role::Pii) && !config.pii.keys_file.as_os_str().is_empty() {
        files.insert("pii.keys_file".to_owned(), config.pii.keys_file.clone());
    }
    if role.runs(Role::Pii) {
        let registry = &config.schemas.registry;
        let named = [
            ("schemas.registry.password_file", &registry.password_file),
            ("schemas.registry.token_file", &registry.token_file),
            ("schemas.registry.ca_file", &registry.ca_file),
        ];
        let named = named.into_iter().filter(|(_, path)| !path.as_os_str().is_empty());
        files.extend(named.map(|(setting, path)| (setting.to_owned(), path.clone())));
    }
    let problem = |(setting, path): (String, std::path::PathBuf)| {
        std::fs::File::open(&path).err().map(|error| format!("{setting}: cannot read {}: {error}", path.display()))
    };
    files.into_iter().filter_map(problem).collect()
}
