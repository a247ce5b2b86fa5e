//! A client that speaks NATS's own text protocol, so that a test can send what no typed client would.

use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Sends `payload` as a request on `subject` and gives the first reply, as text.
///
/// # Errors
/// Where nobody listens, or no reply comes within 10 s.
pub async fn request(server: &str, subject: &str, payload: &[u8]) -> Result<String> {
    let address = server.strip_prefix("nats://").context("not a NATS URL")?;
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let connect = "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nSUB cli.inbox.wire 1\r\n";
    let publish = format!("{connect}PUB {subject} cli.inbox.wire {}\r\n", payload.len());
    stream.write_all(publish.as_bytes()).await?;
    stream.write_all(payload).await?;
    stream.write_all(b"\r\n").await?;
    tokio::time::timeout(Duration::from_secs(10), reply(&mut stream)).await.context("no reply")?
}

/// Sends what no program should, and checks that each is answered with an error of the sender's.
///
/// # Errors
/// Where one is answered otherwise, or not at all.
pub async fn refuses_malformed(server: &str, subject: &str) -> Result<()> {
    let big = vec![b'['; 100_000];
    for payload in [&b""[..], b"{", b"null", b"[]", b"{}", b"{\"cluster\": 7}", b"\xff\xfe", b"\"\\ud800\"", &big] {
        let answer = request(server, subject, payload).await?;
        if !answer.starts_with("{\"Error\":{\"code\":\"BadRequest\"") {
            bail!("{subject} answers {answer} to {}", String::from_utf8_lossy(&payload[..payload.len().min(40)]));
        }
    }
    Ok(())
}

/// Publishes `payload` on `subject`; returns once the server has taken it.
///
/// # Errors
/// Where the server does not.
pub async fn publish(server: &str, subject: &str, payload: &[u8]) -> Result<()> {
    let address = server.strip_prefix("nats://").context("not a NATS URL")?;
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let head = format!("CONNECT {{\"verbose\":false}}\r\nPUB {subject} {}\r\n", payload.len());
    stream.write_all(&[head.as_bytes(), payload, b"\r\nPING\r\n"].concat()).await?;
    let taken = async {
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            if line.starts_with("PONG") {
                return Ok(());
            }
            line.clear();
        }
        bail!("the server closed the connection")
    };
    tokio::time::timeout(Duration::from_secs(10), taken).await.context("the server does not answer")?
}

async fn reply(stream: &mut BufReader<TcpStream>) -> Result<String> {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            bail!("the server closed the connection");
        }
        let mut words = line.split_whitespace();
        match words.next() {
            Some("PING") => stream.write_all(b"PONG\r\n").await?,
            Some("HMSG") => bail!("nobody listens"),
            Some("MSG") => {
                let length: usize = words.last().context("a message without a length")?.parse()?;
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await?;
                return Ok(String::from_utf8_lossy(&body).into_owned());
            }
            _ => {}
        }
    }
}

/// Asks again and again on one subject, and hears all who answer.
#[derive(Debug)]
pub struct Asker {
    stream: BufReader<TcpStream>,
    subject: String,
    asked: usize,
}

impl Asker {
    /// Connects.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn connect(server: &str, subject: &str) -> Result<Self> {
        let address = server.strip_prefix("nats://").context("not a NATS URL")?;
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        stream.write_all(b"CONNECT {\"verbose\":false}\r\nSUB cli.inbox.asker 1\r\n").await?;
        Ok(Self { stream, subject: subject.to_owned(), asked: 0 })
    }

    /// Asks once more.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn ask(&mut self, payload: &[u8]) -> Result<()> {
        let head = format!("PUB {} cli.inbox.asker {}\r\n", self.subject, payload.len());
        self.stream.write_all(&[head.as_bytes(), payload, b"\r\n"].concat()).await?;
        self.asked += 1;
        Ok(())
    }

    /// Waits until there are as many answers as questions, and gives by how many there are more than that by now.
    ///
    /// # Errors
    /// Where there are fewer within 10 s.
    pub async fn too_many_answers(mut self) -> Result<usize> {
        let counted = async {
            let (mut answers, mut asked_for_the_rest, mut line) = (0, false, String::new());
            loop {
                if answers >= self.asked && !asked_for_the_rest {
                    self.stream.write_all(b"PING\r\n").await?;
                    asked_for_the_rest = true;
                }
                line.clear();
                if self.stream.read_line(&mut line).await? == 0 {
                    bail!("the server closed the connection");
                }
                if line.starts_with("MSG ") {
                    answers += 1;
                } else if line.starts_with("PONG") {
                    return Ok(answers - self.asked);
                } else if line.starts_with("PING") {
                    self.stream.write_all(b"PONG\r\n").await?;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), counted).await.context("fewer answers than questions")?
    }
}
