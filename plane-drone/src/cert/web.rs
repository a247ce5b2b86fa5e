//! HTTPS to the certificate authority: one connection pool an attempt, every call with a limit of time and size.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    HeaderMap, Request,
    header::{HeaderValue, RETRY_AFTER},
};
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
/// The longest pause that an authority may ask for, in seconds: 30 days.
const MOST_RETRY_AFTER_SECS: u64 = 30 * 86_400;

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
                let (mut parts, body) = asked.await.map_err(|error| Error::Other(Box::new(error)))?.into_parts();
                bound_retry_after(&mut parts.headers);
                let body = Limited::new(body, MOST_BYTES).collect().await.map_err(Error::Other)?.to_bytes();
                Ok(BytesResponse { parts, body: Box::new(body) })
            };
            let late = || Error::Other(format!("no answer within {} s", CALL_TIMEOUT.as_secs()).into());
            tokio::time::timeout(CALL_TIMEOUT, answered).await.unwrap_or_else(|_| Err(late()))
        })
    }
}

/// Bounds the pause that an authority asks for. The client adds any number of seconds to the time of day, which panics
/// where the sum is none. Of dates it takes what is one; four digits of a year do no harm.
fn bound_retry_after(headers: &mut HeaderMap) {
    let Some(asked) = headers.remove(RETRY_AFTER) else { return };
    let text = asked.to_str().unwrap_or_default().trim();
    let is_number = !text.is_empty() && text.trim_start_matches('+').bytes().all(|byte| byte.is_ascii_digit());
    // A number that is too large for the type is above the bound as well.
    let bounded = match text.parse::<u64>() {
        Ok(secs) => HeaderValue::from(secs.min(MOST_RETRY_AFTER_SECS)),
        Err(_) if is_number => HeaderValue::from(MOST_RETRY_AFTER_SECS),
        Err(_) if text.ends_with("GMT") => asked,
        Err(_) => return,
    };
    headers.insert(RETRY_AFTER, bounded);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pause_that_an_authority_asks_for_is_beyond_the_time_of_day() {
        let date = "Fri, 31 Dec 9999 23:59:59 GMT";
        for (asked, bounded) in [
            ("120", Some("120")),
            (" 7 ", Some("7")),
            ("2592001", Some("2592000")),
            ("18446744073709551615", Some("2592000")),
            ("+18446744073709551615", Some("2592000")),
            ("99999999999999999999999", Some("2592000")),
            (date, Some(date)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            // Of several the client takes the first.
            for value in [asked, "18446744073709551615"] {
                headers.append(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            }
            bound_retry_after(&mut headers);
            let left: Vec<_> = headers.get_all(RETRY_AFTER).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(left, Vec::from_iter(bounded), "{asked:?}");
        }
    }
}
