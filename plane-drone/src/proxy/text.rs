//! A short text from a URL: some machines learn their own address so.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::time::Duration;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How much of an answer is read, in bytes, and how long it is waited for.
const TEXT_BYTES: usize = 1024;
const TEXT_LIMIT: Duration = Duration::from_secs(10);

/// Asks an `http://` URL and gives its answer, a short text.
///
/// # Errors
/// Where there is none, or it is not a short text with a status of success.
pub async fn get_text(url: &str) -> Result<String, String> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
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
