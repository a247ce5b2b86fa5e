//! Connections of clients: those with HTTP/1.1 that the hyper library serves, the leading of requests to HTTPS, and what
//! ends a connection of any kind before its client does.

use super::{
    connection::{Ending, Seat, Watched},
    exchange::{self, Came, Reply},
    http1::last_word,
    inbound::Inbound,
    passage::{Answer, Passage},
    redirect,
    refusal::Refusal,
};
use crate::cert::Served;
use futures_util::future::Either;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    fmt::Display,
    future::{self, Future},
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// How long a client may take to read why its connection ends.
const LAST_WORD: Duration = Duration::from_secs(2);
/// What hyper takes at least as the size of its buffer, in bytes.
const LEAST_BUFFER: usize = 8192;
/// How many fields hyper reads without allocating.
const USUAL_FIELDS: usize = 100;
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

async fn pass_on(seat: Rc<Seat>, client: OnUpgrade, came: Box<Came>) -> Result<Response<Answer>, Infallible> {
    Ok(match exchange::answer(&seat, came, None).await {
        Reply::Whole(response) => response,
        Reply::Switched(response, switched) => {
            seat.worker.spawn("tunnel", switched.with_upgraded(client));
            response.map(|()| Answer::Own { body: Full::default(), passage: None })
        }
    })
}

fn lead(seat: &Rc<Seat>, request: Request<Incoming>, served: &Served, port: u16) -> Response<Answer> {
    let passage = Passage::begin(seat);
    let (head, body) = request.into_parts();
    exchange::note(&passage, &head);
    let request = Request::from_parts(head, body);
    let led = redirect::lead(&request, served.is_there(), port, seat.worker.shared.limits.request_line_bytes);
    match &led {
        Ok(response) => passage.record.answered(response.status().as_u16()),
        Err(refusal) => passage.record.refused(*refusal),
    }
    let response = led.unwrap_or_else(|refusal| redirect::refuse(&request, refusal));
    response.map(|body| Answer::Own { body, passage: Some(passage) })
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
    let service = service_fn(move |mut request| match &service {
        Service::Backends => {
            let client = hyper::upgrade::on(&mut request);
            Either::Left(pass_on(own.clone(), client, Came::new(request.map(Inbound::http1))))
        }
        Service::Redirect { served, port } => Either::Right(future::ready(Ok(lead(&own, request, served, *port)))),
    });
    let stream = TokioIo::new(Watched::new(stream, seat.activity.clone()));
    let mut connection = builder.serve_connection(stream, service).with_upgrades();
    let is_late = run(&seat, Pin::new(&mut connection), false, |connection| connection.graceful_shutdown()).await;
    // Behind an answer that waits in hyper's buffer it would be taken for a part of that.
    let may_tell = is_late && !seat.activity.is_stalled();
    if let Some(parts) = connection.into_parts().filter(|_| may_tell) {
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

/// Polls a connection until it ends, or has to. True where a head came too late.
pub(super) async fn run<C, E: Display>(
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
