//! Plays one end of a case on a stream.

use super::{Case, End, From};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::oneshot,
};

/// How long an end waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many bytes are read at once.
const CHUNK: usize = 64 * 1024;

/// Plays one end of a case: says what it has to say, hears the other, and goes as it should; `already` is what of the
/// case has been sent and heard before. `reset` makes that dropping the stream breaks it off.
///
/// # Errors
/// Where it hears anything but what the other end says, or not all of it, though the other does not break off; where
/// the other does not end in time.
pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    case: &Case,
    own: From,
    stream: S,
    already: Already,
    reset: impl FnOnce(&S),
) -> Result<()> {
    let ((says, end), (expected, other_end)) = match own {
        From::Client => ((&case.client, case.client_end), (&case.backend, case.backend_end)),
        From::Backend => ((&case.backend, case.backend_end), (&case.client, case.client_end)),
    };
    let expected = expected.concat();
    let (read, write) = split(stream);
    let (tell, ended) = oneshot::channel();
    let enough = if end == End::Resets { expected.len() } else { usize::MAX };
    let hearing = async {
        let heard = hear(read, already.heard, enough).await;
        let _ = tell.send(());
        heard
    };
    let both = async { tokio::join!(hearing, say(write, &says[already.said..], end, ended)) };
    let played = tokio::time::timeout(PATIENCE, both).await;
    let name = || format!("{}: the {own:?}", case.name);
    let ((read, heard, finished), write) = played.with_context(|| format!("{} hears no end", name()))?;
    let stream = read.unsplit(write);
    if end == End::Resets {
        reset(&stream);
    }
    drop(stream);
    let same = heard.iter().zip(&expected).take_while(|(heard, said)| heard == said).count();
    ensure!(same == heard.len(), "{} hears another byte at {same} of {}", name(), expected.len());
    if other_end == End::Resets || end == End::Resets {
        return Ok(());
    }
    ensure!(same == expected.len(), "{} hears {same} bytes of {}", name(), expected.len());
    ensure!(finished, "{} hears all, but the connection breaks off", name());
    Ok(())
}

/// What has passed before a case is played on.
#[derive(Debug, Default)]
pub struct Already {
    /// How many of its own pieces an end has sent.
    pub said: usize,
    /// What it has heard.
    pub heard: Vec<u8>,
}

async fn hear<S: AsyncRead>(mut read: ReadHalf<S>, mut heard: Vec<u8>, enough: usize) -> (ReadHalf<S>, Vec<u8>, bool) {
    let mut chunk = vec![0; CHUNK];
    while heard.len() < enough {
        match read.read(&mut chunk).await {
            Ok(0) => return (read, heard, true),
            Ok(length) => heard.extend(&chunk[..length]),
            Err(_) => return (read, heard, false),
        }
    }
    (read, heard, false)
}

/// What cannot be said, the other end does not want to hear any more; what it has heard tells whether it may.
async fn say<S: AsyncWrite>(
    mut write: WriteHalf<S>,
    pieces: &[Vec<u8>],
    end: End,
    ended: oneshot::Receiver<()>,
) -> WriteHalf<S> {
    for piece in pieces {
        if write.write_all(piece).await.is_err() || write.flush().await.is_err() {
            break;
        }
    }
    if end != End::Finishes {
        let _ = ended.await;
    }
    if end != End::Resets {
        let _ = write.shutdown().await;
    }
    write
}
