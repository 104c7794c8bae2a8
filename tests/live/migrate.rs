//! More partitions under load: `custody topics migrate` from four to eight while a client sends.
//!
//! `CUSTODY_TEST_KAFKA` names the broker. Every role runs as a process. The client holds sessions open until each
//! of them has rows of both generations, so that all of them span the switch however long it takes; others come and
//! go beside them. A gap in one of them would be a finding within seconds. What becomes of each entry of state is
//! tested where the state is.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use ingest::log::kafka::{KafkaBroker, KafkaConfig};
use schemas::topic::Topic;
use support::agent::{Agent, HELD};
use support::installation::{Installation, Running, free_port, run};
use support::{PATIENCE, custody, until, up};

const ROLES: [&[&str]; 5] =
    [&["process", "pii"], &["process", "completeness"], &["process", "anomaly"], &["archive"], &["load"]];
/// Sessions that are open from before the switch until after it: enough that every one of eight partitions has some.
const SESSIONS: u64 = 40;

struct World {
    installation: Installation,
    intake: String,
}

impl World {
    fn start(name: &str) -> Self {
        let installation = Installation::start(name);
        std::fs::write(installation.dir.path().join("pii.key"), [7; 32]).expect("a key");
        Self { installation, intake: format!("127.0.0.1:{}", free_port()) }
    }

    fn config(&self, generation: u32, partitions: u32) -> PathBuf {
        let (installation, base) = (&self.installation, self.installation.dir.path());
        // Events that waited in the client's spool are not late, and a process that stops has its time.
        let patience_ms = PATIENCE.as_millis();
        let text = format!(
            "instance = \"one\"\n[log]\nurl = \"{}\"\nnamespace = \"{}\"\npartitions = {partitions}\ngeneration = {generation}\n\
             [clickhouse]\nurl = \"{}\"\n[store]\nurl = \"file:{}\"\n[pii]\nkeys_file = \"{}\"\n\
             [gateway]\nhttp_listen = \"{}\"\ngrpc_listen = \"127.0.0.1:0\"\ntick_interval_ms = 500\n\
             [telemetry]\nlisten = \"127.0.0.1:0\"\n[load]\nflush_interval_ms = 100\n[archive]\nflush_interval_ms = 3000\n\
             [completeness]\ngap_grace_ms = 1000\nlateness_ms_max = {patience_ms}\n[writers]\nwriter_grace_ms = 2000\n\
             [lifecycle]\ndrain_timeout_ms = {patience_ms}\n",
            installation.log(),
            installation.namespace,
            installation.clickhouse,
            base.join("store").display(),
            base.join("pii.key").display(),
            self.intake,
        );
        let config = base.join(format!("g{generation}p{partitions}.toml"));
        std::fs::write(&config, text).expect("a configuration");
        config
    }

    fn topics(&self, arguments: &[&str], config: &PathBuf) -> (Option<i32>, String) {
        run(custody().arg("topics").args(arguments).arg("--config").arg(config))
    }

    /// Every role, gateway and `up` says what is wrong and ends.
    fn refused(&self, config: &PathBuf, words: &[&str]) {
        for role in ROLES.iter().copied().chain([&["gateway"][..], &["up"]]) {
            let (code, text) = run(custody().args(role).arg("--config").arg(config));
            assert!(code != Some(0) && words.iter().all(|word| text.contains(word)), "{role:?} {code:?}: {text}");
        }
    }

    fn rows(&self) -> u64 {
        self.installation.count("agent_id = 'load'").parse().expect("a count")
    }

    fn until_rows(&self, at_least: u64, what: &str) {
        let said = |(): &mut ()| format!("{} of {at_least} rows: {}", self.rows(), self.said());
        until(&mut (), what, |()| self.rows() >= at_least, said);
    }

    /// Held sessions with rows of partitions that meet a condition.
    fn held(&self, condition: &str) -> u64 {
        let sql = format!(
            "SELECT uniqExact(session_id) FROM custody.events WHERE agent_instance_id = '{HELD}' AND {condition}"
        );
        self.installation.value(&sql).parse().expect("a count")
    }

    /// Every held session has rows of such partitions.
    fn until_held(&self, condition: &str, what: &str) {
        let said = |(): &mut ()| format!("{} of {SESSIONS} sessions: {}", self.held(condition), self.said());
        until(&mut (), what, |()| self.held(condition) == SESSIONS, said);
    }

    fn said(&self) -> String {
        ROLES.iter().map(|role| format!("\n{role:?}: {}", self.installation.said(role))).collect()
    }

    /// Rows of clean events in the archive; `None` while it is not intact: what is being published has an object
    /// before it has a manifest.
    fn archived(&self) -> Option<u64> {
        let (_, text) = run(custody().args(["verify", "--json"]).arg(self.installation.dir.path().join("store")));
        let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let partitions = report["partitions"].as_array().expect("partitions").iter();
        let of_clean = partitions.filter(|p| p["topic"] == "custody.clean.v1");
        let rows = of_clean.map(|p| p["rows"].as_u64().expect("rows")).sum();
        (report["is_intact"] == true).then_some(rows)
    }
}

/// The tool beside the test; what it says comes line by line.
struct Tool(#[allow(dead_code, reason = "ended with the test")] Running, Receiver<String>);

impl Tool {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("custody");
        let output = BufReader::new(child.stdout.take().expect("standard output"));
        let (say, said) = channel();
        // Until the tool has ended, or nobody listens any more.
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self(Running(child), said)
    }

    fn until(&mut self, word: &str) {
        loop {
            let line = self.1.recv_timeout(PATIENCE).unwrap_or_else(|why| panic!("no {word:?} of the tool: {why}"));
            println!("migrate: {line}");
            if line.contains(word) {
                return;
            }
        }
    }
}

#[test]
fn a_topic_that_is_given_partitions_from_outside_stops_its_roles() {
    let world = World::start("altered");
    let config = world.config(1, 2);
    let (code, text) = world.topics(&["create"], &config);
    assert_eq!(code, Some(0), "{text}");
    let all = ROLES.iter().copied().chain([&["gateway"][..]]);
    let mut roles: Vec<(&[&str], Running)> = all.map(|r| (r, world.installation.role(r, &config))).collect();
    world.installation.until("migrated", || world.installation.count("1") == "0");
    let is_ready = || std::net::TcpStream::connect(&world.intake).is_ok();
    world.installation.until("listening", is_ready);
    let append = KafkaConfig {
        bootstrap: world.installation.kafka.clone(),
        namespace: world.installation.namespace.clone(),
        ..KafkaConfig::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let broker = KafkaBroker::new(append).expect("a broker");
        broker.add_partitions(Topic::Events, 3).await.expect("a third partition");
    });
    for (role, running) in &mut roles {
        let code = running.ended();
        let said = world.installation.said(role);
        assert!(code != Some(0) && said.contains("partitions") && said.contains("custody topics migrate"), "{said}");
    }
}

#[test]
fn a_migration_that_is_taken_back_before_intake_is_open_leaves_everything_as_it_was() {
    let world = World::start("abort");
    let config = world.config(1, 2);
    let (code, text) = world.topics(&["create"], &config);
    assert_eq!(code, Some(0), "{text}");
    let roles = [&["process", "pii"][..], &["load"]].map(|role| world.installation.role(role, &config));
    let mut gateway = world.installation.role(&["gateway"], &config);
    world.installation.until("migrated", || world.installation.count("1") == "0");
    let agent = Agent::start("load", &world.intake, &world.installation.dir.path().join("spool"), None);
    world.until_rows(200, "before");
    let mut migrate = custody();
    migrate.args(["topics", "migrate", "--execute", "--partitions", "4"]);
    for role in ["completeness", "features", "archive"] {
        migrate.args(["--without", role]);
    }
    migrate.arg("--config").arg(&config);
    let mut tool = Tool::start(migrate);
    tool.until("is closed");
    drop(tool);
    // It has seen the announcement.
    gateway.ended();
    let (code, text) = world.topics(&["migrate", "--abort", "--partitions", "4"], &config);
    assert!(code == Some(0) && text.contains("taken back"), "{text}");
    let gateway = world.installation.role(&["gateway"], &config);
    let before = world.rows();
    world.until_rows(before + 200, "after");
    let sent = agent.finish();
    world.until_rows(sent, "the end");
    let counts = "SELECT count(), uniqExact(event_id) FROM custody.events WHERE agent_id = 'load'";
    assert_eq!(world.installation.value(counts), format!("{sent}\t{sent}"));
    for role in roles.into_iter().chain([gateway]) {
        assert_eq!(role.drained(), Some(0), "{}", world.said());
    }
}

#[test]
fn four_partitions_become_eight_under_load_and_every_event_is_there_once() {
    let world = World::start("migrate");
    let (old, wrong, new) = (world.config(1, 4), world.config(1, 8), world.config(2, 8));
    let (code, text) = world.topics(&["create"], &old);
    assert_eq!(code, Some(0), "{text}");
    world.refused(&wrong, &["has 4 partitions", "log.partitions", "8", "custody topics migrate"]);

    let role = |role: &&[&str], config| world.installation.role(role, config);
    let mut roles: Vec<Running> = ROLES.iter().map(|r| role(r, &old)).collect();
    let mut gateway = role(&&["gateway"][..], &old);
    world.installation.until("migrated", || world.installation.count("1") == "0");
    let agent = Agent::start_holding("load", &world.intake, &world.installation.dir.path().join("spool"), SESSIONS);
    world.until_held("src_partition < 4", "four partitions");
    let (code, text) = world.topics(&["migrate", "--partitions", "8"], &old);
    assert!(code == Some(0) && text.contains("custody.events.v2"), "{text}");
    assert_eq!(world.topics(&["migrate", "--partitions", "3"], &old).0, Some(2), "fewer are refused");

    let migrate = || {
        let mut command = custody();
        command.args(["topics", "migrate", "--execute", "--partitions", "8", "--config"]).arg(&old);
        Tool::start(command)
    };
    let begun = Instant::now();
    let mut tool = migrate();
    tool.until("is closed");
    // SIGKILL, here and further on: the next one goes on where it stood.
    drop(tool);
    let mut tool = migrate();
    tool.until("intake is open");
    let paused = begun.elapsed();
    let (code, text) = world.topics(&["migrate", "--abort", "--partitions", "8"], &old);
    assert!(code != Some(0) && text.contains("there is no way back"), "{text}");
    // It has seen the announcement; its address is free.
    gateway.ended();
    let second = role(&&["gateway"][..], &new);
    tool.until("custody-completeness: ");
    drop(tool);
    let (code, text) = world.topics(&["migrate", "--execute", "--partitions", "16"], &old);
    assert!(code == Some(2) && text.contains("go on with --partitions 8"), "{text}");
    let mut tool = migrate();
    tool.until("done:");
    println!("migrate: intake paused {:.1} s, rows {:.1} s", paused.as_secs_f64(), begun.elapsed().as_secs_f64());
    drop(tool);
    // The old roles see that they are history and end by themselves.
    for running in &mut roles {
        running.ended();
    }
    world.refused(&old, &["log.generation = 2", "log.partitions = 8"]);
    let roles: Vec<Running> = ROLES.iter().map(|r| role(r, &new)).collect();
    world.until_held("src_partition >= 100000", "eight partitions");
    agent.release();
    let sent = agent.finish();
    world.until_rows(sent, "the end");

    let value = |sql: &str| world.installation.value(sql);
    let counts =
        "SELECT count(), uniqExact(event_id), uniqExact(session_id, seq) FROM custody.events WHERE agent_id = 'load'";
    assert_eq!(value(counts), format!("{sent}\t{sent}\t{sent}"));
    let spanning = format!(
        "SELECT count() FROM (SELECT session_id FROM custody.events WHERE agent_instance_id = '{HELD}' GROUP BY session_id \
         HAVING min(src_partition) < 4 AND max(src_partition) >= 100000)"
    );
    assert_eq!(value(&spanning), SESSIONS.to_string(), "sessions that span the switch");
    let partitions = format!(
        "SELECT uniqExact(src_partition) FROM custody.events WHERE src_partition >= 100000 AND agent_instance_id = '{HELD}'"
    );
    assert_eq!(value(&partitions), "8");
    // Of all agents: gateway and client have events of their own, which may come after the last of the sent ones.
    world
        .installation
        .until("archived", || world.archived().is_some_and(|rows| rows.to_string() == world.installation.count("1")));
    // Time has gone on by more than every grace, or the last files would not have been cut.
    let kinds = "SELECT groupArray((kind, n)) FROM (SELECT kind, count() AS n FROM custody.findings WHERE event_type = \
                 'detection.raised' AND agent_id = 'load' GROUP BY kind)";
    assert_eq!(value(kinds), "[]", "sessions and writers have no findings");
    assert_eq!(value("SELECT count() FROM custody.findings WHERE kind = 'control_total_mismatch'"), "0");
    assert_eq!(up::request(&world.intake, "GET", "/readyz", "").0, 200);
    for role in roles.into_iter().chain([second]) {
        assert_eq!(role.drained(), Some(0), "{}", world.said());
    }
}
