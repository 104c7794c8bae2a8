//! Whether a role can run with a configuration: ranges, and what one key asks of another.
//!
//! Pure. It opens nothing: files, brokers and servers are asked when the role starts.

use std::net::SocketAddr;

use sinks::clickhouse::insert::LoadConfig;

use super::Config;
use super::role::Role;
use super::sections::LogUrl;

/// librdkafka settings that carry a guarantee: with another value records would be lost or doubled.
const KEPT: &[&str] = &[
    "bootstrap.servers",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "partition.assignment.strategy",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "auto.offset.reset",
    "isolation.level",
    "enable.idempotence",
    "transactional.id",
    "acks",
    "request.required.acks",
    "message.max.bytes",
];
/// Largest object that one PUT can write, a little below S3's 5 GiB.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// ClickHouse's block: an insert above it is not atomic.
const INSERT_ROWS_MAX: u64 = 1_048_448;
/// Partition numbers of later ones would not fit into the 31 bits of the schemas.
const GENERATIONS_MAX: u32 = 20_000;

/// Everything that keeps `role` from running; empty if nothing does.
pub(super) fn problems(config: &Config, role: Role) -> Vec<String> {
    let mut found = Vec::new();
    log(config, role, &mut found);
    names(config, &mut found);
    if role.runs(Role::Gateway) {
        found.extend(config.gateway.problems().into_iter().map(|problem| format!("gateway.{problem}")));
        if config.gateway.drain_timeout_ms > config.lifecycle.drain_timeout_ms {
            found.push("gateway.drain_timeout_ms must not be above lifecycle.drain_timeout_ms".to_owned());
        }
    }
    if role.runs(Role::Pii) {
        pii(config, role, &mut found);
        registry(config, &mut found);
    }
    if role.runs(Role::Load) {
        load(config, role, &mut found);
    }
    if role.runs(Role::Alert)
        && let Err(error) = config.alert.check()
    {
        found.push(error.to_string());
    }
    if role == Role::Alert && config.alert.receivers.is_empty() {
        found.push("alert.receivers is empty: add a section [alert.receivers.<name>]".to_owned());
    }
    ranges(config, &mut found);
    telemetry(config, &mut found);
    found
}

fn log(config: &Config, role: Role, found: &mut Vec<String>) {
    match config.log.place() {
        None => found.push("log.url must be `local` or kafka://HOST:PORT[,HOST:PORT]".to_owned()),
        Some(LogUrl::Local) if role != Role::Up => found.push(format!(
            "log.url is `local`, the embedded log of one process, which other roles cannot reach: run `custody up`, or \
             set log.url = \"kafka://HOST:PORT\" for `custody {}`",
            role.command()
        )),
        Some(_) => {}
    }
    if config.log.partitions == 0 || config.log.partitions > 10_000 {
        found.push("log.partitions must be 1 to 10000".to_owned());
    }
    if config.log.generation == 0 || config.log.generation > GENERATIONS_MAX {
        found.push(format!("log.generation must be 1 to {GENERATIONS_MAX}: what `custody topics migrate` said last"));
    }
    if config.log.generation > 1 && config.log.place() == Some(LogUrl::Local) {
        found.push("log.generation is for topics on Kafka; the embedded log has but one, remove it".to_owned());
    }
    for name in config.log.librdkafka.0.keys().chain(config.log.librdkafka_file.0.keys()) {
        if KEPT.contains(&name.as_str()) {
            found.push(format!("log.librdkafka {name:?} carries a guarantee and cannot be set; remove it"));
        }
    }
    for name in config.log.librdkafka_file.0.keys().filter(|n| config.log.librdkafka.0.contains_key(*n)) {
        found.push(format!("{name:?} stands in log.librdkafka and in log.librdkafka_file; remove one of them"));
    }
    mechanism(config, found);
}

/// A token is for the mechanism OAUTHBEARER, which needs one; librdkafka can make unsigned ones by itself.
fn mechanism(config: &Config, found: &mut Vec<String>) {
    let set = |name: &str| config.log.librdkafka.0.get(name).map(String::as_str);
    let mechanism = set("sasl.mechanism").or_else(|| set("sasl.mechanisms"));
    let is_bearer = mechanism.is_some_and(|name| name.eq_ignore_ascii_case("OAUTHBEARER"));
    let is_own = set("enable.sasl.oauthbearer.unsecure.jwt") == Some("true");
    match (is_bearer, config.log.oauth_token_file.as_os_str().is_empty()) {
        (true, true) if !is_own => found.push(
            "sasl.mechanism is OAUTHBEARER: name the file that holds the token in log.oauth_token_file".to_owned(),
        ),
        (false, false) => found.push(
            "log.oauth_token_file is for OAUTHBEARER: set \"sasl.mechanism\" = \"OAUTHBEARER\" in log.librdkafka, or \
             remove the file"
                .to_owned(),
        ),
        _ => {}
    }
}

fn names(config: &Config, found: &mut Vec<String>) {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !config.log.namespace.chars().all(is_plain) || config.log.namespace.len() > 100 {
        found.push("log.namespace may hold at most 100 letters, digits, '.', '_' and '-'".to_owned());
    }
    let instance = config.instance();
    if instance.is_empty() || instance.len() > 100 || !instance.chars().all(is_plain) {
        found.push(
            "instance must be 1 to 100 letters, digits, '.', '_' and '-'; set it where the host's name is not"
                .to_owned(),
        );
    }
}

fn pii(config: &Config, role: Role, found: &mut Vec<String>) {
    if role != Role::Up && config.pii.keys_file.as_os_str().is_empty() {
        found.push(
            "pii.keys_file is not set: name the file of 32 secret bytes that every instance of this role shares \
             (make one with `head -c 32 /dev/urandom > pii.key`)"
                .to_owned(),
        );
    }
    if let Err(error) = config.pii.policies().validate() {
        found.push(format!("pii: {error}"));
    }
}

fn registry(config: &Config, found: &mut Vec<String>) {
    let registry = &config.schemas.registry;
    let has_password = !registry.password.is_empty() || !registry.password_file.as_os_str().is_empty();
    let has_token = !registry.token_file.as_os_str().is_empty();
    if registry.url.is_empty() {
        if has_password || has_token || !registry.user.is_empty() {
            found.push("schemas.registry.url is empty: name the registry that the credentials are for".to_owned());
        }
        return;
    }
    match reqwest::Url::parse(&registry.url) {
        Ok(url) if !is_http(&registry.url) || !url.has_host() => {
            found.push("schemas.registry.url must begin with http:// or https://".to_owned());
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() || url.query().is_some() => found.push(
            "schemas.registry.url may hold no user, password or query: set schemas.registry.user and password_file"
                .to_owned(),
        ),
        Ok(_) => {}
        Err(error) => found.push(format!("schemas.registry.url is no URL: {error}")),
    }
    if has_password && registry.user.is_empty() {
        found.push("schemas.registry.password needs schemas.registry.user".to_owned());
    }
    if has_token && !registry.user.is_empty() {
        found.push("schemas.registry has a user and a token_file; remove one of them".to_owned());
    }
}

fn load(config: &Config, role: Role, found: &mut Vec<String>) {
    let clickhouse = &config.clickhouse;
    if clickhouse.url.is_empty() && role != Role::Up {
        found.push(
            "clickhouse.url is empty: the embedded engine serves `custody up` only; set the URL of a server".to_owned(),
        );
    }
    if !clickhouse.url.is_empty() && !is_http(&clickhouse.url) {
        found.push("clickhouse.url must begin with http:// or https://".to_owned());
    }
    let is_identifier = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if clickhouse.database.is_empty() || !clickhouse.database.chars().all(is_identifier) {
        found.push("clickhouse.database may hold letters, digits and '_' only".to_owned());
    }
    if !clickhouse.password.is_empty() && clickhouse.user.is_empty() {
        found.push("clickhouse.password needs clickhouse.user".to_owned());
    }
    let LoadConfig { rows_max, bytes_max } = config.load.sink();
    if rows_max == 0 || rows_max > INSERT_ROWS_MAX {
        found.push(format!("load.rows_max must be 1 to {INSERT_ROWS_MAX}: a larger insert is not atomic"));
    }
    if bytes_max == 0 {
        found.push("load.bytes_max must be at least 1".to_owned());
    }
}

fn is_http(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

fn ranges(config: &Config, found: &mut Vec<String>) {
    let positive = [
        ("clickhouse.request_timeout_ms", config.clickhouse.request_timeout_ms as i64),
        ("schemas.registry.request_timeout_ms", config.schemas.registry.request_timeout_ms as i64),
        ("completeness.gap_grace_ms", config.completeness.gap_grace_ms),
        ("completeness.session_timeout_ms", config.completeness.session_timeout_ms),
        ("completeness.sessions_max", config.completeness.sessions_max as i64),
        ("writers.writer_grace_ms", config.writers.writer_grace_ms),
        ("writers.heartbeat_interval_ms", config.writers.heartbeat_interval_ms),
        ("anomaly.features.window_ms", config.anomaly.features.window_ms),
        ("archive.flush_interval_ms", config.archive.flush_interval_ms),
        ("archive.rows_max", config.archive.rows_max as i64),
        ("archive.row_group_bytes_max", config.archive.row_group_bytes_max as i64),
        ("load.flush_interval_ms", config.load.flush_interval_ms),
        ("telemetry.lag_interval_ms", config.telemetry.lag_interval_ms as i64),
    ];
    found.extend(positive.iter().filter(|(_, v)| *v <= 0).map(|(key, _)| format!("{key} must be at least 1")));
    if config.archive.file_bytes_max == 0 || config.archive.file_bytes_max > FILE_BYTES_MAX {
        found.push(format!("archive.file_bytes_max must be 1 to {FILE_BYTES_MAX}: a file is put in one request"));
    }
    if config.completeness.retention_ms < config.completeness.session_timeout_ms {
        found.push("completeness.retention_ms must be at least completeness.session_timeout_ms".to_owned());
    }
    let score = &config.anomaly.score;
    for (key, share) in [("fdr", score.fdr), ("objective", score.objective)] {
        if !(share > 0.0 && share < 1.0) {
            found.push(format!("anomaly.score.{key} must lie between 0 and 1"));
        }
    }
    if !(1_000..=600_000).contains(&config.lifecycle.drain_timeout_ms) {
        found.push("lifecycle.drain_timeout_ms must be 1000 to 600000".to_owned());
    }
}

fn telemetry(config: &Config, found: &mut Vec<String>) {
    let telemetry = &config.telemetry;
    if telemetry.listen.parse::<SocketAddr>().is_err() {
        found.push("telemetry.listen must be ADDRESS:PORT, e.g. 0.0.0.0:9464".to_owned());
    }
    if !telemetry.otlp_endpoint.is_empty() && !is_http(&telemetry.otlp_endpoint) {
        found.push("telemetry.otlp_endpoint must begin with http:// or https://".to_owned());
    }
    if tracing_subscriber::EnvFilter::try_new(&telemetry.log_filter).is_err() {
        found.push("telemetry.log_filter must be a filter like `info` or `warn,custody=debug`".to_owned());
    }
}
