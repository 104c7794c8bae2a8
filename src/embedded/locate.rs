//! Decides which ClickHouse to use at start. [`choose`] is pure; [`Facts::gather`] looks at the machine.
//!
//! Order: the URL in the configuration; `CUSTODY_LIBCHDB`; a `clickhouse` binary on the PATH; the library in the cache
//! directory; the npm client. A data directory that already holds an engine's tables keeps that kind of engine, so
//! that installing a server later does not make the tables vanish. Nothing is started or fetched here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::error::EmbeddedError;
use super::package::{Package, VERSION, package_here};

/// Name of the file in the data directory that says which kind of engine wrote it.
pub(crate) const ENGINE_FILE: &str = "engine";

/// The two kinds of engine; their data directories are not exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// A `clickhouse server` process.
    Server,
    /// `libchdb.so` behind our HTTP front.
    Library,
}

impl EngineKind {
    /// The word in the data directory's `engine` file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Library => "library",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Server, Self::Library].into_iter().find(|kind| kind.as_str() == word.trim())
    }
}

/// Where ClickHouse comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClickHouseSource {
    /// A server that somebody else runs.
    Url(String),
    /// This `clickhouse` binary, started with its own data directory.
    Server(PathBuf),
    /// This `libchdb.so`, loaded in a child process.
    Library(PathBuf),
    /// Nothing here yet: fetch this package with this npm client, then load it.
    Fetch {
        /// The platform's package.
        package: Package,
        /// The npm client.
        npm: PathBuf,
    },
}

/// What the decision depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// URL in the configuration.
    pub url: Option<String>,
    /// `CUSTODY_LIBCHDB` and whether a file is there.
    pub library_named: Option<(PathBuf, bool)>,
    /// `clickhouse` on the PATH.
    pub server: Option<PathBuf>,
    /// `libchdb.so` of the pinned version in the cache directory.
    pub library_cached: Option<PathBuf>,
    /// `npm` on the PATH.
    pub npm: Option<PathBuf>,
    /// Package of this platform.
    pub package: Option<Package>,
    /// Which kind of engine wrote the data directory, if one did.
    pub written_by: Option<EngineKind>,
}

impl Facts {
    /// Looks at environment, PATH, cache and data directory; starts nothing.
    #[must_use]
    pub fn gather(url: Option<String>, cache_dir: &Path, data_dir: &Path) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let library_named = std::env::var_os("CUSTODY_LIBCHDB").map(PathBuf::from);
        let cached = library_path(cache_dir);
        Self {
            url,
            library_named: library_named.map(|file| (file.clone(), file.is_file())),
            server: find_on_path(&path, "clickhouse"),
            library_cached: cached.is_file().then_some(cached),
            npm: find_on_path(&path, "npm"),
            package: package_here(),
            written_by: std::fs::read_to_string(data_dir.join(ENGINE_FILE))
                .ok()
                .and_then(|word| EngineKind::parse(&word)),
        }
    }
}

/// The decision.
///
/// # Errors
/// [`EmbeddedError::Unavailable`] where no way is left; its message says which way failed on what.
pub fn choose(facts: &Facts) -> Result<ClickHouseSource, EmbeddedError> {
    if let Some(url) = &facts.url {
        return Ok(ClickHouseSource::Url(url.clone()));
    }
    match facts.written_by {
        Some(EngineKind::Server) => choose_server(facts).ok_or_else(|| {
            unavailable("the data directory was written by `clickhouse server`, and no `clickhouse` is on the PATH")
        }),
        Some(EngineKind::Library) => choose_library(facts),
        None if facts.library_named.is_some() => choose_library(facts),
        None => choose_server(facts).map_or_else(|| choose_library(facts), Ok),
    }
}

fn choose_server(facts: &Facts) -> Option<ClickHouseSource> {
    facts.server.clone().map(ClickHouseSource::Server)
}

fn choose_library(facts: &Facts) -> Result<ClickHouseSource, EmbeddedError> {
    match (&facts.library_named, &facts.library_cached, facts.package, &facts.npm) {
        (Some((path, true)), ..) => Ok(ClickHouseSource::Library(path.clone())),
        (Some((path, false)), ..) => {
            Err(unavailable(&format!("CUSTODY_LIBCHDB names {}, which is not a file", path.display())))
        }
        (None, Some(path), ..) => Ok(ClickHouseSource::Library(path.clone())),
        (None, None, None, _) => Err(unavailable(&format!(
            "no engine library is published for {} on {}",
            std::env::consts::OS,
            std::env::consts::ARCH
        ))),
        (None, None, Some(package), None) => Err(unavailable(&format!(
            "no `clickhouse` on the PATH, no libchdb.so {VERSION} in the cache directory, and no `npm` on the PATH to \
             fetch {} with",
            package.spec()
        ))),
        (None, None, Some(package), Some(npm)) => Ok(ClickHouseSource::Fetch { package, npm: npm.clone() }),
    }
}

fn unavailable(reason: &str) -> EmbeddedError {
    EmbeddedError::Unavailable { reason: reason.to_owned() }
}

/// Where the pinned version lives in the cache directory. The version is part of the path, so that an upgrade fetches
/// and a downgrade finds its own.
#[must_use]
pub fn library_path(cache_dir: &Path) -> PathBuf {
    cache_dir.join(format!("chdb-{VERSION}")).join("libchdb.so")
}

/// The cache directory: `CUSTODY_CACHE_DIR`, else `XDG_CACHE_HOME/custody`, else `HOME/.cache/custody`.
///
/// # Errors
/// [`EmbeddedError::Unavailable`] if none of the three variables is set.
pub fn cache_dir() -> Result<PathBuf, EmbeddedError> {
    cache_dir_from(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn cache_dir_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, EmbeddedError> {
    variable("CUSTODY_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("custody")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/custody")))
        .ok_or_else(|| unavailable("no cache directory: set CUSTODY_CACHE_DIR, XDG_CACHE_HOME or HOME"))
}

fn find_on_path(path: &OsStr, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let executable = |file: &PathBuf| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::split_paths(path).map(|dir| dir.join(name)).find(executable)
}

#[cfg(test)]
#[path = "locate/tests.rs"]
mod tests;
