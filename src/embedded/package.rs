//! Which build of ClickHouse's engine this release of Custody runs, and how it is named in the npm registry.
//!
//! One version is pinned, and where its bytes are known the checksum is pinned too. Nothing here touches the disk or
//! the network.

/// The pinned version of every `@chdb/lib-*` package.
pub const VERSION: &str = "26.7.3-stable.1";

/// One platform's package in the npm registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Name in the registry, without version.
    pub name: &'static str,
    /// Size of the packed file in bytes, for the progress bar only.
    pub packed_bytes: u64,
    /// Size of `libchdb.so` in bytes, for the progress bar only.
    pub library_bytes: u64,
    /// SHA-256 of `libchdb.so` in lower-case hex. `None` where it was never measured: there the registry's own
    /// integrity field, which the npm client checks, is the only guard.
    pub library_sha256: Option<&'static str>,
}

impl Package {
    /// `name@version`, as the npm client takes it.
    #[must_use]
    pub fn spec(&self) -> String {
        format!("{}@{VERSION}", self.name)
    }
}

const fn unmeasured(name: &'static str) -> Package {
    Package { name, packed_bytes: 178_000_000, library_bytes: 566_000_000, library_sha256: None }
}

const LINUX_X64: Package = Package {
    name: "@chdb/lib-linux-x64-gnu",
    packed_bytes: 177_817_999,
    library_bytes: 566_330_096,
    library_sha256: Some("36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5"),
};

/// The package for an operating system and processor as named by [`std::env::consts`], or `None` where none is
/// published. musl builds of Custody get none: the library needs glibc.
#[must_use]
pub fn package_for(os: &str, arch: &str, glibc: bool) -> Option<Package> {
    match (os, arch) {
        ("linux", "x86_64") if glibc => Some(LINUX_X64),
        ("linux", "aarch64") if glibc => Some(unmeasured("@chdb/lib-linux-arm64-gnu")),
        ("macos", "x86_64") => Some(unmeasured("@chdb/lib-darwin-x64")),
        ("macos", "aarch64") => Some(unmeasured("@chdb/lib-darwin-arm64")),
        _ => None,
    }
}

/// The package for the machine this binary was built for.
#[must_use]
pub fn package_here() -> Option<Package> {
    package_for(std::env::consts::OS, std::env::consts::ARCH, cfg!(target_env = "gnu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_published_platform_has_its_package_and_no_other() {
        let check = |os, arch, glibc, expected: Option<&str>| {
            assert_eq!(package_for(os, arch, glibc).map(|p| p.name), expected, "{os} {arch} {glibc}");
        };
        check("linux", "x86_64", true, Some("@chdb/lib-linux-x64-gnu"));
        check("linux", "aarch64", true, Some("@chdb/lib-linux-arm64-gnu"));
        check("macos", "x86_64", false, Some("@chdb/lib-darwin-x64"));
        check("macos", "aarch64", false, Some("@chdb/lib-darwin-arm64"));
        check("linux", "x86_64", false, None);
        check("linux", "riscv64", true, None);
        check("freebsd", "x86_64", false, None);
    }
}
