//! The servers and processes of a series, and its rounds. How servers are broken is in `breaking`.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use schemas::topic::Topic;

use crate::faults::{Outside, Plan, TARGETS};
use crate::oracle::{Oracle, Records};
use crate::support::agent::{Agent, drain};
use crate::support::installation::{Installation, Running, free_port, run, variable};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, custody, holds_within, until};

/// How old the archive's open files become.
const ARCHIVE_FLUSH_MS: i64 = 500;
/// Bytes that an agent has spooled before its disk is made small, and those that it has left then.
const SPOOLED: u64 = 16 << 10;
const SPOOL_LEFT: u64 = 64 << 10;

/// Everything that runs.
pub(crate) struct World {
    pub(crate) installation: Installation,
    config: PathBuf,
    intake: String,
    pub(crate) s3: String,
    pub(crate) s3_data: String,
    pub(crate) kafka_data: String,
    /// One before each broker.
    pub(crate) log_proxies: Vec<Proxy>,
    pub(crate) clickhouse_proxy: Proxy,
    pub(crate) s3_proxy: Proxy,
    /// `None` where no file system can be mounted.
    pub(crate) disks: Option<Disks>,
    /// By role, in the order of [`TARGETS`].
    pub(crate) roles: Vec<Running>,
    /// By role: the point at which it is going to die.
    armed: Vec<Option<String>>,
    oracle: Oracle,
}

/// Disks that can be filled.
pub(crate) struct Disks {
    pub(crate) store: Disk,
    /// The third broker's.
    pub(crate) broker: Disk,
    pub(crate) spool: Disk,
    pub(crate) spool_dir: PathBuf,
}

impl Disks {
    /// Those that `CUSTODY_TEST_SPOOL` says are there.
    fn find(s3_data: &str, kafka_data: &str) -> Option<Self> {
        let spool_dir = PathBuf::from(std::env::var("CUSTODY_TEST_SPOOL").ok()?);
        Some(Self {
            store: Disk::at(Path::new(s3_data)),
            broker: Disk::at(&Path::new(kafka_data).join("node-3/storage")),
            spool: Disk::at(&spool_dir),
            spool_dir,
        })
    }
}

/// What an agent has sent in a round.
pub(crate) struct Sent {
    pub(crate) agent: String,
    pub(crate) spool: PathBuf,
    /// Events that it was told are taken; `None` where it died before it could be.
    pub(crate) events: Option<u64>,
}

fn address(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

/// A proxy before each broker, where the brokers send their clients.
fn log_proxies() -> Vec<Proxy> {
    let list = |name| variable(name, "docker/kafka-local.sh start --advertise-port says both");
    let (advertised, relayed) = (list("CUSTODY_TEST_KAFKA_ADVERTISED"), list("CUSTODY_TEST_KAFKA_RELAYED"));
    advertised.split(',').zip(relayed.split(',')).map(|(at, server)| Proxy::start_at(at, server)).collect()
}

impl World {
    pub(crate) fn start() -> Self {
        let s3 = variable("CUSTODY_TEST_S3", "docker/s3-local.sh start runs a server");
        let installation = Installation::start("chaos");
        let clickhouse_proxy = Proxy::start(address(&installation.clickhouse));
        let s3_proxy = Proxy::start(address(&s3));
        let s3_data = variable("CUSTODY_TEST_S3_DATA", "it tells what to break");
        let kafka_data = variable("CUSTODY_TEST_KAFKA_DATA", "it tells what to break");
        let oracle = Oracle::new(&installation, &s3);
        let mut world = Self {
            config: installation.dir.path().join("custody.toml"),
            intake: format!("127.0.0.1:{}", free_port()),
            disks: Disks::find(&s3_data, &kafka_data),
            s3_data,
            kafka_data,
            installation,
            s3,
            log_proxies: log_proxies(),
            clickhouse_proxy,
            s3_proxy,
            roles: Vec::new(),
            armed: Vec::new(),
            oracle,
        };
        world.write_config(&world.config, "chaos");
        let (code, text) = run(custody().args(["topics", "create", "--config"]).arg(&world.config));
        assert_eq!(code, Some(0), "{text}");
        world.armed = vec![None; TARGETS.len()];
        world.roles = (0..TARGETS.len()).map(|role| world.role(role, None)).collect();
        world.until("migrated", |world| world.installation.count("1") == "0");
        world
    }

    pub(crate) fn write_config(&self, path: &Path, instance: &str) {
        let base = self.installation.dir.path();
        std::fs::write(base.join("pii.key"), [7; 32]).expect("a key");
        let text = format!(
            "instance = \"{instance}\"\n[log]\nurl = \"kafka://{}\"\nnamespace = \"{}\"\npartitions = 2\n[log.topic]\nreplicas = 3\n\
             \"min.insync.replicas\" = 2\n[store]\nurl = \"{}\"\nendpoint = \"http://{}\"\nallow_http = true\n\
             request_timeout_ms = 5000\n[clickhouse]\nurl = \"http://{}\"\nrequest_timeout_ms = 5000\n[pii]\nkeys_file = \"{}\"\n\
             [gateway]\nhttp_listen = \"{}\"\ngrpc_listen = \"127.0.0.1:0\"\ntick_interval_ms = 250\n\
             [telemetry]\nlisten = \"127.0.0.1:0\"\n[archive]\nflush_interval_ms = {ARCHIVE_FLUSH_MS}\n[load]\nflush_interval_ms = 200\n",
            self.log(),
            self.installation.namespace,
            self.installation.bucket(),
            self.s3_proxy.address,
            self.clickhouse_proxy.address,
            base.join("pii.key").display(),
            self.intake,
        );
        std::fs::write(path, text).expect("a configuration");
    }

    /// The brokers as the roles know them.
    fn log(&self) -> String {
        let addresses: Vec<&str> = self.log_proxies.iter().map(|proxy| proxy.address.as_str()).collect();
        addresses.join(",")
    }

    fn role(&self, role: usize, fault: Option<&str>) -> Running {
        let variables: Vec<(&str, &str)> = fault.map(|point| ("CUSTODY_FAULT_POINT", point)).into_iter().collect();
        self.installation.role_with(TARGETS[role].arguments, &self.config, &variables)
    }

    /// Waits; roles that die at their points are started again meanwhile.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let holds = |world: &mut Self| {
            world.tend();
            holds(world)
        };
        until(self, what, holds, |world| format!("armed {:?}\n{}\n{}", world.armed, world.status(), world.said()));
    }

    /// Starts again what has died at its point; nothing else may have ended.
    pub(crate) fn tend(&mut self) {
        for (role, target) in TARGETS.iter().enumerate() {
            let Some(status) = self.roles[role].0.try_wait().expect("a process") else { continue };
            let point = self.armed[role].take();
            let said = || self.installation.said(target.arguments);
            assert!(
                point.is_some() && status.signal() == Some(9),
                "{:?} ended: {status}: {}",
                target.arguments,
                said()
            );
            self.roles[role] = self.role(role, None);
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
            self.roles[role].end();
            self.roles[role] = self.role(role, Some(point));
            self.armed[role] = Some(point.clone());
        }
        let agent = Agent::start(&steady, &self.intake, &steady_spool, None);
        let mut sender = Agent::start(&doomed, &self.intake, &doomed_spool, Some(&plan.send));
        let mut sent = vec![Sent { agent: doomed, spool: doomed_spool, events: None }];
        for kind in plan.outside.iter().filter(|kind| **kind != Outside::Zombie) {
            sent.extend(self.break_outside(*kind, round, plan));
        }
        self.until("dead at every point", |world| world.armed.iter().all(Option::is_none) && sender.is_killed());
        sender.bury();
        // It wants processes that nothing else ends.
        if plan.outside.contains(&Outside::Zombie) {
            self.freeze_role(plan.zombie);
        }
        sent.iter().for_each(|left| drain(&self.intake, &left.spool));
        sent.push(Sent { agent: steady, spool: steady_spool, events: Some(agent.finish()) });
        self.reconcile(&sent)
    }

    /// What was acknowledged is in the log, and the tables hold the log's records, each as often as it does.
    fn reconcile(&mut self, sent: &[Sent]) -> u64 {
        let mut raw = Records::new();
        self.oracle.read_raw(&mut raw);
        for Sent { agent, events, .. } in sent {
            let mut distinct = raw.entry(agent.clone()).or_default().clone();
            distinct.dedup();
            let held = distinct.len() as u64;
            assert_eq!(held, events.unwrap_or(held), "acknowledged events of {agent} that the log holds");
            let is_loaded = holds_within(PATIENCE, self, |world| {
                world.tend();
                // A request that its sender has given up and repeated may be appended still.
                world.oracle.read_raw(&mut raw);
                world.oracle.loaded(&world.installation, agent) == raw[agent]
            });
            assert!(
                is_loaded,
                "rows of {agent} are not the records of the log: {}{}\n{}",
                self.oracle.places(&self.installation, agent, &raw[agent]),
                self.status(),
                self.said()
            );
        }
        self.until("archived", |world| world.oracle.is_archived());
        raw.values().map(Vec::len).sum::<usize>() as u64
    }

    /// An agent whose disk is full says so and ends; what it had taken is sent once there is room.
    pub(crate) fn overfill(&mut self, round: u64) -> Sent {
        let name = format!("r{round}f");
        let disks = self.disks.as_ref().expect("kinds of full disks are left out without");
        let spool = disks.spool_dir.join(&name);
        let mut agent = Agent::start(&name, &self.intake, &spool, None);
        let bytes = || -> u64 {
            let entries = std::fs::read_dir(&spool).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
        };
        self.until("spooling", |_| bytes() >= SPOOLED);
        let disks = self.disks.as_mut().expect("as above");
        disks.spool.fill(SPOOL_LEFT);
        self.until("ended", |_| agent.has_ended());
        let (taken, said) = agent.refused();
        let (is_clear, at) = (said.contains("No space left on device"), spool.display().to_string());
        assert!(is_clear && said.contains(&at), "{name} said {said}");
        self.disks.as_ref().expect("as above").spool.free();
        Sent { agent: name, spool, events: Some(taken) }
    }

    /// What is found goes on while it is looked at: everything up to where it stands now. Of these topics
    /// the archive hears no ticks.
    const FOUND: [(Topic, &str, i64); 4] = [
        (Topic::Findings, "custody-archive-findings", ARCHIVE_FLUSH_MS),
        (Topic::Findings, "custody-load-findings", 0),
        (Topic::Alerts, "custody-archive-alerts", ARCHIVE_FLUSH_MS),
        (Topic::Alerts, "custody-load-alerts", 0),
    ];

    /// The whole archive against the tables.
    pub(crate) fn check_archive(&mut self) {
        self.until("archived", |world| world.oracle.is_archived());
        for (topic, group, open_ms) in Self::FOUND {
            let ends = self.oracle.ends(topic);
            self.until(&format!("at its end: {group}"), |world| world.oracle.is_at_end(group, topic, &ends, open_ms));
        }
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
}
