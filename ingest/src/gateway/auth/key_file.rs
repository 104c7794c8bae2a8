//! The key file: opened once, read again when it changes, edited by one process at a time.
//!
//! A file that is invalid at the start prevents the start; one that becomes invalid later is reported as an
//! error, and the keys in use stay. It reads no clock: the time of a request decides when to check the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use schemas::id::Sha256;
use schemas::time::TimestampMicros;

use super::change::Change;
use super::change_event;
use super::credential::Presented;
use super::table::{KeyError, KeyTable};
use super::{Authenticator, DenialCode, Denied, Identity};
use crate::gateway::intake::Arrived;

/// Largest key file that is read: some 50 000 keys.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Interval at which an invalid file is reported again.
const COMPLAINT_INTERVAL_MS: i64 = 60_000;

/// A key file that cannot be read, used or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file or its folder.
    #[error("cannot {what} {}: {why}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        why: io::Error,
    },
    /// Everybody may write it.
    #[error("{} can be written by everybody of this machine, who could add a key: chmod 600 it", path.display())]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than [`FILE_BYTES_MAX`].
    #[error("{} is larger than {FILE_BYTES_MAX} bytes", path.display())]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// Its content, or a change that is not allowed.
    #[error("{}: {why}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: KeyError,
    },
}

/// A key file in use.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    check_interval_ms: i64,
    table: RwLock<Arc<KeyTable>>,
    watch: Mutex<Watch>,
    /// Changes that are settled here, and may still be in the file.
    settled: Mutex<Vec<Change>>,
}

/// What was seen of the file.
#[derive(Debug)]
struct Watch {
    checked_at: TimestampMicros,
    /// Digest of the bytes that the table in use was read from.
    digest: Sha256,
    /// What is wrong with the file now, and when it was said.
    broken: Option<(String, TimestampMicros)>,
}

impl KeyFile {
    /// Opens a file; it is looked at again at most every `check_interval_ms`.
    ///
    /// # Errors
    /// It cannot be used: the gateway must not start.
    pub fn open(path: &Path, check_interval_ms: i64, now: TimestampMicros) -> Result<Self, KeyFileError> {
        let (digest, bytes) = read(path)?;
        let table = parse(path, &bytes)?;
        Ok(Self {
            path: path.to_owned(),
            check_interval_ms,
            table: RwLock::new(Arc::new(table)),
            watch: Mutex::new(Watch { checked_at: now, digest, broken: None }),
            settled: Mutex::default(),
        })
    }

    /// The keys in use.
    pub fn table(&self) -> Arc<KeyTable> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is wrong with the file, while the keys in use are those of an earlier one: for readiness and
    /// `custody doctor`.
    pub fn broken(&self) -> Option<String> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.broken.as_ref().map(|(what, _)| what.clone())
    }

    /// Checks the file if the interval has passed; a clock that was set back counts as passed. One caller checks, the
    /// others continue with the keys in use.
    pub fn refresh(&self, now: TimestampMicros) {
        let Ok(mut watch) = self.watch.try_lock() else { return };
        let next = watch.checked_at.plus_ms(self.check_interval_ms);
        if (watch.checked_at..next).contains(&now) {
            return;
        }
        watch.checked_at = now;
        // The content is compared, not the modification time: two edits within one tick of the file system's clock have
        // the same time, and a revocation must not be missed.
        match read(&self.path) {
            Ok((digest, _)) if digest == watch.digest => self.mend(&mut watch),
            Ok((digest, bytes)) => match parse(&self.path, &bytes) {
                Ok(table) => {
                    let keys = table.keys().count();
                    *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
                    watch.digest = digest;
                    self.mend(&mut watch);
                    tracing::info!(path = %self.path.display(), keys, "API keys read again");
                }
                Err(error) => self.complain(&mut watch, &error, now),
            },
            Err(error) => self.complain(&mut watch, &error, now),
        }
    }

    fn mend(&self, watch: &mut Watch) {
        if watch.broken.take().is_some() {
            tracing::info!(path = %self.path.display(), "the API key file can be used again");
        }
    }

    fn complain(&self, watch: &mut Watch, error: &KeyFileError, now: TimestampMicros) {
        let what = error.to_string();
        let said_at = match &watch.broken {
            Some((before, at)) if *before == what && now < at.plus_ms(COMPLAINT_INTERVAL_MS) => *at,
            _ => {
                tracing::error!(
                    error = %what,
                    "the API key file cannot be used: the keys read before stay in force, and revocations since then are \
                     not known"
                );
                now
            }
        };
        watch.broken = Some((what, said_at));
    }

    /// [`KeyTable::overdue`] changes and their events: give the events to the writer, and when they are
    /// acknowledged, the changes to [`KeyFile::settle`].
    pub fn overdue(&self, now: TimestampMicros) -> (Vec<Change>, Vec<Arrived>) {
        let table = self.table();
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        // What has left the file needs no memory any more; otherwise the list would grow with every change.
        settled.retain(|change| table.pending().contains(change));
        let changes: Vec<Change> = table.overdue(now).into_iter().filter(|c| !settled.contains(c)).collect();
        let events = change_event::events(&changes, &table);
        (changes, events)
    }

    /// Takes changes out of the file whose events are in the log. They are not overdue here any more, even
    /// if the file cannot be written.
    ///
    /// # Errors
    /// The file cannot be written (a mounted secret, for example): another process will append their events again,
    /// under the same ids.
    pub fn settle(&self, done: &[Change]) -> Result<(), KeyFileError> {
        // Before the edit, which fails on a read-only file: the events would otherwise be appended again every
        // second.
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(done);
        edit(&self.path, |table| {
            table.settle(done);
            Ok(())
        })
    }
}

impl Authenticator for KeyFile {
    fn authenticate(&self, secret: Option<&str>, now: TimestampMicros) -> Result<Identity, Denied> {
        let Some(secret) = secret else {
            let detail = "the request has no API key: send `Authorization: Bearer KEY` or `X-Api-Key: KEY`";
            return Err(Denied::of_stranger(DenialCode::CredentialMissing, detail));
        };
        // The form is checked before the file: malformed credentials cost no I/O.
        let presented = Presented::read(secret)?;
        self.refresh(now);
        self.table().decide(&presented, now)
    }
}

/// Reads the keys of a file as it is now.
///
/// # Errors
/// It cannot be used.
pub fn load(path: &Path) -> Result<KeyTable, KeyFileError> {
    parse(path, &read(path)?.1)
}

/// Changes a key file, exclusively (a lock on `FILE.lock`) and atomically (a new, fsynced file replaces it). A file
/// that does not exist is created; only its owner can read it.
///
/// # Errors
/// The file cannot be used or written, or the change is not allowed; the file is as it was.
pub fn edit<T>(path: &Path, change: impl FnOnce(&mut KeyTable) -> Result<T, KeyError>) -> Result<T, KeyFileError> {
    // A link is resolved first: the rename below would replace the link itself, and its target, which other processes
    // may read, would keep the old keys.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let lock_path = with_suffix(path, ".lock");
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |why| KeyFileError::Io { what, path, why }
    };
    // A lock file of its own: the key file is replaced by a rename, and a lock on it would be a lock on
    // the file that was replaced.
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
    let lock = lock.map_err(io("open", &lock_path))?;
    lock.lock().map_err(io("lock", &lock_path))?;
    let mut table = match load(path) {
        Err(KeyFileError::Io { why, .. }) if why.kind() == io::ErrorKind::NotFound => KeyTable::default(),
        loaded => loaded?,
    };
    let before = table.clone();
    let outcome = change(&mut table).map_err(|why| KeyFileError::Keys { path: path.to_owned(), why })?;
    if table != before {
        replace(path, &table.to_json()).map_err(io("write", path))?;
    }
    Ok(outcome)
}

/// Puts a file in place of another one, after its bytes are on disk; called under the lock.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    // A process that was killed while it wrote has left it. The lock says that no process is writing it
    // now.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // `create_new` does not follow a link that another user has put there, and the mode holds from the first
    // byte on.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    // Before the rename: after a crash of the machine the name could otherwise point to an empty file, and
    // every key would be gone.
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The rename is durable only once its directory is: a revocation that was reported as done must
    // survive a power failure.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn read(path: &Path) -> Result<(Sha256, Vec<u8>), KeyFileError> {
    let io = |why| KeyFileError::Io { what: "read", path: path.to_owned(), why };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    // Fail closed: whoever can write the file can add a key for every tenant.
    if metadata.permissions().mode() & 0o002 != 0 {
        return Err(KeyFileError::Writable { path: path.to_owned() });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.size().min(FILE_BYTES_MAX)).unwrap_or_default());
    // One byte more than the limit shows that there is more. The size in the metadata may be out of date,
    // and some files report 0.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(KeyFileError::Large { path: path.to_owned() });
    }
    Ok((Sha256::of(&bytes), bytes))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<KeyTable, KeyFileError> {
    KeyTable::parse(bytes).map_err(|why| KeyFileError::Keys { path: path.to_owned(), why })
}

#[cfg(test)]
mod tests;
