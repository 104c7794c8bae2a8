//! `custody verify` and `custody replay`, of all and of a range, on an archive in a bucket.

use std::process::Output;

use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde_json::Value;
use sinks::parquet::store::Store;
use sinks::parquet::store::config::StoreConfig;

use super::support::{custody, demo};
use super::{BUCKET, config, endpoint, objects, open};

fn run(config: &StoreConfig, arguments: &[&str]) -> Output {
    let store = ["--store", &config.url, "--store-endpoint", &endpoint()];
    custody().args(arguments).args(store).output().expect("custody")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {} {}", String::from_utf8_lossy(&output.stdout), errors(output)))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn an_archive_in_a_bucket_is_verified_and_rebuilds_clickhouse() {
    let directory = tempfile::tempdir().expect("directory");
    let summary = demo(directory.path());
    let config = config(BUCKET);
    let (local, remote) = (Store::local(&directory.path().join("store")).unwrap(), open(&config));
    let listed = local.list("archive", None).await.unwrap();
    for object in &listed {
        let bytes = local.get(object.location.as_ref()).await.unwrap().unwrap();
        remote.create(object.location.as_ref(), bytes).await.unwrap();
    }

    let verified = run(&config, &["verify", "--json"]);
    assert_eq!(verified.status.code(), Some(0), "{}", errors(&verified));
    let report = json(&verified);
    assert_eq!(report["is_intact"], true);
    let rows = report["partitions"].as_array().expect("partitions").iter();
    let clean = rows.filter(|p| p["topic"] == "custody.clean.v1").filter_map(|p| p["rows"].as_u64()).sum::<u64>();
    assert_eq!(Some(clean), summary["archived_rows"].as_u64());

    let elsewhere = tempfile::tempdir().expect("directory");
    let data_dir = elsewhere.path().to_str().expect("utf-8");
    let replayed = run(&config, &["replay", "--json", "--data-dir", data_dir]);
    assert_eq!(replayed.status.code(), Some(0), "{}", errors(&replayed));
    assert_eq!(json(&replayed)["clickhouse_rows"], summary["clickhouse_rows"]);

    let side = format!("local:{data_dir}/side");
    let range = ["replay", "--json", "--data-dir", data_dir, "--from", "2026-01-12T10:30:00Z", "--into-log", &side];
    let ranged = run(&config, &range);
    assert_eq!(ranged.status.code(), Some(0), "{}", errors(&ranged));
    let ranged = json(&ranged);
    assert!(ranged["objects_read"].as_u64() < ranged["objects"].as_u64(), "{ranged}");
    assert!((1..clean).contains(&ranged["appended"].as_u64().expect("a number")), "{ranged}");

    let damaged = Path::from(format!("{}", listed[0].location));
    objects(&remote).put(&damaged, PutPayload::from_static(b"damaged")).await.unwrap();
    let verified = run(&config, &["verify", "--json"]);
    assert_eq!(verified.status.code(), Some(1), "{}", errors(&verified));
}

#[tokio::test]
async fn an_empty_prefix_and_a_missing_bucket_are_no_intact_archive() {
    let empty = run(&config(BUCKET), &["verify"]);
    assert_eq!(empty.status.code(), Some(2));
    assert!(errors(&empty).contains("holds no archive"), "{}", errors(&empty));
    let missing = StoreConfig { url: "s3://no-such-bucket/x".to_owned(), ..config(BUCKET) };
    let missing = run(&missing, &["verify"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(errors(&missing).contains("create the bucket"), "{}", errors(&missing));
}
