//! The archive on a real S3 server at `CUSTODY_TEST_S3` (its address): conformance, lost answers,
//! refusals, TLS, object lock, and the commands that read an archive.
//!
//! `docker/s3-local.sh start` runs a server, and `env` of the same script prints the variables. Its
//! absence is a failure. Each check has a prefix of its own. `conformance::in_a_bucket` alone also holds
//! on a server that checks no signature and wants an older checksum header for object lock (moto).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "object_store/commands.rs"]
mod commands;
#[path = "object_store/proxy.rs"]
mod proxy;
mod support;

use std::sync::Arc;

use schemas::secret::Secret;
use sinks::error::{ErrorClass, SinkError};
use sinks::parquet::store::config::StoreConfig;
use sinks::parquet::store::protection::Protection;
use sinks::parquet::store::{Created, Store};
use sinks::parquet::testing::fixture;
use sinks::parquet::verify::{VerifyOptions, verify};

/// Bucket without and bucket with object lock, as `docker/s3-local.sh` makes them.
const BUCKET: &str = "custody";
const LOCKED: &str = "custody-locked";

fn endpoint() -> String {
    std::env::var("CUSTODY_TEST_S3").expect(
        "CUSTODY_TEST_S3=http://host:port and the AWS credential variables: docker/s3-local.sh start runs a server, and its env prints them",
    )
}

/// A prefix of a bucket that nobody has used.
fn config(bucket: &str) -> StoreConfig {
    let _present = rustls::crypto::ring::default_provider().install_default();
    StoreConfig {
        url: format!("s3://{bucket}/test-{}", uuid::Uuid::new_v4()),
        endpoint: endpoint(),
        allow_http: true,
        ..StoreConfig::default()
    }
}

fn open(config: &StoreConfig) -> Store {
    Store::open(config).unwrap()
}

mod conformance {
    use super::*;

    mod in_a_bucket {
        sinks::store_conformance!(async || (super::open(&super::config(super::BUCKET)), ()));
    }

    mod in_a_bucket_with_object_lock {
        sinks::store_conformance!(async || (super::open(&super::config(super::LOCKED)), ()));
    }
}

#[tokio::test]
async fn the_self_test_says_how_the_bucket_protects_its_objects() {
    let plain = open(&config(BUCKET)).self_test(1).await.unwrap();
    assert_eq!(plain, Protection::Unlocked { is_versioned: false });
    let locked = open(&config(LOCKED)).self_test(1).await.unwrap();
    let expected = Protection::Retained { mode: "GOVERNANCE".to_owned(), period: "1 days".to_owned() };
    assert_eq!(locked, expected);
    let required = |bucket| StoreConfig { object_lock_required: true, ..config(bucket) };
    open(&required(LOCKED)).self_test(2).await.unwrap();
    let error = open(&required(BUCKET)).self_test(2).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Config);
    assert!(error.to_string().contains("object_lock_required"), "{error}");
}

#[tokio::test]
async fn an_object_of_256_mib_is_one_create_only_put() {
    let store = open(&config(BUCKET));
    let mut object = vec![0_u8; 256 << 20];
    object.iter_mut().zip(0_u32..).for_each(|(byte, i)| *byte = (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    let object = bytes::Bytes::from(object);
    assert_eq!(store.create("archive/large", object.clone()).await.unwrap(), Created::New);
    assert_eq!(store.create("archive/large", "small".into()).await.unwrap(), Created::Exists);
    assert!(store.get("archive/large").await.unwrap().unwrap() == object, "the bytes come back");
    let [meta] = &store.list("archive", None).await.unwrap()[..] else { panic!("one object") };
    assert_eq!(meta.size, 256 << 20);
}

/// The wire breaks after the server has done the work and before the client hears of it. The S3 client
/// repeats such a PUT by itself and is refused by its own object: the archive must see that it is its own.
#[tokio::test]
async fn an_answer_lost_on_the_wire_is_no_foreign_object() {
    let expected = {
        let store = open(&config(BUCKET));
        fixture::run(&store, &fixture::log(), true).await;
        contents(&store).await
    };
    assert_eq!(expected.len(), 8, "four objects and their manifests");
    for retries_max in [3, 0] {
        for at in 0..expected.len() {
            let direct = config(BUCKET);
            let proxy = proxy::lossy(&endpoint()).await;
            let store = open(&StoreConfig { endpoint: proxy.address(), retries_max, ..direct.clone() });
            let mut sink = fixture::open(&store).await;
            sink.position(fixture::CLEAN).await.unwrap();
            sink.assign(fixture::CLEAN, 0).unwrap();
            sink.push(&fixture::log()).unwrap();
            sink.seal(fixture::CLEAN).unwrap();
            proxy.lose_the_answer_of_put(at);
            for (.., error) in sink.publish().await {
                assert!(error.as_ref().is_none_or(|error| error.class == ErrorClass::Retry), "{error:?}");
            }
            assert!(sink.publish().await.iter().all(|(.., error)| error.is_none()), "answer {at} lost");
            assert_eq!(proxy.answers_lost(), 1, "the fault fired");
            let direct = open(&direct);
            assert_eq!(contents(&direct).await, expected, "answer {at} lost, {retries_max} retries");
            let report = verify(&direct, &VerifyOptions::default(), |_| ()).await.unwrap();
            assert_eq!(report.failures, []);
        }
    }
}

/// What the caller of the test above is told: not that the object is new, although it is its own.
#[tokio::test]
async fn the_clients_own_repetition_is_refused_by_its_own_object() {
    let proxy = proxy::lossy(&endpoint()).await;
    let store = open(&StoreConfig { endpoint: proxy.address(), ..config(BUCKET) });
    proxy.lose_the_answer_of_put(0);
    assert_eq!(store.create("archive/x", "mine".into()).await, Ok(Created::Exists));
    assert_eq!((store.get("archive/x").await.unwrap().unwrap(), proxy.answers_lost()), ("mine".into(), 1));
}

async fn contents(store: &Store) -> Vec<(String, bytes::Bytes)> {
    let mut contents = Vec::new();
    for object in store.list("archive", None).await.unwrap() {
        let bytes = store.get(object.location.as_ref()).await.unwrap().unwrap();
        contents.push((object.location.to_string(), bytes));
    }
    contents
}

fn assert_refused(error: &SinkError, class: ErrorClass, remedy: &str) {
    assert_eq!(error.class, class, "{error}");
    assert!(error.message.contains(remedy), "{error}");
}

#[tokio::test]
async fn a_refusal_says_what_to_change_and_an_absent_server_is_waited_for() {
    let of = |change: &dyn Fn(&mut StoreConfig)| {
        let mut config = config(BUCKET);
        change(&mut config);
        open(&config)
    };
    let secret = |id: &str, secret: &str| {
        let (id, secret) = (id.to_owned(), Secret::new(secret));
        move |config: &mut StoreConfig| (config.access_key_id, config.secret_access_key) = (id.clone(), secret.clone())
    };
    let id = std::env::var("AWS_ACCESS_KEY_ID").expect("docker/s3-local.sh env prints it");
    let create = async |store: Store| store.create("archive/x", "1".into()).await.unwrap_err();
    let wrong_secret = create(of(&secret(&id, "wrong"))).await;
    assert_refused(&wrong_secret, ErrorClass::Config, "secret_access_key");
    assert!(!wrong_secret.to_string().contains("wrong"), "{wrong_secret}");
    assert_refused(&create(of(&secret("nobody", "wrong"))).await, ErrorClass::Config, "");
    let missing = of(&|config| config.url = "s3://no-such-bucket/x".to_owned());
    assert_refused(&create(missing.clone()).await, ErrorClass::Config, "create the bucket");
    assert_refused(&missing.get("archive/x").await.unwrap_err(), ErrorClass::Config, "create the bucket");
    assert_refused(&missing.list("archive", None).await.unwrap_err(), ErrorClass::Config, "create the bucket");
    assert_refused(&missing.self_test(1).await.unwrap_err(), ErrorClass::Config, "create the bucket");
    let region = of(&|config| config.region = "eu-central-1".to_owned());
    assert_refused(&create(region).await, ErrorClass::Config, "region");
    let away = of(&|config| (config.endpoint, config.retries_max) = ("http://127.0.0.1:9".to_owned(), 0));
    assert_refused(&create(away).await, ErrorClass::Retry, "efused");
}

#[tokio::test]
async fn a_server_is_trusted_by_its_certificate_authority_only() {
    let proxy = proxy::tls(&endpoint()).await;
    let untrusting = StoreConfig { endpoint: proxy.address(), allow_http: false, ..config(BUCKET) };
    let error = open(&untrusting).create("archive/x", "1".into()).await.unwrap_err();
    assert_refused(&error, ErrorClass::Config, "ca_file");
    let trusting = StoreConfig { ca_file: Some(proxy.ca_file()), ..untrusting };
    let store = open(&trusting);
    store.self_test(1).await.unwrap();
    fixture::run(&store, &fixture::log(), true).await;
    assert_eq!(contents(&store).await.len(), 8);
}

/// A store as an [`Arc`] for the tests that damage it.
fn objects(store: &Store) -> Arc<dyn object_store::ObjectStore> {
    Arc::clone(store.object_store())
}
