//! The listening side: one task a connection, for as long as the process lives.
//!
//! Nothing here stops or drains: the demo ends by exiting, which is what a backend's end looks like from outside.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::room::Room;
use crate::routes;

/// How long to wait after an accept that failed, for descriptors to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP/1.1 for ever.
pub(crate) async fn serve(listener: TcpListener, room: Arc<Room>, status: u16) -> io::Result<()> {
    loop {
        let stream = accept(&listener).await;
        let room = Arc::clone(&room);
        tokio::spawn(async move {
            let service = service_fn(move |request| routes::answer(request, Arc::clone(&room), status));
            // A client that breaks off is its own affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

/// Accepts, reads, and never says a word.
pub(crate) async fn accept_in_silence(listener: TcpListener) -> io::Result<()> {
    loop {
        let mut stream = accept(&listener).await;
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
        });
    }
}

/// Answers each connection with one line that is not HTTP, and closes it.
pub(crate) async fn answer_garbage(listener: TcpListener) -> io::Result<()> {
    loop {
        let mut stream = accept(&listener).await;
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"220 this is not the protocol you are looking for\r\n").await;
        });
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}
