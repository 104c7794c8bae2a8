//! The few calls of the operating system that need `unsafe`: signals to one child, death with the parent, and leaving
//! without running C++ destructors.
//!
//! Deliberately not a process library: [`super::child`] decides, this executes.
#![allow(unsafe_code)]

/// Asks the process to end (SIGTERM). An error means it is gone already, which is what the caller wants.
pub(crate) fn terminate(pid: u32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: kill takes two integers. The caller holds the un-reaped child, so the number is not reused.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

/// Lets the kernel end the child when the *thread* that spawns it ends; so spawn from a thread that lives as long as
/// the process. Only Linux has this; elsewhere a child must watch its standard input.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
pub(crate) fn die_with_parent(command: &mut std::process::Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt as _;
        let set = || {
            // SAFETY: prctl(PR_SET_PDEATHSIG) takes an integer and touches no memory.
            let answer = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
            if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec the closure makes one async-signal-safe system call and allocates nothing.
        unsafe { command.pre_exec(set) };
    }
}

/// Leaves at once, without `atexit` handlers and static destructors: with `libchdb.so` loaded those crashed 3 times of
/// 30.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}
