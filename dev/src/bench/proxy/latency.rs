//! A loader that sends at a fixed rate, whatever becomes of the answers. A request whose connection is still taken when
//! it is due counts from then on, so that who answers slowly is not asked less for it.

use super::client::Door;
use crate::bench::percentile;
use anyhow::{Context, Result, ensure};
use rustix::thread::set_current_timer_slack;
use std::{
    io::{Read, Write},
    net::TcpStream,
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

/// Connections, each with a thread of its own: asynchronous timers have a grain of 1 ms, and so would the load.
const CONNECTIONS: u32 = 32;
/// How late the kernel may wake a thread up, in ns, where it does not have to (prctl(2)); 50,000 is its own choice.
const SLACK: u64 = 1000;
const PATIENCE: Duration = Duration::from_secs(20);

/// What half of the answers took at most, and 99 of 100.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    pub(super) half: Duration,
    pub(super) most: Duration,
}

/// Asks `rate` times a second for so long.
///
/// # Errors
/// Where a connection breaks, or is answered otherwise than with 200.
pub(super) async fn latency(door: Door, target: &'static str, rate: f64, lasts: Duration) -> Result<Latency> {
    ensure!(!door.is_secure(), "only without TLS");
    tokio::task::spawn_blocking(move || {
        let between = Duration::from_secs_f64(f64::from(CONNECTIONS) / rate);
        let mut all = thread::scope(|scope| {
            let askers: Vec<_> = (0..CONNECTIONS)
                .map(|number| {
                    let (door, first) = (&door, between * number / CONNECTIONS);
                    scope.spawn(move || ask(door, target, first, between, lasts))
                })
                .collect();
            let mut all = Vec::new();
            for asker in askers {
                let took = asker.join().map_err(|_| anyhow::anyhow!("a thread of the loader broke"))?;
                all.extend(took?);
            }
            Ok::<_, anyhow::Error>(all)
        })?;
        all.sort();
        Ok(Latency { half: percentile(&all, 0.5), most: percentile(&all, 0.99) })
    })
    .await?
}

/// One connection's requests, the first after `first`.
fn ask(door: &Door, target: &str, first: Duration, between: Duration, lasts: Duration) -> Result<Vec<Duration>> {
    let _ = set_current_timer_slack(NonZeroU64::new(SLACK));
    let mut stream = TcpStream::connect(door.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (request, mut buffer) = (door.head("GET", target, ""), [0; 4096]);
    // The first answer opens the proxy's own connection and does not count.
    once(&mut stream, &request, &mut buffer)?;
    let (began, mut took) = (Instant::now(), Vec::new());
    let mut due = first;
    while due < lasts {
        let wait = due.saturating_sub(began.elapsed());
        let sent = if wait.is_zero() {
            began + due
        } else {
            thread::sleep(wait);
            Instant::now()
        };
        once(&mut stream, &request, &mut buffer)?;
        took.push(sent.elapsed());
        due += between;
    }
    Ok(took)
}

/// A request and its answer, which is short: where its head is, its body is too, or comes at once.
fn once(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> Result<()> {
    stream.write_all(request)?;
    let mut end = 0;
    loop {
        let came = stream.read(&mut buffer[end..]).context("no answer")?;
        ensure!(came > 0, "the connection ended before the answer");
        end += came;
        let read = &buffer[..end];
        ensure!(end < 12 || read.starts_with(b"HTTP/1.1 200"), "not 200: {}", String::from_utf8_lossy(read));
        if is_whole(read) {
            return Ok(());
        }
    }
}

/// Whether an answer has come to the end that its length says.
fn is_whole(read: &[u8]) -> bool {
    let Some(head) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let (head, body) = read.split_at(head + 4);
    let length = String::from_utf8_lossy(head).lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| body.len() >= length)
}

#[cfg(test)]
mod tests {
    use super::is_whole;

    #[test]
    fn an_answer_is_whole_once_its_length_is_there() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert!(is_whole(whole));
        assert!((0..whole.len()).all(|end| !is_whole(&whole[..end])));
    }
}
