//! `custody config`: what is set, where it comes from, and whether a role can run with it.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;

use crate::config::{ConfigArgs, DEFAULT_TOML, Role};
use crate::services;

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective settings as TOML, each with its origin; secrets are masked.
    Print {
        /// Where it comes from.
        #[command(flatten)]
        at: ConfigArgs,
        /// Print every key with its default and its meaning instead.
        #[arg(long)]
        default: bool,
    },
    /// Check that a role can run with it; opens no files but those of secrets.
    Check {
        /// Where it comes from.
        #[command(flatten)]
        at: ConfigArgs,
        /// Role.
        #[arg(long, value_enum, default_value_t = Role::Up)]
        role: Role,
    },
}

/// Prints or checks; status 1 if the check fails.
///
/// # Errors
/// The configuration cannot be read.
pub fn run(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Print { default: true, .. } => print(DEFAULT_TOML),
        ConfigCommand::Print { at, default: false } => print(&at.load()?.print()?),
        ConfigCommand::Check { at, role } => check(at, *role),
    }
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn check(at: &ConfigArgs, role: Role) -> anyhow::Result<ExitCode> {
    let loaded = match at.load() {
        Ok(loaded) => loaded,
        Err(error) => return Ok(refused(&error.0)),
    };
    let mut problems = services::missing_files(&loaded.config, role);
    if let Err(error) = loaded.for_role(role) {
        problems.extend(error.0);
    }
    if problems.is_empty() {
        println!("{}: the configuration holds", role.name());
        return Ok(ExitCode::SUCCESS);
    }
    Ok(refused(&problems))
}

fn refused(problems: &[String]) -> ExitCode {
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    ExitCode::from(1)
}
