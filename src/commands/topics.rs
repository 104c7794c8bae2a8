//! `custody topics`: makes the topics, or says what is wrong with them.

use std::process::ExitCode;

use clap::Subcommand;
use ingest::log::Broker;

use crate::config::{Config, ConfigArgs};
use crate::operate::connect::{OnLog, on_log};
use crate::operate::topics::{self, Severity};
use crate::roles;

/// What to do with the topics.
#[derive(Debug, Subcommand)]
pub enum TopicsCommand {
    /// Make every topic that does not exist; an existing one is left as it is.
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
}

/// Carries the command out.
///
/// # Errors
/// The log cannot be reached, or refuses.
pub fn run(command: &TopicsCommand) -> anyhow::Result<ExitCode> {
    let (args, creates) = match command {
        TopicsCommand::Create { config } => (config, true),
        TopicsCommand::Check { config } => (config, false),
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
            roles::create_topics(&broker, partitions).await?;
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
