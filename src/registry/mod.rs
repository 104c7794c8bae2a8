//! Schemas by the ids of a registry: asked for beside the roles, cached for ever.
//!
//! A registry never gives an id to another schema, so what it said once stays true and an outage of it
//! changes nothing for ids that are known. An id that is not known waits: no record is refused because
//! a registry was away. That an id does not exist is no such fact, since it may be registered later: it
//! is good for the records that asked, and then forgotten.

mod answer;
mod client;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use schemas::codec::{Registered, RegistryFacts, codec};
use schemas::topic::Topic;
use sinks::retry::Backoff;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use self::answer::Held;
pub use self::client::RegistryClient;
use crate::clock;
use crate::metrics::METRICS;
use crate::runner::control::{Condition, ConditionCell};

/// Schemas that are remembered; the least used one is asked for again beyond.
const SCHEMAS_MAX: u64 = 10_000;
/// Schemas that are asked for at the start.
const WARM_MAX: usize = 1_000;
/// Requests under way at one time.
const REQUESTS_MAX: usize = 8;
/// Ids are Java's `int`: one above cannot exist, whatever a garbled frame says.
const ID_MAX: u32 = i32::MAX as u32;
/// How long a batch waits for an answer before its partition is held.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long an id that does not exist is believed, if nobody took the answer.
const ABSENT_TTL: Duration = Duration::from_secs(2);
/// How often a registry of which nothing is wanted is asked whether it is there.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const BACKOFF: Backoff = Backoff { initial_ms: 250, max_ms: 5_000 };

/// The registry did not say what was asked; it is away, or something else answered in its place. Ask
/// again later: no record is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {message}")]
pub struct RegistryError {
    /// What was asked for.
    pub what: String,
    /// What happened, and the remedy.
    pub message: String,
}

/// What a schema registry says, remembered. A clone shares the memory.
#[derive(Debug, Clone)]
pub struct SchemaRegistry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: RegistryClient,
    facts: Cache<u32, Registered>,
    awaited: Mutex<BTreeSet<u32>>,
    /// Somebody awaits one more.
    asked: Notify,
    answered: watch::Sender<()>,
    condition: ConditionCell,
    up: Gauge,
    awaited_gauge: Gauge,
}

/// Nothing expires but that there is nothing.
struct Expires;

impl Expiry<u32, Registered> for Expires {
    fn expire_after_create(&self, _: &u32, fact: &Registered, _: std::time::Instant) -> Option<Duration> {
        matches!(fact, Registered::Absent).then_some(ABSENT_TTL)
    }
}

/// A schema as the codec of this process takes it.
fn fact(held: Held) -> Registered {
    match held {
        Held::Avro(text) => codec().registered(&text),
        Held::Other(why) => Registered::Unusable(why),
        Held::Nothing => Registered::Absent,
    }
}

impl SchemaRegistry {
    /// A memory of what `client` is told; [`SchemaRegistry::run`] does the asking.
    pub fn new(client: RegistryClient) -> Self {
        let facts = Cache::builder()
            .max_capacity(SCHEMAS_MAX)
            // A new answer goes before an old one: somebody waits for it.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Expires)
            .build();
        Self(Arc::new(Inner {
            client,
            facts,
            awaited: Mutex::default(),
            asked: Notify::new(),
            answered: watch::Sender::new(()),
            condition: ConditionCell::default(),
            up: Gauge::default(),
            awaited_gauge: Gauge::default(),
        }))
    }

    /// Shows whether it answers and what is awaited.
    pub fn register(&self, registry: &mut Registry) {
        let shown = [("custody_schema_registry_up", &self.0.up), ("custody_schemas_awaited", &self.0.awaited_gauge)];
        for (name, gauge) in shown {
            let help = METRICS.iter().find(|m| m.name == name).map_or("", |m| m.help);
            registry.register(name, help, gauge.clone());
        }
    }

    /// How it is doing: running once it has answered, retrying while it does not.
    pub fn condition(&self) -> Condition {
        self.0.condition.get()
    }

    /// What is known of these ids, after a short wait for those that are not. What is not in the answer is
    /// awaited from now on; [`SchemaRegistry::is_answered`] says when to ask again.
    pub async fn resolve(&self, ids: &BTreeSet<u32>) -> RegistryFacts {
        let mut answered = self.0.answered.subscribe();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let known: RegistryFacts = ids.iter().filter_map(|id| Some((*id, self.known(*id)?))).collect();
            let is_away = self.condition() == Condition::Retrying;
            let is_over = known.len() == ids.len() || is_away;
            // The sender lives as long as this registry.
            if is_over || tokio::time::timeout_at(deadline, answered.changed()).await.is_err() {
                self.forget_absent(&known);
                return known;
            }
        }
    }

    /// Whether something is known of an id; if not, it is awaited.
    pub fn is_answered(&self, id: u32) -> bool {
        self.known(id).is_some()
    }

    fn known(&self, id: u32) -> Option<Registered> {
        if id > ID_MAX {
            return Some(Registered::Absent);
        }
        let known = self.0.facts.get(&id);
        if known.is_none() && self.await_id(id) {
            self.0.asked.notify_one();
        }
        known
    }

    fn forget_absent(&self, facts: &RegistryFacts) {
        for (id, fact) in facts {
            if matches!(fact, Registered::Absent) {
                self.0.facts.invalidate(id);
            }
        }
    }

    /// Whether nobody awaited it before.
    fn await_id(&self, id: u32) -> bool {
        let mut awaited = self.0.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = awaited.insert(id);
        self.0.awaited_gauge.set(awaited.len() as i64);
        is_new
    }

    fn learn(&self, id: u32, fact: Registered) {
        if let Registered::Unusable(why) = &fact {
            tracing::warn!(id, "records of this registry id become dead letters: {why}");
        }
        self.0.facts.insert(id, fact);
        let mut awaited = self.0.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.remove(&id);
        self.0.awaited_gauge.set(awaited.len() as i64);
        drop(awaited);
        self.0.answered.send_replace(());
    }

    /// Asks for what is awaited, and now and then whether the registry is there; at the start for the
    /// schemas of the events topic, whose name on the brokers begins with `namespace`. Never returns.
    pub async fn run(&self, namespace: &str) {
        let seed = clock::now().0.unsigned_abs();
        let mut delays = BACKOFF.delays(seed);
        let mut is_warm = false;
        loop {
            match self.round(namespace, &mut is_warm).await {
                Ok(()) => {
                    self.mark(Condition::Running);
                    delays = BACKOFF.delays(seed);
                    tokio::select! {
                        () = self.0.asked.notified() => {}
                        () = tokio::time::sleep(PROBE_INTERVAL) => {}
                    }
                }
                Err(error) => {
                    self.mark(Condition::Retrying);
                    tracing::warn!("the schema registry is away, trying again; new schemas wait: {error}");
                    tokio::time::sleep(delays.next().unwrap_or_default()).await;
                }
            }
        }
    }

    fn mark(&self, condition: Condition) {
        self.0.condition.set(condition);
        self.0.up.set(i64::from(condition == Condition::Running));
        // Who waits with patience learns at once that there is nothing to wait for.
        self.0.answered.send_replace(());
    }

    async fn round(&self, namespace: &str, is_warm: &mut bool) -> Result<(), RegistryError> {
        let awaited = self.0.awaited.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match awaited.is_empty() && *is_warm {
            true => drop(self.0.client.types().await?),
            false => self.answer(&awaited).await?,
        }
        if !*is_warm {
            self.warm(namespace).await?;
            *is_warm = true;
        }
        Ok(())
    }

    /// Asks for all of them; one that fails does not keep the others back.
    async fn answer(&self, ids: &BTreeSet<u32>) -> Result<(), RegistryError> {
        let asked = futures::stream::iter(ids.iter().copied()).map(async |id| {
            self.learn(id, fact(self.0.client.schema(id).await?));
            Ok(())
        });
        let outcomes: Vec<Result<(), RegistryError>> = asked.buffer_unordered(REQUESTS_MAX).collect().await;
        outcomes.into_iter().collect()
    }

    /// Learns every version of the subjects that Confluent's naming strategies give records of the events
    /// topic, and of our own records.
    async fn warm(&self, namespace: &str) -> Result<(), RegistryError> {
        // Whatever the topics' generation: `custody.events.v1`, `custody.events.v2`.
        let of_topic = format!("{namespace}{}", Topic::Events.name().trim_end_matches(char::is_numeric));
        let of_record = format!("{}.", schemas::codec::NAMESPACE);
        let mut learned = 0;
        for subject in self.0.client.subjects().await? {
            if !subject.starts_with(&of_topic) && !subject.starts_with(&of_record) {
                continue;
            }
            for version in self.0.client.versions(&subject).await? {
                if learned == WARM_MAX {
                    tracing::warn!("only the first {WARM_MAX} schemas of the registry are asked for at the start");
                    return Ok(());
                }
                if let Some((id, held)) = self.0.client.version(&subject, version).await? {
                    self.learn(id, fact(held));
                    learned += 1;
                }
            }
        }
        tracing::info!(schemas = learned, "the schema registry answers");
        Ok(())
    }

    /// What the registry says of these ids now.
    ///
    /// # Errors
    /// It is away: nothing is known.
    pub async fn look_up(&self, ids: &BTreeSet<u32>) -> Result<RegistryFacts, RegistryError> {
        let (beyond, asked): (BTreeSet<u32>, BTreeSet<u32>) = ids.iter().copied().partition(|id| *id > ID_MAX);
        let mut facts: RegistryFacts = beyond.into_iter().map(|id| (id, Registered::Absent)).collect();
        for id in asked {
            facts.insert(id, fact(self.0.client.schema(id).await?));
        }
        Ok(facts)
    }
}
