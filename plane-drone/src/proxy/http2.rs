//! Connections of clients with HTTP/2 (RFC 9113), over the h2 library: frames, their compression and the windows of
//! streams are its; what becomes of a request is decided where it is for HTTP/1.1.
//!
//! Each stream is `answer`ed in a task of its own: its request goes to a backend with its `body`, interim answers
//! (`interim`) come before the answer, and a WebSocket (RFC 8441) becomes a `tunnel`.

mod answer;
mod body;
mod interim;
mod tunnel;

pub(super) use body::Streaming;
pub(super) use interim::Interims;

use super::{connection::Seat, connection::Watched, serve::run};
use bytes::Bytes;
use h2::server::{Builder, Connection, Handshake};
use std::{
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// What a client may send before the proxy has passed it on, in bytes: on one stream and on a connection of HTTP/2. As
/// much as a fast link holds: 1 MiB on the way at 100 ms are 84 Mbit/s for one upload, and a few may go at once. It is
/// held in memory only where a backend takes less than its client sends.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What is buffered for a stream that a client does not read, in bytes. Any piece of an answer fits, so that it goes at
/// once where the client's window is large enough.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a client opens and resets faster than they are taken, and those that it makes us reset: beyond, the
/// connection ends (CVE-2023-44487, CVE-2025-8671).
const RESETS: usize = 20;
const OWN_RESETS: usize = 128;

/// Serves HTTP/2 until the connection ends.
pub(super) async fn serve<T>(seat: Rc<Seat>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &seat.worker.shared.limits;
    let mut builder = Builder::new();
    builder.enable_connect_protocol();
    builder.max_concurrent_streams(limits.streams);
    builder.max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    builder.max_send_buffer_size(SEND_BUFFER);
    builder.max_pending_accept_reset_streams(RESETS).max_local_error_reset_streams(Some(OWN_RESETS));
    let shaking = builder.handshake(Watched::new(stream, seat.activity.clone()));
    let connection = pin!(Serving { seat: seat.clone(), stage: Stage::Shaking(shaking), ends: false });
    run(&seat, connection, true, |connection| connection.get_mut().end_gently()).await;
}

enum Stage<T> {
    Shaking(Handshake<T, Bytes>),
    Open(Connection<T, Bytes>),
}

/// One connection. It ends where this does.
struct Serving<T> {
    seat: Rc<Seat>,
    stage: Stage<T>,
    /// Whether it takes no new streams.
    ends: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Serving<T> {
    fn end_gently(&mut self) {
        self.ends = true;
        if let Stage::Open(connection) = &mut self.stage {
            connection.graceful_shutdown();
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Serving<T> {
    type Output = Result<(), h2::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match &mut this.stage {
                Stage::Shaking(shaking) => {
                    let mut connection = ready!(Pin::new(shaking).poll(cx))?;
                    if this.ends {
                        connection.graceful_shutdown();
                    }
                    this.stage = Stage::Open(connection);
                }
                Stage::Open(connection) => match ready!(connection.poll_accept(cx)) {
                    None => return Poll::Ready(Ok(())),
                    Some(accepted) => {
                        let (request, respond) = accepted?;
                        this.seat.worker.spawn("stream", answer::answer(this.seat.clone(), request, respond));
                    }
                },
            }
        }
    }
}
