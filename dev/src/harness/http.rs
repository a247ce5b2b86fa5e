//! Requests to a proxy, as a browser on this machine makes them.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use plane_core::id::{BackendId, ClusterName};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_tungstenite::{WebSocketStream, client_async};

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The fields of its head.
    pub headers: hyper::HeaderMap,
    /// The whole body, as text.
    pub body: String,
}

/// A response whose body has not been read.
#[derive(Debug)]
pub struct HeldOpen {
    /// The response; dropping it closes the connection.
    pub response: hyper::Response<Incoming>,
    connection: JoinHandle<()>,
}

impl Drop for HeldOpen {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// `GET` of a backend's path through the proxy.
///
/// # Errors
/// Where no response comes.
pub async fn get(proxy: SocketAddr, cluster: &ClusterName, backend: &BackendId, path: &str) -> Result<Answer> {
    get_with(proxy, &format!("{backend}.{cluster}"), path, &[]).await
}

/// `GET` with a Host and fields of the caller's.
///
/// # Errors
/// Where no response comes.
pub async fn get_with(proxy: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
    HeldOpen::open(proxy, host, path, fields).await?.read().await
}

impl HeldOpen {
    /// Sends a `GET` and waits for the head of the response only.
    ///
    /// # Errors
    /// Where no response comes.
    pub async fn open(proxy: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> Result<Self> {
        let stream = TcpStream::connect(proxy).await.context("the proxy does not listen")?;
        Self::over(stream, host, path, fields).await
    }

    /// As [`Self::open`], over a connection of the caller's.
    ///
    /// # Errors
    /// Where no response comes.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<Self> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::get(path).header(header::HOST, host);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        Ok(Self { response, connection })
    }

    /// Reads the rest.
    ///
    /// # Errors
    /// Where the body breaks off.
    pub async fn read(mut self) -> Result<Answer> {
        let (status, headers) = (self.response.status(), self.response.headers().clone());
        let body = self.response.body_mut().collect().await?.to_bytes();
        Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

/// Opens a WebSocket to a backend through the proxy.
///
/// # Errors
/// Where the handshake fails.
pub async fn websocket(
    proxy: SocketAddr,
    cluster: &ClusterName,
    backend: &BackendId,
    path: &str,
) -> Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(proxy).await?;
    Ok(client_async(format!("ws://{backend}.{cluster}{path}"), stream).await?.0)
}
