//! The files of a spool: names, lock, acknowledgements, and what they hold at open.
//!
//! It decides what is a torn tail: invalid bytes at the end of the last segment. Everything else that is no
//! record is damage, and a copy of it is written to the folder `corrupt`.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::frame::{self, HEAD_BYTES, Piece, Pieces};
use super::{Damage, Opened, Segment, SpoolError};

const SUFFIX: &str = ".seg";

/// Path of the segment that begins with record `first`.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}{SUFFIX}"))
}

/// Creates a directory that only its owner can enter: its files may hold personal data.
pub(crate) fn make_dir(dir: &Path) -> Result<(), SpoolError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(SpoolError::io("make", dir))
}

/// Options for files that only their owner can read.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    // Windows cannot open a directory as a file, and needs no such call.
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(SpoolError::io("force to disk", dir))
    } else {
        Ok(())
    }
}

/// Takes the lock of a spool, which is held until the file is dropped or the process ends.
pub(super) fn lock(dir: &Path) -> Result<File, SpoolError> {
    let path = dir.join("lock");
    let file = private().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(SpoolError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(SpoolError::Io { what: "lock", path, source }),
    }
}

/// A new segment. A file of that name holds no record of this index or a later one: it is replaced.
pub(super) fn create(dir: &Path, first: u64) -> Result<File, SpoolError> {
    let path = path(dir, first);
    let mut file = private().create(true).append(true).open(&path).map_err(SpoolError::io("make", &path))?;
    // Left by a process that died before it wrote a record: what is in it is at most part of a head.
    file.set_len(0).map_err(SpoolError::io("empty", &path))?;
    file.write_all(&frame::head(first)).map_err(SpoolError::io("append to", &path))?;
    Ok(file)
}

/// The file that says what is acknowledged: two slots that are written in turn, each with a frame
/// around an empty payload, so that a torn write leaves the one before.
#[derive(Debug)]
pub(super) struct Acks {
    path: PathBuf,
    file: File,
    next: u64,
    slot: u64,
}

const SLOT_BYTES: usize = frame::FRAME_BYTES;

impl Acks {
    pub(super) fn open(dir: &Path) -> Result<Self, SpoolError> {
        let path = dir.join("acked");
        let file = private().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(SpoolError::io("open", &path))?;
        let bytes = std::fs::read(&path).map_err(SpoolError::io("read", &path))?;
        let slots = [0, 1].map(|slot| slot_at(&bytes, slot));
        let next = slots.into_iter().flatten().max().unwrap_or_default();
        // The older of both slots is overwritten next, so that a torn write leaves the newer one.
        let slot = u64::from(slots[0] == Some(next));
        Ok(Self { path, file, next, slot })
    }

    /// Index of the first record that is not acknowledged.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Writes a later one, without fsync: after a crash of the machine records may be sent twice, and the gateway
    /// recognises them by their event id.
    pub(super) fn advance(&mut self, next: u64) -> Result<(), SpoolError> {
        if next <= self.next {
            return Ok(());
        }
        self.next = next;
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        frame::put(next, &[], &mut slot);
        let at = self.slot * SLOT_BYTES as u64;
        self.slot = 1 - self.slot;
        let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(&slot));
        written.map_err(SpoolError::io("write", &self.path))
    }

    /// Forces what was written to the disk.
    pub(super) fn sync(&self) -> Result<(), SpoolError> {
        self.file.sync_data().map_err(SpoolError::io("force to disk", &self.path))
    }
}

fn slot_at(bytes: &[u8], slot: usize) -> Option<u64> {
    let slot = bytes.get(slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES)?;
    let index = frame::frame_head(slot)?.index;
    match Pieces::new(slot, 0, index).next() {
        Some(Piece::Record { index, payload: [], .. }) => Some(index),
        _ => None,
    }
}

/// What the segments hold.
pub(super) struct Found {
    pub(super) segments: VecDeque<Segment>,
    /// As in [`super::Spool`].
    pub(super) pending: VecDeque<u32>,
    pub(super) opened: Opened,
}

struct Scan<'a, V> {
    dir: &'a Path,
    acked: u64,
    visit: V,
    found: Found,
}

/// Reads every segment, cuts a torn tail, and keeps damage aside.
pub(super) fn scan(dir: &Path, acked: u64, visit: impl FnMut(u64, &[u8])) -> Result<Found, SpoolError> {
    let names = names(dir)?;
    let found = Found { segments: VecDeque::new(), pending: VecDeque::new(), opened: Opened::default() };
    let mut scan = Scan { dir, acked, visit, found };
    for (at, first) in names.iter().enumerate() {
        scan.segment(*first, names.get(at + 1).copied())?;
    }
    Ok(scan.found)
}

fn names(dir: &Path) -> Result<Vec<u64>, SpoolError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(SpoolError::io("list", dir))? {
        let name = entry.map_err(SpoolError::io("list", dir))?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse::<u64>().ok()));
    }
    names.sort_unstable();
    Ok(names)
}

impl<V: FnMut(u64, &[u8])> Scan<'_, V> {
    fn segment(&mut self, first: u64, following: Option<u64>) -> Result<(), SpoolError> {
        let path = path(self.dir, first);
        let bytes = std::fs::read(&path).map_err(SpoolError::io("read", &path))?;
        let is_last = following.is_none();
        // The process died while it made the segment; no record was in it.
        if is_last && bytes.len() < HEAD_BYTES {
            self.found.opened.torn_bytes += bytes.len() as u64;
            return std::fs::remove_file(&path).map_err(SpoolError::io("delete", &path));
        }
        // Records between two segments that are in neither: a whole file is gone, or was damaged at its end.
        let before = self.found.segments.back().map_or(self.acked.min(first), |before| before.next);
        self.missing(before..first, None)?;
        let head = HEAD_BYTES.min(bytes.len());
        // The name says the same as the head, so that a damaged head costs no record.
        if frame::first_of(&bytes) != Some(first) {
            self.missing(first..first, Some((first, 0, &bytes[..head])))?;
        }
        let mut pieces = Pieces::new(&bytes, head, first);
        let mut sound = head;
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Record { index, payload, at } => {
                    sound = at.end;
                    (self.visit)(index, payload);
                    self.pend(index, at.len() as u32);
                }
                Piece::Bad { at, missing } => {
                    let before = pieces.next_index() - missing;
                    self.missing(before..before + missing, Some((first, at.start, &bytes[at])))?;
                }
                // Only here can it be a write that a crash has cut. In an earlier segment everything was
                // complete when the next one was started, so that it is damage there.
                Piece::Tail { at } if is_last => self.cut(&path, at)?,
                Piece::Tail { at } => self.missing(0..0, Some((first, at.start, &bytes[at])))?,
            }
        }
        let segment = Segment { first, next: pieces.next_index(), bytes: sound as u64 };
        self.found.segments.push_back(segment);
        Ok(())
    }

    fn cut(&mut self, path: &Path, at: Range<usize>) -> Result<(), SpoolError> {
        self.found.opened.torn_bytes += at.len() as u64;
        let file = OpenOptions::new().write(true).open(path).map_err(SpoolError::io("open", path))?;
        file.set_len(at.start as u64).map_err(SpoolError::io("cut", path))
    }

    /// Records that are not there, and the bytes in their place, if any: segment, offset, bytes.
    fn missing(&mut self, indexes: Range<u64>, place: Option<(u64, usize, &[u8])>) -> Result<(), SpoolError> {
        for index in indexes.clone() {
            self.pend(index, 0);
        }
        let missing = indexes.end.saturating_sub(indexes.start.max(self.acked));
        if place.is_none() && missing == 0 {
            return Ok(());
        }
        let (first, at, bytes) = place.unwrap_or((indexes.start, 0, &[]));
        let damage = keep_aside(self.dir, first, at as u64, bytes, missing)?;
        self.found.opened.damage.push(damage);
        Ok(())
    }

    fn pend(&mut self, index: u64, bytes: u32) {
        // What was acknowledged is not missed.
        if index >= self.acked {
            self.found.pending.push_back(bytes);
        }
    }
}

/// Copies damaged bytes into the folder `corrupt`, once.
pub(super) fn keep_aside(dir: &Path, first: u64, at: u64, bytes: &[u8], missing: u64) -> Result<Damage, SpoolError> {
    let folder = dir.join("corrupt");
    make_dir(&folder)?;
    // Records that are missing without a trace have no bytes. They need a name of their own: otherwise they would be
    // taken for the damaged head or frame that was kept aside at the same place, and not be reported.
    let what = if bytes.is_empty() { "-missing" } else { "" };
    let kept = folder.join(format!("{first:020}-{at}{what}.bin"));
    let is_new = !kept.exists();
    if is_new {
        let file = private().create_new(true).write(true).open(&kept);
        let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.map_err(SpoolError::io("write", &kept))?;
    }
    Ok(Damage { kept, bytes: bytes.len() as u64, missing, is_new })
}
