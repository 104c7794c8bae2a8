//! Where the engine comes from: a URL starts nothing, and the real registry gives the pinned library.

use custody::embedded::{ClickHouseSource, EmbeddedClickHouse, EmbeddedOptions, Facts, choose};

#[tokio::test]
async fn a_url_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        EmbeddedOptions { url: Some("http://db:8123".into()), data_dir: dir.path().join("d"), ..Default::default() };
    let engine = EmbeddedClickHouse::start(&options).await.unwrap();
    assert_eq!((engine.url(), engine.pid()), ("http://db:8123", None));
    assert!(!options.data_dir.exists());
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn the_library_is_fetched_verified_and_started() {
    let (cache, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let found = Facts::gather(None, cache.path(), data.path());
    let facts = Facts { server: None, library_named: None, ..found };
    let source = choose(&facts).expect("npm is on the PATH");
    assert!(matches!(source, ClickHouseSource::Fetch { .. }), "{source:?}");
    let options = super::options(data.path());
    let engine = EmbeddedClickHouse::start_source(source, cache.path(), &options).await.unwrap();
    assert!(custody::embedded::library_path(cache.path()).is_file());
    engine.stop().await.unwrap();
}
