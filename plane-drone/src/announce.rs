//! Telling the controllers what runs here, and hearing what the log makes of it. Truth about a backend is here: the log
//! may have lost what it was told.

use crate::agent::Agent;
use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use plane_core::{
    id::BackendId,
    message::drone::{AnnounceCall, AnnounceRequest, AnnouncedBackend, RegisterRequest},
    nats::NatsError,
    version,
};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// How long a controller may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Backends that ended so lately are told too: the log may have lost it.
const ENDED_TOLD: SignedDuration = SignedDuration::from_mins(10);
/// It is told again so often in any case: what the log decided about a backend here, behind its drone's back, is found.
const EVERY: Duration = Duration::from_secs(300);
/// And so often while it waits for certainty, with what an earlier process left.
const UNCERTAIN_EVERY: Duration = Duration::from_secs(2);

/// Registers and announces at the start, after every reconnect, after having been given up, and when called, and a fencing
/// time after each of these once more: what the first process of a copied memory told until it noticed the copy is found
/// by that, and what a controller entered that had decided before it read that the drone is back.
pub(crate) async fn keep(agent: Arc<Agent>) {
    let stop = agent.tasks.stop_token();
    let reporting = async {
        let mut connection = agent.nats.connection();
        let mut early = tokio::time::Instant::now() + agent.timing.fence;
        loop {
            let seen = connection.borrow_and_update().generation;
            let calls = agent.take_calls();
            register(&agent).await;
            let answers = !calls.is_empty();
            let certain = patiently("announcing", || announce(&agent, answers)).await;
            agent.add_answers(calls, certain);
            agent.lease_now.notify_one();
            let now = tokio::time::Instant::now();
            let due = match certain {
                false if !agent.fence.is_open() => now + UNCERTAIN_EVERY,
                _ if now < early => early,
                _ => now + EVERY,
            };
            loop {
                tokio::select! {
                    biased;
                    () = agent.report.notified() => {}
                    () = tokio::time::sleep_until(due) => break,
                    changed = connection.changed() => {
                        let now = *connection.borrow_and_update();
                        if changed.is_err() {
                            std::future::pending::<()>().await;
                        }
                        if !now.up || now.generation == seen {
                            continue;
                        }
                    }
                }
                early = tokio::time::Instant::now() + agent.timing.fence;
                break;
            }
        }
    };
    stop.run_until_cancelled(reporting).await;
}

/// Hears calls for announcements, for as long as the tasks run.
pub(crate) async fn listen(agent: Arc<Agent>) -> Result<(), NatsError> {
    let subject = format!("cluster.{}.announce", agent.identity.cluster.subject_token());
    let mut calls = agent.nats.subscribe::<AnnounceCall>(&subject).await?;
    let (tasks, stop) = (agent.tasks.clone(), agent.tasks.stop_token());
    tasks.spawn_essential("hear calls", async move {
        while let Some(Some(call)) = stop.run_until_cancelled(calls.next()).await {
            agent.note_call(call.call);
        }
    });
    Ok(())
}

async fn patiently<T, F: Future<Output = Result<T, String>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let mut pause = Duration::from_millis(100);
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::info!(error, "{what}: trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn register(agent: &Agent) {
    let request = RegisterRequest {
        drone_id: agent.identity.drone.clone(),
        cluster: agent.identity.cluster.clone(),
        ip: agent.identity.ip,
        version: Some(version::VERSION.to_owned()),
        git_hash: version::GIT_HASH.map(str::to_owned),
        features: ["accept", "lease"].map(str::to_owned).to_vec(),
    };
    let request = &request;
    patiently("waiting for a controller to register with", || async move {
        agent.nats.request(request, ANSWER_TIMEOUT).await.map(|_| ()).map_err(|e| e.to_string())
    })
    .await;
    tracing::info!(drone = %agent.identity.drone, "registered");
    agent.changed.notify_one();
}

/// Whether what was answered is certain; see [`plane_core::message::drone::AnnounceReply`].
async fn announce(agent: &Agent, answers: bool) -> Result<bool, String> {
    agent.host.all_told().await;
    let mut backends: Vec<AnnouncedBackend> = agent.gather(answers).into_iter().map(|live| live.announced).collect();
    let since = agent.clock.wall().saturating_sub(ENDED_TOLD).unwrap_or(Timestamp::MIN);
    let ended = agent.host.ended_since(since).await.map_err(|e| e.to_string())?;
    let (ended, _telling) = agent.tell_ends(ended);
    backends.extend(ended);
    let told: HashSet<BackendId> = backends.iter().map(|backend| backend.backend_id.clone()).collect();
    let (cluster, drone_id) = (agent.identity.cluster.clone(), agent.identity.drone.clone());
    let frame = AnnounceRequest { cluster, drone_id, backends: Vec::new(), last: false };
    let mut certain = true;
    for request in split(&frame, backends, agent.nats.largest_message()).map_err(|e| e.to_string())? {
        let reply = agent.nats.request(&request, ANSWER_TIMEOUT).await.map_err(|e| e.to_string())?;
        certain &= reply.certain;
        for known in reply.backends {
            let (id, state) = (&known.backend_id, known.state);
            if state.is_final() && agent.host.is_live(id) {
                agent.host.give_up(id, &format!("the log has it as {state}")).await;
            } else if !state.is_final() && !told.contains(id) && !agent.host.is_live(id) {
                agent.host.disown(id).await.map_err(|e| e.to_string())?;
            }
        }
    }
    tracing::info!(backends = told.len(), certain, "announced");
    Ok(certain)
}

/// Distributes backends over messages like `frame`, each of at most so many bytes; there is one message at least. Where a
/// backend alone takes more, its message does, and NATS says so.
fn split(
    frame: &AnnounceRequest,
    backends: Vec<AnnouncedBackend>,
    most_bytes: usize,
) -> Result<Vec<AnnounceRequest>, serde_json::Error> {
    let empty = serde_json::to_vec(frame)?.len();
    let (mut messages, mut message, mut bytes) = (Vec::new(), frame.clone(), empty);
    for backend in backends {
        // A comma goes before it.
        let more = serde_json::to_vec(&backend)?.len() + 1;
        let full = message.backends.len() == AnnounceRequest::MAX_BACKENDS || bytes + more > most_bytes;
        if full && !message.backends.is_empty() {
            messages.push(std::mem::replace(&mut message, frame.clone()));
            bytes = empty;
        }
        message.backends.push(backend);
        bytes += more;
    }
    messages.push(AnnounceRequest { last: true, ..message });
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plane_core::message::backend::BackendState;

    fn frame() -> AnnounceRequest {
        let (cluster, drone_id) = ("plane.test".parse().unwrap(), "d".parse().unwrap());
        AnnounceRequest { cluster, drone_id, backends: Vec::new(), last: false }
    }

    fn backends(count: usize, lock: Option<&str>) -> Vec<AnnouncedBackend> {
        let backend = |number| AnnouncedBackend {
            backend_id: format!("b-{number}").parse().unwrap(),
            state: BackendState::Ready,
            time: Timestamp::UNIX_EPOCH,
            bearer_token: None,
            lock: lock.map(|lock| lock.parse().unwrap()),
            fencing_token: lock.map(|_| u64::MAX),
        };
        (0..count).map(backend).collect()
    }

    #[test]
    fn an_announcement_is_told_in_messages_that_nats_takes() {
        let most = 1024 * 1024;
        // As JSON each of these bytes takes six.
        for lock in [None, Some("l".repeat(2048)), Some("\u{1}".repeat(2048))] {
            for count in [0, 1, 499, 500, 501, 1300] {
                let all = backends(count, lock.as_deref());
                let messages = split(&frame(), all.clone(), most).unwrap();
                for (number, message) in messages.iter().enumerate() {
                    assert!(serde_json::to_vec(message).unwrap().len() <= most);
                    assert!(message.backends.len() <= AnnounceRequest::MAX_BACKENDS);
                    assert_eq!(message.last, number + 1 == messages.len());
                }
                let told: Vec<_> = messages.into_iter().flat_map(|message| message.backends).collect();
                assert_eq!(told, all);
            }
        }
    }

    #[test]
    fn messages_are_as_few_as_can_be() {
        assert_eq!(split(&frame(), backends(1000, None), 1024 * 1024).unwrap().len(), 2);
        assert_eq!(split(&frame(), backends(2, None), 1).unwrap().len(), 2);
        let one = serde_json::to_vec(&split(&frame(), backends(3, None), 1024).unwrap()).unwrap().len();
        assert_eq!(split(&frame(), backends(3, None), one).unwrap().len(), 1);
    }
}
