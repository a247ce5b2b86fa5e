//! `plane logs`

use crate::{
    Failure,
    arguments::Output,
    command::status::{self, Follower},
    output,
};
use plane_core::{
    id::BackendId,
    message::backend::{LogKind, LogLine},
    nats::{Event, Nats, NatsError, StreamName},
};
use std::time::Duration;

/// How long lines may come after a backend's end.
const LAST_LINES: Duration = Duration::from_secs(1);

pub(crate) async fn run(nats: &Nats, backend: &BackendId, follow: bool, output: Output) -> Result<(), Failure> {
    let mut nothing_more = status::nothing_of(nats, backend).await?;
    let mut replay = nats.replay(StreamName::Logs, &LogLine::subject_of(backend)).await?;
    let mut follower = Follower::start(nats, Some(backend)).await?;
    let ended = async {
        while !follower.next().await?.state.is_final() {}
        tokio::time::sleep(LAST_LINES).await;
        Ok::<_, NatsError>(())
    };
    tokio::pin!(ended);
    let (mut live, mut any) = (false, false);
    loop {
        let event = tokio::select! {
            biased;
            event = replay.next() => event,
            ended = &mut ended, if live => return Ok(ended?),
        };
        match event {
            Event::Entry(entry) => {
                any = true;
                let Ok(line) = serde_json::from_slice::<LogLine>(&entry.payload) else { continue };
                output::print(output, &line, || match line.kind {
                    LogKind::Stdout => format!("out   {}", line.text),
                    LogKind::Stderr => format!("err   {}", line.text),
                    LogKind::Meta => format!("plane {}", line.text),
                })?;
            }
            // Lines of a backend that is not known are what was left of it.
            Event::CaughtUp => match nothing_more.take() {
                Some(failure) if follow || !any => return Err(failure),
                None if follow => live = true,
                _ => return Ok(()),
            },
            Event::Replaced => return Err(replay.replaced().into()),
        }
    }
}
