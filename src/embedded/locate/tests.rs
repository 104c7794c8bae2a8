//! Every row of the decision table, and the directory rules.

use super::*;
use crate::embedded::package::package_for;

fn package() -> Option<Package> {
    package_for("linux", "x86_64", true)
}

fn everything() -> Facts {
    Facts {
        url: Some("http://db:8123".into()),
        library_named: Some(("/named/libchdb.so".into(), true)),
        server: Some("/bin/clickhouse".into()),
        library_cached: Some("/cache/libchdb.so".into()),
        npm: Some("/bin/npm".into()),
        package: package(),
        written_by: None,
    }
}

fn check(facts: &Facts, expected: &ClickHouseSource) {
    match choose(facts) {
        Ok(found) => assert_eq!(&found, expected, "{facts:?}"),
        Err(error) => panic!("{facts:?}: {error}"),
    }
}

fn check_refused(facts: &Facts, part: &str) {
    let message = choose(facts).expect_err("must be refused").to_string();
    assert!(message.contains(part), "{message:?} lacks {part:?}");
    assert!(message.contains("CUSTODY_LIBCHDB") && message.contains("on the PATH"), "{message:?} lacks the remedies");
}

#[test]
fn sources_are_tried_in_the_documented_order() {
    let mut facts = everything();
    check(&facts, &ClickHouseSource::Url("http://db:8123".into()));
    facts.url = None;
    check(&facts, &ClickHouseSource::Library("/named/libchdb.so".into()));
    facts.library_named = None;
    check(&facts, &ClickHouseSource::Server("/bin/clickhouse".into()));
    facts.server = None;
    check(&facts, &ClickHouseSource::Library("/cache/libchdb.so".into()));
    facts.library_cached = None;
    let package = package().expect("linux x64 is published");
    check(&facts, &ClickHouseSource::Fetch { package, npm: "/bin/npm".into() });
}

#[test]
fn a_data_directory_keeps_the_engine_that_wrote_it() {
    let without_url = Facts { url: None, library_named: None, ..everything() };
    let library = Facts { written_by: Some(EngineKind::Library), ..without_url.clone() };
    check(&library, &ClickHouseSource::Library("/cache/libchdb.so".into()));
    let server = Facts { written_by: Some(EngineKind::Server), ..without_url };
    check(&server, &ClickHouseSource::Server("/bin/clickhouse".into()));
    let by_name = Facts { library_named: Some(("/named/libchdb.so".into(), true)), ..server.clone() };
    check(&by_name, &ClickHouseSource::Server("/bin/clickhouse".into()));
    check_refused(&Facts { server: None, ..server }, "written by `clickhouse server`");
}

#[test]
fn what_is_missing_is_named_with_the_remedies() {
    let nothing = Facts::default();
    check_refused(&nothing, "no engine library is published for");
    check_refused(&Facts { package: package(), ..nothing.clone() }, "no `npm` on the PATH");
    let named = Some((PathBuf::from("/gone/libchdb.so"), false));
    check_refused(&Facts { library_named: named, ..nothing }, "/gone/libchdb.so, which is not a file");
}

#[test]
fn the_cache_directory_follows_the_three_variables_in_order() {
    let check = |set: &[&str], expected: Option<&str>| {
        let found = cache_dir_from(|name| set.contains(&name).then(|| PathBuf::from("/v").join(name)));
        assert_eq!(found.ok(), expected.map(PathBuf::from), "{set:?}");
    };
    check(&["CUSTODY_CACHE_DIR", "XDG_CACHE_HOME", "HOME"], Some("/v/CUSTODY_CACHE_DIR"));
    check(&["XDG_CACHE_HOME", "HOME"], Some("/v/XDG_CACHE_HOME/custody"));
    check(&["HOME"], Some("/v/HOME/.cache/custody"));
    check(&[], None);
}

#[test]
fn only_executable_files_count_on_the_path() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("clickhouse");
    std::fs::write(&file, "").expect("write");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let path = std::env::join_paths([Path::new("/nonexistent"), dir.path()]).expect("join");
    assert_eq!(find_on_path(&path, "clickhouse"), None);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    assert_eq!(find_on_path(&path, "clickhouse"), Some(file));
}

#[test]
fn the_engine_file_is_read_back_as_written() {
    for kind in [EngineKind::Server, EngineKind::Library] {
        assert_eq!(EngineKind::parse(&format!("{}\n", kind.as_str())), Some(kind));
    }
    assert_eq!(EngineKind::parse("sqlite"), None);
}
