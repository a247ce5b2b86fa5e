//! Tells what became of backends: every message of the store's outbox, in order per backend, until it is acknowledged.
//! Nothing but the messages themselves waits for that.

use crate::store::{Outgoing, Store, StoreError};
use plane_core::{
    id::BackendId,
    message::FaultCode,
    nats::{Nats, NatsError},
    task::Tasks,
};
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// Backends of which a message is sent in one round. The next round goes on behind them, so that those whose messages
/// are stuck keep no others waiting.
const BATCH: u32 = 256;
/// How long a controller may take to acknowledge a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long what is under way, and the last try, may take once the tasks are stopped.
const LAST_ROUNDS: Duration = Duration::from_secs(4);
/// How long a line of log may keep what comes after it waiting while NATS is there: the stream of lines may be gone, or
/// take nothing more, and the end of a backend is worth more than the words before it.
const LINE_PATIENCE: Duration = Duration::from_secs(10);

/// Empties the outbox for as long as the tasks run; at their end, what is left is tried once more where there is a
/// connection. Nothing is told once they have failed: another process may be this drone, and what it runs by the same ids
/// has not ended with what ran here. What stays is for the next process to tell.
pub(crate) fn start(nats: &Nats, store: &Store, tasks: &Tasks) {
    let (nats, store, stop, all) = (nats.clone(), store.clone(), tasks.stop_token(), tasks.clone());
    let wake = store.outbox_news();
    let over = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ROUNDS).await;
        }
    };
    let emptying = async move {
        let (mut pause, mut pass) = (Duration::from_millis(50), Pass::default());
        let mut refused = Refused::default();
        while !all.failed() {
            let round = send_round(&nats, &store, &mut pass, &mut refused).await;
            let wait = match round {
                Round::Empty => {
                    tokio::select! { () = stop.cancelled() => return, () = wake.notified() => {} }
                    continue;
                }
                Round::Sent => {
                    pause = Duration::from_millis(50);
                    continue;
                }
                Round::Stuck => pause,
            };
            pause = (pause * 2).min(LONGEST_PAUSE);
            tokio::select! { () = stop.cancelled() => break, () = tokio::time::sleep(wait) => {} }
        }
        if !all.failed() && nats.is_connected() {
            let _ = send_round(&nats, &store, &mut Pass::default(), &mut refused).await;
        }
    };
    tasks.spawn_essential("outbox", async move {
        tokio::select! { () = emptying => {}, () = over => {} }
    });
}

enum Round {
    Empty,
    Sent,
    Stuck,
}

/// One way through the outbox. It ends at what was the newest when it began: however much comes in, what could not be
/// sent is soon tried again.
#[derive(Debug, Default)]
struct Pass {
    after: i64,
    newest: i64,
}

/// The oldest message of each of the next backends of a pass, which is moved on; at its end another one begins.
async fn next_batch(store: &Store, pass: &mut Pass) -> Result<Vec<(i64, Outgoing)>, StoreError> {
    let mut waiting = store.next_outgoing(pass.after, pass.newest, BATCH).await?;
    if waiting.is_empty() {
        let newest = store.outgoing().await?.map_or(0, |(_, newest)| newest);
        *pass = Pass { after: 0, newest };
        waiting = store.next_outgoing(0, newest, BATCH).await?;
    }
    pass.after = waiting.last().map_or(pass.newest, |(number, _)| *number);
    Ok(waiting)
}

/// Since when each line of log has been refused by a NATS that is there. No more than what is sent in the rounds between
/// two looks at all backends.
#[derive(Debug, Default)]
struct Refused(HashMap<i64, Instant>);

impl Refused {
    /// Notes what could not be sent, and gives the lines that have been tried for long enough.
    fn note(&mut self, lines: impl Iterator<Item = i64>, now: Instant) -> Vec<i64> {
        let old = |number: &i64| now.duration_since(*self.0.entry(*number).or_insert(now)) >= LINE_PATIENCE;
        let given_up: Vec<i64> = lines.filter(old).collect();
        self.forget(&given_up);
        given_up
    }

    fn forget(&mut self, sent: &[i64]) {
        for number in sent {
            self.0.remove(number);
        }
    }
}

async fn send_round(nats: &Nats, store: &Store, pass: &mut Pass, refused: &mut Refused) -> Round {
    let waiting = match next_batch(store, pass).await {
        Ok(waiting) if waiting.is_empty() => return Round::Empty,
        Ok(waiting) => waiting,
        Err(error) => {
            tracing::error!(%error, "the outbox cannot be read");
            return Round::Stuck;
        }
    };
    let lines: Vec<(i64, BackendId)> = waiting
        .iter()
        .filter(|(_, message)| matches!(message, Outgoing::Log(_)))
        .map(|(number, message)| (*number, message.backend().clone()))
        .collect();
    let sent = waiting.into_iter().map(|(number, message)| send(nats, number, message));
    let sent = futures_util::future::join_all(sent).await;
    let mut sent: Vec<i64> = sent.into_iter().flatten().collect();
    if nats.is_connected() {
        refused.forget(&sent);
        let left = lines.iter().map(|(number, _)| *number).filter(|number| !sent.contains(number));
        let given_up = refused.note(left, Instant::now());
        for (_, backend) in lines.iter().filter(|(number, _)| given_up.contains(number)) {
            tracing::warn!(%backend, "a line of its log is not taken by NATS; dropped, so that its state can be told");
        }
        sent.extend(given_up);
    } else {
        // An outage says nothing of the stream.
        *refused = Refused::default();
    }
    if sent.is_empty() {
        return Round::Stuck;
    }
    match store.acknowledge(sent).await {
        Ok(()) => Round::Sent,
        Err(error) => {
            tracing::error!(%error, "what has been told cannot be struck off; it will be told again");
            Round::Stuck
        }
    }
}

/// Sends one message, and gives its number once it is acknowledged.
async fn send(nats: &Nats, number: i64, message: Outgoing) -> Option<i64> {
    let sent = match &message {
        Outgoing::Status(report) => nats.request(report, REPORT_TIMEOUT).await,
        Outgoing::Log(line) => nats.publish_stored(line).await.map(|_| ()),
    };
    match sent {
        Ok(()) => Some(number),
        Err(NatsError::Fault(fault)) if fault.code == FaultCode::BadRequest => {
            tracing::error!(backend = %message.backend(), %fault, "a report was refused for good; dropped");
            Some(number)
        }
        Err(error) => {
            tracing::debug!(backend = %message.backend(), %error, "a message of the outbox waits");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::tests::Nobody;
    use plane_core::message::backend::{BackendState, LogKind, LogLine, StatusReport};
    use std::sync::Arc;

    async fn say(store: &Store, backend: &str) {
        let line = LogLine { backend_id: backend.parse().unwrap(), kind: LogKind::Meta, text: String::new() };
        store.say_again(&Outgoing::Log(line)).await.unwrap();
    }

    fn report() -> Outgoing {
        Outgoing::Status(StatusReport {
            cluster: "plane.test".parse().unwrap(),
            state: BackendState::Exited,
            backend: "b".parse().unwrap(),
            time: jiff::Timestamp::UNIX_EPOCH,
            drone: "d".parse().unwrap(),
            reason: None,
            exit_code: None,
        })
    }

    async fn next(store: &Store, pass: &mut Pass) -> Vec<String> {
        let batch = next_batch(store, pass).await.unwrap();
        batch.iter().map(|(_, message)| message.backend().to_string()).collect()
    }

    #[test]
    fn a_line_that_is_refused_is_given_up_in_the_end() {
        let (mut refused, began) = (Refused::default(), Instant::now());
        assert!(refused.note([1, 2].into_iter(), began).is_empty());
        refused.forget(&[2]);
        assert!(refused.note([1, 2].into_iter(), began + LINE_PATIENCE / 2).is_empty());
        assert_eq!(refused.note([1, 2].into_iter(), began + LINE_PATIENCE), [1]);
        // Its number does not come again; one that did would be tried as long.
        assert!(refused.note([1].into_iter(), began + LINE_PATIENCE).is_empty());
    }

    #[tokio::test]
    async fn a_drone_whose_place_another_has_taken_tells_nothing_more() {
        let cases = [(true, false, false), (true, true, true), (true, false, true), (false, false, false)];
        for (connected, taken_at_first, taken_later) in cases {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(&folder.path().join("drone.sqlite3")).unwrap();
            store.say_again(&report()).await.unwrap();
            let (nobody, tasks) = (Arc::new(Nobody::connected(connected)), Tasks::new());
            let tried = || nobody.said.lock().unwrap().len();
            if taken_at_first {
                tasks.fail("another process is this drone");
            }
            start(&Nats::over(nobody.clone()), &store, &tasks);
            // By then the pauses are long.
            while !taken_at_first && tried() < 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let before = tried();
            if taken_later {
                tasks.fail("another process is this drone");
            }
            assert!(tasks.shut_down(Duration::from_secs(5)).await);
            // One that is stopped tries once more, where that makes sense.
            let tries_again = connected && !taken_later;
            assert_eq!(tried() - before, usize::from(tries_again), "{connected} {taken_at_first} {taken_later}");
            assert!(store.outgoing().await.unwrap().is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drone_whose_reports_are_stuck_stops() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("drone.sqlite3")).unwrap();
        store.say_again(&report()).await.unwrap();
        let (nobody, tasks) = (Arc::new(Nobody::full()), Tasks::new());
        start(&Nats::over(nobody.clone()), &store, &tasks);
        while nobody.said.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(tasks.shut_down(crate::STOP_DEADLINE).await);
        assert!(!tasks.failed());
        assert!(store.outgoing().await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_drone_that_can_tell_nothing_any_more_does_not_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("drone.sqlite3")).unwrap();
        let tasks = Tasks::new();
        start(&Nats::over(Arc::new(Nobody::broken())), &store, &tasks);
        say(&store, "b").await;
        tasks.stop_token().cancelled().await;
        assert!(tasks.failed());
    }

    #[tokio::test]
    async fn stuck_messages_keep_no_other_backend_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("drone.sqlite3")).unwrap();
        let mut pass = Pass::default();
        for _ in 0..=BATCH {
            say(&store, "stuck").await;
        }
        say(&store, "other").await;
        assert_eq!(next(&store, &mut pass).await, ["stuck", "other"]);
        // Nothing of that could be sent; now so many backends are stuck that one more has no place in the round.
        for number in 2..=BATCH {
            say(&store, &format!("stuck-{number}")).await;
        }
        assert_eq!(next(&store, &mut pass).await.len(), BATCH as usize);
        assert_eq!(next(&store, &mut pass).await, [format!("stuck-{BATCH}")]);
        assert_eq!(next(&store, &mut pass).await[..2], ["stuck", "other"]);
    }

    #[tokio::test]
    async fn what_could_not_be_sent_is_tried_again_however_much_comes_in() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("drone.sqlite3")).unwrap();
        let mut pass = Pass::default();
        say(&store, "stuck").await;
        assert_eq!(next(&store, &mut pass).await, ["stuck"]);
        for number in 0..3 {
            let other = format!("other-{number}");
            say(&store, &other).await;
            let batch = next_batch(&store, &mut pass).await.unwrap();
            let backends: Vec<String> = batch.iter().map(|(_, message)| message.backend().to_string()).collect();
            assert_eq!(backends, ["stuck".to_owned(), other]);
            store.acknowledge(vec![batch[1].0]).await.unwrap();
        }
    }
}
