//! Connections of clients: one request after the other, until either side has had enough. Between requests a connection
//! has no buffer.
//!
//! `reading` waits for a request and decides on it, `acting` has it answered, and `ending` is how a connection ends.

mod acting;
mod ending;
mod reading;

use super::{
    HeadLimits,
    cut::Cut,
    decide::Peer,
    pace::{Interruption, Pace},
    scan::Scan,
};
use crate::proxy::{
    connection::{Ending, Seat, Watched},
    dial::Socket,
    passage::Passage,
    tunnel::{self, Side},
};
use bytes::Bytes;
use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves HTTP/1.1 until the connection ends.
pub(in crate::proxy) async fn serve<T>(seat: Rc<Seat>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Cut,
{
    let pace = Pace::default();
    let mut connection = Connection {
        seat: &seat,
        pace: &pace,
        peer: Peer::new(seat.client),
        stream: Watched::new(stream, seat.activity.clone()),
        input: Vec::new(),
        scan: Scan::default(),
    };
    let mut is_cut = false;
    {
        let mut serving = pin!(connection.run());
        loop {
            match seat.worker.timers.limit(serving.as_mut(), |now| pace.look(&seat, now)).await {
                Ok(()) => return,
                Err(Interruption::GivenUp) => {}
                Err(Interruption::Ends(Ending::Gently)) => pace.end(),
                Err(Interruption::Ends(Ending::LateHead)) => break,
                Err(Interruption::Ends(Ending::AtOnce(reason))) => {
                    tracing::debug!(peer = %seat.client.peer, reason, "a connection is cut");
                    is_cut = true;
                    break;
                }
            }
        }
    }
    if is_cut {
        connection.cut();
    } else {
        Box::pin(connection.end_late()).await;
    }
}

struct Connection<'a, T> {
    seat: &'a Rc<Seat>,
    pace: &'a Pace,
    peer: Peer,
    stream: Watched<T>,
    /// What was read and not looked at, or not in full.
    input: Vec<u8>,
    /// How far that was looked at.
    scan: Scan,
}

/// What becomes of a connection after a request.
enum Next {
    /// It waits for another.
    Request,
    /// It carries what client and backend say to each other.
    Tunnel(Box<(Side<Socket>, Rc<Passage>)>),
    /// It ends.
    End,
}

impl Next {
    fn request_if(goes_on: bool) -> Self {
        if goes_on { Self::Request } else { Self::End }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Cut> Connection<'_, T> {
    async fn run(&mut self) {
        loop {
            // What a request needs while it is under way is in a box, and so is what a tunnel needs: connections that wait
            // are many, and do without.
            let acting = {
                let step = poll_fn(|cx| self.poll_step(cx)).await;
                Box::pin(self.act(step))
            };
            let tunneling = match acting.await {
                Next::Request => {
                    self.scan = Scan::default();
                    continue;
                }
                Next::Tunnel(tunnel) => Box::pin(self.tunnel(*tunnel)),
                Next::End => return,
            };
            // A broken connection is how most of these end.
            let _ = tunneling.await;
            return;
        }
    }

    /// Carries what the client and the backend say to each other from now on.
    fn tunnel(&mut self, (backend, passage): (Side<Socket>, Rc<Passage>)) -> impl Future<Output = io::Result<()>> {
        self.pace.tunnels();
        let early = Bytes::from(std::mem::take(&mut self.input));
        tunnel::carry(Side { stream: &mut self.stream, early }, backend, passage)
    }

    fn limits(&self) -> HeadLimits {
        let limits = &self.seat.worker.shared.limits;
        HeadLimits { bytes: limits.header_bytes, fields: limits.header_count, line_bytes: limits.request_line_bytes }
    }
}
