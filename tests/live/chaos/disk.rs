//! A disk that is filled and freed: a file system in memory (`chaos.sh` mounts it) that is made as small as
//! what it holds, so that the next write finds it full.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::installation::run;
use crate::support::until;

/// A mounted file system.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// As it was mounted, bytes.
    size: u64,
}

impl Disk {
    /// The one that is mounted at `path`.
    pub(crate) fn at(path: &Path) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let is_mounted = mounts.lines().any(|line| line.split(' ').nth(1).map(Path::new) == Some(path));
        assert!(is_mounted, "{} is no file system of its own: tests/live/chaos.sh mounts it", path.display());
        let mut disk = Self { path: path.to_owned(), size: 0 };
        (disk.size, _) = disk.size_and_held();
        disk
    }

    fn size_and_held(&self) -> (u64, u64) {
        let stat = rustix::fs::statvfs(&self.path).expect("a file system");
        (stat.f_blocks * stat.f_frsize, (stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }

    fn resize(&self, bytes: u64) -> (Option<i32>, String) {
        run(Command::new("mount").arg("-o").arg(format!("remount,size={bytes}")).arg(&self.path))
    }

    /// Room for `left` bytes is what is left.
    pub(crate) fn fill(&mut self, left: u64) {
        // Others write while it is made smaller: a size below what is held is refused, and tried again.
        let shrinks = |disk: &mut Self| disk.resize(disk.size_and_held().1 + left).0 == Some(0);
        until(self, "made smaller", shrinks, |disk| disk.path.display().to_string());
    }

    /// As it was.
    pub(crate) fn free(&self) {
        let (code, text) = self.resize(self.size);
        assert_eq!(code, Some(0), "{}: {text}", self.path.display());
    }
}
