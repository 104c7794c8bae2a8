//! ClickHouse without installing one: picks an engine, starts it as a child process, and gives its HTTP URL.
//!
//! [`EmbeddedClickHouse::start`] takes, in this order: the URL in the configuration (starts nothing), the library named
//! by `CUSTODY_LIBCHDB`, `clickhouse` on the PATH, `libchdb.so` in the cache directory, and the npm client to fetch it.
//! Whatever it is, clients speak ClickHouse's HTTP protocol to [`EmbeddedClickHouse::url`].
//!
//! The library runs in a child process of the same binary, see [`run_if_child`], because it must end by `_exit` and must
//! not take Custody's own state with it. Nothing is fetched at compile time, and nothing here knows tables or rows.

mod chdb;
mod child;
mod error;
mod fetch;
mod front;
mod locate;
mod os;
mod package;
mod server;

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use tokio::process::Command;

pub use self::error::{EmbeddedError, REMEDIES};
pub use self::locate::{ClickHouseSource, EngineKind, Facts, cache_dir, choose, library_path};
pub use self::package::{Package, VERSION, package_for, package_here};

use self::child::{Ready, Running};

/// Name of the hidden subcommand that runs the engine.
pub const SUBCOMMAND: &str = "__clickhouse";

/// What to start, and where.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedOptions {
    /// URL of a server that somebody else runs; if set, nothing is started.
    pub url: Option<String>,
    /// The engine's data directory; made if absent, used by one process at a time.
    pub data_dir: PathBuf,
    /// Where the library is kept; `None` for [`cache_dir`].
    pub cache_dir: Option<PathBuf>,
    /// The binary that has the hidden subcommand; `None` for this one.
    pub executable: Option<PathBuf>,
    /// Port on 127.0.0.1; 0 for a free one.
    pub port: u16,
    /// Upper limit of the engine's memory in bytes; `None` for the engine's own, 90 % of the machine.
    pub memory_bytes_max: Option<u64>,
}

/// A ClickHouse to talk to. Dropping it kills a process that was started, which loses no acknowledged row; prefer
/// [`EmbeddedClickHouse::stop`].
#[derive(Debug)]
pub struct EmbeddedClickHouse {
    url: String,
    running: Option<Running>,
}

impl EmbeddedClickHouse {
    /// Chooses an engine, fetches it if needed, starts it and waits until it answers.
    ///
    /// # Errors
    /// [`EmbeddedError`]: no engine can be had, or it does not start (for one, because another process has had the data
    /// directory for 12 s; less is taken for one that is on its way out). Nothing is left running.
    pub async fn start(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let cache_dir = options.cache_dir.clone().map_or_else(cache_dir, Ok)?;
        let source = choose(&Facts::gather(options.url.clone(), &cache_dir, &options.data_dir))?;
        Self::start_source(source, &cache_dir, options).await
    }

    /// As [`EmbeddedClickHouse::start`] with the choice made.
    ///
    /// # Errors
    /// As there.
    pub async fn start_source(
        source: ClickHouseSource,
        cache_dir: &Path,
        options: &EmbeddedOptions,
    ) -> Result<Self, EmbeddedError> {
        let running = match source {
            ClickHouseSource::Url(url) => return Ok(Self { url, running: None }),
            ClickHouseSource::Server(binary) => start_server(&binary, options).await?,
            ClickHouseSource::Library(library) => start_library(&library, options).await?,
            ClickHouseSource::Fetch { package, npm } => {
                let cache_dir = cache_dir.to_owned();
                let fetched = tokio::task::spawn_blocking(move || fetch::fetch(&package, &npm, &cache_dir)).await;
                let library = fetched.map_err(|e| EmbeddedError::Unavailable { reason: e.to_string() })??;
                start_library(&library, options).await?
            }
        };
        Ok(Self { url: format!("http://{}", running.address), running: Some(running) })
    }

    /// Base URL of the HTTP interface, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Id of the process that was started; `None` if none was, or it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().and_then(Running::pid)
    }

    /// Lets running statements finish (up to 10 s) and ends the process; returns once it is gone.
    ///
    /// # Errors
    /// [`EmbeddedError::Stop`] if it did not end by itself; it is gone all the same.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        match self.running {
            Some(running) => running.stop().await,
            None => Ok(()),
        }
    }
}

/// Becomes the engine's process if the command line says so, and never returns then. Call it first in `main`, before
/// arguments are parsed, threads started or logs set up.
pub fn run_if_child() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(SUBCOMMAND)) {
        return;
    }
    if let Err(error) = run_front(arguments) {
        eprintln!("error: {error:#}");
    }
    // Not by return: the library may be loaded, and its destructors crash.
    os::exit_now(1)
}

/// The hidden subcommand; `arguments` are those after its name: `--library`, `--data`, `--listen`, `--config-file`.
/// Leaves the process with status 0 when it is told to stop.
///
/// # Errors
/// It cannot start. Leave by `_exit` then, as [`run_if_child`] does.
pub fn run_front(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    front::run::run_front(arguments)
}

async fn start_library(library: &Path, options: &EmbeddedOptions) -> Result<Running, EmbeddedError> {
    let data_dir = prepare(options)?;
    let current = || std::env::current_exe().map_err(EmbeddedError::io("find", "the running binary"));
    let mut command = Command::new(options.executable.clone().map_or_else(current, Ok)?);
    command
        .arg(SUBCOMMAND)
        .arg("--library")
        .arg(library)
        .arg("--data")
        .arg(&data_dir)
        .args(["--listen", &format!("127.0.0.1:{}", options.port)]);
    // With a key the engine would answer `??` questions by sending schemas to a language model.
    command.env_remove("OPENAI_API_KEY").env_remove("ANTHROPIC_API_KEY");
    if let Some(bytes) = options.memory_bytes_max {
        command.arg("--config-file").arg(write(&data_dir, "config.xml", &server::library_configuration(bytes))?);
    }
    let running = Running::start(command, Ready::Line).await?;
    write(&data_dir, locate::ENGINE_FILE, EngineKind::Library.as_str())?;
    Ok(running)
}

async fn start_server(binary: &Path, options: &EmbeddedOptions) -> Result<Running, EmbeddedError> {
    let data_dir = prepare(options)?;
    let address = match options.port {
        0 => free_address()?,
        port => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    };
    let text = server::configuration(&data_dir, address.port(), options.memory_bytes_max);
    let config = write(&data_dir, "config.xml", &text)?;
    let mut named = OsString::from("--config-file=");
    named.push(config);
    let mut command = Command::new(binary);
    // Its watchdog would be a second process that our signals do not reach.
    command.arg("server").arg(named).env("CLICKHOUSE_WATCHDOG_ENABLE", "0").current_dir(&data_dir);
    let running = Running::start(command, Ready::Ping(address)).await?;
    write(&data_dir, locate::ENGINE_FILE, EngineKind::Server.as_str())?;
    Ok(running)
}

/// A port that was free a moment ago; the server cannot be asked which one it took.
fn free_address() -> Result<SocketAddr, EmbeddedError> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bound = TcpListener::bind(any).and_then(|listener| listener.local_addr());
    bound.map_err(EmbeddedError::io("find a free port on", any.to_string()))
}

fn prepare(options: &EmbeddedOptions) -> Result<PathBuf, EmbeddedError> {
    let dir = &options.data_dir;
    std::fs::create_dir_all(dir).map_err(EmbeddedError::io("create data directory", dir))?;
    dir.canonicalize().map_err(EmbeddedError::io("use data directory", dir))
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf, EmbeddedError> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(EmbeddedError::io("write", &path))?;
    Ok(path)
}
