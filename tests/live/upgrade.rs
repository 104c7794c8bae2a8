//! Two versions side by side in the same groups: an upgrade, and the way back, while a client sends.
//!
//! `CUSTODY_TEST_OLD_BINARY` names the older `custody`, `CUSTODY_TEST_KAFKA` the broker; `tests/live/upgrade.sh`
//! builds the one and starts the other. Every role runs twice at times, as two instances of a group, one of each
//! version: partitions with their state go from one to the other and back. What a version writes, the other must
//! read; what is here lost or doubled would be so in an installation.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use support::agent::Agent;
use support::installation::{Installation, Running, free_port, run, variable};
use support::{PATIENCE, custody, until, up};

const ROLES: [&[&str]; 5] =
    [&["process", "pii"], &["process", "completeness"], &["process", "anomaly"], &["archive"], &["load"]];

struct World {
    installation: Installation,
    old: PathBuf,
    intake: String,
    /// Longest time in which no row came, since the last look.
    pause: Duration,
    grown: (u64, Instant),
}

impl World {
    fn start() -> Self {
        let old = PathBuf::from(variable("CUSTODY_TEST_OLD_BINARY", "tests/live/upgrade.sh builds one and runs this"));
        assert!(old.is_file(), "CUSTODY_TEST_OLD_BINARY: there is no {}", old.display());
        let installation = Installation::start("upgrade");
        std::fs::write(installation.dir.path().join("pii.key"), [7; 32]).expect("a key");
        let intake = format!("127.0.0.1:{}", free_port());
        Self { installation, old, intake, pause: Duration::ZERO, grown: (0, Instant::now()) }
    }

    fn config(&self, instance: &str) -> PathBuf {
        let (installation, base) = (&self.installation, self.installation.dir.path());
        let text = format!(
            "instance = \"{instance}\"\n[log]\nurl = \"{}\"\nnamespace = \"{}\"\npartitions = 4\n[clickhouse]\nurl = \"{}\"\n\
             [store]\nurl = \"file:{}\"\n[pii]\nkeys_file = \"{}\"\n[gateway]\nhttp_listen = \"{}\"\n\
             grpc_listen = \"127.0.0.1:0\"\ntick_interval_ms = 500\n[telemetry]\nlisten = \"127.0.0.1:0\"\n\
             [load]\nflush_interval_ms = 100\n[archive]\nflush_interval_ms = 3000\n\
             [completeness]\ngap_grace_ms = 1000\n[writers]\nwriter_grace_ms = 2000\n\
             [lifecycle]\ndrain_timeout_ms = {}\n",
            installation.log(),
            installation.namespace,
            installation.clickhouse,
            base.join("store").display(),
            base.join("pii.key").display(),
            self.intake,
            PATIENCE.as_millis(),
        );
        let config = base.join(format!("{instance}.toml"));
        // Once: a role that is starting reads it.
        if !config.exists() {
            std::fs::write(&config, text).expect("a configuration");
        }
        config
    }

    fn older(&self, role: &[&str], instance: &str) -> Running {
        self.installation.role_of(Command::new(&self.old), role, &self.config(instance))
    }

    fn newer(&self, role: &[&str], instance: &str) -> Running {
        self.installation.role(role, &self.config(instance))
    }

    fn rows(&mut self) -> u64 {
        let rows = self.installation.count("agent_id = 'load'").parse().expect("a count");
        self.pause = self.pause.max(self.grown.1.elapsed());
        if rows > self.grown.0 {
            self.grown = (rows, Instant::now());
        }
        rows
    }

    /// Goes on until events that came after this moment have rows: 200 per second come.
    fn settle(&mut self, what: &str) {
        let from = self.rows();
        self.pause = Duration::ZERO;
        until(self, what, |world| world.rows() >= from + 2_000, |world| world.said());
        println!("upgrade: {what}: longest pause of rows {:.1} s", self.pause.as_secs_f64());
    }

    fn said(&self) -> String {
        ROLES.iter().map(|role| format!("\n{role:?}: {}", self.installation.said(role))).collect()
    }

    /// SIGTERM to one after the other. What an older version drains too slowly is its successor's to read again,
    /// and is said; this one ends in time.
    fn end(&mut self, roles: Vec<Running>, is_newer: bool) {
        for (role, running) in ROLES.iter().zip(roles) {
            let code = running.drained();
            match code {
                Some(0) => {}
                _ if is_newer => panic!("{role:?} ended with {code:?}: {}", self.installation.said(role)),
                _ => println!("upgrade: the older {role:?} ended with {code:?}: {}", self.installation.said(role)),
            }
            self.rows();
        }
    }
}

#[test]
fn an_upgrade_and_the_way_back_lose_nothing_and_double_nothing() {
    let mut world = World::start();
    let version = |command: &mut Command| run(command.arg("--version")).1.trim().to_owned();
    let (older, newer) = (version(&mut Command::new(&world.old)), version(&mut custody()));
    println!("upgrade: from {older} ({}) to {newer}", world.old.display());
    let config = world.config("old");
    let (code, text) = run(Command::new(&world.old).args(["topics", "create", "--config"]).arg(&config));
    assert_eq!(code, Some(0), "{text}");
    // Two instances share a spool's sessions, not an address: intake is one process, ended and started.
    let gateway = world.older(&["gateway"], "old");
    let first: Vec<Running> = ROLES.iter().map(|role| world.older(role, "old")).collect();
    world.installation.until("migrated", || world.installation.count("1") == "0");
    let agent = Agent::start_wide("load", &world.intake, &world.installation.dir.path().join("spool"), None, 20);
    world.settle("the older version");

    let second: Vec<Running> = ROLES.iter().map(|role| world.newer(role, "new")).collect();
    world.settle("both versions");
    world.end(first, false);
    assert_eq!(gateway.drained(), Some(0), "{}", world.installation.said(&["gateway"]));
    let gateway = world.newer(&["gateway"], "old");
    world.settle("the newer version");

    let back: Vec<Running> = ROLES.iter().map(|role| world.older(role, "old")).collect();
    world.settle("both versions on the way back");
    world.end(second, true);
    assert_eq!(gateway.drained(), Some(0), "{}", world.installation.said(&["gateway"]));
    let gateway = world.older(&["gateway"], "old");
    world.settle("the older version again");

    let sent = agent.finish();
    let said = |world: &mut World| format!("{} of {sent} rows: {}", world.grown.0, world.said());
    until(&mut world, "loaded", |world| world.rows() >= sent, said);
    let value = |sql: &str| world.installation.value(sql);
    let counts =
        "SELECT count(), uniqExact(event_id), uniqExact(session_id, seq) FROM custody.events WHERE agent_id = 'load'";
    assert_eq!(value(counts), format!("{sent}\t{sent}\t{sent}"));
    let archived = || {
        let (_, text) = run(custody().args(["verify", "--json"]).arg(world.installation.dir.path().join("store")));
        let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let partitions = report["partitions"].as_array().expect("partitions").iter();
        let of_clean = partitions.filter(|p| p["topic"] == "custody.clean.v1");
        let rows = of_clean.map(|p| p["rows"].as_u64().expect("rows")).sum::<u64>();
        // What is being published has an object before it has a manifest.
        (report["is_intact"] == true).then_some(rows)
    };
    // Of all agents: gateway and client have events of their own, which may come after the last of the sent ones.
    world
        .installation
        .until("archived", || archived().is_some_and(|rows| rows.to_string() == world.installation.count("1")));
    let kinds = "SELECT groupArray((kind, n)) FROM (SELECT kind, count() AS n FROM custody.findings WHERE event_type = \
                 'detection.raised' AND agent_id = 'load' GROUP BY kind)";
    assert_eq!(value(kinds), "[]", "sessions and writers have no findings");
    assert_eq!(up::request(&world.intake, "GET", "/readyz", "").0, 200);
    world.end(back, false);
    assert_eq!(gateway.drained(), Some(0));
    println!("upgrade: {sent} events, each one row and one archived row");
}
