//! How each server and each connection is broken and mended.
//!
//! Roles that die at their points meanwhile are started again. A fault that hits nothing is a failure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use custody::operate::status::{Reader, pipeline_readers};

use crate::faults::{Outside, Plan, TARGETS};
use crate::support::group::give_up;
use crate::support::installation::{is_gone, kill, port_of, run};
use crate::support::proxy::{Mode, Proxy};
use crate::support::{holds_within, pause};
use crate::world::{Sent, World};

/// Longer than a member's session (10 s): the group gives its partitions to another.
const FROZEN: Duration = Duration::from_secs(13);
/// Connections that a proxy breaks in a round, and how long it tries.
const BROKEN_CONNECTIONS: u64 = 4;
const BREAKING: Duration = Duration::from_secs(4);
/// How long everything that goes to the log and comes from it is late.
const LATE: Duration = Duration::from_secs(5);
/// How long the archive's store stays full once it has been refused.
const FULL: Duration = Duration::from_secs(3);
/// Bytes that a server's disk has left when it is made small: some of an object, some of a segment.
const DISK_LEFT: u64 = 32 << 10;
/// The broker whose disk can be filled.
const SMALL_BROKER: u32 = 3;

/// Proxies of a world.
type Proxies = fn(&World) -> Vec<&Proxy>;

fn of_log(world: &World) -> Vec<&Proxy> {
    world.log_proxies.iter().collect()
}

fn of_sinks(world: &World) -> Vec<&Proxy> {
    vec![&world.clickhouse_proxy, &world.s3_proxy]
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

impl World {
    /// Breaks one thing and mends it; what an agent of its own has sent.
    pub(crate) fn break_outside(&mut self, kind: Outside, round: u64, plan: &Plan) -> Option<Sent> {
        match kind {
            Outside::BrokerKilled => {
                kill(self.broker_pid(plan.broker));
                self.start_broker("start", plan.broker);
            }
            Outside::BrokerStopped => {
                self.start_broker("stop", plan.broker);
                self.start_broker("start", plan.broker);
            }
            Outside::BrokerFrozen => self.freeze(self.broker_pid(plan.broker)),
            Outside::BrokerFull => self.fill_broker(),
            Outside::ClickHouseKilled => {
                self.installation.kill_clickhouse();
                self.installation.start_clickhouse();
            }
            Outside::StoreKilled => {
                kill(pid_in(&Path::new(&self.s3_data).join("server.pid")));
                self.script("s3-local.sh", &["start", "--port", port_of(&self.s3), "--data", &self.s3_data]);
            }
            Outside::StoreFull => self.fill_store(),
            Outside::SpoolFull => return Some(self.overfill(round)),
            Outside::RequestsCut => self.break_connections(of_sinks, Mode::CutRequests),
            Outside::AnswersLost => self.break_connections(of_sinks, Mode::LoseAnswers),
            Outside::AnswersDelayed => self.break_connections(of_sinks, Mode::DelayAnswers),
            Outside::LogCut => self.break_connections(of_log, Mode::CutRequests),
            Outside::LogReset => self.break_connections(of_log, Mode::Reset),
            Outside::LogHalved => self.break_connections(of_log, Mode::HalveRequests),
            Outside::CommitAnswersLost => self.break_connections(of_log, Mode::LoseCommitAnswers),
            Outside::AppendAnswersLost => self.break_connections(of_log, Mode::LoseAppendAnswers),
            Outside::LogDelayed => self.hold_back(Mode::Delay, LATE),
            Outside::LogSilent => self.hold_back(Mode::Silence, FROZEN),
            Outside::GivenUp => self.give_members_up(),
            Outside::Zombie => unreachable!("it wants processes that nothing else ends"),
        }
        None
    }

    /// Breaks connections until every proxy has hit some, or for a while and until one has.
    fn break_connections(&mut self, proxies: Proxies, mode: Mode) {
        let before: Vec<u64> = proxies(self).iter().map(|proxy| proxy.fired()).collect();
        let hits = move |world: &Self| -> Vec<u64> {
            proxies(world).iter().zip(&before).map(|(proxy, before)| proxy.fired() - before).collect()
        };
        proxies(self).iter().for_each(|proxy| proxy.set(mode));
        let _all = holds_within(BREAKING, self, |world| {
            world.tend();
            hits(world).iter().all(|hits| *hits >= BROKEN_CONNECTIONS)
        });
        self.until(&format!("hit by {mode:?}"), |world| hits(world).iter().any(|hits| *hits > 0));
        proxies(self).iter().for_each(|proxy| proxy.set(Mode::Pass));
    }

    /// Everything between the roles and the brokers comes late.
    fn hold_back(&mut self, mode: Mode, time: Duration) {
        let fired = |world: &Self| of_log(world).iter().map(|proxy| proxy.fired()).sum::<u64>();
        let before = fired(self);
        of_log(self).iter().for_each(|proxy| proxy.set(mode));
        let _over = holds_within(time, self, |world| {
            world.tend();
            false
        });
        self.until(&format!("hit by {mode:?}"), |world| fired(world) > before);
        of_log(self).iter().for_each(|proxy| proxy.set(Mode::Pass));
    }

    /// The store refuses what the archive puts, until there is room again.
    fn fill_store(&mut self) {
        let refusals =
            |world: &Self| world.installation.log_of(&["archive"]).matches("No space left on device").count();
        let before = refusals(self);
        self.disks.as_mut().expect("kinds of full disks are left out without").store.fill(DISK_LEFT);
        self.until("refused for want of space", |world| refusals(world) > before);
        let _over = holds_within(FULL, self, |world| {
            world.tend();
            false
        });
        self.disks.as_ref().expect("as above").store.free();
    }

    /// A broker whose only disk is full ends itself.
    fn fill_broker(&mut self) {
        let pid = self.broker_pid(SMALL_BROKER);
        self.disks.as_mut().expect("kinds of full disks are left out without").broker.fill(DISK_LEFT);
        self.until("ended for want of space", |_| is_gone(pid));
        self.disks.as_ref().expect("as above").broker.free();
        self.start_broker("start", SMALL_BROKER);
    }

    /// Members find out at their next heartbeat, or at another point of a rebalance.
    fn give_members_up(&mut self) {
        let members: Vec<(String, String)> = pipeline_readers()
            .into_iter()
            .map(|Reader { topic, group, .. }| {
                (format!("{}{group}", self.installation.namespace), format!("chaos-{topic}"))
            })
            .collect();
        let brokers: Vec<String> = self.installation.kafka.split(',').map(str::to_owned).collect();
        let mut given_up = 0;
        let mut again = move |world: &mut Self| {
            world.tend();
            let each = members.iter().flat_map(|member| brokers.iter().map(move |broker| (broker, member)));
            given_up += each.filter(|(broker, (group, member))| give_up(broker, group, member)).count();
            given_up > 0
        };
        let _over = holds_within(BREAKING, self, |world| {
            again(world);
            false
        });
        self.until("a member given up", again);
    }

    fn freeze(&self, pid: i32) {
        signal(pid, Signal::STOP);
        pause(FROZEN);
        signal(pid, Signal::CONT);
    }

    /// Another instance of the role takes over while the first is frozen; both run when it wakes, then the
    /// second goes.
    pub(crate) fn freeze_role(&mut self, role: usize) {
        let standby_config = self.installation.dir.path().join("standby.toml");
        self.write_config(&standby_config, "standby");
        let standby = self.installation.role(TARGETS[role].arguments, &standby_config);
        self.freeze(i32::try_from(self.roles[role].0.id()).expect("a pid"));
        // Awake, it finds that others have its partitions.
        pause(Duration::from_secs(3));
        self.tend();
        let arguments = TARGETS[role].arguments;
        assert_eq!(standby.drained(), Some(0), "standby of {arguments:?}: {}", self.installation.said(arguments));
    }

    fn node(&self, node: u32) -> PathBuf {
        Path::new(&self.kafka_data).join(format!("node-{node}"))
    }

    fn broker_pid(&self, node: u32) -> i32 {
        pid_in(&self.node(node).join("broker.pid"))
    }

    fn start_broker(&self, verb: &str, node: u32) {
        let bootstrap = self.installation.kafka.split(',').next().expect("a broker");
        let (port, node, at) = (port_of(bootstrap), node.to_string(), port_of(&self.log_proxies[0].address));
        let mut arguments = vec![verb, "--nodes", "3", "--node", &node, "--port", port, "--data", &self.kafka_data];
        if verb == "start" {
            arguments.extend(["--advertise-port", at]);
        }
        self.script("kafka-local.sh", &arguments);
    }

    fn script(&self, name: &str, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(name);
        let (code, text) = run(Command::new(script).args(arguments));
        assert_eq!(code, Some(0), "{name} {arguments:?}: {text}");
    }
}
