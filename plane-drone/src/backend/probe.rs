//! Whether a backend answers: `GET /` gets an HTTP status line, whatever the status (RFC 9112, section 4).

use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long one try may wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pauses between tries grow with the time that has passed, between these two, so that they add little to it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// `HTTP/1.1 200`
const STATUS_LINE_BYTES: usize = 12;

/// Tries until an answer comes.
pub(super) async fn until_it_answers(address: SocketAddr) {
    let began = Instant::now();
    while !answers(address).await {
        tokio::time::sleep((began.elapsed() / 32).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
    }
}

async fn answers(address: SocketAddr) -> bool {
    let Ok(Ok(mut stream)) = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await else {
        return false;
    };
    let asked = async {
        let request =
            format!("GET / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: plane-probe\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut line = [0; STATUS_LINE_BYTES];
        stream.read_exact(&mut line).await?;
        Ok::<_, std::io::Error>(is_status_line(&line))
    };
    matches!(tokio::time::timeout(ANSWER_LIMIT, asked).await, Ok(Ok(true)))
}

fn is_status_line(line: &[u8; STATUS_LINE_BYTES]) -> bool {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor, b' ', code @ ..] = line else { return false };
    minor.is_ascii_digit() && code.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_is_an_answer() {
        for line in [b"HTTP/1.1 200", b"HTTP/1.0 404", b"HTTP/1.1 500"] {
            assert!(is_status_line(line));
        }
        for line in [b"SSH-2.0-Open", b"HTTP/2.0 200", b"HTTP/1.1 2x0", b"http/1.1 200"] {
            assert!(!is_status_line(line));
        }
    }
}
