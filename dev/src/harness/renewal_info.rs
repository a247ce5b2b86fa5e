//! ACME Renewal Information (RFC 9773) in front of a [`Pebble`] that has none: its directory with one more entry, and
//! what that leads to. Everything else is passed on.

use super::Pebble;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Where a certificate's window is asked for, before its name.
const PATH: &str = "/renewal-info";

/// A front on loopback. Dropping it ends it.
#[derive(Debug)]
pub struct RenewalInfo {
    address: SocketAddr,
    told: Arc<Told>,
    _connections: JoinSet<()>,
}

#[derive(Debug)]
struct Told {
    pebble: SocketAddr,
    roots: RootCertStore,
    /// The certificates that were asked for.
    asked: Mutex<Vec<String>>,
    /// Those whose window is over.
    overdue: Mutex<Vec<String>>,
}

impl RenewalInfo {
    /// Starts one.
    ///
    /// # Errors
    /// Where no port can be had, or Pebble's files cannot be read.
    pub async fn start(pebble: &Pebble) -> Result<Self> {
        let folder = pebble.folder();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pebble.ca_path())?)?;
        let chain = vec![CertificateDer::from_pem_file(folder.join("cert.pem"))?];
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind(("127.0.0.1", 0)).await?);
        let (address, pebble) = (listener.local_addr()?, pebble.address());
        let told = Arc::new(Told { pebble, roots, asked: Mutex::default(), overdue: Mutex::default() });
        let mut connections = JoinSet::new();
        connections.spawn(listen(listener, acceptor, told.clone()));
        Ok(Self { address, told, _connections: connections })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificates that were asked for, by their names in RFC 9773.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.told.asked).clone()
    }

    /// Says from now on that it is late to renew this certificate. All others have a month.
    pub fn call_overdue(&self, certificate: &str) {
        lock(&self.told.overdue).push(certificate.to_owned());
    }
}

fn lock(list: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(listener: TcpListener, acceptor: TlsAcceptor, told: Arc<Told>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, told) = (acceptor.clone(), told.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer(told.clone(), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(told: Arc<Told>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    if let Some(certificate) = request.uri().path().strip_prefix(PATH) {
        let certificate = certificate.trim_start_matches('/').to_owned();
        let hours = if lock(&told.overdue).contains(&certificate) { -2 } else { 24 * 30 };
        lock(&told.asked).push(certificate);
        let start = Timestamp::now() + SignedDuration::from_hours(hours);
        let window = serde_json::json!({ "start": start, "end": start + SignedDuration::from_hours(1) });
        let body = serde_json::json!({ "suggestedWindow": window }).to_string();
        return Ok(Response::builder().header(header::RETRY_AFTER, "21600").body(body.into())?);
    }
    let host = request.headers().get(header::HOST).context("no host")?.to_str()?.to_owned();
    let is_directory = request.uri().path() == "/dir";
    let (head, body) = pass_on(&told, request).await?.into_parts();
    if !is_directory {
        return Ok(Response::from_parts(head, body.into()));
    }
    let mut directory: serde_json::Value = serde_json::from_slice(&body)?;
    directory["renewalInfo"] = format!("https://{host}{PATH}").into();
    Ok(Response::new(directory.to_string().into()))
}

async fn pass_on(told: &Told, request: Request<Incoming>) -> Result<Response<Bytes>> {
    let config = ClientConfig::builder().with_root_certificates(told.roots.clone()).with_no_client_auth();
    let stream = TcpStream::connect(told.pebble).await?;
    let name = ServerName::IpAddress(told.pebble.ip().into());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut running = JoinSet::new();
    running.spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}
