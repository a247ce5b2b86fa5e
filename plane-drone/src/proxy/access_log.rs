//! The access log: a line of JSON for each request, at the end of a file or on standard output.
//!
//! Requests never wait for it. A line goes into a queue with a bound, which one task writes from; what does not fit is
//! counted, and the count is logged. Values of tokens are in no line.

mod line;
#[cfg(test)]
mod tests;

pub(super) use line::Entry;

use crate::config::proxy::AccessLogTarget;
use plane_core::task::Tasks;
use std::{
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    fs::File,
    io::AsyncWriteExt,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// How many lines wait to be written.
const QUEUE_LINES: usize = 8192;
/// How many of them are written at once.
const BATCH_LINES: usize = 512;
/// How often lost lines are told at most.
const LOST_TOLD_EVERY: Duration = Duration::from_secs(10);
/// How long lines are still taken once the drone stops: requests under way end in that time.
const LAST_LINES: Duration = Duration::from_secs(7);

/// A file that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the access log {path:?} cannot be opened: {cause}; check proxy.access_log and its folder's permissions")]
pub struct AccessLogError {
    path: PathBuf,
    cause: io::Error,
}

/// The end of the access log that requests write to. Clones write to the same.
#[derive(Debug, Clone)]
pub(super) struct AccessLog {
    lines: mpsc::Sender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the log, which waits for the disk. Its task ends once the tasks are told to stop and all clones are gone, or a few seconds after.
    pub(super) fn open(target: &AccessLogTarget, tasks: &Tasks) -> Result<Self, AccessLogError> {
        let out = match target {
            AccessLogTarget::Stdout => {
                let stdout = io::stdout().as_fd().try_clone_to_owned();
                let failed = |cause| AccessLogError { path: "/dev/stdout".into(), cause };
                Out { file: std::fs::File::from(stdout.map_err(failed)?).into(), rotation: None }
            }
            AccessLogTarget::File(path) => {
                let failed = |cause| AccessLogError { path: path.clone(), cause };
                let rotated = signal(SignalKind::hangup()).map_err(failed)?;
                let file = append_to(path).map_err(failed)?.into();
                Out { file, rotation: Some(Rotation { path: path.clone(), rotated }) }
            }
        };
        Ok(Self::write_to(out, tasks))
    }

    fn write_to(out: Out, tasks: &Tasks) -> Self {
        let (lines, queue) = mpsc::channel(QUEUE_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer { out, lost: lost.clone(), fails: false, told: None };
        let stop = tasks.stop_token();
        tasks.spawn("access log", async move {
            writer.run(queue, async move { stop.cancelled().await }).await;
        });
        Self { lines, lost }
    }

    /// Adds a line about a request.
    pub(super) fn log(&self, entry: &Entry<'_>) {
        if self.lines.try_send(entry.line()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn append_to(path: &Path) -> io::Result<std::fs::File> {
    // Who asked for what is not for everybody on the machine.
    std::fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Where lines go.
struct Out {
    file: File,
    rotation: Option<Rotation>,
}

/// What has a file made anew after it was moved away.
struct Rotation {
    path: PathBuf,
    /// SIGHUP.
    rotated: Signal,
}

impl Out {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await?;
        // The file writes behind: only this says whether it could.
        self.file.flush().await
    }

    /// Resolves when the file is to be opened anew.
    async fn rotated(&mut self) {
        let told = match &mut self.rotation {
            Some(rotation) => rotation.rotated.recv().await,
            None => None,
        };
        // A signal that the system does not hand on any more does not come.
        if told.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Opens the file anew. Where that fails, lines go on to the old one.
    async fn reopen(&mut self) {
        let Some(Rotation { path, .. }) = &self.rotation else { return };
        match append_to(path) {
            Ok(new) => {
                self.file = new.into();
                tracing::info!(path = %path.display(), "the access log is opened anew");
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "the access log cannot be opened anew"),
        }
    }
}

/// The task that writes.
struct Writer {
    out: Out,
    lost: Arc<AtomicU64>,
    /// Whether the last write failed, which is told once.
    fails: bool,
    /// When lost lines were last told.
    told: Option<Instant>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Vec<u8>>, stopped: impl Future<Output = ()>) {
        tokio::pin!(stopped);
        let (mut batch, mut end) = (Vec::with_capacity(BATCH_LINES), None);
        loop {
            let until = end.unwrap_or_else(Instant::now);
            tokio::select! {
                count = queue.recv_many(&mut batch, BATCH_LINES) => {
                    if count == 0 {
                        break;
                    }
                    self.write(&mut batch).await;
                }
                () = self.out.rotated() => self.out.reopen().await,
                () = &mut stopped, if end.is_none() => end = Some(Instant::now() + LAST_LINES),
                () = sleep_until(until), if end.is_some() => break,
            }
            self.tell_lost(false);
        }
        queue.close();
        while queue.recv_many(&mut batch, BATCH_LINES).await > 0 {
            self.write(&mut batch).await;
        }
        self.tell_lost(true);
    }

    async fn write(&mut self, batch: &mut Vec<Vec<u8>>) {
        let lines = batch.len();
        let bytes = batch.concat();
        batch.clear();
        match self.out.write(&bytes).await {
            Ok(()) => self.fails = false,
            Err(error) => {
                self.lost.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Ordering::Relaxed);
                if !std::mem::replace(&mut self.fails, true) {
                    tracing::warn!(%error, "the access log cannot be written; lines are lost until it can");
                }
            }
        }
    }

    fn tell_lost(&mut self, at_once: bool) {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= LOST_TOLD_EVERY);
        if self.lost.load(Ordering::Relaxed) > 0 && (at_once || is_due) {
            let lines = self.lost.swap(0, Ordering::Relaxed);
            tracing::warn!(lines, "lines of the access log were lost");
            self.told = Some(Instant::now());
        }
    }
}
