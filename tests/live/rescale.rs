//! A stage that is scaled under load: one process, then four, then two, then one that died.
//!
//! `CUSTODY_TEST_KAFKA` names the broker. Sinks and stages share the runner's handling of assignments; here
//! it is `pii`, whose state per session moves with its partition. What one rebalance does to one member is
//! the log's conformance suite.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use support::agent::Agent;
use support::installation::{Installation, Running, free_port, run};
use support::{PATIENCE, custody, until, up};

const PII: &[&str] = &["process", "pii"];
const PARTITIONS: usize = 4;
/// So many at a time that every partition has some of them.
const SESSIONS: u64 = 16;

struct World {
    installation: Installation,
    intake: String,
    /// Further settings of the log.
    log: &'static str,
    _gateway: Running,
    _load: Running,
    /// Rows of each partition, and when the last of them came.
    grown: [(u64, Instant); PARTITIONS],
    /// Longest time in which a partition had no new row, since the last look.
    pause: Duration,
}

impl World {
    fn start(namespace: &str, log: &'static str) -> Self {
        let installation = Installation::start(namespace);
        let intake = format!("127.0.0.1:{}", free_port());
        let config = write_config(&installation, &intake, "one", log);
        let (code, text) = run(custody().args(["topics", "create", "--config"]).arg(&config));
        assert_eq!(code, Some(0), "{text}");
        let (gateway, load) = (installation.role(&["gateway"], &config), installation.role(&["load"], &config));
        installation.until("migrated", || installation.count("1") == "0");
        let grown = [(0, Instant::now()); PARTITIONS];
        Self { installation, intake, log, _gateway: gateway, _load: load, grown, pause: Duration::ZERO }
    }

    /// One more process of the stage.
    fn pii(&self, instance: &str) -> Running {
        self.installation.role(PII, &write_config(&self.installation, &self.intake, instance, self.log))
    }

    /// Rows of each partition now.
    fn look(&mut self) -> [u64; PARTITIONS] {
        let counts = "SELECT src_partition, count() FROM custody.events WHERE agent_id = 'load' GROUP BY src_partition";
        for line in self.installation.value(counts).lines() {
            let (partition, rows) = line.split_once('\t').expect("two columns");
            let rows: u64 = rows.parse().expect("a count");
            let (held, at) = &mut self.grown[partition.parse::<usize>().expect("a partition")];
            if rows > *held {
                (*held, *at) = (rows, Instant::now());
            }
        }
        let pause = self.grown.iter().map(|(_, at)| at.elapsed()).max().unwrap_or_default();
        self.pause = self.pause.max(pause);
        self.grown.map(|(rows, _)| rows)
    }

    /// Goes on until every partition has new rows, and says how long one had none.
    fn settle(&mut self, what: &str) {
        self.pause = Duration::ZERO;
        let from = self.look();
        let has_grown = |world: &mut Self| world.look().iter().zip(from).all(|(rows, from)| *rows >= from + 200);
        until(self, what, has_grown, |world| world.installation.said(PII));
        println!("rescale ({}): {what}: longest pause of a partition {:.1} s", self.log, self.pause.as_secs_f64());
    }

    /// Goes on until every row has come.
    fn finish(&mut self, sent: u64) {
        let said = |world: &mut Self| format!("{:?} of {sent} rows: {}", world.grown, world.installation.said(PII));
        until(self, "loaded", |world| world.look().iter().sum::<u64>() >= sent, said);
        let counts = "SELECT count(), uniqExact(event_id), uniqExact(session_id, seq) FROM custody.events WHERE agent_id = 'load'";
        assert_eq!(self.installation.value(counts), format!("{sent}\t{sent}\t{sent}"));
    }
}

fn write_config(installation: &Installation, intake: &str, instance: &str, log: &str) -> PathBuf {
    let base = installation.dir.path();
    std::fs::write(base.join("pii.key"), [7; 32]).expect("a key");
    let text = format!(
        "instance = \"{instance}\"\n[log]\nurl = \"{}\"\nnamespace = \"{}\"\npartitions = {PARTITIONS}\n{log}\n[clickhouse]\nurl = \"{}\"\n\
         [pii]\nkeys_file = \"{}\"\n[gateway]\nhttp_listen = \"{intake}\"\ngrpc_listen = \"127.0.0.1:0\"\n\
         [telemetry]\nlisten = \"127.0.0.1:0\"\n[load]\nflush_interval_ms = 100\n\
         [lifecycle]\ndrain_timeout_ms = {}\n",
        installation.log(),
        installation.namespace,
        installation.clickhouse,
        base.join("pii.key").display(),
        PATIENCE.as_millis(),
    );
    let config = base.join(format!("{instance}.toml"));
    std::fs::write(&config, text).expect("a configuration");
    config
}

/// Pauses are those of one series, not of two side by side.
static ALONE: Mutex<()> = Mutex::new(());

fn one_then_four_then_two_then_one_dies(namespace: &str, log: &'static str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::start(namespace, log);
    let first = world.pii("one");
    let agent = Agent::start_wide("load", &world.intake, &world.installation.dir.path().join("spool"), None, SESSIONS);
    world.settle("one process");
    let (second, third, fourth) = (world.pii("two"), world.pii("three"), world.pii("four"));
    world.settle("four processes");
    for running in [third, fourth] {
        let begun = Instant::now();
        assert_eq!(running.drained(), Some(0), "{}", world.installation.said(PII));
        println!("rescale ({log}): SIGTERM to exit {:.1} s", begun.elapsed().as_secs_f64());
    }
    world.settle("two processes");
    // SIGKILL: its partitions move when its session has run out.
    drop(second);
    world.settle("one of two has died");
    world.finish(agent.finish());
    assert_eq!(up::request(&world.intake, "GET", "/readyz", "").0, 200);
    assert_eq!(first.drained(), Some(0), "{}", world.installation.said(PII));
}

/// A session of four seconds, which the brokers must allow.
#[test]
fn nothing_is_lost_or_doubled_while_a_stage_goes_from_one_process_to_four_to_two_and_one_dies() {
    let log = "librdkafka = { \"session.timeout.ms\" = 4000 }";
    one_then_four_then_two_then_one_dies("rescale", log);
}

#[test]
fn nothing_is_lost_or_doubled_by_the_same_where_the_brokers_assign() {
    one_then_four_then_two_then_one_dies("rescale848", "group_protocol = \"consumer\"");
}
