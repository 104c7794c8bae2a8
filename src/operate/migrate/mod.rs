//! From one generation of the topics to the next, with more partitions: nothing lost, nothing twice.
//!
//! Where a migration stands is read from the topics themselves, never remembered: the successor's topic of dead
//! letters announces it, its events topic opens its intake, its topic of clean events makes it complete. Every
//! step can therefore be done again after any interruption. What a step does is in `drain` and `carry`.

mod carry;
mod drain;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ingest::agent::tick::Ticker;
use ingest::log::kafka::KafkaBroker;
use ingest::log::{Broker, Successor};
use schemas::record::{PartitionId, first_partition};
use schemas::topic::Topic;

use super::topics::{self, Severity};
use crate::clock;
use crate::config::Config;
use crate::dlq::scan;
use crate::operate::status::ASKED_AT_A_TIME;
use crate::services::topology;
use crate::stage_table::partitions_of;

/// Name of the tool in the ticks that it writes.
const WRITER_ID: &str = "custody/migrate";
/// How long intake may take to stop.
const INTAKE_WAIT: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Request {
    /// Partitions of the events topic afterwards.
    pub partitions: u32,
    /// Roles that this installation does not run.
    pub without: BTreeSet<String>,
    /// Go on though dead letters are open, which stay in the old topic.
    pub leave_dead_letters: bool,
}

/// Where the migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nobody has begun.
    Nothing,
    /// Announced: intake stops, and the events topic is closed once it has.
    Announced,
    /// The next generation takes events; this one is drained, then its state carried over.
    Open,
    /// Every role runs on the next generation.
    Complete,
}

impl Stage {
    /// What the topics say.
    pub fn of(successor: &Successor) -> Self {
        match (successor.announced, successor.is_open, successor.is_complete) {
            (_, _, true) => Stage::Complete,
            (_, true, _) => Stage::Open,
            (Some(_), ..) => Stage::Announced,
            _ => Stage::Nothing,
        }
    }
}

/// A migration of an installation.
#[derive(Debug)]
pub struct Migration<'a> {
    config: &'a Config,
    request: Request,
    old: KafkaBroker,
    new: KafkaBroker,
    stage: Stage,
}

/// Says what happens.
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}

impl<'a> Migration<'a> {
    /// Looks where the installation stands and whether the request fits it.
    ///
    /// # Errors
    /// The log cannot be reached, its topics are not as the configuration has it, or another migration than this
    /// one has begun: the message names the remedy.
    pub async fn look(config: &'a Config, old: KafkaBroker, request: Request) -> anyhow::Result<Self> {
        let from = config.log.partitions;
        let new = old.of_generation(old.generation() + 1)?;
        let successor = old.successor().await?;
        let to = request.partitions;
        anyhow::ensure!(
            to > from && to <= 10_000,
            "--partitions {to}: there may only be more than the {from} of log.partitions (fewer would mix windows of \
             several partitions), and no more than 10000"
        );
        if let Some(announced) = successor.announced {
            anyhow::ensure!(
                announced == to,
                "a migration to {announced} partitions is under way: go on with --partitions {announced}"
            );
        }
        let migration = Self { config, request, old, new, stage: Stage::of(&successor) };
        migration.check_topics().await?;
        Ok(migration)
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    fn from(&self) -> u32 {
        self.config.log.partitions
    }

    /// The old topics are right; those of the next generation that exist have the right counts.
    async fn check_topics(&self) -> anyhow::Result<()> {
        let mut seen = topics::look(&self.old).await?;
        for topic in &mut seen {
            if topic.topic == Topic::Events && self.stage != Stage::Nothing {
                // Closed, as it should be.
                topic.settings.remove("max.message.bytes");
            }
        }
        let complaints = topics::judge(&seen, self.from());
        if let Some(bad) = complaints.iter().find(|c| c.severity == Severity::Failure) {
            anyhow::bail!("{}: {}; remedy: {}", bad.names(), bad.what, bad.remedy);
        }
        for &topic in Topic::ALL {
            let wanted = partitions_of(topic, self.request.partitions);
            let found = self.new.partitions_now(topic).await?.unwrap_or(wanted);
            let name = self.new.wire_name(topic);
            anyhow::ensure!(
                found == wanted,
                "{name} exists with {found} partitions and would have {wanted}: delete it"
            );
        }
        Ok(())
    }

    /// Says what would be done, and what stands against it.
    ///
    /// # Errors
    /// The log cannot be reached.
    pub async fn plan(&self) -> anyhow::Result<()> {
        let (from, to) = (self.from(), self.request.partitions);
        let (old, new) = (self.old.generation(), self.new.generation());
        say(format_args!("generation {old} with {from} partitions -> generation {new} with {to} ({:?})", self.stage));
        for &topic in Topic::ALL {
            let (old, new) = (self.old.wire_name(topic), self.new.wire_name(topic));
            say(format_args!("  {old} ({}) -> {new} ({})", partitions_of(topic, from), partitions_of(topic, to)));
        }
        say("now:");
        for reader in self.lags().await? {
            let unread = if reader.partitions_unread > 0 { ", has not read every partition yet" } else { "" };
            say(format_args!("  {:<13} {:<34} lag {}{unread}", reader.role, reader.group, reader.lag_records));
        }
        let letters = self.open_letters().await?;
        say(format_args!("  dead letters  {letters} open"));
        let first = first_partition(new);
        say(STEPS
            .replace("{old}", &old.to_string())
            .replace("{new}", &new.to_string())
            .replace("{to}", &to.to_string()));
        say(format_args!(
            "Partitions of generation {new} have numbers from {first} on in archive, tables and findings."
        ));
        for obstacle in self.obstacles().await? {
            say(format_args!("NOT YET: {obstacle}"));
        }
        Ok(())
    }

    async fn open_letters(&self) -> anyhow::Result<u64> {
        Ok(scan::letters(&self.old).await?.open_by_reason().values().sum())
    }

    /// What stands against beginning.
    async fn obstacles(&self) -> anyhow::Result<Vec<String>> {
        let mut obstacles = Vec::new();
        let letters = self.open_letters().await?;
        if letters > 0 && !self.request.leave_dead_letters {
            obstacles.push(format!(
                "{letters} dead letters are open, and cannot be replayed once the events topic is closed: see `custody dlq \
                 list`, or leave them where they are with --leave-dead-letters"
            ));
        }
        for reader in self.lags().await?.into_iter().filter(|r| r.partitions_unread > 0 && r.committed_next.is_empty())
        {
            obstacles.push(format!(
                "{} ({}) has never read {}: start it, or say --without {} if this installation does not run it",
                reader.role, reader.group, reader.topic, reader.role
            ));
        }
        Ok(obstacles)
    }

    /// Goes on from where it stands to the end.
    ///
    /// # Errors
    /// What could not be done and the remedy; the same command goes on there.
    pub async fn execute(&mut self) -> anyhow::Result<()> {
        if self.stage == Stage::Nothing {
            let obstacles = self.obstacles().await?;
            anyhow::ensure!(obstacles.is_empty(), "not begun:\n  {}", obstacles.join("\n  "));
        }
        if self.stage < Stage::Open {
            self.create(Successor::FIRST).await?;
            self.stop_intake().await?;
            self.close().await?;
            self.create(Topic::Events).await?;
            self.stage = Stage::Open;
        }
        let (generation, to) = (self.new.generation(), self.request.partitions);
        if self.stage < Stage::Complete {
            say(format_args!(
                "intake is open: start the gateways with log.generation = {generation} and log.partitions = {to}; the \
                 other roles go on as they are until everything is drained"
            ));
            self.drain().await?;
            self.carry().await?;
            self.start_receivers().await?;
            let rest = Topic::ALL.iter().filter(|t| **t != Successor::LAST);
            for &topic in rest {
                self.create(topic).await?;
            }
            self.create(Successor::LAST).await?;
            self.stage = Stage::Complete;
        }
        say(format_args!(
            "done: set log.generation = {generation} and log.partitions = {to} for every role and start it (roles of the \
             generation before end by themselves). Once nobody needs what they hold, these topics may be deleted:"
        ));
        Topic::ALL.iter().for_each(|&topic| say(format_args!("  {}", self.old.wire_name(topic))));
        Ok(())
    }

    async fn create(&self, topic: Topic) -> anyhow::Result<()> {
        self.new.create_topics(&[topic], partitions_of(topic, self.request.partitions)).await?;
        Ok(())
    }

    /// Waits until nobody appends any more: gateways see the announcement, finish what they have and end.
    async fn stop_intake(&self) -> anyhow::Result<()> {
        let tick = Duration::from_millis(self.config.gateway.tick_interval_ms);
        // As many as a look of theirs, the drain of a request, and a round of ticks take.
        let quiet = 3 * tick.max(topology::INTERVAL);
        say(format_args!(
            "waiting until intake has stopped: gateways end by themselves, nothing may come for {quiet:?}"
        ));
        let begun = tokio::time::Instant::now();
        let (mut ends, mut since) = (self.ends().await?, begun);
        while since.elapsed() < quiet {
            anyhow::ensure!(
                begun.elapsed() < INTAKE_WAIT,
                "events are still appended to {}: stop gateways of older versions and other producers, then run the \
                 command again; --abort takes the announcement back",
                self.old.wire_name(Topic::Events)
            );
            tokio::time::sleep(LOOK).await;
            let now = self.ends().await?;
            if now != ends {
                (ends, since) = (now, tokio::time::Instant::now());
            }
        }
        Ok(())
    }

    async fn ends(&self) -> anyhow::Result<Vec<u64>> {
        let mut ends = Vec::new();
        for partition in self.old.numbers(Topic::Events).await? {
            ends.push(self.old.bounds(PartitionId { topic: Topic::Events, partition }).await?.end);
        }
        Ok(ends)
    }

    /// Has the brokers refuse whoever still writes.
    async fn close(&self) -> anyhow::Result<()> {
        let closing = "the user needs ALTER_CONFIGS on the events topic";
        self.old.set_closed(Topic::Events, true).await.context(closing)?;
        let refusals = self.old.numbers(Topic::Events).await?.map(|partition| {
            let id = PartitionId { topic: Topic::Events, partition };
            let probe = move || {
                let now = clock::now();
                Ticker::new(WRITER_ID, now, partition..partition + 1).round(now).remove(0)
            };
            self.old.until_refused(id, probe)
        });
        // Each takes a producer of its own, half a second, and nothing is taken in meanwhile.
        stream::iter(refusals).buffered(ASKED_AT_A_TIME).try_collect::<()>().await?;
        say(format_args!("{} is closed: the brokers refuse every record", self.old.wire_name(Topic::Events)));
        Ok(())
    }

    /// Receivers that begin at the newest alert must not pass over those that come before they start.
    async fn start_receivers(&self) -> anyhow::Result<()> {
        self.create(Topic::Alerts).await?;
        for group in self.config.alert.groups() {
            for partition in self.new.numbers(Topic::Alerts).await? {
                let id = PartitionId { topic: Topic::Alerts, partition };
                if self.new.committed(&group, id).await?.is_none() {
                    self.new.commit_first(&group, id, 0).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes an announcement back: the installation goes on as it was.
    ///
    /// # Errors
    /// The next generation takes events already, or the log cannot be reached.
    pub async fn abort(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.stage < Stage::Open,
            "generation {} takes events already: there is no way back, go on without --abort",
            self.new.generation()
        );
        self.old.set_closed(Topic::Events, false).await?;
        self.new.delete_topic(Successor::FIRST).await?;
        say("taken back: start the gateways as they were");
        Ok(())
    }
}

const STEPS: &str = "\
What --execute does; after any interruption the same command goes on:
  1. announces generation {new}: gateways finish what they have and end; agents keep their events
  2. closes the events topic of generation {old}: the brokers refuse whoever still writes to it
  3. opens the events topic of generation {new}: start the gateways with log.generation = {new}, log.partitions = {to}
  4. waits until every role has read generation {old} to its end; the archive needs archive.flush_interval_ms for
     its last files, and rows of new events come after that
  5. carries state over: ledgers of open sessions, writers' numbers, what sessions revealed, open windows, baselines
  6. makes the other topics of generation {new}: start every other role with the settings of 3.
Not carried over: receivers may tell an alert that goes on a second time (repeat intervals begin anew), dead letters
that are open stay in the old topic, and producers that write to Kafka themselves must be told the new topic.";
