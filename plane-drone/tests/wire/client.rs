//! A client that sends any bytes, and reads answers strictly.

use super::{
    backend::ANSWERS,
    grammar::{Fault, Fields, Wire},
};
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long an answer may take where one is due.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How many interim answers are read before one is due.
const INTERIM: usize = 1000;
/// How many pieces a long message is sent in, where it is sent piece by piece.
const PIECES: usize = 400;

/// How bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At once.
    Whole,
    /// Byte by byte, where they are not too many.
    Bytewise,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) minor: u8,
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    /// The interim ones before it.
    pub(crate) interim: Vec<u16>,
    /// Whether it came to its end.
    pub(crate) whole: bool,
}

impl Reply {
    /// What it says that it answers.
    pub(crate) fn answers(&self) -> Option<String> {
        self.fields.text(ANSWERS).pop()
    }
}

async fn tcp(proxy: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(proxy).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A connection to the proxy.
#[derive(Debug)]
pub(crate) struct Client(Wire);

impl Client {
    pub(crate) async fn connect(proxy: SocketAddr) -> Self {
        Self(Wire::new(tcp(proxy).await, Some(PATIENCE)))
    }

    /// Connects through TLS.
    pub(crate) async fn connect_safely(proxy: SocketAddr, tls: &TlsConnector, host: &str) -> Self {
        let name = host.to_owned().try_into().unwrap();
        Self(Wire::new(tls.connect(name, tcp(proxy).await).await.unwrap(), Some(PATIENCE)))
    }

    /// Sends what the other side still takes.
    pub(crate) async fn send(&mut self, bytes: &[u8], pace: Pace) {
        let piece = match pace {
            Pace::Whole => bytes.len().max(1),
            Pace::Bytewise => bytes.len().div_ceil(PIECES).max(1),
        };
        for piece in bytes.chunks(piece) {
            if self.0.send(piece).await.is_err() {
                return;
            }
            if pace == Pace::Bytewise {
                // The shortest pause that timers know, so that pieces come one by one.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Sends bytes one after the other with a pause between, until all are sent or the other side has closed. Whether all
    /// are sent.
    pub(crate) async fn trickle(&mut self, bytes: &[u8], pause: Duration) -> bool {
        for byte in bytes {
            if self.0.send(&[*byte]).await.is_err() || self.stirs_within(pause).await {
                return false;
            }
        }
        true
    }

    /// Takes some bytes that are there, and forgets them. `None` where the connection is over.
    pub(crate) async fn take_some(&mut self) -> Option<usize> {
        self.0.more().await.ok()?;
        let taken = self.0.unread().len();
        self.0.forget();
        Some(taken)
    }

    /// Waits until the other side has closed; gives what came before.
    pub(crate) async fn closed_within(&mut self, limit: Duration) -> Result<Vec<u8>, Fault> {
        self.0.set_patience(limit);
        let rest = self.0.rest().await;
        self.0.set_patience(PATIENCE);
        rest
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&mut self) {
        self.0.finish().await;
    }

    /// Whether something comes, or the other side closes, before long.
    pub(crate) async fn stirs_within(&mut self, limit: Duration) -> bool {
        self.0.set_patience(limit);
        let stirs = !self.0.unread().is_empty() || self.0.more().await != Err(Fault::Silent);
        self.0.set_patience(PATIENCE);
        stirs
    }

    /// The next answer, to a request of this method. [`Fault::Ended`]: the other side closed without one.
    pub(crate) async fn reply(&mut self, method: &str) -> Result<Reply, Fault> {
        let mut interim = Vec::new();
        loop {
            if self.0.unread().is_empty() {
                self.0.more().await?;
            }
            let mut reply = self.head().await.map_err(|fault| match fault {
                Fault::Ended => Fault::Broken("the head of an answer broke off".to_owned()),
                fault => fault,
            })?;
            if (100..200).contains(&reply.status) && reply.status != 101 {
                interim.push(reply.status);
                if interim.len() > INTERIM {
                    return Err(Fault::Broken("interim answers without end".to_owned()));
                }
                continue;
            }
            reply.interim = interim;
            return self.body(reply, method).await;
        }
    }

    async fn head(&mut self) -> Result<Reply, Fault> {
        let line = self.0.line().await?;
        let fault = || Fault::Broken(format!("a status line: {}", line.escape_ascii()));
        let text = std::str::from_utf8(&line).map_err(|_| fault())?;
        let (version, rest) = text.split_once(' ').ok_or_else(fault)?;
        let minor = match version {
            "HTTP/1.1" => 1,
            "HTTP/1.0" => 0,
            _ => return Err(fault()),
        };
        let (status, _reason) = rest.split_once(' ').ok_or_else(fault)?;
        if status.len() != 3 || !status.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(fault());
        }
        let status = status.parse().map_err(|_| fault())?;
        let fields = self.0.fields().await?;
        Ok(Reply { minor, status, fields, ..Reply::default() })
    }

    async fn body(&mut self, mut reply: Reply, method: &str) -> Result<Reply, Fault> {
        let (length, chunked) = (reply.fields.length()?, reply.fields.chunked()?);
        if length.is_some() && chunked {
            return Err(Fault::Broken("an answer with both Content-Length and Transfer-Encoding".to_owned()));
        }
        if chunked && reply.minor == 0 {
            return Err(Fault::Broken("a chunked answer of HTTP/1.0".to_owned()));
        }
        if (length.is_some() || chunked) && matches!(reply.status, 101 | 204) {
            return Err(Fault::Broken(format!("a status {} with framing", reply.status)));
        }
        if method == "HEAD" || matches!(reply.status, 101 | 204 | 304) {
            reply.whole = true;
            return Ok(reply);
        }
        let outcome = if chunked {
            self.0.chunked(&mut reply.body).await.map(|trailers| reply.trailers = trailers)
        } else if let Some(length) = length {
            match self.0.exactly(length).await {
                Ok(body) => {
                    reply.body = body;
                    Ok(())
                }
                Err((fault, body)) => {
                    reply.body = body;
                    Err(fault)
                }
            }
        } else {
            self.0.rest().await.map(|body| reply.body = body)
        };
        match outcome {
            Ok(()) => reply.whole = true,
            Err(Fault::Ended) => {}
            Err(fault) => return Err(fault),
        }
        Ok(reply)
    }
}
