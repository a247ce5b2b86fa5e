//! Keeps a program from hearing of changes of the network. Containers that come and go are such changes, and a browser
//! breaks off what it is doing at each. There is no setting against it, so the kernel does not let it listen.

use std::process::Command;

/// Refuses the program and all that it starts the sockets by which the kernel tells of interfaces and addresses.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "pre_exec is the only way to reach prctl(2) in the child")]
pub(super) fn make(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    /// Where `struct seccomp_data` has the number of the call, and the low half of its first argument.
    const CALL: u32 = 0;
    const DOMAIN: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
    let load = |at| (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    // Where it is not equal, so many instructions are passed over.
    let unless = |value, over| (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, over, value);
    let answer = |how| (libc::BPF_RET | libc::BPF_K, 0, 0, how);
    let filter = [
        load(CALL),
        unless(libc::SYS_socket as u32, 3),
        load(DOMAIN),
        unless(libc::AF_NETLINK as u32, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let mut filter = filter.map(|(code, jt, jf, k)| libc::sock_filter { code: code as u16, jt, jf, k });
    // SAFETY: prctl is async-signal-safe and allocates nothing; the filter lives in the closure, which outlives the call.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn make(_: &mut Command) {}
