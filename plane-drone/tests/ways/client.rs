//! A client that asks for one thing, in the way that the setting has.

use super::setting::{HOST, PATIENCE, Way};
use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    ext::Protocol,
};
use hyper::{HeaderMap, Method, Request, Response, header::HeaderValue};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asking<'a> {
    method: &'a str,
    path: &'a str,
    fields: Vec<(&'a str, String)>,
    /// The length of a body that is still to be said.
    length: Option<usize>,
    is_chunked: bool,
    is_websocket: bool,
}

impl<'a> Asking<'a> {
    /// A request without a body.
    pub(crate) fn of(method: &'a str, path: &'a str) -> Self {
        Self { method, path, fields: Vec::new(), length: None, is_chunked: false, is_websocket: false }
    }

    /// A request with a body of so many bytes, which are said afterwards.
    pub(crate) fn with_body(method: &'a str, path: &'a str, length: usize) -> Self {
        Self { length: Some(length), ..Self::of(method, path) }
    }

    /// A request with a body that does not say how long it is.
    pub(crate) fn chunked(method: &'a str, path: &'a str) -> Self {
        Self { is_chunked: true, ..Self::of(method, path) }
    }

    /// A WebSocket.
    pub(crate) fn websocket(path: &'a str) -> Self {
        Self { is_websocket: true, ..Self::of("GET", path) }
    }

    /// The same with a field more.
    pub(crate) fn field(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// The statuses of interim answers before it.
    pub(crate) interim: Vec<u16>,
}

impl Head {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(is, _)| is == name).map(|(_, value)| value.as_str())
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(crate) enum Asked {
    Lines(Lines),
    Stream(Box<Stream>),
}

#[derive(Debug)]
pub(crate) struct Lines {
    stream: TcpStream,
    /// What is still to come of a body whose length is known.
    left: Option<usize>,
    /// What has come of one in chunks.
    chunks: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct Stream {
    sender: SendRequest<Bytes>,
    sending: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    receiving: Option<RecvStream>,
    connection: JoinHandle<Result<(), h2::Error>>,
    length: Option<usize>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Asked {
    pub(crate) async fn by_lines(mut stream: TcpStream, asking: Asking<'_>) -> Self {
        stream.write_all(lines(&asking).as_bytes()).await.unwrap();
        Self::Lines(Lines { stream, left: None, chunks: None })
    }

    pub(crate) async fn by_stream(stream: TlsStream<TcpStream>, asking: Asking<'_>) -> Self {
        let (mut sender, mut connection) = h2::client::handshake(stream).await.unwrap();
        let mut ping = connection.ping_pong().unwrap();
        let connection = tokio::spawn(connection);
        // The server's settings come before its answer to this.
        ping.ping(h2::Ping::opaque()).await.unwrap();
        poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        let has_more = asking.length.is_some() || asking.is_chunked || asking.is_websocket;
        let (response, sending) = sender.send_request(stream_request(&asking), !has_more).unwrap();
        let length = asking.length;
        Self::Stream(Box::new(Stream {
            sender,
            sending,
            response: Some(response),
            receiving: None,
            connection,
            length,
        }))
    }

    /// Says something of the request's body, or in a tunnel.
    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        match self {
            Self::Lines(lines) => {
                let _ = timeout(PATIENCE, lines.stream.write_all(bytes)).await.unwrap();
            }
            Self::Stream(stream) => {
                if let Some(length) = &mut stream.length {
                    *length -= bytes.len();
                }
                let is_last = stream.length == Some(0);
                let _ = stream.sending.send_data(Bytes::copy_from_slice(bytes), is_last);
            }
        }
    }

    /// Says all of a body that does not say how long it is, with a trailer.
    pub(crate) async fn say_all(&mut self, body: &str, (name, value): (&'static str, &'static str)) {
        match self {
            Self::Lines(lines) => {
                let text = format!("{:x}\r\n{body}\r\n0\r\n{name}: {value}\r\n\r\n", body.len());
                lines.stream.write_all(text.as_bytes()).await.unwrap();
            }
            Self::Stream(stream) => {
                stream.sending.send_data(Bytes::copy_from_slice(body.as_bytes()), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert(name, HeaderValue::from_static(value));
                stream.sending.send_trailers(trailers).unwrap();
            }
        }
    }

    /// The head of the answer; `None` where the connection or the stream ends without one.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        let head = async {
            match self {
                Self::Lines(lines) => lines.head().await,
                Self::Stream(stream) => stream.head().await,
            }
        };
        timeout(PATIENCE, head).await.expect("the answer comes")
    }

    /// The status of the answer.
    pub(crate) async fn status(&mut self) -> Option<u16> {
        self.head().await.map(|head| head.status)
    }

    /// Some bytes of what follows the head; `None` at its end, however that came about.
    pub(crate) async fn some(&mut self) -> Option<Vec<u8>> {
        timeout(PATIENCE, self.next()).await.expect("something comes").unwrap_or_default()
    }

    /// Reads until that has come.
    pub(crate) async fn hear(&mut self, text: &str) {
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains(text) {
            heard.extend(self.some().await.unwrap_or_else(|| panic!("the end after {}", heard.escape_ascii())));
        }
    }

    /// What is still to come, and whether it came to its end.
    pub(crate) async fn rest(&mut self) -> (String, bool) {
        let mut heard = Vec::new();
        let reading = async {
            loop {
                match self.next().await {
                    Ok(Some(bytes)) => heard.extend(bytes),
                    Ok(None) => return true,
                    Err(()) => return false,
                }
            }
        };
        let is_whole = timeout(PATIENCE, reading).await.expect("it ends");
        (String::from_utf8_lossy(&heard).into_owned(), is_whole)
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, ()> {
        match self {
            Self::Lines(lines) => lines.next().await,
            Self::Stream(stream) => stream.next().await,
        }
    }

    /// Asks once more on the same connection, once the answer is read.
    pub(crate) async fn ask_again(&mut self, path: &str) -> bool {
        let asking = Asking::of("GET", path);
        match self {
            Self::Lines(lines_) => lines_.stream.write_all(lines(&asking).as_bytes()).await.is_ok(),
            Self::Stream(stream) => {
                if poll_fn(|cx| stream.sender.poll_ready(cx)).await.is_err() {
                    return false;
                }
                let Ok((response, sending)) = stream.sender.send_request(stream_request(&asking), true) else {
                    return false;
                };
                (stream.response, stream.sending, stream.receiving) = (Some(response), sending, None);
                true
            }
        }
    }

    /// Whether the connection is ended by the proxy, with nothing more on it.
    pub(crate) async fn is_ended(&mut self) -> bool {
        match self {
            Self::Lines(lines) => {
                let mut more = Vec::new();
                let _ = timeout(PATIENCE, lines.stream.read_to_end(&mut more)).await.expect("it ends");
                more.is_empty()
            }
            Self::Stream(stream) => timeout(PATIENCE, &mut stream.connection).await.expect("it ends").is_ok(),
        }
    }
}

fn lines(asking: &Asking<'_>) -> String {
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {HOST}\r\n", asking.method, asking.path);
    if asking.is_websocket {
        text += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    }
    for (name, value) in &asking.fields {
        text += &format!("{name}: {value}\r\n");
    }
    if asking.is_chunked {
        text += "Transfer-Encoding: chunked\r\n";
    }
    if let Some(length) = asking.length {
        text += &format!("Content-Length: {length}\r\n");
    }
    text + "\r\n"
}

fn stream_request(asking: &Asking<'_>) -> Request<()> {
    let mut request = Request::builder().uri(format!("https://{HOST}{}", asking.path));
    request = match asking.is_websocket {
        true => request.method(Method::CONNECT).extension(Protocol::from_static("websocket")),
        false => request.method(asking.method),
    };
    if asking.is_websocket {
        request = request.header("sec-websocket-version", "13");
    }
    for (name, value) in &asking.fields {
        request = request.header(*name, value);
    }
    if let Some(length) = asking.length {
        request = request.header("content-length", length);
    }
    request.body(()).unwrap()
}

impl Lines {
    async fn head(&mut self) -> Option<Head> {
        let mut interim = Vec::new();
        loop {
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                bytes.push(self.stream.read_u8().await.ok()?);
            }
            let text = String::from_utf8(bytes).unwrap();
            let mut all = text.trim_end().split("\r\n");
            let status = all.next()?.split(' ').nth(1)?.parse().ok()?;
            let fields: Vec<(String, String)> = all
                .map(|line| line.split_once(": ").unwrap_or((line, "")))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let head = Head { status, fields, interim };
            self.chunks = head.field("transfer-encoding").map(|_| Vec::new());
            self.left = head.field("content-length").map(|length| length.parse().unwrap());
            return Some(head);
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let is_over = self.chunks.as_ref().is_some_and(|chunks| chunks.ends_with(b"0\r\n\r\n"));
        if self.left == Some(0) || is_over {
            return Ok(None);
        }
        let mut bytes = vec![0; self.left.unwrap_or(4096).min(4096)];
        match self.stream.read(&mut bytes).await {
            Ok(0) if self.left.is_none() && self.chunks.is_none() => Ok(None),
            Ok(0) | Err(_) => Err(()),
            Ok(read) => {
                self.left = self.left.map(|left| left - read);
                bytes.truncate(read);
                if let Some(chunks) = &mut self.chunks {
                    chunks.extend(&bytes);
                }
                Ok(Some(bytes))
            }
        }
    }
}

impl Stream {
    async fn head(&mut self) -> Option<Head> {
        // Who gives up waiting may come back.
        let response = self.response.as_mut()?;
        let mut interim = Vec::new();
        let answer = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                interim.push(head.status().as_u16());
            }
            Pin::new(&mut *response).poll(cx)
        });
        let answer = answer.await;
        self.response = None;
        let (head, receiving) = answer.ok().map(Response::into_parts)?;
        self.receiving = Some(receiving);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let fields = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        Some(Head { status: head.status.as_u16(), fields, interim })
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let receiving = self.receiving.as_mut().ok_or(())?;
        match receiving.data().await {
            None => Ok(None),
            Some(Err(_)) => Err(()),
            Some(Ok(bytes)) => {
                let _ = receiving.flow_control().release_capacity(bytes.len());
                Ok(Some(bytes.to_vec()))
            }
        }
    }
}

/// What a backend says that changes to a WebSocket which a client asked for with this head.
pub(crate) fn changes(way: Way, head: &str) -> String {
    let key =
        head.lines().find_map(|line| line.to_ascii_lowercase().starts_with("sec-websocket-key: ").then(|| &line[19..]));
    let accept = match way {
        Way::Hyper | Way::Plane => "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned(),
        Way::Http2 => accept(key.unwrap()),
    };
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// RFC 6455, section 4.2.2.
fn accept(key: &str) -> String {
    use aws_lc_rs::digest;
    use base64::{Engine, engine::general_purpose::STANDARD};
    let whole = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, whole.as_bytes()))
}
