//! The secret that all tokens derive from: 32 bytes in a file, made once, never guessed at.
//!
//! It fails closed: a file that is missing, short, or unreadable ends the start. It rotates nothing.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use processors::pii::TokenKeys;

/// Bytes of the secret.
const KEY_BYTES: usize = 32;
/// Read and write for the owner alone.
const MODE: u32 = 0o600;

/// Reads the secret.
///
/// # Errors
/// There is no such file, or it does not hold exactly 32 bytes.
pub(super) fn read(path: &Path) -> anyhow::Result<TokenKeys> {
    let shown = path.display();
    let bytes = std::fs::read(path).with_context(|| {
        format!("cannot read the token key {shown}: restore it, or name the right file in pii.keys_file")
    })?;
    let Ok(master) = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()) else {
        bail!("the token key {shown} holds {} bytes, not {KEY_BYTES}: restore it, or name the right file", bytes.len());
    };
    let mode = std::fs::metadata(path).with_context(|| format!("cannot look at {shown}"))?.permissions().mode();
    if mode & 0o007 != 0 {
        tracing::warn!("every user of this machine may read the token key {shown}: run `chmod 600 {shown}`");
    }
    Ok(TokenKeys::new(master))
}

/// Reads the secret, or makes it if there is none and nothing was redacted yet (`may_make`).
///
/// # Errors
/// As [`read`]; or the file cannot be written.
pub(super) fn read_or_make(path: &Path, may_make: bool) -> anyhow::Result<TokenKeys> {
    match path.try_exists() {
        Ok(false) if may_make => make(path).with_context(|| format!("cannot make the token key {}", path.display()))?,
        Ok(false) => bail!(
            "the token key {} is gone, and events were redacted with it: restore it; with a new one, tokens of new \
             events would not be those of old ones",
            path.display()
        ),
        _ => {}
    }
    read(path)
}

/// Writes random bytes beside the file and links them to its name: whole or not at all, and never over
/// another key.
fn make(path: &Path) -> anyhow::Result<()> {
    let mut master = [0; KEY_BYTES];
    getrandom::fill(&mut master).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&partial)?;
    file.write_all(&master)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&partial, path);
    std::fs::remove_file(&partial)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    std::fs::File::open(dir)?.sync_all()?;
    tracing::info!("made the token key {}; keep a copy apart from the data", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use processors::pii::Kind;

    use super::*;

    fn token(keys: &TokenKeys) -> String {
        keys.tenant("acme").token(Kind::Email, "a@example.com")
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("data/pii.key");
        let first = read_or_make(&path, true).expect("made");
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        assert_eq!(token(&read_or_make(&path, true).expect("read")), token(&first));
        assert_eq!(token(&read_or_make(&path, false).expect("read")), token(&first));
        let other = read_or_make(&dir.path().join("other.key"), true).expect("made");
        assert_ne!(token(&other), token(&first));
        assert_eq!(std::fs::read_dir(dir.path().join("data")).expect("directory").count(), 1, "nothing is left over");
    }

    #[test]
    fn a_key_that_is_not_whole_is_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("pii.key");
        let refused = |may_make| format!("{:#}", read_or_make(&path, may_make).expect_err("refused"));
        assert!(refused(false).contains("is gone"), "{}", refused(false));
        for bytes in [0, 31, 33] {
            std::fs::write(&path, vec![7; bytes]).expect("written");
            assert!(refused(true).contains(&format!("holds {bytes} bytes, not 32")), "{}", refused(true));
            assert_eq!(std::fs::read(&path).expect("file").len(), bytes, "it is left as it is");
        }
        assert!(format!("{:#}", read(&dir.path().join("none")).expect_err("refused")).contains("pii.keys_file"));
    }
}
