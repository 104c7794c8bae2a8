//! One simulated installation: every role, each started again by a supervisor until its work is done.
//!
//! Single thread, simulated time. The supervisor knows when a life of a role ended and nothing of why.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use futures::future::try_join_all;
use ingest::log::memory::MemoryBroker;
use ingest::log::{Appender as _, Broker as _, ErrorClass, LogError};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use schemas::record::{OutRecord, PartitionId, Position};
use schemas::topic::Topic;
use sinks::error::ErrorClass as SinkClass;
use sinks::parquet::store::Store;
use tokio::task::JoinHandle;

use super::Broken;
use super::chaos::{Attempt, Chaos, Gate};
use super::lanes::Topics;
use super::log::SimBroker;
use super::misnamed::Misnamed;
use super::setup::Setup;
use super::store::SimStore;
use super::tables::{SimSink, Tables};
use crate::archive_role::ArchiveRole;
use crate::load_role::LoadRole;
use crate::roles;
use crate::runner::control::{Control, Flag};
use crate::runner::sink::RoleError;
use crate::sink_table::{PUBLISHED, Sink};
use crate::stage_table::{self, StageSettings, StageSpec};

/// Lives of one role after which it counts as never getting anywhere.
const LIVES_MAX: u32 = 300;

/// What all roles share.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) broker: MemoryBroker,
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) tables: Tables,
    pub(super) chaos: Chaos,
    pub(super) setup: Setup,
    pub(super) broken: Option<Broken>,
}

impl World {
    /// An empty installation.
    pub(super) fn new(setup: Setup, chaos: Chaos, broken: Option<Broken>) -> Self {
        let broker = if setup.is_dense { MemoryBroker::new() } else { MemoryBroker::with_control_records() };
        let objects: Arc<dyn ObjectStore> = match broken {
            Some(Broken::LastOffsetInKey) => Arc::new(Misnamed::default()),
            _ => Arc::new(InMemory::new()),
        };
        Self { broker, objects, tables: Tables::default(), chaos, setup, broken }
    }

    /// Every record of the topics, as the log holds them.
    pub(super) async fn topics(&self, topics: &[Topic]) -> anyhow::Result<Topics> {
        let mut held = Topics::new();
        for topic in topics {
            for partition in 0..self.broker.partitions(*topic).await? {
                let id = PartitionId { topic: *topic, partition };
                held.insert(id, self.broker.records(id));
            }
        }
        Ok(held)
    }

    /// The archive that a run without faults makes of the log as it stands: key to bytes.
    ///
    /// # Errors
    /// The archive stopped.
    pub(super) async fn archived_again(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let calm = Self {
            objects: Arc::new(InMemory::new()),
            chaos: Chaos::new(self.setup.seed, 0),
            broken: None,
            ..self.clone()
        };
        // Raised before it starts: the log is whole, and the archive ends at its end.
        let done = Flag::default();
        done.raise();
        for topic in PUBLISHED {
            calm.archive(&done, topic, format!("again-{}", topic.short_name()).into()).await?;
        }
        calm.objects().await
    }

    /// Every object of the archive: key to bytes.
    pub(super) async fn objects(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let store = Store::new(Arc::clone(&self.objects));
        let mut held = BTreeMap::new();
        for object in store.list("archive", None).await? {
            let key = object.location.to_string();
            let bytes = store.get(&key).await?.unwrap_or_default();
            held.insert(key, bytes.to_vec());
        }
        Ok(held)
    }

    fn log(&self, gate: &Gate) -> SimBroker {
        SimBroker { inner: self.broker.clone(), gate: gate.clone(), broken: self.broken }
    }

    fn store(&self, gate: &Gate) -> Store {
        Store::new(Arc::new(SimStore { inner: Arc::clone(&self.objects), gate: gate.clone() }))
    }

    /// Appends the input and runs every role to its end, faults and all. Where each record of the input
    /// was acknowledged.
    ///
    /// # Errors
    /// A role stopped for good, which no fault of the simulation is a reason for.
    pub(super) async fn run(&self, input: Vec<OutRecord>) -> anyhow::Result<Vec<Position>> {
        roles::create_topics(&self.broker, self.setup.partitions).await?;
        let waves = stage_table::waves();
        // The input of each wave, and behind the last what is published: raised once no more of it comes.
        let complete: Vec<Flag> = (0..=waves.len()).map(|_| Flag::default()).collect();
        let settings = self.setup.stages();
        let flags = complete.iter().zip(complete.iter().skip(1));
        let stages = try_join_all(
            waves.iter().zip(flags).map(|(wave, (before, after))| self.wave(wave, &settings, before, after)),
        );
        let published = &complete[waves.len()];
        let (acknowledged, ..) = tokio::try_join!(self.intake(input, &complete[0]), stages, self.sinks(published))?;
        Ok(acknowledged)
    }

    /// Runs stages that do not wait for each other.
    async fn wave(
        &self,
        wave: &[&'static StageSpec],
        settings: &StageSettings,
        input: &Flag,
        output: &Flag,
    ) -> anyhow::Result<()> {
        try_join_all(wave.iter().map(|spec| {
            self.supervise(spec.name, input, |world, gate, control| {
                roles::stage(world.log(&gate), spec.stage, settings, None, control)
            })
        }))
        .await?;
        output.raise();
        Ok(())
    }

    async fn intake(&self, input: Vec<OutRecord>, done: &Flag) -> anyhow::Result<Vec<Position>> {
        let mut appender = self.broker.appender().await?;
        let mut acknowledged = Vec::with_capacity(input.len());
        let mut input = input.into_iter().peekable();
        while input.peek().is_some() {
            // In bursts of any size, so that roles meet the log at any length.
            let count = 1 + self.chaos.draw(60) as usize;
            acknowledged.extend(appender.append(input.by_ref().take(count).collect()).await?);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        done.raise();
        Ok(acknowledged)
    }

    async fn sinks(&self, done: &Flag) -> anyhow::Result<()> {
        // All archives before all loaders: the order in which they are polled is part of what a seed fixes.
        let archives = try_join_all(PUBLISHED.map(|topic| self.archive(done, topic, Sink::Archive.group(topic))));
        let loaders = try_join_all(PUBLISHED.map(|topic| self.load(done, topic, Sink::Load.group(topic))));
        tokio::try_join!(archives, loaders)?;
        Ok(())
    }

    async fn archive(&self, done: &Flag, topic: Topic, group: Cow<'static, str>) -> anyhow::Result<()> {
        let life = move |w: World, g: Gate, c: Control, group: Cow<'static, str>| async move {
            let role = ArchiveRole::open(w.store(&g), w.setup.archive()).await?;
            let role = match w.setup.clock_flush_ms {
                // As the services do: the clean topic has ticks.
                Some(flush_ms) if !topic.has_ticks() => role.with_clock_flush(flush_ms),
                _ => role,
            };
            roles::sink(w.log(&g), &group, topic, role, c).await
        };
        self.supervise(Sink::Archive.spec().name, done, |w, g, c| life(w, g, c, group.clone())).await
    }

    async fn load(&self, done: &Flag, topic: Topic, group: Cow<'static, str>) -> anyhow::Result<()> {
        let life = move |w: World, g: Gate, c: Control, group: Cow<'static, str>| async move {
            let sink = SimSink::new(w.tables.clone(), g.clone(), w.broken);
            let role = LoadRole::new(sink, w.setup.load(), w.setup.load_flush_ms);
            roles::sink(w.log(&g), &group, topic, role, c).await
        };
        self.supervise(Sink::Load.spec().name, done, |w, g, c| life(w, g, c, group.clone())).await
    }

    /// Starts a role again and again until one life reaches the end of its input.
    async fn supervise<F, R>(&self, name: &'static str, upstream_done: &Flag, life: F) -> anyhow::Result<()>
    where
        F: Fn(World, Gate, Control) -> R,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut sleepers: Vec<(JoinHandle<anyhow::Result<()>>, Arc<Attempt>)> = Vec::new();
        for _ in 0..LIVES_MAX {
            // A life of its own each time: what crashed must not be woken by faults of its successor.
            let attempt = Arc::new(Attempt::default());
            let control = Control { upstream_done: upstream_done.clone(), ..Control::default() };
            let mut task = tokio::spawn(life(self.clone(), self.chaos.gate(name, Arc::clone(&attempt)), control));
            tokio::select! {
                biased;
                () = attempt.crashed.notified() => {
                    task.abort();
                    // An aborted task answers that it was aborted.
                    let _aborted = task.await;
                }
                // Kept alive beside its successor: it wakes into a world in which it was replaced.
                () = attempt.stalled.notified() => sleepers.push((task, attempt)),
                outcome = &mut task => match outcome.context("a role panicked")? {
                    Ok(()) => return wake(name, sleepers).await,
                    // A supervisor knows no more than this: it was ended by something that passes.
                    Err(error) if is_survivable(&error) => {}
                    Err(error) => return Err(error.context(format!("role {name} stopped for good"))),
                },
            }
        }
        anyhow::bail!("role {name} got nowhere in {LIVES_MAX} lives")
    }
}

/// Lets what still stands still resume and waits until it has noticed that it was replaced.
async fn wake(name: &'static str, sleepers: Vec<(JoinHandle<anyhow::Result<()>>, Arc<Attempt>)>) -> anyhow::Result<()> {
    for (mut task, attempt) in sleepers {
        loop {
            attempt.release();
            tokio::select! {
                biased;
                () = attempt.crashed.notified() => {
                    task.abort();
                    break;
                }
                () = attempt.stalled.notified() => {}
                outcome = &mut task => match outcome.context("a role panicked")? {
                    // It may end cleanly or by being fenced; stopping for good would stop an installation that runs.
                    Err(error) if !is_survivable(&error) => {
                        return Err(error.context(format!("role {name}, replaced, stopped for good")));
                    }
                    _ => break,
                },
            }
        }
    }
    Ok(())
}

/// Whether a new life may try again: it was replaced, or what failed passes.
fn is_survivable(error: &anyhow::Error) -> bool {
    let log = |error: &LogError| error.class != ErrorClass::Fatal;
    // Roles wrap their errors with what they were doing; the class is that of the cause.
    error.chain().any(|cause| {
        cause.downcast_ref::<LogError>().is_some_and(log)
            || cause
                .downcast_ref::<sinks::error::SinkError>()
                .is_some_and(|e| matches!(e.class, SinkClass::Retry | SinkClass::Restart))
            || matches!(cause.downcast_ref::<RoleError>(), Some(RoleError::Log(e)) if log(e))
            || matches!(
                cause.downcast_ref::<RoleError>(),
                Some(RoleError::Sink(e)) if matches!(e.class, SinkClass::Retry | SinkClass::Restart)
            )
    })
}
