//! DNS over TCP (RFC 7766): messages with their length before them, any number on a connection, answered in order.
//!
//! Connections are bounded: where one comes too many, the one that has asked nothing for the longest time gives way.

use super::{
    Responder,
    reply::{Manner, Transport},
};
use crate::config::DnsConfig;
use plane_core::task::Tasks;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How long nothing is accepted after the system refused a connection, for want of files for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Answers are sent once there are so many bytes of them, although more requests are there.
const SEND_ABOVE: usize = 16 * 1024;
/// How much is read at once, in bytes.
const READ_AT_ONCE: usize = 4096;

/// The bounds of DNS over TCP.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How many connections there are at most.
    connections: usize,
    /// How long one may be without a whole request.
    idle: Duration,
}

impl Limits {
    pub(super) fn of(config: &DnsConfig) -> Self {
        Self { connections: config.tcp_connections, idle: Duration::from_secs(config.tcp_idle_secs.into()) }
    }
}

/// The connections there are.
#[derive(Debug, Default)]
struct Connections {
    open: Mutex<HashMap<u64, Open>>,
}

#[derive(Debug)]
struct Open {
    /// When it asked last, or began.
    asked: Instant,
    give_way: CancellationToken,
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in; the one that is idle for the longest time gives way where there are too many.
    fn admit(&self, id: u64, most: usize) -> CancellationToken {
        let mut open = self.open();
        if open.len() >= most {
            evict_longest(&mut open);
        }
        let give_way = CancellationToken::new();
        open.insert(id, Open { asked: Instant::now(), give_way: give_way.clone() });
        give_way
    }

    /// Has the connection give way that is idle for the longest time.
    fn evict_longest(&self) {
        evict_longest(&mut self.open());
    }

    fn asked(&self, id: u64, when: Instant) {
        if let Some(open) = self.open().get_mut(&id) {
            open.asked = when;
        }
    }
}

fn evict_longest(open: &mut HashMap<u64, Open>) {
    let longest = open.iter().min_by_key(|(_, open)| open.asked).map(|(id, _)| *id);
    if let Some(longest) = longest.and_then(|id| open.remove(&id)) {
        longest.give_way.cancel();
    }
}

/// Takes a connection out of the table when it ends, however it ends.
struct Place {
    connections: Arc<Connections>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().remove(&self.id);
    }
}

/// Answers on all connections until told to stop.
pub(super) async fn serve(listener: TcpListener, responder: Responder, limits: Limits, tasks: Tasks) {
    let stop = tasks.stop_token();
    let connections = Arc::new(Connections::default());
    for id in 0.. {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a DNS connection was not accepted");
                // Where there are no files left, this one's is there for who comes next.
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                    connections.evict_longest();
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let give_way = connections.admit(id, limits.connections);
        let place = Place { connections: connections.clone(), id };
        let (responder, stop) = (responder.clone(), stop.clone());
        tasks.spawn("a DNS connection", async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = give_way.cancelled() => {}
                () = converse(stream, &responder, limits, &place) => {}
            }
        });
    }
}

/// Answers on one connection until the client ends it, asks nothing for too long, does not take its answers, or sends
/// what is no request.
async fn converse(mut stream: TcpStream, responder: &Responder, limits: Limits, place: &Place) {
    // An answer is one write.
    let _ = stream.set_nodelay(true);
    let (mut waiting, mut out, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    let mut deadline = Instant::now() + limits.idle;
    let manner = Manner { transport: Transport::Tcp, truncated: false };
    loop {
        waiting.reserve(READ_AT_ONCE);
        match tokio::time::timeout_at(deadline, stream.read_buf(&mut waiting)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) | Err(_) => return,
        }
        let mut taken = 0;
        while let Some(request) = first(waiting.get(taken..).unwrap_or_default()) {
            taken += 2 + request.len();
            let responded = responder.with_world(|world| responder.respond(world, request, manner, &mut out));
            let length = u16::try_from(out.len()).ok().filter(|_| responded);
            let Some(length) = length else {
                // What was asked before is answered.
                send(&mut stream, &mut answers, limits).await;
                return;
            };
            answers.extend_from_slice(&length.to_be_bytes());
            answers.extend_from_slice(&out);
            if answers.len() > SEND_ABOVE && !send(&mut stream, &mut answers, limits).await {
                return;
            }
        }
        if taken > 0 {
            waiting.drain(..taken);
            let now = Instant::now();
            deadline = now + limits.idle;
            place.connections.asked(place.id, now);
        }
        if !answers.is_empty() && !send(&mut stream, &mut answers, limits).await {
            return;
        }
    }
}

/// The first whole request of what was read.
fn first(read: &[u8]) -> Option<&[u8]> {
    let (length, rest) = read.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// Sends what there is and empties it. False where the client does not take it in time.
async fn send(stream: &mut TcpStream, answers: &mut Vec<u8>, limits: Limits) -> bool {
    let sent = tokio::time::timeout(limits.idle, stream.write_all(answers)).await;
    answers.clear();
    matches!(sent, Ok(Ok(())))
}
