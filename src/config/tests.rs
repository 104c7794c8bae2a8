//! Tables over the configuration: precedence, unknown keys, masking, validation.

use std::path::Path;

use super::load::load;
use super::*;

fn loaded(file: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    load(Some((Path::new("custody.toml"), file)), environment, None)
}

fn config(file: &str, environment: &[(&str, &str)]) -> Config {
    loaded(file, environment).expect("a configuration").config
}

fn refused(file: &str, environment: &[(&str, &str)]) -> Vec<String> {
    loaded(file, environment).expect_err("a refusal").0
}

fn problems(role: Role, file: &str) -> Vec<String> {
    loaded(file, &[]).expect("a configuration").for_role(role).err().map(|e| e.0).unwrap_or_default()
}

#[test]
fn default_toml_states_every_key_with_the_value_that_the_types_have() {
    let types = toml::Table::try_from(Config::default()).expect("values");
    let stated: toml::Table = toml::from_str(DEFAULT_TOML).expect("default.toml parses");
    for section in types.keys().chain(stated.keys()) {
        assert_eq!(types.get(section), stated.get(section), "{section}");
    }
}

#[test]
fn a_later_layer_goes_over_an_earlier_one() {
    let check = |file: &str, environment: &[(&str, &str)], expected: u32, origin: &str| {
        let loaded = loaded(file, environment).expect("a configuration");
        assert_eq!(
            (loaded.config.log.partitions, loaded.origin("log.partitions").as_str()),
            (expected, origin),
            "{file}"
        );
    };
    let variable = [("CUSTODY_LOG__PARTITIONS", "16")];
    check("", &[], 4, "default");
    check("log.partitions = 8", &[], 8, "custody.toml");
    check("log.partitions = 8", &variable, 16, "environment variable CUSTODY_LOG__PARTITIONS");
    check("", &variable, 16, "environment variable CUSTODY_LOG__PARTITIONS");
    // Names without `__` are other things.
    check("", &[("CUSTODY_LOG", "debug"), ("CUSTODY_LIBCHDB", "x"), ("OTHER__KEY", "1")], 4, "default");
}

#[test]
fn the_command_line_goes_over_everything() {
    let environment = [("CUSTODY__DATA_DIR".to_owned(), "b".to_owned())];
    let from =
        |dir| load(Some((Path::new("f"), "data_dir = 'a'")), environment.clone().into_iter(), dir).expect("loads");
    assert_eq!(from(None).config.data_dir, Path::new("b"));
    let loaded = from(Some(Path::new("c")));
    assert_eq!((loaded.config.data_dir.as_path(), loaded.origin("data_dir").as_str()), (Path::new("c"), "--data-dir"));
}

#[test]
fn a_variable_is_read_as_the_type_that_its_key_has() {
    let config = config(
        "",
        &[
            ("CUSTODY_CLICKHOUSE__PASSWORD", "12345"),
            ("CUSTODY_CLICKHOUSE__USER", "true"),
            ("CUSTODY_ANOMALY__SCORE__FDR", "0.01"),
            ("CUSTODY_COMPLETENESS__DECISION_REQUIRED", "[\"money\"]"),
            ("CUSTODY_TELEMETRY__LOG_FORMAT", "json"),
            ("CUSTODY_LOG__LIBRDKAFKA__SASL_PASSWORD", "0123"),
            ("CUSTODY_LOG__TOPIC__RETENTION_MS", "1000"),
        ],
    );
    assert_eq!((config.clickhouse.password.expose(), config.clickhouse.user.as_str()), ("12345", "true"));
    assert_eq!(config.anomaly.score.fdr, 0.01);
    assert_eq!(config.completeness.decision_required, ["money".to_owned()].into());
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    assert_eq!(config.log.librdkafka.0.get("sasl.password").map(String::as_str), Some("0123"));
    assert_eq!(config.log.topic.0.get("retention.ms").map(String::as_str), Some("1000"));
}

#[test]
fn pass_through_names_may_be_quoted_or_nested() {
    let expected = [("a.b", "1"), ("c.d.e", "true"), ("f", "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    for text in
        ["[log.librdkafka]\n\"a.b\" = 1\n\"c.d.e\" = true\nf = 'x'", "[log.librdkafka]\na.b = 1\nc.d.e = true\nf = 'x'"]
    {
        assert_eq!(config(text, &[]).log.librdkafka.0, expected.clone().into(), "{text}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_key() {
    let check = |file: &str, environment: &[(&str, &str)], expected: &[&str]| {
        let found = refused(file, environment);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found:?} does not begin with {expected:?}");
        }
    };
    check("[log]\nulr = 'x'", &[], &["custody.toml: unknown key log.ulr; the nearest known one is log.url"]);
    check("[lgo]\nurl = 'x'", &[], &["custody.toml: unknown key lgo; the nearest known one is log"]);
    check("flush_interval_ms = 1", &[], &["custody.toml: unknown key flush_interval_ms; the nearest known one is "]);
    check("zzzzzz = 1", &[], &["custody.toml: unknown key zzzzzz; `custody config print --default` lists all"]);
    check(
        "[log]\nulr = 'x'\n[pii]\nkey_file = 'y'",
        &[("CUSTODY_LOG__PARTITION", "3")],
        &[
            "custody.toml: unknown key log.ulr",
            "custody.toml: unknown key pii.key_file; the nearest known one is pii.keys_file",
            "environment variable CUSTODY_LOG__PARTITION: unknown key log.partition; the nearest known one is log.partitions",
        ],
    );
    // In an open table the type itself says no.
    check("[pii.tenants.a]\nname = 'a'\nversion = 1\nacitons = {}", &[], &["custody.toml: pii.tenants.a"]);
    check("[alert.receivers.ops]\ntype = 'slack'\nulr = 'x'", &[], &["custody.toml: alert.receivers.ops"]);
}

#[test]
fn no_message_shows_a_value() {
    for file in [
        "clickhouse.password = 987654",
        "clickhouse.password = ['hunter2']",
        "clickhouse.password = \"hunter2",
        "[clickhouse]\nport = 'hunter2'",
    ] {
        let found = refused(file, &[]).join("\n");
        assert!(!found.contains("hunter2") && !found.contains("987654"), "{found}");
        assert!(found.contains("custody.toml"), "{found}");
    }
    assert!(refused("a = 1\nb = = 2", &[])[0].starts_with("custody.toml line 2: "));
}

#[test]
fn what_is_printed_masks_secrets_and_reads_back_to_the_same() {
    let file = "[log]\nurl = 'kafka://a:1'\n[log.librdkafka]\n\"sasl.password\" = 'hunter2'\n\"client.rack\" = 'r1'\n\
                [clickhouse]\npassword = 'hunter2'\nuser = 'u'\n[alert.receivers.ops]\ntype = 'slack'\nurl = 'https://hunter2'";
    let loaded = loaded(file, &[("CUSTODY_LOAD__ROWS_MAX", "7")]).expect("a configuration");
    let text = loaded.print().expect("text");
    assert!(!text.contains("hunter2") && !format!("{loaded:?}").is_empty(), "{text}");
    assert!(!format!("{:?}", loaded.config).contains("hunter2"));
    for expected in [
        "url = \"kafka://a:1\"  # custody.toml",
        "rows_max = 7  # environment variable CUSTODY_LOAD__ROWS_MAX",
        "\"client.rack\" = \"r1\"  # custody.toml",
        "\"sasl.password\" = \"********\"  # custody.toml",
        "[anomaly.score]",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let again = config(&text, &[]);
    assert_eq!((again.log.url.as_str(), again.load.rows_max), ("kafka://a:1", 7));
}

#[test]
fn a_role_is_refused_what_it_cannot_run_with() {
    let rest = "pii.keys_file = 'k'\nclickhouse.url = 'http://c:8123'\n[alert.receivers.ops]\ntype = 'slack'\nurl = 'http://a'";
    let kafka = format!("log.url = 'kafka://a:9092'\n{rest}");
    let check = |role: Role, file: &str, expected: &[&str]| {
        let found = problems(role, file);
        assert_eq!(found.len(), expected.len(), "{role:?} {file}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found:?} does not say {expected:?}");
        }
    };
    check(Role::Up, "", &[]);
    for role in [Role::Gateway, Role::Pii, Role::Completeness, Role::Anomaly, Role::Archive, Role::Load, Role::Alert] {
        check(role, &kafka, &[]);
        let found = problems(role, rest);
        assert!(found.len() == 1 && found[0].contains("log.url is `local`"), "{found:?}");
    }
    check(Role::Pii, "log.url = 'kafka://a:9092'", &["pii.keys_file is not set"]);
    check(Role::Load, "log.url = 'kafka://a:9092'", &["clickhouse.url is empty"]);
    check(Role::Archive, "log.url = 'kafka://a:9092'", &[]);
    check(Role::Alert, "log.url = 'kafka://a:9092'", &["alert.receivers is empty"]);
    check(Role::Gateway, "log.url = 'kafka://a:9092'\ngateway.sessions_max = 0", &["gateway.sessions_max is 0"]);
    check(Role::Up, "gateway.drain_timeout_ms = 30000", &["gateway.drain_timeout_ms"]);
    check(Role::Up, "log.url = 'redis://x'", &["log.url must be"]);
    check(Role::Up, "log.url = 'kafka://'", &["log.url must be"]);
    check(Role::Up, "log.partitions = 0", &["log.partitions"]);
    check(Role::Up, "[log.librdkafka]\n\"isolation.level\" = 'read_uncommitted'", &["isolation.level"]);
    let mechanism = "[log.librdkafka]\n\"sasl.mechanism\" = 'OAUTHBEARER'";
    check(Role::Up, mechanism, &["log.oauth_token_file"]);
    check(Role::Up, &format!("{mechanism}\n\"enable.sasl.oauthbearer.unsecure.jwt\" = true"), &[]);
    check(Role::Up, &format!("log.oauth_token_file = '/t'\n{mechanism}"), &[]);
    check(Role::Up, "log.oauth_token_file = '/t'", &["sasl.mechanism"]);
    check(Role::Up, "instance = 'a b'", &["instance"]);
    check(Role::Up, "pii.default.default_action = 'seal'", &["no key store"]);
    check(Role::Up, "completeness.retention_ms = 1", &["completeness.retention_ms"]);
    check(
        Role::Up,
        "load.rows_max = 2000000\narchive.file_bytes_max = 0",
        &["load.rows_max", "archive.file_bytes_max"],
    );
    check(
        Role::Up,
        "telemetry.listen = '9464'\nlifecycle.drain_timeout_ms = 700000",
        &["drain_timeout_ms", "telemetry.listen"],
    );
    check(Role::Up, "clickhouse.password = 'x'", &["clickhouse.user"]);
    let registry = |rest: &str| format!("[schemas.registry]\n{rest}");
    let url = "url = 'https://registry.example.com/apis/ccompat/v7'";
    check(Role::Up, &registry(url), &[]);
    check(Role::Up, &registry(&format!("{url}\nuser = 'u'\npassword_file = '/p'")), &[]);
    check(Role::Up, &registry("url = 'registry:8081'"), &["http:// or https://"]);
    check(Role::Up, &registry("url = 'https://u:p@registry'"), &["schemas.registry.user and password_file"]);
    check(Role::Up, &registry("user = 'u'"), &["schemas.registry.url is empty"]);
    check(Role::Up, &registry(&format!("{url}\npassword = 'p'")), &["needs schemas.registry.user"]);
    check(Role::Up, &registry(&format!("{url}\nuser = 'u'\ntoken_file = '/t'")), &["remove one of them"]);
    check(Role::Up, &registry(&format!("{url}\nrequest_timeout_ms = 0")), &["schemas.registry.request_timeout_ms"]);
}

#[test]
fn a_tenant_without_a_policy_is_refused_where_that_is_asked() {
    let file = "[pii]\ntenants_without_policy = 'refuse'\n[pii.tenants.acme]\nname = 'acme'\nversion = 2";
    let policies = config(file, &[]).pii.policies();
    assert!(policies.for_tenant("acme").is_ok() && policies.for_tenant("other").is_err());
    assert!(config("", &[]).pii.policies().for_tenant("other").is_ok());
}
