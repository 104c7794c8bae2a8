//! Why an embedded ClickHouse could not be had, in words that name the object and the remedy.
//!
//! Errors of single statements are not here: those travel over HTTP in ClickHouse's own format.

use std::path::PathBuf;

/// What the user can do when no engine can be had; ends every message about that.
pub const REMEDIES: &str = "remedies: set the ClickHouse URL in the configuration; or install `clickhouse` on the PATH; \
or run `npm pack @chdb/lib-linux-x64-gnu@26.7.3-stable.1` (or the package of your platform) where npm works, unpack it \
and point CUSTODY_LIBCHDB to its libchdb.so";

/// Start or stop of the embedded ClickHouse failed. None of these is retried here.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No source of an engine is left; the caller reports it and stops.
    #[error("no ClickHouse engine: {reason}; {REMEDIES}")]
    Unavailable {
        /// What was looked for and what was missing.
        reason: String,
    },
    /// The npm client or the unpacking failed; trying again may help if the network was the cause.
    #[error("cannot fetch {package}: {reason}; {REMEDIES}")]
    Fetch {
        /// `name@version`.
        package: String,
        /// Exit code and last lines of the tool that failed, or the system's message.
        reason: String,
    },
    /// The fetched library is not the one this release was tested with; it was deleted again.
    #[error("{package}: libchdb.so has SHA-256 {found}, expected {expected}, and was deleted; {REMEDIES}")]
    Checksum {
        /// `name@version`.
        package: String,
        /// Pinned checksum.
        expected: String,
        /// Checksum of what arrived.
        found: String,
    },
    /// The engine's process ended, or did not answer in time, before it was ready.
    #[error("ClickHouse engine {engine} did not start: {reason}")]
    Start {
        /// The library or server binary.
        engine: PathBuf,
        /// How it ended, with the last lines it wrote to standard error.
        reason: String,
    },
    /// The engine's process did not end as asked; it is gone in any case, and its acknowledged rows are kept.
    #[error("ClickHouse engine {engine} did not stop cleanly: {reason}")]
    Stop {
        /// The library's host or server binary.
        engine: PathBuf,
        /// How it ended.
        reason: String,
    },
    /// A directory or file could not be used.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// Verb, such as `create`.
        action: &'static str,
        /// The object.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl EmbeddedError {
    /// For `map_err`: names the action and its object.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
