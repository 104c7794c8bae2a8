//! The `custody` binary: parses the command line, runs, and turns an error into an exit code.

use std::process::ExitCode;

use clap::Parser;
use custody::cli::Cli;

fn main() -> ExitCode {
    custody::memory::init();
    custody::embedded::run_if_child();
    // Fails only if there is one already.
    let _present = rustls::crypto::ring::default_provider().install_default();
    match custody::cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
