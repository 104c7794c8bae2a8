//! `custody clickhouse`: the engine of a data directory, for curl and other clients.

use std::process::ExitCode;

use crate::cli::ClickhouseArgs;
use crate::commands::engine;

/// Runs the engine until interrupted; with `--check` only says whether one can be had.
///
/// # Errors
/// No engine can be had, or its data directory is in use.
pub fn run(args: &ClickhouseArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if args.check {
            let scratch = std::env::temp_dir().join(format!("custody-check-{}", std::process::id()));
            let engine = engine::start(&scratch, None, 0).await?;
            println!("ClickHouse answers at {}", engine.url());
            engine.stop().await?;
            std::fs::remove_dir_all(&scratch)?;
            return Ok(ExitCode::SUCCESS);
        }
        let engine = engine::start(&args.data_dir, None, args.port).await?;
        println!("ClickHouse of {} answers at {}", args.data_dir.display(), engine.url());
        println!(
            "  curl '{}/?database=custody' --data-binary 'SELECT * FROM accuracy FORMAT PrettyCompact'",
            engine.url()
        );
        println!("Press Ctrl-C to stop.");
        wait_for_interrupt().await?;
        engine.stop().await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Returns at SIGINT or SIGTERM.
///
/// # Errors
/// Signals cannot be received.
pub async fn wait_for_interrupt() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
