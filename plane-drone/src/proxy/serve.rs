//! Connections of clients as the hyper library serves them: HTTP/1.1, HTTP/2, and the leading of requests to HTTPS.

use super::{
    connection::{Ending, Seat, Watched},
    exchange,
    http1::last_word,
    passage::{Answer, BodyError, Passage},
    redirect,
    refusal::Refusal,
    timers::{CoarseClock, Look, after},
};
use crate::cert::Served;
use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    cell::Cell,
    convert::Infallible,
    fmt::Display,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// How long a client may take to read why its connection ends.
const LAST_WORD: Duration = Duration::from_secs(2);
/// What hyper takes at least as the size of its buffer, in bytes.
const LEAST_BUFFER: usize = 8192;
/// How many fields hyper reads without allocating.
const USUAL_FIELDS: usize = 100;
/// What a client may send before the proxy has passed it on, in bytes: on one stream and on a connection of HTTP/2. As
/// much as a fast link holds.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What is buffered for a stream that a client does not read, in bytes.
const SEND_BUFFER: usize = 32 * 1024;
/// Streams that a client opens and resets faster than they are taken, and those that it makes us reset: beyond, the
/// connection ends (CVE-2023-44487, CVE-2025-8671).
const RESETS: usize = 20;
const OWN_RESETS: usize = 128;

tokio::task_local! {
    /// Since when the client takes nothing of the answer on the stream that this task serves.
    static UNTAKEN: Rc<Cell<u64>>;
}

/// Not at a time.
const NEVER: u64 = u64::MAX;

/// Where requests of a connection go.
#[derive(Debug, Clone)]
pub(super) enum Service {
    /// To backends.
    Backends,
    /// To the port with TLS.
    Redirect {
        /// What is served there.
        served: Served,
        /// That port.
        port: u16,
    },
}

async fn respond(seat: Rc<Seat>, service: Service, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    Ok(match service {
        Service::Backends => exchange::answer(&seat, request).await,
        Service::Redirect { served, port } => {
            let passage = Passage::begin(&seat);
            exchange::note(&passage, &request);
            let led = redirect::lead(&request, served.is_there(), port);
            match &led {
                Ok(response) => passage.record.answered(response.status().as_u16()),
                Err(refusal) => passage.record.refused(*refusal),
            }
            let response = led.unwrap_or_else(|refusal| redirect::refuse(&request, refusal));
            response.map(|body| Answer::Own { body, passage: Some(passage) })
        }
    })
}

/// What a client gets on a stream of HTTP/2. It is asked for when there is room for more; what is not asked for again
/// waits for the client.
#[derive(Debug)]
struct Streamed {
    body: Answer,
    untaken: Rc<Cell<u64>>,
    clock: CoarseClock,
}

impl Streamed {
    fn new(body: Answer, seat: &Seat) -> Self {
        let clock = seat.worker.timers.clock().clone();
        let untaken = UNTAKEN.try_with(Rc::clone).unwrap_or_default();
        untaken.set(if body.is_end_stream() { NEVER } else { clock.now() });
        Self { body, untaken, clock }
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.untaken.set(if polled.is_pending() { NEVER } else { self.clock.now() });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.untaken.set(NEVER);
    }
}

/// Serves HTTP/1.1 until the connection ends.
pub(super) async fn http1<T>(seat: Rc<Seat>, stream: T, service: Service)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &seat.worker.shared.limits;
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).writev(false);
    builder.max_header_size(limits.header_bytes);
    builder.max_buf_size(limits.header_bytes.max(LEAST_BUFFER));
    if limits.header_count != USUAL_FIELDS {
        builder.max_headers(limits.header_count);
    }
    let own = seat.clone();
    let service = service_fn(move |request| respond(own.clone(), service.clone(), request));
    let stream = TokioIo::new(Watched { stream, activity: seat.activity.clone() });
    let mut connection = builder.serve_connection(stream, service).with_upgrades();
    let is_late = run(&seat, Pin::new(&mut connection), false, |connection| connection.graceful_shutdown()).await;
    if let Some(parts) = connection.into_parts().filter(|_| is_late) {
        let response = last_word(Refusal::TooSlow, seat.worker.timers.clock().now());
        let mut stream = parts.io.into_inner();
        let telling = pin!(async move {
            // Whoever is gone is not told.
            let _ = stream.write_all(&response).await;
            let _ = stream.shutdown().await;
        });
        seat.worker.timers.within(LAST_WORD, telling).await;
    }
}

/// Serves HTTP/2 until the connection ends.
pub(super) async fn http2<T>(seat: Rc<Seat>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &seat.worker.shared.limits;
    let mut builder = http2::Builder::new(OnThread(seat.clone()));
    builder.timer(TokioTimer::new()).enable_connect_protocol();
    builder.max_concurrent_streams(limits.streams);
    builder.max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    builder.max_send_buf_size(SEND_BUFFER);
    builder.max_pending_accept_reset_streams(RESETS).max_local_error_reset_streams(OWN_RESETS);
    let own = seat.clone();
    let service = service_fn(move |request| {
        let seat = own.clone();
        async move {
            let response = respond(seat.clone(), Service::Backends, request).await?;
            Ok::<_, Infallible>(response.map(|body| Streamed::new(body, &seat)))
        }
    });
    let stream = TokioIo::new(Watched { stream, activity: seat.activity.clone() });
    let connection = pin!(builder.serve_connection(stream, service));
    run(&seat, connection, true, |connection| connection.graceful_shutdown()).await;
}

/// Polls a connection until it ends, or has to. True where a head came too late.
async fn run<C, E: Display>(
    seat: &Seat,
    mut connection: Pin<&mut C>,
    streams: bool,
    mut end_gently: impl FnMut(Pin<&mut C>),
) -> bool
where
    C: Future<Output = Result<(), E>>,
{
    loop {
        match seat.worker.timers.limit(connection.as_mut(), |now| seat.look(now, streams)).await {
            Ok(Ok(())) => return false,
            Ok(Err(error)) => {
                tracing::debug!(peer = %seat.client.peer, %error, "a connection broke");
                return false;
            }
            Err(Ending::Gently) => end_gently(connection.as_mut()),
            Err(Ending::LateHead) => return true,
            Err(Ending::AtOnce(reason)) => {
                tracing::debug!(peer = %seat.client.peer, reason, "a connection is cut");
                return false;
            }
        }
    }
}

/// Runs what a connection with HTTP/2 starts on its own thread, each for as long as its client takes something.
#[derive(Debug, Clone)]
struct OnThread(Rc<Seat>);

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThread {
    fn execute(&self, task: F) {
        let seat = self.0.clone();
        self.0.worker.spawn("stream", async move {
            let untaken = Rc::new(Cell::new(NEVER));
            let task = pin!(UNTAKEN.scope(untaken.clone(), task));
            let (timers, patience) = (&seat.worker.timers, seat.worker.shared.limits.send);
            let look = |now| match untaken.get() {
                NEVER => Look::Again(NEVER),
                since if now >= after(since, patience) => Look::Over(()),
                since => Look::Again(after(since, patience)),
            };
            // What is dropped in the midst of its answer resets its stream.
            if timers.limit(task, look).await.is_err() {
                tracing::debug!(peer = %seat.client.peer, "a stream is cut: the client takes nothing");
            }
        });
    }
}
