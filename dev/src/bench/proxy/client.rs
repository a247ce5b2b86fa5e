//! Connections to a contender and requests on them, with as little work as they can be made with: what a loader needs
//! of the two processors, the contenders lack.

use anyhow::{Context, Result, bail, ensure};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How long an answer may take, of which nothing but its coming is asked.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// The head of an answer, in bytes.
const HEAD_LIMIT: usize = 8192;

/// A connection, through TLS or not.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}
pub(super) type Connection = Box<dyn Duplex>;

/// Where a contender listens, and how it is spoken to.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) address: SocketAddr,
    /// The host that requests are for.
    pub(super) host: String,
    tls: Option<TlsConnector>,
}

impl Door {
    pub(super) fn open(address: SocketAddr, host: &str) -> Self {
        Self { address, host: host.to_owned(), tls: None }
    }

    /// A door with TLS 1.3, by X25519 alone, so that all contenders agree on the same; no session is resumed.
    ///
    /// # Errors
    /// Never with the provider that is built in.
    pub(super) fn tls(address: SocketAddr, host: &str) -> Result<Self> {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(aws_lc_rs::default_provider())))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Some(TlsConnector::from(Arc::new(config))), ..Self::open(address, host) })
    }

    /// Whether it has TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Where there is none, or the handshake fails.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let stream =
            TcpStream::connect(self.address).await.with_context(|| format!("no connection to {}", self.address))?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())?;
                Box::new(tls.connect(name, stream).await.context("the TLS handshake failed")?)
            }
        })
    }

    /// A request's head; `fields` end with a line break each.
    pub(super) fn head(&self, method: &str, target: &str, fields: &str) -> Vec<u8> {
        format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", self.host).into_bytes()
    }
}

/// Reads the head of an answer and checks its status; gives how long its body is by its own account, and what of the
/// body came with it.
///
/// # Errors
/// Where no such answer comes.
pub(super) async fn answer(connection: &mut Connection, status: u16) -> Result<(Option<u64>, Vec<u8>)> {
    let mut read = Vec::with_capacity(HEAD_LIMIT);
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(read.len() < HEAD_LIMIT, "an answer's head is too long");
        let came = tokio::time::timeout(PATIENCE, connection.read_buf(&mut read)).await.context("no answer")??;
        ensure!(came > 0, "the connection ended before the answer");
    };
    let body = read.split_off(end);
    let head = String::from_utf8_lossy(&read);
    let said = head.split(' ').nth(1).and_then(|said| said.parse::<u16>().ok());
    if said != Some(status) {
        bail!("not {status}: {}", head.lines().next().unwrap_or_default());
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok((length, body))
}

/// Sends a `GET` and reads all of its answer, which has a length; the connection can be used again.
///
/// # Errors
/// Where it is not answered with 200.
pub(super) async fn get(connection: &mut Connection, request: &[u8]) -> Result<()> {
    connection.write_all(request).await?;
    let (length, body) = answer(connection, 200).await?;
    let left = length.context("an answer without a length")?.saturating_sub(body.len() as u64);
    let mut rest = vec![0; usize::try_from(left)?];
    tokio::time::timeout(PATIENCE, connection.read_exact(&mut rest)).await.context("half an answer")??;
    Ok(())
}

/// Runs a loader on a thread of its own, all of its connections on that thread.
///
/// # Errors
/// What the loader says.
pub(super) async fn load<T, F>(loader: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::spawn_blocking(move || runtime.block_on(loader())).await?
}

/// Takes any certificate and signature: their verification costs the loader as much as all else of a handshake.
#[derive(Debug)]
struct Unverified(CryptoProvider);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
