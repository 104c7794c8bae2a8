//! The `custody` binary: parses the command line, runs, and turns an error into an exit code.

use std::process::ExitCode;

use clap::Parser;
use custody::cli::Cli;

fn main() -> ExitCode {
    custody::memory::init();
    custody::embedded::run_if_child();
    // One provider for every TLS connection; another one in the process would be a defect.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider is installed already");
        return ExitCode::from(2);
    }
    match custody::cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
