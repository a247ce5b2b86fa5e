//! A certificate authority: Pebble, Let's Encrypt's own for tests, on loopback.

use super::Process;
use anyhow::{Context, Result, bail};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How long it may take to come up.
const STARTING: Duration = Duration::from_secs(20);
/// Sets of ports that are tried. It cannot let the system choose, so that somebody else may be first.
const TRIES: usize = 8;
/// Its external account, where one is required: the id, and the key as it is handed out.
pub const EXTERNAL_ACCOUNT: (&str, &str) =
    ("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W");

/// What a [`Pebble`] is like.
#[derive(Debug, Clone)]
pub struct PebbleSettings {
    /// Whether accounts need [`EXTERNAL_ACCOUNT`].
    pub external_account: bool,
    /// For how long its certificates are valid, in seconds.
    pub validity_secs: u64,
    /// How many nonces of a hundred it refuses; 5 is what it does by itself.
    pub bad_nonces: u32,
    /// Names that it gives no certificates for, nor for what is below them.
    pub blocked: Vec<String>,
    /// How often it takes an earlier proof for a new one, of a hundred; 50 is what it does by itself.
    pub reused: u32,
}

impl Default for PebbleSettings {
    fn default() -> Self {
        Self { external_account: false, validity_secs: 90 * 86_400, bad_nonces: 0, blocked: Vec::new(), reused: 0 }
    }
}

/// A running Pebble. It forgets everything when it is started again.
#[derive(Debug)]
pub struct Pebble {
    folder: tempfile::TempDir,
    process: Option<Process>,
    settings: PebbleSettings,
    resolver: SocketAddr,
    acme: SocketAddr,
    management: SocketAddr,
    roots: Arc<RootCertStore>,
}

impl Pebble {
    /// Starts one that asks the name server at `resolver`.
    ///
    /// # Errors
    /// Where the program is missing or does not come up.
    pub async fn start(resolver: SocketAddr, settings: PebbleSettings) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let roots = Arc::new(write_own_certificate(folder.path())?);
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut pebble = Self { folder, process: None, settings, resolver, acme: nowhere, management: nowhere, roots };
        for _ in 0..TRIES {
            [pebble.acme, pebble.management] = free_addresses()?;
            if pebble.launch().await? {
                return Ok(pebble);
            }
        }
        bail!("pebble finds no free port:\n{}", pebble.log())
    }

    /// Ends it. What it issued stays valid for those who know its root.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again where it was, as another CA with another root, that asks the name server at `resolver` and
    /// refuses the names in `blocked`.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn restart(&mut self, resolver: SocketAddr, blocked: Vec<String>) -> Result<()> {
        self.kill();
        self.resolver = resolver;
        self.settings.blocked = blocked;
        for _ in 0..TRIES {
            if self.launch().await? {
                return Ok(());
            }
        }
        bail!("pebble does not come up again:\n{}", self.log())
    }

    /// Where it takes orders.
    pub fn address(&self) -> SocketAddr {
        self.acme
    }

    /// The file with the root of the certificate that it serves its own interface with.
    pub fn ca_path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The section `[acme]` of a drone that uses it, reached at `address`, which is its own or a proxy's on loopback.
    pub fn section(&self, address: SocketAddr) -> String {
        let external = match self.settings.external_account {
            true => format!("eab = {{ key_id = {:?}, key = {:?} }}\n", EXTERNAL_ACCOUNT.0, EXTERNAL_ACCOUNT.1),
            false => String::new(),
        };
        format!(
            "[acme]\nserver = \"https://{address}/dir\"\nadmin_email = \"admin@example.org\"\nca_path = {:?}\n{external}",
            self.ca_path()
        )
    }

    /// The root of the certificates that it issues.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn root(&self) -> Result<Vec<u8>> {
        let pem = self.fetch(self.management, "/roots/0").await?;
        Ok(CertificateDer::from_pem_slice(pem.as_bytes())?.to_vec())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// How many orders it was given since it was first started.
    pub fn orders(&self) -> usize {
        self.log().lines().filter(|line| line.contains("orders in the db")).count()
    }

    /// How many certificates it has issued since it was first started.
    pub fn issued(&self) -> usize {
        self.log().lines().filter(|line| line.contains("Issued certificate serial")).count()
    }

    /// How many accounts were made with it since it was first started.
    pub fn accounts(&self) -> usize {
        self.log().lines().filter(|line| line.contains("accounts in memory")).count()
    }

    /// Its folder, with `cert.pem` and `key.pem` of its own interface.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("pebble.log")
    }

    /// Starts it; false where it ended at once, for want of a port.
    async fn launch(&mut self) -> Result<bool> {
        let config = self.folder.path().join("pebble.json");
        std::fs::write(&config, self.config().to_string())?;
        let mut command = Command::new("pebble");
        command.arg("-strict").arg("-config").arg(&config).args(["-dnsserver", &self.resolver.to_string()]);
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", self.settings.bad_nonces.to_string());
        command.env("PEBBLE_AUTHZREUSE", self.settings.reused.to_string());
        let mut process = Process::start("pebble", command, &self.log_file())?;
        let began = Instant::now();
        while self.fetch(self.acme, "/dir").await.is_err() || self.root().await.is_err() {
            if process.wait(Duration::from_millis(10)).await.is_ok() {
                return Ok(false);
            }
            if began.elapsed() > STARTING {
                bail!("pebble does not answer:\n{}", self.log());
            }
        }
        self.process = Some(process);
        Ok(true)
    }

    fn config(&self) -> serde_json::Value {
        let keys = match self.settings.external_account {
            true => serde_json::json!({ EXTERNAL_ACCOUNT.0: EXTERNAL_ACCOUNT.1 }),
            false => serde_json::json!({}),
        };
        serde_json::json!({ "pebble": {
            "listenAddress": self.acme.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": self.folder.path().join("cert.pem"),
            "privateKey": self.folder.path().join("key.pem"),
            "httpPort": 5002,
            "tlsPort": 5001,
            "externalAccountBindingRequired": self.settings.external_account,
            "externalAccountMACKeys": keys,
            "certificateValidityPeriod": self.settings.validity_secs,
            "domainBlocklist": self.settings.blocked,
        }})
    }

    /// `GET` of one of its own pages.
    async fn fetch(&self, address: SocketAddr, path: &str) -> Result<String> {
        let config = ClientConfig::builder().with_root_certificates(self.roots.clone()).with_no_client_auth();
        let asking = async {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::IpAddress(address.ip().into());
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
            anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
            Ok(body.to_owned())
        };
        tokio::time::timeout(Duration::from_secs(2), asking).await.context("no answer in time")?
    }
}

/// Writes a certificate for loopback, its key and its root into a folder, and gives the root.
fn write_own_certificate(folder: &Path) -> Result<RootCertStore> {
    plane_core::nats::install_crypto_provider();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let certificate = params.signed_by(&key, &issuer)?;
    std::fs::write(folder.join("ca.pem"), issuer.pem())?;
    std::fs::write(folder.join("cert.pem"), certificate.pem())?;
    std::fs::write(folder.join("key.pem"), key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(issuer.der().clone())?;
    Ok(roots)
}

/// Two addresses on loopback that were free a moment ago.
fn free_addresses() -> Result<[SocketAddr; 2]> {
    let (one, other) = (TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?);
    Ok([one.local_addr()?, other.local_addr()?])
}
