//! A child process that does not outlive its owner, its output in a file.

use anyhow::{Context, Result};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program, what it prints going to `log`.
    ///
    /// # Errors
    /// Where the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // Ctrl-C is for the owner alone, which then ends its children in its own order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        die_with_parent(&mut command);
        let child =
            command.spawn().with_context(|| format!("cannot start {name}; dev/setup installs what is needed"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    #[allow(unsafe_code, reason = "kill(2) has no safe form in the standard library")]
    pub fn signal(&self, signal: i32) {
        let Ok(pid) = i32::try_from(self.child.id()) else {
            return;
        };
        // SAFETY: kill takes two integers and touches no memory; the child is not reaped before it is dropped.
        unsafe {
            libc::kill(pid, signal);
        }
    }

    /// Stops it without ending it, as `kill -STOP` does, and returns once all of it stands still.
    #[allow(unsafe_code, reason = "waitid(2) has no safe form in the standard library")]
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        // SAFETY: all zero bytes are a value of siginfo_t, waitid writes to nothing else, and WNOWAIT leaves it to the
        // standard library to reap the child. It returns where the child has ended instead, too.
        unsafe {
            let mut news: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, self.child.id(), &raw mut news, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT);
        }
    }

    /// Lets it go on after [`Self::pause`].
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// Where it still runs at the deadline.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    return Ok(status);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(deadline, ended).await.with_context(|| format!("{} still runs", self.name))?
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- {} ----\n{}", self.name, self.log());
        }
    }
}

/// Has the kernel end the child when the thread that started it is gone, however that came about.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "pre_exec is the only way to reach prctl(2) in the child")]
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl is async-signal-safe, takes integers only, and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

/// A program of this workspace, brought up to date first, once a process; `PLANE_DEV_BUILT` says that it is already.
///
/// # Errors
/// Where it does not build.
pub fn binary(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let own = std::env::current_exe()?;
    let profile = own.ancestors().find(|folder| folder.join("deps").is_dir()).context("no target folder")?;
    let built = BUILT.get_or_init(|| {
        if std::env::var_os("PLANE_DEV_BUILT").is_some() {
            return true;
        }
        let packages = ["-p", "plane-controller", "-p", "plane-drone", "-p", "plane-cli"];
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--quiet", "--bins"]).args(packages).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(if profile.ends_with("release") { &["--release"][..] } else { &[] });
        command.status().is_ok_and(|status| status.success())
    });
    anyhow::ensure!(*built, "plane's programs do not build");
    Ok(profile.join(name))
}
