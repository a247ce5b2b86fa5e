//! HTTPS to the certificate authority: one connection pool an attempt, every call with a limit of time and size.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{path::Path, pin::Pin, sync::Arc, time::Duration};

/// How long the authority may take for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How large an answer may be, in bytes; chains of certificates are the largest.
const MOST_BYTES: usize = 1 << 20;

/// A client of the authority.
pub(super) struct Web(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl Web {
    /// A client that trusts the roots in a file, or those of the system. Blocks on the disk.
    ///
    /// # Errors
    /// Where there are no roots; it says what to do.
    pub(super) fn new(ca_path: Option<&Path>) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = match ca_path {
            None => HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(|error| {
                format!("the system has no CA certificates ({error}); install them, or give acme.ca_path")
            })?,
            Some(path) => {
                let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots(path)?);
                HttpsConnectorBuilder::new().with_tls_config(config.with_no_client_auth())
            }
        };
        Ok(Self(Client::builder(TokioExecutor::new()).build(builder.https_only().enable_http1().build())))
    }
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("acme.ca_path {}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
        let root = root.map_err(|error| unusable(&error))?;
        roots.add(root).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() { Err(unusable(&"there is no certificate in it (expected PEM)")) } else { Ok(roots) }
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let asked = self.0.request(request);
        Box::pin(async move {
            let answered = async {
                let (parts, body) = asked.await.map_err(|error| Error::Other(Box::new(error)))?.into_parts();
                let body = Limited::new(body, MOST_BYTES).collect().await.map_err(Error::Other)?.to_bytes();
                Ok(BytesResponse { parts, body: Box::new(body) })
            };
            let late = || Error::Other(format!("no answer within {} s", CALL_TIMEOUT.as_secs()).into());
            tokio::time::timeout(CALL_TIMEOUT, answered).await.unwrap_or_else(|_| Err(late()))
        })
    }
}

/// An error with what caused it.
pub(super) fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
