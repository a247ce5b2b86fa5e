//! A daemon of Plane as a process: its configuration, its log and its link to NATS.

use super::{CuttingProxy, PATIENCE, Process, binary};
use anyhow::{Context, Result, bail};
use plane_core::id::DroneId;
use plane_drone::cert::{Files, Pair};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// What daemons log, where `PLANE_DEV_LOG` does not say otherwise.
const DEBUG_LOG: &str = "info,plane_core=debug,plane_controller=debug,plane_drone=debug";

/// A daemon of Plane and what it was started with.
#[derive(Debug)]
pub struct Daemon {
    program: &'static str,
    config: PathBuf,
    log: PathBuf,
    /// The process, while it runs.
    pub process: Option<Process>,
    /// What it reaches NATS through, where the settings say so.
    pub link: Option<CuttingProxy>,
}

impl Daemon {
    pub(super) fn new(
        program: &'static str,
        name: &str,
        folder: &Path,
        config: &str,
        link: Option<CuttingProxy>,
    ) -> Result<Self> {
        let path = folder.join(format!("{name}.toml"));
        std::fs::write(&path, config)?;
        let log = folder.join(format!("{name}.log"));
        let mut daemon = Self { program, config: path, log, process: None, link };
        daemon.start()?;
        Ok(daemon)
    }

    /// Starts it, with the same configuration as before.
    ///
    /// # Errors
    /// Where the program cannot be started.
    pub fn start(&mut self) -> Result<()> {
        std::fs::write(&self.log, "")?;
        let mut command = Command::new(binary(self.program)?);
        let log = std::env::var("PLANE_DEV_LOG").unwrap_or_else(|_| DEBUG_LOG.to_owned());
        command.arg(&self.config).env("RUST_LOG", log).env("NO_COLOR", "1");
        self.process = Some(Process::start(self.program, command, &self.log)?);
        Ok(())
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it without ending it, as `kill -STOP` does, and returns once it stands still.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pause(&self) -> Result<()> {
        self.process.as_ref().context("it does not run")?.pause();
        Ok(())
    }

    /// Lets it go on after [`Self::pause`].
    ///
    /// # Errors
    /// Where it does not run.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("it does not run")?.resume();
        Ok(())
    }

    /// What it has logged since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// Where it still runs after `deadline`.
    pub async fn stop(&mut self, deadline: Duration) -> Result<std::process::ExitStatus> {
        let mut process = self.process.take().context("it does not run")?;
        process.signal(libc::SIGTERM);
        process.wait(deadline).await
    }

    /// Waits for a line of its log that holds `text`, and gives that line.
    ///
    /// # Errors
    /// Where it ends first, or nothing comes.
    pub async fn logged(&mut self, text: &str) -> Result<String> {
        let began = Instant::now();
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if began.elapsed() > PATIENCE {
                bail!("{} did not log {text:?}:\n{log}", self.program);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Daemon {
    /// Where it serves names, over UDP and TCP.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn name_server(&mut self) -> Result<SocketAddr> {
        address_in(&self.logged("name server listens").await?)
    }
}

/// The address that a line of a log tells.
fn address_in(line: &str) -> Result<SocketAddr> {
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(address.context("no address in the log")?.parse()?)
}

/// A drone and where its proxy listens.
#[derive(Debug)]
pub struct Drone {
    /// Its id.
    pub id: DroneId,
    /// Its process.
    pub daemon: Daemon,
    /// Where its proxy listens.
    pub proxy: SocketAddr,
    /// Where its proxy listens for HTTPS, where the settings say so.
    pub proxy_tls: Option<SocketAddr>,
    /// Where its certificate belongs, where the settings say so.
    pub files: Option<Files>,
}

impl Drone {
    pub(super) async fn find_proxy(&mut self) -> Result<()> {
        self.proxy = address_in(&self.daemon.logged("proxy listens").await?)?;
        if self.files.is_some() {
            self.proxy_tls = Some(address_in(&self.daemon.logged("proxy listens for HTTPS").await?)?);
        }
        Ok(())
    }

    /// Where its proxy listens for HTTPS.
    ///
    /// # Errors
    /// Where the settings do not say so.
    pub fn https(&self) -> Result<SocketAddr> {
        self.proxy_tls.context("it has no [cert]")
    }

    /// Puts a pair where its certificate belongs, as an operator may.
    ///
    /// # Errors
    /// Where the settings do not say so, or the disk refuses.
    pub fn install(&self, pair: &Pair) -> Result<()> {
        Ok(self.files.as_ref().context("it has no [cert]")?.install(pair)?)
    }

    /// Starts it again; its proxy may have another port.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.daemon.start()?;
        self.find_proxy().await
    }
}
