//! The shell around the npm client, with packages that a script packs; the real registry is in `tests/live`.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::embedded::package::package_for;

const CONTENT: &str = "not really a library\n";
/// `printf 'not really a library\n' | sha256sum`
const CONTENT_SHA256: &str = "56a4c769086bfba18ebd6ba0b8653aa7332a2acf0e32f63e457ac76c35e294e4";

fn package(library_sha256: Option<&'static str>) -> Package {
    Package { library_sha256, ..package_for("linux", "x86_64", true).expect("published") }
}

/// A command that takes `npm pack`'s arguments and packs `CONTENT`.
fn npm(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("npm");
    fs::write(&path, format!("#!/bin/sh\nset -e\n{script}\n")).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

const PACK: &str = "mkdir package && echo 'not really a library' > package/libchdb.so && tar -czf chdb.tgz package";

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).expect("read").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_verified_library_is_published_and_nothing_else_is_left() {
    let (tools, cache) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    fs::create_dir_all(cache.path().join("fetch-1/unpacked")).expect("leftover of a killed fetch");
    let found = fetch(&package(Some(CONTENT_SHA256)), &npm(tools.path(), PACK), cache.path()).expect("fetched");
    assert_eq!(fs::read_to_string(&found).expect("read"), CONTENT);
    assert_eq!(found, library_path(cache.path()));
    assert_eq!(entries(cache.path()), ["chdb-26.7.3-stable.1", "fetch.lock"]);
}

#[test]
fn a_library_that_is_there_is_not_fetched_again() {
    let (tools, cache) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let package = package(Some(CONTENT_SHA256));
    fetch(&package, &npm(tools.path(), PACK), cache.path()).expect("fetched");
    fetch(&package, &npm(tools.path(), "exit 1"), cache.path()).expect("found");
}

#[test]
fn a_wrong_checksum_is_refused_and_leaves_nothing() {
    let (tools, cache) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let error = fetch(&package(Some("00")), &npm(tools.path(), PACK), cache.path()).expect_err("refused");
    let message = error.to_string();
    assert!(message.contains(CONTENT_SHA256) && message.contains("expected 00"), "{message}");
    assert!(message.contains("CUSTODY_LIBCHDB"), "{message}");
    assert_eq!(entries(cache.path()), ["fetch.lock"]);
}

#[test]
fn a_registry_that_refuses_is_named_with_what_it_said() {
    let (tools, cache) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let check = |script: &str, part: &str| {
        let error = fetch(&package(None), &npm(tools.path(), script), cache.path()).expect_err("refused");
        let message = error.to_string();
        assert!(message.contains(part) && message.contains("@chdb/lib-linux-x64-gnu@26.7.3-stable.1"), "{message}");
        assert_eq!(entries(cache.path()), ["fetch.lock"]);
    };
    check("echo 'npm error code E404' >&2; exit 1", "npm error code E404");
    check("exit 0", "left no .tgz file");
    check("echo junk > chdb.tgz", "`tar` ended with");
}

#[test]
fn processes_that_fetch_at_once_all_get_the_whole_library() {
    let (tools, cache) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let count = tools.path().join("count");
    let npm = npm(tools.path(), &format!("echo x >> {}; {PACK}", count.display()));
    std::thread::scope(|scope| {
        let fetches: Vec<_> =
            (0..4).map(|_| scope.spawn(|| fetch(&package(Some(CONTENT_SHA256)), &npm, cache.path()))).collect();
        for fetched in fetches {
            let path = fetched.join().expect("no panic").expect("fetched");
            assert_eq!(fs::read_to_string(path).expect("read"), CONTENT);
        }
    });
    assert_eq!(fs::read_to_string(count).expect("read"), "x\n");
}
