//! The Autobahn test suite for WebSockets, in both of its roles: a client that ill-treats servers, and a server that
//! ill-treats clients. It tells how the other side behaves, so what stands between must not change what it tells.

use super::{PATIENCE, Process};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// How one agent behaved in each case, by the case's number.
pub type Report = BTreeMap<String, Outcome>;

/// How an agent behaved in a case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What Autobahn thinks of what the agent did: `OK`, `NON-STRICT`, `INFORMATIONAL`, `FAILED`, …
    pub behavior: String,
    /// What it thinks of how the agent closed.
    pub behavior_close: String,
    /// The code with which the agent closed, where it sent one.
    pub remote_close_code: Option<u16>,
}

/// An installed test suite, with a folder for what it writes.
#[derive(Debug)]
pub struct Autobahn {
    program: PathBuf,
    folder: tempfile::TempDir,
}

/// What there is to run, and for how long.
#[derive(Debug, Clone)]
pub struct Cases {
    /// By Autobahn's patterns: `1.1.1`, `2.*`, `*`.
    pub run: Vec<String>,
    /// How long all of them may take.
    pub within: Duration,
}

/// The server that ill-treats clients.
#[derive(Debug)]
pub struct FuzzingServer {
    process: Process,
    address: SocketAddr,
    reports: PathBuf,
}

impl Autobahn {
    /// What `dev/setup` has put beside the build; `None` where it found no Python 2.7 for it.
    ///
    /// # Errors
    /// Where there is no folder for temporary files.
    pub fn installed() -> Result<Option<Self>> {
        let own = std::env::current_exe()?;
        let found = own.ancestors().map(|folder| folder.join("tools/autobahn/wstest")).find(|file| file.is_file());
        found.map(|program| Ok(Self { program, folder: tempfile::tempdir()? })).transpose()
    }

    /// Lets the hostile client loose on a server, and tells how that behaved. `name` is the server's in the report.
    ///
    /// # Errors
    /// Where the server is not reached, or a case hangs.
    pub async fn attack(&self, name: &str, url: &str, cases: &Cases) -> Result<Report> {
        let servers = serde_json::json!([{ "agent": name, "url": url }]);
        let folder = self.subfolder(&format!("client-{name}"))?;
        let mut process = self.start(&folder, "fuzzingclient", cases, &[("servers", servers)], &[])?;
        process.wait(cases.within).await?;
        read(&folder.join("reports"), name)
    }

    /// Starts the server that ill-treats clients.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn serve(&self, cases: &Cases) -> Result<FuzzingServer> {
        let folder = self.subfolder("server")?;
        // It cannot let the system choose.
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let url = serde_json::json!(format!("ws://{address}"));
        let process = self.start(&folder, "fuzzingserver", cases, &[("url", url)], &["--webport", "0"])?;
        let began = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            ensure!(began.elapsed() < PATIENCE, "the fuzzing server does not listen: {}", process.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(FuzzingServer { process, address, reports: folder.join("reports") })
    }

    /// Runs a well-behaved client against the hostile server at `url`, through all of its cases.
    ///
    /// # Errors
    /// Where the server is not reached, or a case hangs.
    pub async fn endure(&self, name: &str, url: &str, cases: &Cases) -> Result<()> {
        let folder = self.subfolder(&format!("testee-{name}"))?;
        let mut command = Command::new(&self.program);
        command.current_dir(&folder).args(["--mode", "testeeclient", "--ident", name, "--wsuri", url]);
        let mut process = Process::start("wstest", command, &folder.join("log"))?;
        process.wait(cases.within).await.with_context(|| tail(&process.log()))?;
        Ok(())
    }

    fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn start(
        &self,
        folder: &Path,
        mode: &str,
        cases: &Cases,
        more: &[(&str, serde_json::Value)],
        options: &[&str],
    ) -> Result<Process> {
        let mut spec = serde_json::json!({
            "outdir": folder.join("reports"), "cases": cases.run, "exclude-cases": [], "exclude-agent-cases": {},
        });
        for (key, value) in more {
            spec[key] = value.clone();
        }
        let path = folder.join("spec.json");
        std::fs::write(&path, spec.to_string())?;
        let mut command = Command::new(&self.program);
        command.current_dir(folder).args(["--mode", mode, "--spec"]).arg(&path).args(options);
        Process::start("wstest", command, &folder.join("log"))
    }
}

impl FuzzingServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How a client behaved that has been through its cases.
    ///
    /// # Errors
    /// Where it has not been.
    pub fn report(&self, client: &str) -> Result<Report> {
        read(&self.reports, client).with_context(|| tail(&self.process.log()))
    }
}

fn read(reports: &Path, agent: &str) -> Result<Report> {
    let text = std::fs::read_to_string(reports.join("index.json")).context("there is no report")?;
    let mut all: BTreeMap<String, Report> = serde_json::from_str(&text)?;
    match all.remove(agent) {
        Some(report) if !report.is_empty() => Ok(report),
        _ => bail!("the report has nothing of {agent}"),
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
