//! Logs of the process itself, on standard error. No event content is ever logged.

use tracing_subscriber::EnvFilter;

/// Sets up logging: warnings, or what `CUSTODY_LOG` asks for (e.g. `info`, `custody=debug`); `-v`
/// means `info`, `-vv` means `debug`.
pub fn init(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("CUSTODY_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
