//! Roles as processes of their own on the servers that the environment names.
//!
//! Topics, groups and objects of an installation have names of their own, so that suites share servers.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;

use super::{PATIENCE, custody};

/// The value of a variable that tells where a server is.
pub(crate) fn variable(name: &str, how: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: {how}"))
}

/// A port that nobody has; whoever is told it can listen again on it after a restart.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// The first of three ports in a row that nobody listens on. Below 32768, as Linux gives those above to
/// outgoing connections, and a broker takes seconds to listen.
pub(crate) fn free_ports() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..1_000)
        .map(|_| std::process::id().wrapping_mul(10).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)))
        .map(|number| 21_000 + u16::try_from(number % 3_000).expect("a small number") * 3)
        .find(|port| (*port..*port + 3).all(is_free))
        .expect("three free ports in a row")
}

/// What follows the last colon of an address.
pub(crate) fn port_of(address: &str) -> &str {
    address.trim_end_matches('/').rsplit(':').next().expect("a port")
}

/// A process that is ended with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl Running {
    /// SIGKILL, until it is gone and its ports are free.
    pub(crate) fn end(&mut self) {
        // Ended already, if the test got so far.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn drained(mut self) -> Option<i32> {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        self.ended()
    }

    /// The exit code of a process that ends by itself.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let has_ended = |running: &mut Self| running.0.try_wait().expect("a process").is_some();
        super::until(self, "ended", has_ended, |running| format!("process {}", running.0.id()));
        self.0.wait().expect("ended").code()
    }
}

/// Whether a process has ended; its ports are free then, as its memory is.
pub(crate) fn is_gone(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// SIGKILL, until the process is gone; nothing if there is none any more.
pub(crate) fn kill(pid: i32) {
    let Some(id) = rustix::process::Pid::from_raw(pid) else { return };
    let _gone = rustix::process::kill_process(id, rustix::process::Signal::KILL);
    // A process that is no child of ours cannot be waited for.
    super::until(&mut (), "gone", |()| is_gone(pid), |()| pid.to_string());
}

/// ClickHouse's engine as a server.
pub(crate) struct Engine {
    running: Running,
    /// Kept, or the engine's next line would have nowhere to go.
    _output: BufReader<ChildStdout>,
    /// `http://host:port`.
    pub(crate) url: String,
}

impl Engine {
    /// On any port (0) or a certain one, with its data in `dir`.
    pub(crate) fn start(dir: &Path, port: &str) -> Self {
        let mut command = custody();
        command.args(["clickhouse", "--port", port, "--data-dir"]).arg(dir);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("custody clickhouse");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("standard output"));
        output.read_line(&mut line).expect("a line");
        let address = line.split("http://").nth(1).expect("an address").split_whitespace().next().expect("an address");
        let url = format!("http://{}", address.trim_end_matches(['/', ',', ';']));
        Self { running: Running(child), _output: output, url }
    }

    /// Ends it as SIGKILL does, its own child first; its data stay.
    pub(crate) fn kill(self) {
        let pid = self.running.0.id();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<String> =
            lists.flat_map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
        for child in children {
            kill(child.parse().expect("a pid"));
        }
    }

    /// Ends it in order; its data stay.
    pub(crate) fn stop(self) {
        assert_eq!(self.running.drained(), Some(0), "the engine's exit code");
    }
}

/// An installation on the servers of the test.
pub(crate) struct Installation {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) kafka: String,
    pub(crate) namespace: String,
    /// `http://host:port`.
    pub(crate) clickhouse: String,
    /// `None` while it is stopped.
    engine: Option<Engine>,
}

impl Installation {
    pub(crate) fn start(name: &str) -> Self {
        let kafka = variable("CUSTODY_TEST_KAFKA", "docker/kafka-local.sh start runs a broker");
        let dir = tempfile::tempdir().expect("directory");
        let engine = Engine::start(&dir.path().join("engine"), "0");
        let namespace = format!("{name}{}-", std::process::id());
        Self { dir, kafka, namespace, clickhouse: engine.url.clone(), engine: Some(engine) }
    }

    /// Without ClickHouse, for suites that load nothing.
    pub(crate) fn without_tables(name: &str) -> Self {
        let kafka = variable("CUSTODY_TEST_KAFKA", "docker/kafka-local.sh start runs a broker");
        let dir = tempfile::tempdir().expect("directory");
        let namespace = format!("{name}{}-", std::process::id());
        Self { dir, kafka, namespace, clickhouse: String::new(), engine: None }
    }

    pub(crate) fn stop_clickhouse(&mut self) {
        self.engine.take().expect("a running engine").stop();
    }

    pub(crate) fn kill_clickhouse(&mut self) {
        self.engine.take().expect("a running engine").kill();
    }

    /// At the address that it had.
    pub(crate) fn start_clickhouse(&mut self) {
        let port = self.clickhouse.rsplit(':').next().expect("a port");
        self.engine = Some(Engine::start(&self.dir.path().join("engine"), port));
    }

    /// Where its archive is.
    pub(crate) fn bucket(&self) -> String {
        format!("s3://custody/{}", self.namespace.trim_end_matches('-'))
    }

    pub(crate) fn log(&self) -> String {
        format!("kafka://{}", self.kafka)
    }

    /// A role with a configuration file; what it says is beside it, in `<role>.log`.
    pub(crate) fn role(&self, arguments: &[&str], config: &Path) -> Running {
        self.role_with(arguments, config, &[])
    }

    /// As [`Self::role`], with variables of its own.
    pub(crate) fn role_with(&self, arguments: &[&str], config: &Path, variables: &[(&str, &str)]) -> Running {
        let mut command = custody();
        command.envs(variables.iter().copied());
        self.role_of(command, arguments, config)
    }

    /// As [`Self::role`], of any binary.
    pub(crate) fn role_of(&self, mut command: Command, arguments: &[&str], config: &Path) -> Running {
        command.args(arguments).arg("--config").arg(config).current_dir(self.dir.path());
        let path = self.dir.path().join(format!("{}.log", arguments.join("-")));
        let said = File::options().create(true).append(true).open(path).expect("a file");
        Running(command.stdout(Stdio::null()).stderr(said).spawn().expect("a role"))
    }

    /// Everything that a role said.
    pub(crate) fn log_of(&self, arguments: &[&str]) -> String {
        let path = self.dir.path().join(format!("{}.log", arguments.join("-")));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The last of it.
    pub(crate) fn said(&self, arguments: &[&str]) -> String {
        let text = self.log_of(arguments);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// One value of a query.
    pub(crate) fn value(&self, sql: &str) -> String {
        let address = self.clickhouse.trim_start_matches("http://");
        super::up::request(address, "POST", "/", sql).1.trim().to_owned()
    }

    pub(crate) fn count(&self, condition: &str) -> String {
        self.value(&format!("SELECT count() FROM custody.events WHERE {condition}"))
    }

    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        super::until(&mut (), what, |()| holds(), |()| String::new());
    }
}

/// Exit code and everything that was said. A command that does not end is ended, and a failure.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String) {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().expect("custody");
    let pid = i32::try_from(child.id()).expect("a pid");
    let (send, receive) = channel();
    // Only a test that has failed no longer listens.
    std::thread::spawn(move || send.send(child.wait_with_output()).ok());
    let output = receive.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        kill(pid);
        panic!("not ended within {PATIENCE:?}: {command:?}")
    });
    let output = output.expect("its output");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}
