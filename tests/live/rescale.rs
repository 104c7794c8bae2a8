//! A stage that is scaled under load: one process, then four, then two, then one that died.
//!
//! `CUSTODY_TEST_KAFKA` names the broker. Sinks and stages share the runner's handling of assignments; here
//! it is `pii`, whose state per session moves with its partition. What one rebalance does to one member is
//! the log's conformance suite.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::agent::Agent;
use support::installation::{Installation, Running, free_port, run};
use support::{custody, up};

const PII: &[&str] = &["process", "pii"];
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    installation: Installation,
    intake: String,
    _gateway: Running,
    _load: Running,
    /// Longest time in which no row came, since the last look.
    pause: Duration,
    grown: (u64, Instant),
}

impl World {
    fn start() -> Self {
        let installation = Installation::start("rescale");
        let intake = format!("127.0.0.1:{}", free_port());
        let config = write_config(&installation, &intake, "one");
        let (code, text) = run(custody().args(["topics", "create", "--config"]).arg(&config));
        assert_eq!(code, Some(0), "{text}");
        let (gateway, load) = (installation.role(&["gateway"], &config), installation.role(&["load"], &config));
        installation.until("migrated", || installation.count("1") == "0");
        let grown = (0, Instant::now());
        Self { installation, intake, _gateway: gateway, _load: load, pause: Duration::ZERO, grown }
    }

    /// One more process of the stage.
    fn pii(&self, instance: &str) -> Running {
        self.installation.role(PII, &write_config(&self.installation, &self.intake, instance))
    }

    fn rows(&mut self) -> u64 {
        let rows = self.installation.count("agent_id = 'load'").parse().expect("a count");
        self.pause = self.pause.max(self.grown.1.elapsed());
        if rows > self.grown.0 {
            self.grown = (rows, Instant::now());
        }
        rows
    }

    /// Goes on until rows of every session that began after now have come: every partition moves.
    fn settle(&mut self, what: &str) {
        let (from, begun) = (self.rows(), Instant::now());
        self.pause = Duration::ZERO;
        // Sessions of 40 events fall on all four partitions within some twenty of them.
        while self.rows() < from + 1_500 {
            assert!(begun.elapsed() < PATIENCE, "{what}: no rows: {}", self.installation.said(PII));
            std::thread::park_timeout(Duration::from_millis(50));
        }
        println!("rescale: {what}: longest pause of all rows {:.1} s", self.pause.as_secs_f64());
    }
}

fn write_config(installation: &Installation, intake: &str, instance: &str) -> PathBuf {
    let base = installation.dir.path();
    std::fs::write(base.join("pii.key"), [7; 32]).expect("a key");
    let text = format!(
        "instance = \"{instance}\"\n[log]\nurl = \"{}\"\nnamespace = \"{}\"\npartitions = 4\n[clickhouse]\nurl = \"{}\"\n\
         [pii]\nkeys_file = \"{}\"\n[gateway]\nhttp_listen = \"{intake}\"\ngrpc_listen = \"127.0.0.1:0\"\n\
         [telemetry]\nlisten = \"127.0.0.1:0\"\n[load]\nflush_interval_ms = 100\n",
        installation.log(),
        installation.namespace,
        installation.clickhouse,
        base.join("pii.key").display(),
    );
    let config = base.join(format!("{instance}.toml"));
    std::fs::write(&config, text).expect("a configuration");
    config
}

#[test]
fn nothing_is_lost_or_doubled_while_a_stage_goes_from_one_process_to_four_to_two_and_one_dies() {
    let mut world = World::start();
    let first = world.pii("one");
    let agent = Agent::start("load", &world.intake, &world.installation.dir.path().join("spool"), None);
    world.settle("one process");
    let (second, third, fourth) = (world.pii("two"), world.pii("three"), world.pii("four"));
    world.settle("four processes");
    assert_eq!(third.drained(), Some(0), "{}", world.installation.said(PII));
    assert_eq!(fourth.drained(), Some(0), "{}", world.installation.said(PII));
    world.settle("two processes");
    // SIGKILL: its partitions move when its session has run out.
    drop(second);
    world.settle("one of two has died");
    let sent = agent.finish();
    while world.rows() < sent {
        assert!(
            world.grown.1.elapsed() < PATIENCE,
            "{} of {sent} rows: {}",
            world.grown.0,
            world.installation.said(PII)
        );
    }
    let counts =
        "SELECT count(), uniqExact(event_id), uniqExact(session_id, seq) FROM custody.events WHERE agent_id = 'load'";
    assert_eq!(world.installation.value(counts), format!("{sent}\t{sent}\t{sent}"));
    assert_eq!(up::request(&world.intake, "GET", "/readyz", "").0, 200);
    assert_eq!(first.drained(), Some(0), "{}", world.installation.said(PII));
}
