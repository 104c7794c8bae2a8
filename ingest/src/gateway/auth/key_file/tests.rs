//! The file on a real file system: made, read again, broken, mended, edited by several at once.

use std::fs::Permissions;

use super::super::credential::{Minted, mint};
use super::super::table::{Act, NewKey};
use super::super::{Authenticator, Role};
use super::*;

const NOW: TimestampMicros = TimestampMicros(1_790_000_000_000_000);
const INTERVAL_MS: i64 = 1_000;

fn act() -> Act {
    Act { by: "ada".to_owned(), at: NOW, reason: String::new() }
}

fn add(path: &Path, n: u8) -> Minted {
    let minted = mint([n; 32]);
    let new =
        NewKey { name: "fleet".to_owned(), role: Role::Member, tenant_id: Some("a".to_owned()), expires_at: None };
    edit(path, |table| table.create(&minted, new, &act())).unwrap();
    minted
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api-keys.json");
    (dir, path)
}

fn code(file: &KeyFile, minted: &Minted, now: TimestampMicros) -> Option<DenialCode> {
    file.authenticate(Some(minted.secret.expose()), now).err().map(|denied| denied.code)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_file_is_its_owners_only_and_nothing_is_left_beside_it() {
    let (dir, path) = folder();
    add(&path, 1);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    fs::write(with_suffix(&path, ".new"), "left by a crash").unwrap();
    add(&path, 2);
    assert_eq!((mode(&path), mode(&with_suffix(&path, ".lock"))), (0o600, 0o600));
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["api-keys.json", "api-keys.json.lock"]);
    assert_eq!(load(&path).unwrap().keys().count(), 2);
}

#[test]
fn changes_are_seen_at_the_next_look_and_not_before() {
    let (_dir, path) = folder();
    let first = add(&path, 1);
    let file = KeyFile::open(&path, INTERVAL_MS, NOW).unwrap();
    let second = add(&path, 2);
    edit(&path, |table| table.revoke(&first.id, &act())).unwrap();
    let just_before = TimestampMicros(NOW.plus_ms(INTERVAL_MS).0 - 1);
    assert_eq!(
        (code(&file, &first, just_before), code(&file, &second, just_before)),
        (None, Some(DenialCode::CredentialUnknown))
    );
    let then = NOW.plus_ms(INTERVAL_MS);
    assert_eq!((code(&file, &first, then), code(&file, &second, then)), (Some(DenialCode::CredentialRevoked), None));
    assert_eq!(file.authenticate(None, then).unwrap_err().code, DenialCode::CredentialMissing);
}

#[test]
fn an_edit_in_place_of_the_same_size_and_time_is_seen() {
    let (_dir, path) = folder();
    let minted = add(&path, 1);
    let file = KeyFile::open(&path, INTERVAL_MS, NOW).unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let text = fs::read_to_string(&path).unwrap().replace("\"member\"", "\"viewer\"");
    fs::write(&path, text).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let identity = file.authenticate(Some(minted.secret.expose()), NOW.plus_ms(INTERVAL_MS)).unwrap();
    assert_eq!(identity.role, Role::Viewer);
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_the_looking() {
    let (_dir, path) = folder();
    let minted = add(&path, 1);
    let file = KeyFile::open(&path, INTERVAL_MS, NOW).unwrap();
    edit(&path, |table| table.revoke(&minted.id, &act())).unwrap();
    assert_eq!(code(&file, &minted, NOW.plus_ms(-3_600_000)), Some(DenialCode::CredentialRevoked));
}

#[test]
fn a_file_that_breaks_leaves_the_last_good_keys_in_force() {
    let (_dir, path) = folder();
    let minted = add(&path, 1);
    let file = KeyFile::open(&path, INTERVAL_MS, NOW).unwrap();
    let good = fs::read(&path).unwrap();
    let breakers: [&dyn Fn(); 4] = [
        &|| fs::write(&path, "{").unwrap(),
        &|| fs::remove_file(&path).unwrap(),
        &|| {
            fs::write(&path, &good).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        },
        &|| File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap(),
    ];
    let expected = ["is not a key file", "cannot read", "can be written by everybody", "is larger than"];
    let mut now = NOW;
    for (break_it, expected) in breakers.iter().zip(expected) {
        break_it();
        now = now.plus_ms(INTERVAL_MS);
        assert_eq!(code(&file, &minted, now), None);
        let broken = file.broken().unwrap();
        assert!(broken.contains(expected), "{broken}");
        let at_start = KeyFile::open(&path, INTERVAL_MS, now).unwrap_err().to_string();
        assert_eq!(at_start, broken, "what is said later stops a start");
        let _ = fs::remove_file(&path);
        fs::write(&path, &good).unwrap();
        now = now.plus_ms(INTERVAL_MS);
        assert_eq!((code(&file, &minted, now), file.broken()), (None, None));
    }
}

/// Collects the text of what is logged as an error on this thread.
#[derive(Default, Clone)]
struct Errors(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            text += &format!("{}={value:?} ", field.name());
        });
        self.0.lock().unwrap().push(text);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_broken_file_is_complained_of_at_once_and_every_minute() {
    let (_dir, path) = folder();
    let minted = add(&path, 1);
    let file = KeyFile::open(&path, INTERVAL_MS, NOW).unwrap();
    let errors = Errors::default();
    tracing::subscriber::with_default(errors.clone(), || {
        // The mistake most feared: a whole key, pasted into the file.
        fs::write(&path, format!("{{\"version\":1,\"keys\":[],\"{}\":1}}", minted.secret.expose())).unwrap();
        for second in 1..=61 {
            assert_eq!(code(&file, &minted, NOW.plus_ms(second * INTERVAL_MS)), None);
        }
    });
    let errors = errors.0.lock().unwrap();
    assert_eq!(errors.len(), 2, "{errors:?}");
    let secret = minted.secret.expose().split_at(13).1;
    assert!(
        errors.iter().all(|e| e.contains("stay in force") && e.contains("unknown") && !e.contains(secret)),
        "{errors:?}"
    );
}

#[test]
fn a_change_that_is_not_allowed_leaves_the_file_alone() {
    let (_dir, path) = folder();
    add(&path, 1);
    let before = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().ino());
    let error = edit(&path, |table| table.revoke("cst_00000000", &act())).unwrap_err();
    assert!(error.to_string().contains("there is no key cst_00000000"), "{error}");
    edit(&path, |_| Ok(())).unwrap();
    assert_eq!(before, (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().ino()));
    fs::write(&path, "broken").unwrap();
    assert!(edit(&path, |table| table.revoke("cst_00000000", &act())).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"broken", "a broken file is not replaced by an empty one");
}

#[test]
fn edits_at_once_are_all_there() {
    let (_dir, path) = folder();
    std::thread::scope(|scope| {
        for n in 0..16 {
            let path = &path;
            scope.spawn(move || add(path, n));
        }
    });
    let table = load(&path).unwrap();
    assert_eq!((table.keys().count(), table.pending().len()), (16, 16));
}

#[test]
fn a_link_stays_a_link() {
    let (dir, path) = folder();
    let target = dir.path().join("real.json");
    fs::write(&target, r#"{"version":1,"keys":[]}"#).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    add(&path, 1);
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    assert_eq!(load(&target).unwrap().keys().count(), 1);
}

#[test]
fn what_a_command_could_not_tell_the_gateway_tells_once() {
    let (_dir, path) = folder();
    add(&path, 1);
    let file = KeyFile::open(&path, INTERVAL_MS, NOW).unwrap();
    assert_eq!(file.overdue(NOW.plus_ms(9_999)).0, []);
    let (changes, events) = file.overdue(NOW.plus_ms(10_000));
    assert_eq!((changes.len(), events.len()), (1, 1));
    file.settle(&changes).unwrap();
    assert_eq!(file.overdue(NOW.plus_ms(10_000)).0, [], "before the file is read again");
    file.refresh(NOW.plus_ms(10_000));
    assert_eq!(file.overdue(NOW.plus_ms(10_000)).0, []);
    let table = load(&path).unwrap();
    assert_eq!((table.keys().count(), table.pending().len()), (1, 0));
}

#[test]
fn a_file_that_cannot_be_written_is_told_of_once_by_each_process() {
    let (_dir, path) = folder();
    add(&path, 1);
    let file = KeyFile::open(&path, INTERVAL_MS, NOW).unwrap();
    let (changes, _) = file.overdue(NOW.plus_ms(10_000));
    // A folder in the lock's place fails for everybody, root included.
    fs::remove_file(with_suffix(&path, ".lock")).unwrap();
    fs::create_dir(with_suffix(&path, ".lock")).unwrap();
    assert!(file.settle(&changes).unwrap_err().to_string().contains("cannot open"));
    file.refresh(NOW.plus_ms(10_000));
    assert_eq!(file.table().pending().len(), 1);
    assert_eq!(file.overdue(NOW.plus_ms(20_000)).0, []);
    let another = KeyFile::open(&path, INTERVAL_MS, NOW).unwrap();
    assert_eq!(another.overdue(NOW.plus_ms(20_000)).0, changes);
}
