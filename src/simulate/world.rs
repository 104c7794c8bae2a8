//! One simulated installation: every role, each started again by a supervisor until its work is done.
//!
//! Single thread, simulated time. The supervisor knows when a life of a role ended and nothing of why.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use ingest::log::memory::MemoryBroker;
use ingest::log::{Appender as _, Broker as _, ErrorClass, LogError};
use object_store::memory::InMemory;
use processors::anomaly::{Features, Score};
use processors::completeness::{Completeness, Writers};
use processors::pii::Pii;
use schemas::record::OutRecord;
use schemas::topic::Topic;
use sinks::error::ErrorClass as SinkClass;
use sinks::parquet::archive::ArchiveConfig;
use sinks::parquet::store::Store;
use sinks::roll::RollPolicy;
use tokio::task::JoinHandle;

use super::Broken;
use super::chaos::{Attempt, Chaos, Gate};
use super::log::SimBroker;
use super::store::SimStore;
use super::tables::{SimSink, Tables};
use crate::archive_role::ArchiveRole;
use crate::demo::settings;
use crate::load_role::LoadRole;
use crate::roles;
use crate::runner::control::{Control, Flag};
use crate::runner::sink::RoleError;

/// Lives of one role after which it counts as never getting anywhere.
const LIVES_MAX: u32 = 300;

/// What all roles share.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) broker: MemoryBroker,
    pub(super) objects: Arc<InMemory>,
    pub(super) tables: Tables,
    pub(super) chaos: Chaos,
    pub(super) seed: u64,
    pub(super) partitions: u32,
    pub(super) broken: Option<Broken>,
}

impl World {
    /// An empty installation.
    pub(super) fn new(seed: u64, partitions: u32, chaos: Chaos, broken: Option<Broken>) -> Self {
        // Half of the seeds have transaction markers among the offsets, as Kafka does.
        let broker = if seed.is_multiple_of(2) { MemoryBroker::new() } else { MemoryBroker::with_control_records() };
        Self { broker, objects: Arc::new(InMemory::new()), tables: Tables::default(), chaos, seed, partitions, broken }
    }

    fn log(&self, gate: &Gate) -> SimBroker {
        SimBroker { inner: self.broker.clone(), gate: gate.clone(), broken: self.broken }
    }

    fn store(&self, gate: &Gate) -> Store {
        Store::new(Arc::new(SimStore { inner: Arc::clone(&self.objects), gate: gate.clone() }))
    }

    /// Appends the input and runs every role to its end, faults and all.
    ///
    /// # Errors
    /// A role stopped for good, which no fault of the simulation is a reason for.
    pub(super) async fn run(&self, input: Vec<OutRecord>) -> anyhow::Result<()> {
        roles::create_topics(&self.broker, self.partitions).await?;
        let stages = [Flag::default(), Flag::default(), Flag::default(), Flag::default()];
        let [events, clean, keyed, published] = &stages;
        let intake = self.intake(input, events);
        let first = async {
            self.supervise("pii", events, |w, g, c| async move {
                roles::stage(w.log(&g), roles::PII, Pii::new(settings::pii(w.seed)), c).await
            })
            .await?;
            clean.raise();
            anyhow::Ok(())
        };
        let second = async {
            let completeness = self.supervise("completeness", clean, |w, g, c| async move {
                let config = settings::completeness_of(w.partitions);
                roles::stage(w.log(&g), roles::COMPLETENESS, Completeness::new(config), c).await
            });
            let features = self.supervise("features", clean, |w, g, c| async move {
                let config = settings::features_of(w.partitions);
                roles::stage(w.log(&g), roles::FEATURES, Features::new(config), c).await
            });
            tokio::try_join!(completeness, features)?;
            keyed.raise();
            anyhow::Ok(())
        };
        let third = async {
            let writers = self.supervise("writers", keyed, |w, g, c| async move {
                roles::stage(w.log(&g), roles::WRITERS, Writers::new(settings::writers()), c).await
            });
            let score = self.supervise("score", keyed, |w, g, c| async move {
                roles::stage(w.log(&g), roles::SCORE, Score::new(settings::score()), c).await
            });
            tokio::try_join!(writers, score)?;
            published.raise();
            anyhow::Ok(())
        };
        tokio::try_join!(intake, first, second, third, self.sinks(published))?;
        Ok(())
    }

    async fn intake(&self, input: Vec<OutRecord>, done: &Flag) -> anyhow::Result<()> {
        let mut appender = self.broker.appender().await?;
        let mut input = input.into_iter().peekable();
        while input.peek().is_some() {
            let count = 1 + self.chaos.draw(60) as usize;
            appender.append(input.by_ref().take(count).collect()).await?;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        done.raise();
        Ok(())
    }

    async fn sinks(&self, done: &Flag) -> anyhow::Result<()> {
        let archive = |topic: Topic, group: &'static str| {
            self.supervise("archive", done, move |w, g, c| async move {
                let role = ArchiveRole::open(w.store(&g), archive_config(w.seed)).await?;
                roles::sink(w.log(&g), group, topic, role, c).await
            })
        };
        let load = |topic: Topic, group: &'static str| {
            self.supervise("load", done, move |w, g, c| async move {
                // Every second seed inserts at once, the others when a batch is full or at the end.
                let flush_interval_ms = if w.seed % 4 < 2 { 0 } else { i64::MAX };
                let sink = SimSink::new(w.tables.clone(), g.clone(), w.broken);
                let config = sinks::clickhouse::insert::LoadConfig { rows_max: 70, bytes_max: 1 << 20 };
                let role = LoadRole::new(sink, config, flush_interval_ms);
                roles::sink(w.log(&g), group, topic, role, c).await
            })
        };
        tokio::try_join!(
            archive(Topic::Clean, "custody-archive"),
            archive(Topic::Findings, "custody-archive-findings"),
            archive(Topic::Alerts, "custody-archive-alerts"),
            load(Topic::Clean, "custody-load"),
            load(Topic::Findings, "custody-load-findings"),
            load(Topic::Alerts, "custody-load-alerts"),
        )?;
        Ok(())
    }

    /// Starts a role again and again until one life reaches the end of its input.
    async fn supervise<F, R>(&self, name: &'static str, upstream_done: &Flag, life: F) -> anyhow::Result<()>
    where
        F: Fn(World, Gate, Control) -> R,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut sleepers: Vec<(JoinHandle<anyhow::Result<()>>, Arc<Attempt>)> = Vec::new();
        for _ in 0..LIVES_MAX {
            let attempt = Arc::new(Attempt::default());
            let control = Control { upstream_done: upstream_done.clone(), ..Control::default() };
            let mut task = tokio::spawn(life(self.clone(), self.chaos.gate(Arc::clone(&attempt)), control));
            tokio::select! {
                biased;
                () = attempt.crashed.notified() => {
                    task.abort();
                    // An aborted task answers that it was aborted.
                    let _aborted = task.await;
                }
                () = attempt.stalled.notified() => sleepers.push((task, attempt)),
                outcome = &mut task => match outcome.context("a role panicked")? {
                    Ok(()) => return wake(name, sleepers).await,
                    Err(error) if is_survivable(&error) => {}
                    Err(error) => return Err(error.context(format!("role {name} stopped for good"))),
                },
            }
        }
        anyhow::bail!("role {name} got nowhere in {LIVES_MAX} lives")
    }
}

/// Lets what still stands still go on and waits until it has noticed that it was replaced.
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

/// Small files, cut by rows, by log time or at the end, by seed.
fn archive_config(seed: u64) -> ArchiveConfig {
    let rows_max = if seed.is_multiple_of(3) { 40 } else { 1_000_000 };
    let flush_interval_ms = if seed % 3 == 1 { 900_000 } else { 3_600_000 };
    let roll = RollPolicy { rows_max, flush_interval_ms, ..RollPolicy::default() };
    ArchiveConfig { roll, build: "custody/simulation".to_owned(), ..ArchiveConfig::default() }
}
