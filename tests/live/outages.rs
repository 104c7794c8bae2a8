//! Servers that go away under load: ClickHouse, the object store, Kafka, one after the other.
//!
//! `CUSTODY_TEST_KAFKA`, `CUSTODY_TEST_S3` and the data directories of both (`..._DATA`) name servers
//! that this suite may stop and start with the scripts of `docker/`; their absence is a failure. Each is
//! unavailable until what it should have taken is `CUSTODY_TEST_OUTAGE_S` seconds old (15 without it). Processes
//! that die are another suite's.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::agent::Agent;
use support::installation::{Installation, Running, free_port, port_of, run, variable};
use support::{custody, until, up};

const ROLES: [&[&str]; 6] =
    [&["gateway"], &["process", "pii"], &["process", "completeness"], &["process", "anomaly"], &["archive"], &["load"]];

/// How long each server is unavailable.
fn outage() -> Duration {
    let seconds = std::env::var("CUSTODY_TEST_OUTAGE_S").map_or(15, |text| text.parse().expect("whole seconds"));
    Duration::from_secs(seconds)
}

/// A server that a script of `docker/` runs.
struct Server {
    script: &'static str,
    port: String,
    data: String,
}

impl Server {
    /// The server at `address` whose data are where the variable says.
    fn at(script: &'static str, address: &str, data: &str) -> Self {
        Self { script, port: port_of(address).to_owned(), data: variable(data, "it tells what to stop and start") }
    }

    fn order(&self, verb: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(self.script);
        let (code, text) = run(Command::new(script).args([verb, "--port", &self.port, "--data", &self.data]));
        assert_eq!(code, Some(0), "{} {verb}: {text}", self.script);
    }
}

struct World {
    installation: Installation,
    config: PathBuf,
    intake: String,
    roles: Vec<Running>,
}

impl World {
    fn start(s3: &str) -> Self {
        let installation = Installation::start("outages");
        let intake = format!("127.0.0.1:{}", free_port());
        let config = write_config(&installation, s3, &intake);
        let (code, text) = run(custody().args(["topics", "create", "--config"]).arg(&config));
        assert_eq!(code, Some(0), "{text}");
        let roles = ROLES.iter().map(|role| installation.role(role, &config)).collect();
        let mut world = Self { installation, config, intake, roles };
        world.until("ready", |world| {
            std::net::TcpStream::connect(&world.intake).is_ok()
                && up::request(&world.intake, "GET", "/readyz", "").0 == 200
                && world.installation.count("1").parse::<u64>().is_ok()
        });
        world
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let holds = |world: &mut Self| {
            world.check_alive();
            holds(world)
        };
        until(self, what, holds, |world| format!("{}\n{}", world.status(), world.said()));
    }

    /// No role gives up because a server is away.
    fn check_alive(&mut self) {
        for (role, running) in ROLES.iter().zip(&mut self.roles) {
            let ended = running.0.try_wait().expect("a process");
            assert_eq!(ended, None, "{role:?} has ended: {}", self.installation.said(role));
        }
    }

    /// The last of what every role said.
    fn said(&self) -> String {
        ROLES.iter().map(|role| format!("{role:?}:\n{}\n", self.installation.said(role))).collect()
    }

    fn status(&self) -> Value {
        let (code, text) = run(custody().args(["status", "--json", "--config"]).arg(&self.config));
        serde_json::from_str(&text).unwrap_or_else(|_| json!({ "exit": code, "said": text }))
    }

    /// Age of the oldest record that a group has not committed, seconds.
    fn lag_seconds(&self, group: &str) -> f64 {
        let status = self.status();
        let readers = status["readers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of_group = readers.iter().find(|reader| reader["group"] == group);
        of_group.and_then(|reader| reader["lag_seconds"].as_f64()).unwrap_or_else(|| panic!("{group} in {status}"))
    }

    /// Nothing stops while the server of `group` is unavailable, until the group is behind by that time.
    fn fall_behind(&mut self, group: &str) {
        self.until(&format!("{group} behind"), |world| world.lag_seconds(group) > outage().as_secs_f64());
    }

    fn loaded(&self) -> u64 {
        self.installation.count("agent_id = 'load'").parse().expect("a count")
    }
}

fn write_config(installation: &Installation, s3: &str, intake: &str) -> PathBuf {
    let base = installation.dir.path();
    std::fs::write(base.join("pii.key"), [7; 32]).expect("a key");
    let text = format!(
        "[log]\nurl = \"{}\"\nnamespace = \"{}\"\npartitions = 2\n[store]\nurl = \"{}\"\nendpoint = \"{s3}\"\n\
         allow_http = true\n[clickhouse]\nurl = \"{}\"\n[pii]\nkeys_file = \"{}\"\n\
         [gateway]\nhttp_listen = \"{intake}\"\ngrpc_listen = \"127.0.0.1:0\"\n[telemetry]\nlisten = \"127.0.0.1:0\"\n\
         [archive]\nflush_interval_ms = 2000\n",
        installation.log(),
        installation.namespace,
        installation.bucket(),
        installation.clickhouse,
        base.join("pii.key").display(),
    );
    let config = base.join("custody.toml");
    std::fs::write(&config, text).expect("a configuration");
    config
}

/// What an agent without a spool sees while the log is unavailable: a refusal in bounded time, then at once.
fn assert_refused(intake: &str) {
    let body = json!({ "event_type": "model.call", "agent_id": "probe", "session_id": "p", "data": { "call_id": "p", "provider": "x" } });
    let ask = || {
        let begun = Instant::now();
        let (status, answer) = up::request(intake, "POST", "/v1/events", &body.to_string());
        assert_eq!(status, 503, "{answer}");
        begun.elapsed()
    };
    let (first, second) = (ask(), ask());
    assert!(first < Duration::from_secs(12), "the first answer came after {first:?}");
    assert!(second < Duration::from_secs(1), "the second answer came after {second:?}");
}

/// Answers vector#24543 and langfuse#6380: what a sink that is away refuses is not skipped.
#[test]
fn nothing_is_lost_or_doubled_while_clickhouse_the_store_and_kafka_are_away_in_turn() {
    let s3 = variable("CUSTODY_TEST_S3", "docker/s3-local.sh start runs a server");
    let mut world = World::start(&s3);
    let store = Server::at("s3-local.sh", &s3, "CUSTODY_TEST_S3_DATA");
    let kafka = Server::at("kafka-local.sh", &world.installation.kafka, "CUSTODY_TEST_KAFKA_DATA");
    let spool = world.installation.dir.path().join("spool");
    let agent = Agent::start("load", &world.intake, &spool, None);
    world.until("loaded", |world| world.loaded() > 0);

    world.installation.stop_clickhouse();
    world.fall_behind("custody-load");
    world.installation.start_clickhouse();
    let before = world.loaded();
    world.until("loaded after ClickHouse's return", |world| world.loaded() > before);

    store.order("stop");
    world.fall_behind("custody-archive");
    store.order("start");
    world.until("archived after the store's return", |world| world.lag_seconds("custody-archive") < 10.0);

    kafka.order("stop");
    let until = Instant::now() + outage();
    assert_refused(&world.intake);
    world.until("over", |_| Instant::now() > until);
    kafka.order("start");
    world.until("ready after Kafka's return", |world| up::request(&world.intake, "GET", "/readyz", "").0 == 200);

    let sent = agent.finish();
    world.until("loaded, all of it", |world| world.loaded() >= sent);
    assert_reconciled(&mut world, sent, &s3);
    for (role, running) in ROLES.iter().zip(std::mem::take(&mut world.roles)) {
        assert_eq!(running.drained(), Some(0), "{role:?}: {}", world.installation.said(role));
    }
}

/// Acknowledged, loaded and archived are the same events, each once, and nothing is a dead letter.
fn assert_reconciled(world: &mut World, sent: u64, s3: &str) {
    let counts =
        "SELECT count(), uniqExact(event_id), uniqExact(session_id, seq) FROM custody.events WHERE agent_id = 'load'";
    assert_eq!(world.installation.value(counts), format!("{sent}\t{sent}\t{sent}"));
    world.until("archived, all of it", |world| world.lag_seconds("custody-archive") == 0.0);
    world.until("reconciled", |world| world.installation.count("1") == archived(&world.installation, s3).to_string());
    let (code, text) = run(custody().args(["dlq", "list", "--config"]).arg(&world.config));
    assert!(code == Some(0) && text.contains("open: none"), "{text}");
}

/// Clean records in an archive that is intact.
fn archived(installation: &Installation, s3: &str) -> u64 {
    let mut verify = custody();
    verify.args(["verify", "--json", "--store", &installation.bucket(), "--store-endpoint", s3]);
    let output = verify.output().expect("custody verify");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["is_intact"], json!(true), "{report}");
    let clean = report["partitions"].as_array().into_iter().flatten().filter(|p| p["topic"] == "custody.clean.v1");
    clean.filter_map(|p| p["rows"].as_u64()).sum()
}
