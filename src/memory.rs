//! Keeps the C library's allocator from holding memory that nobody uses.
//!
//! glibc gives threads arenas of their own, and what one thread freed another cannot take: with eight
//! workers a demo of 155 k events peaked at 590 MiB, with two arenas at 336 MiB and no slower.

/// Sets the process up; call it before threads start. Does nothing where the C library is not glibc.
#[allow(unsafe_code)]
pub fn init() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets a parameter of the allocator, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
