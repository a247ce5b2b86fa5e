//! wrk and h2load: what they are told, and what they say.

use super::{client::Door, connections::Done};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tokio::process::Command;

/// Connections at once, over HTTP/1.1.
pub(super) const CONNECTIONS: u32 = 64;

/// What wrk found besides: 99 of 100 answers took this long at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) done: Done,
    pub(super) most: Option<Duration>,
}

/// Asks over HTTP/1.1 on 64 connections that stay.
///
/// # Errors
/// Where wrk cannot be run, or nothing is answered.
pub(super) async fn wrk(door: &Door, target: &str, lasts: Duration) -> Result<Asked> {
    let scheme = if door.is_secure() { "https" } else { "http" };
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{}s", lasts.as_secs()), "--latency"]);
    command.args(["-H", &format!("Host: {}", door.host), &format!("{scheme}://{}{target}", door.address)]);
    from_wrk(&run(command).await?)
}

/// Asks over HTTP/2 and TLS on 16 connections, eight requests at once on each.
///
/// # Errors
/// Where h2load cannot be run, the contender does not speak HTTP/2, or nothing is answered.
pub(super) async fn h2load(door: &Door, target: &str, lasts: Duration) -> Result<Asked> {
    let mut command = Command::new("h2load");
    command.args(["-c16", "-m8", "-t1", "-D", &lasts.as_secs().to_string()]);
    command.arg(format!("--connect-to={}", door.address));
    command.arg(format!("https://{}:{}{target}", door.host, door.address.port()));
    from_h2load(&run(command).await?)
}

async fn run(mut command: Command) -> Result<String> {
    let done = command.kill_on_drop(true).output().await.with_context(|| format!("{command:?} does not start"))?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
    Ok(said)
}

/// A time as wrk prints it: `1.23ms`.
fn time(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|letter: char| letter.is_ascii_alphabetic())?);
    let unit = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

/// The first number of the first line that begins so.
fn number(said: &str, begin: &str) -> Option<u64> {
    let rest = said.lines().find_map(|line| line.trim().strip_prefix(begin))?;
    rest.split(|letter: char| !letter.is_ascii_digit()).find(|word| !word.is_empty())?.parse().ok()
}

fn from_wrk(said: &str) -> Result<Asked> {
    let line = said.lines().find_map(|line| line.trim().split_once(" requests in ")).context("wrk says nothing")?;
    let took = line.1.split(',').next().and_then(time).context("wrk does not say how long it took")?;
    let wrong = number(said, "Non-2xx or 3xx responses:").unwrap_or(0);
    let requests = line.0.parse::<u64>()?.saturating_sub(wrong);
    ensure!(requests > 0, "no good answer:\n{said}");
    let errors = said.lines().find_map(|line| line.trim().strip_prefix("Socket errors:")).unwrap_or_default();
    let errors = errors.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
    let most = said.lines().find_map(|line| line.trim().strip_prefix("99%")).and_then(|rest| time(rest.trim()));
    Ok(Asked { done: Done { requests, failed: wrong + errors.sum::<u64>(), took }, most })
}

fn from_h2load(said: &str) -> Result<Asked> {
    ensure!(said.contains("Application protocol: h2"), "does not speak HTTP/2");
    let line = said.lines().find_map(|line| line.strip_prefix("finished in ")).context("h2load says nothing")?;
    let took = line.split(',').next().and_then(time).context("h2load does not say how long it took")?;
    // `status codes: 70000 2xx, …` and `requests: … 0 failed, 0 errored, 0 timeout`.
    let requests = number(said, "status codes:").unwrap_or(0);
    ensure!(requests > 0, "no good answer:\n{said}");
    let counts = said.lines().find(|line| line.starts_with("requests:")).context("h2load counts nothing")?;
    let done = counts.split(", ").find_map(|part| part.strip_suffix(" done")?.parse::<u64>().ok()).unwrap_or(requests);
    Ok(Asked { done: Done { requests, failed: done.saturating_sub(requests), took }, most: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let said = "Running 2s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  Latency Distribution\n\
                    \x20    50%    1.61ms\n     99%    3.02ms\n  81234 requests in 2.10s, 12.00MB read\n\
                    \x20 Socket errors: connect 0, read 1, write 0, timeout 2\n  Non-2xx or 3xx responses: 234\n\
                    Requests/sec:  38683.00\n";
        let asked = from_wrk(said).unwrap();
        assert_eq!((asked.done.requests, asked.done.failed), (81_000, 237));
        assert_eq!((asked.done.took.as_millis(), asked.most.unwrap().as_micros()), (2100, 3020));
    }

    #[test]
    fn h2load_is_understood() {
        let said = "Application protocol: h2\n\nfinished in 2.00s, 35000.00 req/s, 2.40MB/s\n\
                    requests: 70100 total, 70128 started, 70100 done, 70000 succeeded, 100 failed, 0 errored, 0 timeout\n\
                    status codes: 70000 2xx, 0 3xx, 100 4xx, 0 5xx\n";
        let asked = from_h2load(said).unwrap();
        assert_eq!((asked.done.requests, asked.done.failed, asked.done.took.as_secs()), (70_000, 100, 2));
        assert!(from_h2load(&said.replace("h2\n", "http/1.1\n")).is_err());
    }
}
