//! Connections to a backend: kept open between requests, one pool a route, so that they end with it.

use super::body::Sent;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Response, body::Incoming};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{fmt, net::SocketAddr, time::Duration};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection is kept that nobody uses.
const IDLE_KEPT: Duration = Duration::from_secs(30);
/// How much of an answer [`get_text`] reads, in bytes, and how long it waits for it.
const TEXT_BYTES: usize = 1024;
const TEXT_LIMIT: Duration = Duration::from_secs(10);

/// The connections to one address.
#[derive(Clone)]
pub struct Upstream {
    address: SocketAddr,
    client: Client<HttpConnector, Sent>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({})", self.address)
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    connector
}

impl Upstream {
    /// No connections yet.
    pub fn new(address: SocketAddr) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_KEPT);
        Self { address, client: builder.build(connector()) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) async fn send(&self, request: Request<Sent>) -> Result<Response<Incoming>, Error> {
        self.client.request(request).await
    }
}

/// Asks an `http://` URL and gives its answer, a short text.
///
/// # Errors
/// Where there is none, or it is not a short text with a status of success.
pub async fn get_text(url: &str) -> Result<String, String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector());
    let asked = async {
        let uri = url.parse().map_err(|error| format!("{error}"))?;
        let response = client.get(uri).await.map_err(|error| error.to_string())?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("it answered {status}"));
        }
        let body = Limited::new(response.into_body(), TEXT_BYTES).collect().await.map_err(|error| error.to_string())?;
        String::from_utf8(body.to_bytes().to_vec()).map_err(|error| error.to_string())
    };
    tokio::time::timeout(TEXT_LIMIT, asked).await.map_err(|_| "it does not answer".to_owned())?
}
