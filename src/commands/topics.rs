//! `custody topics`: makes the topics, says what is wrong with them, or goes on with more partitions.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use ingest::log::Broker;
use ingest::log::kafka::KafkaBroker;

use crate::config::{Config, ConfigArgs};
use crate::operate::connect::{self, OnLog, on_log};
use crate::operate::migrate::{Migration, Request};
use crate::operate::status::reader_roles;
use crate::operate::topics::{self, Severity};
use crate::roles;

/// What to do with the topics.
#[derive(Debug, Subcommand)]
pub enum TopicsCommand {
    /// Create every topic that does not exist. One that exists is left as it is, but for partitions that stages of
    /// this version need and the topic does not have yet: they are added, also while it is in use.
    Create {
        /// Where the log is.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Check that every topic exists, with the right partitions and settings. Exit status 1 if not.
    Check {
        /// Where the log is.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Move to more partitions, in the next generation of the topics, while events arrive.
    ///
    /// A session keeps its state in its partition, so that partitions are not added to a topic in use: the topics
    /// get a next version (custody.events.v2, ...) with more partitions, this one is read to its end, and the state
    /// of what is open is carried over. Agents that keep a spool lose nothing and notice a short pause; every
    /// event is archived and loaded once, and a session that continues in the next generation has no gap.
    ///
    /// Without --execute it prints what it would do and what prevents it, and changes nothing. With --execute it
    /// carries out the steps, prints when to start which role, and ends when all is done; run again after any
    /// interruption, it resumes. Run it with the configuration of the old generation
    /// (log.generation, log.partitions), while its roles run. The number of partitions cannot be lowered, and the
    /// embedded log keeps its own.
    Migrate(MigrateArgs),
}

/// Arguments of `custody topics migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Where the log is, and which alert receivers there are.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Partitions of the events topic afterwards.
    #[arg(long, value_name = "N")]
    pub partitions: u32,
    /// Carry it out; without this option the steps are only printed.
    #[arg(long)]
    pub execute: bool,
    /// Withdraw the announcement; possible until the next generation accepts events.
    #[arg(long, conflicts_with = "execute")]
    pub abort: bool,
    /// A role that this installation does not run and that is not waited for, by its name in `custody status`. May
    /// be given several times.
    #[arg(long, value_name = "ROLE")]
    pub without: Vec<String>,
    /// Continue although dead letters are open: they stay in the old topic and cannot be replayed.
    #[arg(long)]
    pub leave_dead_letters: bool,
}

fn migrate(args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?.config;
    config.schemas.configure()?;
    let Some(kafka) = connect::kafka(&config)? else {
        anyhow::bail!("the embedded log keeps its {} partitions: more are for topics on Kafka", config.log.partitions);
    };
    let roles = reader_roles();
    if let Some(unknown) = args.without.iter().find(|role| !roles.contains(&role.as_str())) {
        anyhow::bail!("--without {unknown}: there is no such role; there are {}", roles.join(", "));
    }
    let request = Request {
        partitions: args.partitions,
        without: args.without.iter().cloned().collect(),
        leave_dead_letters: args.leave_dead_letters,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut migration = Migration::look(&config, KafkaBroker::new(kafka)?, request).await?;
        match (args.execute, args.abort) {
            (true, _) => migration.execute().await,
            (_, true) => migration.abort().await,
            _ => migration.plan().await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Carries the command out.
///
/// # Errors
/// The log cannot be reached, or refuses.
pub fn run(command: &TopicsCommand) -> anyhow::Result<ExitCode> {
    let (args, creates) = match command {
        TopicsCommand::Create { config } => (config, true),
        TopicsCommand::Check { config } => (config, false),
        TopicsCommand::Migrate(args) => return migrate(args),
    };
    let config = args.load()?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(on_log(&config, Work { config: &config, creates }))
}

struct Work<'a> {
    config: &'a Config,
    creates: bool,
}

impl OnLog for Work<'_> {
    type Output = ExitCode;

    async fn run<B: Broker>(self, broker: B) -> anyhow::Result<ExitCode> {
        let partitions = self.config.log.partitions;
        if self.creates {
            let generation = self.config.log.generation;
            anyhow::ensure!(generation == 1, "`custody topics migrate` makes the topics of generation {generation}");
            roles::create_topics(&broker, partitions).await?;
            roles::start_receivers(&broker, &self.config.alert.groups()).await?;
        }
        let seen = topics::look(&broker).await?;
        for topic in &seen {
            let count = topic.partitions.map_or("missing".to_owned(), |n| format!("{n} partitions"));
            println!("{:<34} {count}", topic.topic.name());
        }
        let complaints = topics::judge(&seen, partitions);
        for complaint in &complaints {
            let mark = if complaint.severity == Severity::Failure { "FAIL" } else { "WARN" };
            println!("{mark}  {}: {}\n      remedy: {}", complaint.names(), complaint.what, complaint.remedy);
        }
        let is_bad = complaints.iter().any(|c| c.severity == Severity::Failure);
        Ok(if is_bad { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}
