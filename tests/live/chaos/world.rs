//! The servers and processes of a series, and how each is broken and mended.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::faults::{Outside, Plan, TARGETS};
use crate::oracle::Oracle;
use crate::support::agent::{Agent, drain};
use crate::support::custody;
use crate::support::installation::{Installation, Running, free_port, kill, port_of, run, variable};
use crate::support::proxy::{Mode, Proxy};

/// Longest time until every armed process has died, and until everything is reconciled.
const PATIENCE: Duration = Duration::from_secs(150);
/// Longer than a member's session (10 s): the group gives its partitions to another.
const FROZEN: Duration = Duration::from_secs(13);
/// Connections that a proxy breaks in a round, and how long it tries.
const BROKEN_CONNECTIONS: u64 = 4;
const BREAKING: Duration = Duration::from_secs(4);

/// Everything that runs.
pub(crate) struct World {
    installation: Installation,
    config: PathBuf,
    intake: String,
    s3: String,
    s3_data: String,
    kafka_data: String,
    clickhouse_proxy: Proxy,
    s3_proxy: Proxy,
    /// By role, in the order of [`TARGETS`].
    roles: Vec<Running>,
    oracle: Oracle,
}

fn address(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

/// The process whose pid a script of `docker/` has written down.
fn pid_in(file: &Path) -> i32 {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    text.trim().parse().expect("a pid")
}

fn signal(pid: i32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("signalled");
}

fn pause(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

impl World {
    pub(crate) fn start() -> Self {
        let s3 = variable("CUSTODY_TEST_S3", "docker/s3-local.sh start runs a server");
        let installation = Installation::start("chaos");
        let clickhouse_proxy = Proxy::start(address(&installation.clickhouse));
        let s3_proxy = Proxy::start(address(&s3));
        let oracle = Oracle::new(&installation, &s3);
        let mut world = Self {
            config: installation.dir.path().join("custody.toml"),
            intake: format!("127.0.0.1:{}", free_port()),
            s3_data: variable("CUSTODY_TEST_S3_DATA", "it tells what to break"),
            kafka_data: variable("CUSTODY_TEST_KAFKA_DATA", "it tells what to break"),
            installation,
            s3,
            clickhouse_proxy,
            s3_proxy,
            roles: Vec::new(),
            oracle,
        };
        world.write_config(&world.config, "chaos");
        let (code, text) = run(custody().args(["topics", "create", "--config"]).arg(&world.config));
        assert_eq!(code, Some(0), "{text}");
        world.roles = (0..TARGETS.len()).map(|role| world.role(role, None)).collect();
        world.until("migrated", |world| world.installation.count("1") == "0");
        world
    }

    fn write_config(&self, path: &Path, instance: &str) {
        let base = self.installation.dir.path();
        std::fs::write(base.join("pii.key"), [7; 32]).expect("a key");
        let text = format!(
            "instance = \"{instance}\"\n[log]\nurl = \"{}\"\nnamespace = \"{}\"\npartitions = 2\n[log.topic]\nreplicas = 3\n\
             \"min.insync.replicas\" = 2\n[store]\nurl = \"{}\"\nendpoint = \"http://{}\"\nallow_http = true\n\
             request_timeout_ms = 5000\n[clickhouse]\nurl = \"http://{}\"\nrequest_timeout_ms = 5000\n[pii]\nkeys_file = \"{}\"\n\
             [gateway]\nhttp_listen = \"{}\"\ngrpc_listen = \"127.0.0.1:0\"\ntick_interval_ms = 250\n\
             [telemetry]\nlisten = \"127.0.0.1:0\"\n[archive]\nflush_interval_ms = 500\n[load]\nflush_interval_ms = 200\n",
            self.installation.log(),
            self.installation.namespace,
            self.installation.bucket(),
            self.s3_proxy.address,
            self.clickhouse_proxy.address,
            base.join("pii.key").display(),
            self.intake,
        );
        std::fs::write(path, text).expect("a configuration");
    }

    fn role(&self, role: usize, fault: Option<&str>) -> Running {
        let variables: Vec<(&str, &str)> = fault.map(|point| ("CUSTODY_FAULT_POINT", point)).into_iter().collect();
        self.installation.role_with(TARGETS[role].arguments, &self.config, &variables)
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            self.check_alive();
            assert!(Instant::now() < deadline, "not {what}:\n{}\n{}", self.status(), self.said());
            pause(Duration::from_millis(50));
        }
    }

    fn check_alive(&mut self) {
        for (target, running) in TARGETS.iter().zip(&mut self.roles) {
            let ended = running.0.try_wait().expect("a process");
            assert_eq!(ended, None, "{:?} has ended: {}", target.arguments, self.installation.said(target.arguments));
        }
    }

    fn status(&self) -> String {
        run(custody().args(["status", "--config"]).arg(&self.config)).1
    }

    fn said(&self) -> String {
        let of = |target: &crate::faults::Target| {
            format!("{:?}:\n{}\n", target.arguments, self.installation.said(target.arguments))
        };
        TARGETS.iter().map(of).collect()
    }

    /// One round; how many events it brought into the log.
    pub(crate) fn run(&mut self, round: u64, plan: &Plan) -> u64 {
        let (steady, doomed) = (format!("r{round}"), format!("r{round}x"));
        let spool = |name: &str| self.installation.dir.path().join(format!("spool-{name}"));
        let (steady_spool, doomed_spool) = (spool(&steady), spool(&doomed));
        // Whoever ran until now is killed where it happens to be, and its successor is armed.
        for (role, point) in plan.points.iter().enumerate() {
            self.roles[role] = self.role(role, Some(point));
        }
        let agent = Agent::start(&steady, &self.intake, &steady_spool, None);
        let mut sender = Some(Agent::start(&doomed, &self.intake, &doomed_spool, Some(&plan.send)));
        let mut armed: Vec<usize> = (0..TARGETS.len()).collect();
        self.break_outside(plan);
        let deadline = Instant::now() + PATIENCE;
        while !armed.is_empty() || sender.is_some() {
            armed.retain(|role| !self.has_died(*role));
            if sender.as_mut().is_some_and(Agent::is_killed) {
                sender.take().expect("a sender").bury();
            }
            let left: Vec<&str> = armed.iter().map(|role| plan.points[*role].as_str()).collect();
            assert!(Instant::now() < deadline, "not fired: {left:?} {:?}\n{}", sender.map(|_| &plan.send), self.said());
            pause(Duration::from_millis(20));
        }
        if plan.outside == Outside::Zombie {
            self.freeze_role(plan.zombie);
        }
        drain(&self.intake, &doomed_spool);
        let sent = agent.finish();
        self.reconcile(&steady, &doomed, sent)
    }

    /// Whether an armed role has died at its point; it is started again then.
    fn has_died(&mut self, role: usize) -> bool {
        let Some(status) = self.roles[role].0.try_wait().expect("a process") else { return false };
        let arguments = TARGETS[role].arguments;
        assert_eq!(status.signal(), Some(9), "{arguments:?} ended by itself: {}", self.installation.said(arguments));
        self.roles[role] = self.role(role, None);
        true
    }

    fn reconcile(&mut self, steady: &str, doomed: &str, sent: u64) -> u64 {
        let raw = self.oracle.read_raw();
        let of = |agent: &str| raw.get(agent).cloned().unwrap_or_default();
        let (steady_ids, doomed_ids) = (of(steady), of(doomed));
        let mut distinct = steady_ids.clone();
        distinct.dedup();
        assert_eq!(distinct.len() as u64, sent, "acknowledged events of {steady} that the log holds");
        for (agent, ids) in [(steady, steady_ids), (doomed, doomed_ids)] {
            self.until(&format!("loaded: {agent}"), |world| {
                world.oracle.loaded(&world.installation, agent).len() >= ids.len()
            });
            assert!(
                self.oracle.loaded(&self.installation, agent) == ids,
                "rows of {agent} are not the records of the log"
            );
        }
        self.until("archived", |world| world.oracle.is_archived());
        raw.values().map(Vec::len).sum::<usize>() as u64
    }

    /// The whole archive against the tables.
    pub(crate) fn check_archive(&mut self) {
        self.until("archived", |world| world.oracle.is_archived());
        let mut verify = custody();
        verify.args(["verify", "--store", &self.installation.bucket(), "--store-endpoint", &self.s3]);
        let (code, text) = run(&mut verify);
        assert_eq!(code, Some(0), "{text}");
        self.until("loaded", |world| world.oracle.is_loaded());
        let mut difference = None;
        self.until("the same in archive and tables", |world| {
            let now = world.oracle.difference(&world.installation);
            if now != difference {
                println!("chaos: archive and tables: {now:?}");
                difference.clone_from(&now);
            }
            now.is_none()
        });
        let (code, text) = run(custody().args(["dlq", "list", "--config"]).arg(&self.config));
        assert!(code == Some(0) && text.contains("open: none"), "{text}");
    }

    /// Every role drains.
    pub(crate) fn end(mut self) {
        for (target, running) in TARGETS.iter().zip(std::mem::take(&mut self.roles)) {
            assert_eq!(
                running.drained(),
                Some(0),
                "{:?}: {}",
                target.arguments,
                self.installation.said(target.arguments)
            );
        }
    }

    fn break_outside(&mut self, plan: &Plan) {
        match plan.outside {
            Outside::BrokerKilled => {
                kill(pid_in(&self.node(plan.broker).join("broker.pid")));
                self.start_broker("start", plan.broker);
            }
            Outside::BrokerStopped => {
                self.start_broker("stop", plan.broker);
                self.start_broker("start", plan.broker);
            }
            Outside::BrokerFrozen => self.freeze(pid_in(&self.node(plan.broker).join("broker.pid"))),
            Outside::ClickHouseKilled => {
                self.installation.kill_clickhouse();
                self.installation.start_clickhouse();
            }
            Outside::StoreKilled => {
                kill(pid_in(&Path::new(&self.s3_data).join("server.pid")));
                self.script("s3-local.sh", &["start", "--port", port_of(&self.s3), "--data", &self.s3_data]);
            }
            Outside::RequestsCut => self.break_connections(Mode::CutRequests),
            Outside::AnswersLost => self.break_connections(Mode::LoseAnswers),
            Outside::AnswersDelayed => self.break_connections(Mode::DelayAnswers),
            // It wants processes that nothing else ends.
            Outside::Zombie => {}
        }
    }

    /// Breaks connections of both proxies until each has hit some.
    fn break_connections(&self, mode: Mode) {
        let before = [self.clickhouse_proxy.fired(), self.s3_proxy.fired()];
        let proxies = [&self.clickhouse_proxy, &self.s3_proxy];
        proxies.iter().for_each(|proxy| proxy.set(mode));
        let until = Instant::now() + BREAKING;
        while Instant::now() < until
            && proxies.iter().zip(before).any(|(proxy, before)| proxy.fired() < before + BROKEN_CONNECTIONS)
        {
            pause(Duration::from_millis(10));
        }
        proxies.iter().for_each(|proxy| proxy.set(Mode::Pass));
        assert!(proxies.iter().zip(before).any(|(proxy, before)| proxy.fired() > before), "{mode:?} hit no connection");
    }

    fn freeze(&self, pid: i32) {
        signal(pid, Signal::STOP);
        pause(FROZEN);
        signal(pid, Signal::CONT);
    }

    /// Another instance of the role takes over while the first is frozen; both run when it wakes, then the
    /// second goes.
    fn freeze_role(&mut self, role: usize) {
        let standby_config = self.installation.dir.path().join("standby.toml");
        self.write_config(&standby_config, "standby");
        let standby = self.installation.role(TARGETS[role].arguments, &standby_config);
        self.freeze(i32::try_from(self.roles[role].0.id()).expect("a pid"));
        // Awake, it finds that others have its partitions.
        pause(Duration::from_secs(3));
        self.check_alive();
        let arguments = TARGETS[role].arguments;
        assert_eq!(standby.drained(), Some(0), "standby of {arguments:?}: {}", self.installation.said(arguments));
    }

    fn node(&self, node: u32) -> PathBuf {
        Path::new(&self.kafka_data).join(format!("node-{node}"))
    }

    fn start_broker(&self, verb: &str, node: u32) {
        let bootstrap = self.installation.kafka.split(',').next().expect("a broker");
        let (port, node) = (port_of(bootstrap), node.to_string());
        self.script(
            "kafka-local.sh",
            &[verb, "--nodes", "3", "--node", &node, "--port", port, "--data", &self.kafka_data],
        );
    }

    fn script(&self, name: &str, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(name);
        let (code, text) = run(Command::new(script).args(arguments));
        assert_eq!(code, Some(0), "{name} {arguments:?}: {text}");
    }
}
