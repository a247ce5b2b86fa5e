//! DNS over UDP.

use super::{Responder, reply::Transport};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// The largest request that is read, in bytes: a question and a few options take much less.
const LARGEST_REQUEST: usize = 4096;

/// Answers on one socket until told to stop.
pub(super) async fn serve(socket: UdpSocket, responder: Responder, stop: CancellationToken) {
    let mut packet = vec![0; LARGEST_REQUEST];
    let mut out = Vec::new();
    loop {
        let received = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut packet) => received,
        };
        // An error is that of an answer sent before, to somebody who is no longer there.
        let Ok((length, client)) = received else { continue };
        let packet = packet.get(..length).unwrap_or_default();
        if responder.with_world(|world| responder.respond(world, packet, Transport::Udp, &mut out)) {
            let _ = socket.try_send_to(&out, client);
        }
    }
}
