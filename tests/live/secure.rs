//! TLS and logins: a Kafka with SASL_SSL, an S3 server and ClickHouse behind HTTPS, all with certificates
//! that are made here. It starts its own servers on free ports; where they cannot be had (Java 17 and
//! Maven, Go, the ClickHouse engine) it fails.
//!
//! ClickHouse's own TLS is not tested, as the embedded engine has none: a front of ours speaks it. Nor is
//! the signature of a token, which is the brokers' to check: these take unsigned ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "secure/kafka.rs"]
mod kafka;
#[path = "secure/servers.rs"]
mod servers;
mod support;

use std::path::{Path, PathBuf};

use schemas::secret::Secret;
use servers::{Certificates, Server, front};
use sinks::clickhouse::client::{ClickHouse, ClickHouseConfig};
use sinks::clickhouse::insert::ClickHouseSink;
use sinks::clickhouse::migrate::migrate;
use sinks::error::ErrorClass;
use sinks::parquet::store::config::StoreConfig;
use sinks::parquet::store::{Created, Store};
use support::custody;
use support::installation::{Engine, run};

fn installed() {
    let _present = rustls::crypto::ring::default_provider().install_default();
}

/// A configuration file in `dir`.
fn configured(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A command with a configuration, where that stands; exit code and what it says.
fn command(arguments: &[&str], config: &Path) -> (Option<i32>, String) {
    let dir = config.parent().unwrap();
    run(custody().args(arguments).arg("--config").arg(config).current_dir(dir))
}

/// What `custody doctor` says about an installation of which a part is right.
fn doctor(config: &Path) -> String {
    command(&["doctor"], config).1
}

#[tokio::test]
async fn the_archive_is_kept_over_https_with_an_own_authority() {
    installed();
    let certificates = Certificates::make();
    let server = Server::start("s3-local.sh", &certificates);
    let config = StoreConfig {
        url: "s3://custody/secure".to_owned(),
        endpoint: format!("https://127.0.0.1:{}", server.port),
        access_key_id: "custody".to_owned(),
        secret_access_key: Secret::new("custody-on-this-machine-only"),
        ca_file: Some(certificates.path("ca.pem")),
        ..StoreConfig::default()
    };
    let store = Store::open(&config).unwrap();
    store.self_test(1).await.unwrap();
    assert_eq!(store.create("archive/x", "1".into()).await, Ok(Created::New));
    assert_eq!(store.get("archive/x").await.unwrap().unwrap(), "1");
    let untrusting = Store::open(&StoreConfig { ca_file: None, ..config.clone() }).unwrap();
    let refused = untrusting.get("archive/x").await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::Config, "{refused}");
    assert!(refused.message.contains("ca_file"), "{refused}");

    let text = |ca_file: &str| {
        format!(
            "[store]\nurl = \"{}\"\nendpoint = \"{}\"\naccess_key_id = \"custody\"\n\
             secret_access_key = \"custody-on-this-machine-only\"\nretries_max = 0\n{ca_file}",
            config.url, config.endpoint
        )
    };
    let ca_file = format!("ca_file = \"{}\"\n", certificates.path("ca.pem").display());
    let said = doctor(&configured(certificates.dir(), "custody.toml", &text(&ca_file)));
    assert!(said.contains("ok    store:"), "{said}");
    let said = doctor(&configured(certificates.dir(), "custody.toml", &text("")));
    assert!(said.contains("FAIL  store:") && said.contains("ca_file"), "{said}");
}

#[tokio::test]
async fn clickhouse_is_loaded_over_https_with_an_own_authority() {
    installed();
    let certificates = Certificates::make();
    let engine = Engine::start(&certificates.path("engine"), "0");
    let address = front(&certificates, engine.url.trim_start_matches("http://")).await;
    let url = format!("https://{address}");
    let untrusting = ClickHouseConfig { url: url.clone(), ..ClickHouseConfig::default() };
    let refused = ClickHouse::new(&untrusting).unwrap().execute("SELECT 1").await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::Config, "{refused}");
    assert!(refused.to_string().contains("clickhouse.ca_file"), "{refused}");

    let trusting = ClickHouseConfig { ca_file: Some(certificates.path("ca.pem")), ..untrusting };
    let server = ClickHouse::new(&trusting).unwrap();
    migrate(&server).await.unwrap();
    ClickHouseSink::open(&trusting).await.unwrap();
    let rows: Vec<serde_json::Value> = server.rows("SELECT count() AS n FROM custody.events").await.unwrap();
    assert_eq!(rows, [serde_json::json!({ "n": 0 })]);

    let text = format!("[clickhouse]\nurl = \"{url}\"\n");
    let trusted = format!("{text}ca_file = \"{}\"\n", certificates.path("ca.pem").display());
    let check = async |text: String, expected: [&str; 2]| {
        let config = configured(certificates.dir(), "custody.toml", &text);
        // The front lives on this thread's runtime.
        let said = tokio::task::spawn_blocking(move || doctor(&config)).await.unwrap();
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    };
    check(trusted, ["ok    clickhouse:", "ok    clickhouse layout:"]).await;
    check(text, ["FAIL  clickhouse:", "clickhouse.ca_file"]).await;
    drop(server);
    engine.stop();
}
