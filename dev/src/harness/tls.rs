//! HTTPS and WebSockets through TLS, as a browser speaks them that trusts the test's certificates and no others.

use super::{Answer, HeldOpen, PATIENCE};
use anyhow::{Context, Result};
use plane_core::id::ClusterName;
use plane_drone::cert::Pair;
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async};

/// A WebSocket through TLS.
pub type TlsWebSocket = WebSocketStream<TlsStream<TcpStream>>;

/// A new pair for a cluster, which signed itself.
///
/// # Errors
/// Where it cannot be made.
pub fn self_signed(cluster: &ClusterName) -> Result<Pair> {
    let made = rcgen::generate_simple_self_signed([cluster.to_string(), format!("*.{cluster}")])?;
    Ok(Pair::parse(&made.signing_key.serialize_pem(), &made.cert.pem())?)
}

/// A client.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "there is nothing in it to see")]
pub struct Tls(TlsConnector);

impl Tls {
    /// Trusts these certificates, or what they sign.
    ///
    /// # Errors
    /// Where one cannot be trusted at all.
    pub fn trusting<'a>(roots: impl IntoIterator<Item = &'a [u8]>) -> Result<Self> {
        Self::speaking(&[&TLS13, &TLS12], roots)
    }

    /// As [`Self::trusting`], with TLS 1.2 only.
    ///
    /// # Errors
    /// Where one cannot be trusted at all.
    pub fn old<'a>(roots: impl IntoIterator<Item = &'a [u8]>) -> Result<Self> {
        Self::speaking(&[&TLS12], roots)
    }

    /// As [`Self::trusting`], for HTTP/2 alone.
    ///
    /// # Errors
    /// Where one cannot be trusted at all.
    pub fn http2<'a>(roots: impl IntoIterator<Item = &'a [u8]>) -> Result<Self> {
        let mut config = Self::config(&[&TLS13, &TLS12], roots)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    fn speaking<'a>(
        versions: &[&'static SupportedProtocolVersion],
        roots: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self> {
        Ok(Self(TlsConnector::from(Arc::new(Self::config(versions, roots)?))))
    }

    fn config<'a>(
        versions: &[&'static SupportedProtocolVersion],
        roots: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<ClientConfig> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(CertificateDer::from(root.to_vec()))?;
        }
        Ok(ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)?
            .with_root_certificates(store)
            .with_no_client_auth())
    }

    /// A connection to a proxy, for a host's name.
    ///
    /// # Errors
    /// Where the handshake fails, or the certificate is not trusted for that name.
    pub async fn connect(&self, proxy: SocketAddr, host: &str) -> Result<TlsStream<TcpStream>> {
        self.shake(TcpStream::connect(proxy).await.context("the proxy does not listen")?, host).await
    }

    /// As [`Self::connect`], through a connection that there is.
    ///
    /// # Errors
    /// Where the handshake fails, or the certificate is not trusted for that name.
    pub async fn shake(&self, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned())?;
        let shaken = tokio::time::timeout(PATIENCE, self.0.connect(name, stream)).await;
        Ok(shaken.context("the handshake takes too long")??)
    }

    /// As [`Self::connect`], once the proxy has taken up a certificate that this client trusts.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn connect_once_served(&self, proxy: SocketAddr, host: &str) -> Result<TlsStream<TcpStream>> {
        let began = Instant::now();
        loop {
            match self.connect(proxy, host).await {
                Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(20)).await,
                outcome => return outcome,
            }
        }
    }

    /// Sends a `GET` and waits for the head of the response only.
    ///
    /// # Errors
    /// Where no response comes.
    pub async fn open(&self, proxy: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> Result<HeldOpen> {
        HeldOpen::over(self.connect(proxy, host).await?, host, path, fields).await
    }

    /// `GET`, with fields of the caller's.
    ///
    /// # Errors
    /// Where no response comes.
    pub async fn get(&self, proxy: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        self.open(proxy, host, path, fields).await?.read().await
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// Where either handshake fails.
    pub async fn websocket(&self, proxy: SocketAddr, host: &str, path: &str) -> Result<TlsWebSocket> {
        let stream = self.connect(proxy, host).await?;
        Ok(client_async(format!("ws://{host}{path}"), stream).await?.0)
    }

    /// The certificate that a proxy shows now.
    ///
    /// # Errors
    /// Where the handshake fails.
    pub async fn shown(&self, proxy: SocketAddr, host: &str) -> Result<Vec<u8>> {
        let stream = self.connect(proxy, host).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        Ok(shown.context("no certificate")?.to_vec())
    }
}
