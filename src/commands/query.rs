//! `custody query`: one statement on the ClickHouse of a data directory.

use std::io::Write;
use std::process::ExitCode;

use crate::cli::QueryArgs;
use crate::commands::engine;

/// Runs the statement and prints the answer as ClickHouse formats it.
///
/// # Errors
/// No engine can be had, or ClickHouse refuses the statement.
pub fn run(args: &QueryArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let started = engine::start(&args.at.data_dir, args.at.clickhouse.clone(), 0).await?;
        let answer = engine::connect(&started, &args.at.database)?.text(&args.sql, "PrettyCompact").await;
        started.stop().await?;
        std::io::stdout().write_all(&answer?)?;
        Ok(ExitCode::SUCCESS)
    })
}
