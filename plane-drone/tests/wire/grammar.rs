//! HTTP/1.1 to the letter of RFC 9112, for both ends of the proxy: what deviates is a fault, never made the best of.
//! Written for these tests alone and shared with nothing that is tested.

use std::{fmt, io, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How many bytes one line, one head or one body may have before a reader gives up.
const LIMIT: usize = 64 << 20;

/// Why a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The other side closed, or broke the connection, before its end.
    Ended,
    /// Nothing came for too long.
    Silent,
    /// It breaks a rule.
    Broken(String),
}

fn broken<T>(what: &str, bytes: &[u8]) -> Result<T, Fault> {
    Err(Fault::Broken(format!("{what}: {}", bytes[..bytes.len().min(200)].escape_ascii())))
}

/// What bytes come through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Stream for T {}

/// A connection whose bytes are read strictly.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    patience: Option<Duration>,
}

/// The fields of a message, in their order.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) Vec<(String, Vec<u8>)>);

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a reader of a failed test looks for is at the beginning of a value.
        let shown = self.0.iter().map(|(name, value)| (name, value[..value.len().min(60)].escape_ascii().to_string()));
        f.debug_map().entries(shown).finish()
    }
}

impl Fields {
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let found = self.0.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_slice())
    }

    pub(crate) fn text(&self, name: &str) -> Vec<String> {
        self.all(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The one Content-Length.
    pub(crate) fn length(&self) -> Result<Option<usize>, Fault> {
        let values: Vec<_> = self.all("content-length").collect();
        match values[..] {
            [] => Ok(None),
            [digits] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
                let text = std::str::from_utf8(digits).unwrap_or_default();
                text.parse().map(Some).or_else(|_| broken("a Content-Length out of range", digits))
            }
            _ => broken("not one Content-Length of digits", &values.concat()),
        }
    }

    /// Whether the body is chunked; no other coding is known here.
    pub(crate) fn chunked(&self) -> Result<bool, Fault> {
        let values: Vec<_> = self.all("transfer-encoding").collect();
        match values[..] {
            [] => Ok(false),
            [coding] if coding.eq_ignore_ascii_case(b"chunked") => Ok(true),
            _ => broken("a Transfer-Encoding that is not chunked alone", &values.concat()),
        }
    }
}

pub(crate) fn is_token(bytes: &[u8]) -> bool {
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(of_token)
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), Fault> {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return broken("a field without colon", line) };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return broken("a field's name is no token", line);
    }
    if value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
        return broken("a control character in a field", line);
    }
    Ok((String::from_utf8_lossy(name).into_owned(), value.trim_ascii().to_vec()))
}

impl Wire {
    pub(crate) fn new(stream: impl Stream + 'static, patience: Option<Duration>) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), patience }
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// What has come and was not read.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer
    }

    pub(crate) fn forget(&mut self) {
        self.buffer.clear();
    }

    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Waits for more bytes.
    pub(crate) async fn more(&mut self) -> Result<(), Fault> {
        if self.buffer.len() > LIMIT {
            return broken("endless", &[]);
        }
        let reading = self.stream.read_buf(&mut self.buffer);
        let read = match self.patience {
            Some(patience) => tokio::time::timeout(patience, reading).await.map_err(|_| Fault::Silent)?,
            None => reading.await,
        };
        match read {
            Ok(0) | Err(_) => Err(Fault::Ended),
            Ok(_) => Ok(()),
        }
    }

    /// A line that ends in CR LF, without these. A CR or LF by itself, and NUL, are faults as soon as they are seen.
    pub(crate) async fn line(&mut self) -> Result<Vec<u8>, Fault> {
        let mut looked_at = 0;
        loop {
            while let Some(byte) = self.buffer.get(looked_at) {
                match (byte, self.buffer.get(looked_at + 1)) {
                    (b'\r', Some(b'\n')) => {
                        let line = self.buffer[..looked_at].to_vec();
                        self.buffer.drain(..looked_at + 2);
                        return Ok(line);
                    }
                    (b'\r', None) => break,
                    (b'\r' | b'\n' | 0, _) => return broken("a bare CR, LF or NUL", &self.buffer),
                    _ => looked_at += 1,
                }
            }
            self.more().await?;
        }
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, (Fault, Vec<u8>)> {
        while self.buffer.len() < count {
            if let Err(fault) = self.more().await {
                return Err((fault, std::mem::take(&mut self.buffer)));
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Lines up to the empty one.
    pub(crate) async fn fields(&mut self) -> Result<Fields, Fault> {
        let mut fields = Fields::default();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            fields.0.push(field(&line)?);
        }
    }

    /// A chunked body and its trailers; what came of the body goes to `body` also where it breaks off.
    pub(crate) async fn chunked(&mut self, body: &mut Vec<u8>) -> Result<Fields, Fault> {
        loop {
            let line = self.line().await?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let digits = std::str::from_utf8(size).unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return broken("a chunk's size", &line);
            }
            let Ok(size) = usize::from_str_radix(digits, 16) else { return broken("a chunk's size", &line) };
            if size == 0 {
                return self.fields().await;
            }
            match self.exactly(size).await {
                Ok(data) => body.extend(data),
                Err((fault, data)) => {
                    body.extend(data);
                    return Err(fault);
                }
            }
            let end = self.line().await?;
            if !end.is_empty() {
                return broken("a chunk longer than its size", &end);
            }
        }
    }

    /// All until the other side closes.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            match self.more().await {
                Ok(()) => {}
                Err(Fault::Ended) => return Ok(std::mem::take(&mut self.buffer)),
                Err(fault) => return Err(fault),
            }
        }
    }
}
