//! DNS over UDP: as many requests as have come are taken at once, answered from one look at the world, and sent off
//! together. There is a socket for each processor; the kernel spreads clients over them.

use super::{
    Responder,
    batch::{BATCH, Batch},
    limit::{Limiter, Verdict},
    message,
    reply::{Manner, Transport},
};
use std::{io, os::fd::AsFd, sync::Arc, time::Instant};
use tokio::{io::Interest, net::UdpSocket};
use tokio_util::sync::CancellationToken;

/// After so many batches other tasks have their turn.
const YIELD_EVERY: u64 = 8;

/// What all sockets share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) responder: Responder,
    /// The limit to answers, where there is one.
    pub(super) limiter: Option<Arc<Limiter>>,
    /// From when the limiter's time counts.
    pub(super) began: Instant,
}

/// Answers on one socket until told to stop.
pub(super) async fn serve(socket: UdpSocket, shared: Shared, stop: CancellationToken) {
    let mut batch = Batch::new();
    for turn in 1_u64.. {
        let ready = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ready = socket.readable() => ready,
        };
        // The runtime is shutting down.
        if ready.is_err() {
            return;
        }
        // Where fewer came than there was room for, no more are there: what comes now makes the socket ready anew. Other
        // errors are those of answers sent before, to somebody who is no longer there.
        let _ = socket.try_io(Interest::READABLE, || match batch.receive(socket.as_fd())? {
            BATCH.. => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        });
        answer(&mut batch, &shared);
        batch.send(socket.as_fd());
        if turn.is_multiple_of(YIELD_EVERY) {
            tokio::task::yield_now().await;
        }
    }
}

fn answer(batch: &mut Batch, shared: &Shared) {
    let limiter = shared.limiter.as_deref();
    let now = limiter.map(|_| shared.began.elapsed()).unwrap_or_default();
    shared.responder.with_world(|world| {
        for exchange in batch.exchanges() {
            // What gets no answer takes nothing of its network's share.
            if !message::is_request(exchange.packet) {
                continue;
            }
            let verdict = limiter.map_or(Verdict::Answer, |limiter| limiter.judge(exchange.client, now));
            if verdict == Verdict::Nothing {
                continue;
            }
            let manner = Manner { transport: Transport::Udp, truncated: verdict == Verdict::AskOverTcp };
            if !shared.responder.respond(world, exchange.packet, manner, exchange.answer) {
                exchange.answer.clear();
            }
        }
    });
}
