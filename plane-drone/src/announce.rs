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

/// Registers and announces at the start, after every reconnect, after having been given up, and when called.
pub(crate) async fn keep(agent: Arc<Agent>) {
    let stop = agent.tasks.stop_token();
    let reporting = async {
        let mut connection = agent.nats.connection();
        loop {
            let seen = connection.borrow_and_update().generation;
            let calls = agent.take_calls();
            register(&agent).await;
            let answers = !calls.is_empty();
            patiently("announcing", || announce(&agent, answers)).await;
            agent.add_answers(calls);
            agent.lease_now.notify_one();
            let due = tokio::time::Instant::now() + EVERY;
            loop {
                tokio::select! {
                    biased;
                    () = agent.report.notified() => break,
                    () = tokio::time::sleep_until(due) => break,
                    changed = connection.changed() => {
                        let now = *connection.borrow_and_update();
                        if changed.is_err() {
                            std::future::pending::<()>().await;
                        }
                        if now.up && now.generation != seen {
                            break;
                        }
                    }
                }
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

async fn patiently<F: Future<Output = Result<(), String>>>(what: &str, attempt: impl Fn() -> F) {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = attempt().await {
        tracing::info!(error, "{what}: trying again");
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

async fn announce(agent: &Agent, answers: bool) -> Result<(), String> {
    agent.host.all_told().await;
    let mut backends: Vec<AnnouncedBackend> = agent.gather(answers).into_iter().map(|live| live.announced).collect();
    let since = agent.clock.wall().saturating_sub(ENDED_TOLD).unwrap_or(Timestamp::MIN);
    backends.extend(agent.host.ended_since(since).await.map_err(|e| e.to_string())?);
    let told: HashSet<BackendId> = backends.iter().map(|backend| backend.backend_id.clone()).collect();
    let mut messages: Vec<Vec<AnnouncedBackend>> =
        backends.chunks(AnnounceRequest::MAX_BACKENDS).map(<[_]>::to_vec).collect();
    if messages.is_empty() {
        messages.push(Vec::new());
    }
    let count = messages.len();
    for (number, backends) in messages.into_iter().enumerate() {
        let (cluster, drone_id) = (agent.identity.cluster.clone(), agent.identity.drone.clone());
        let request = AnnounceRequest { cluster, drone_id, backends, last: number + 1 == count };
        let reply = agent.nats.request(&request, ANSWER_TIMEOUT).await.map_err(|e| e.to_string())?;
        for known in reply.backends {
            let (id, state) = (&known.backend_id, known.state);
            if state.is_final() && agent.host.is_live(id) {
                agent.host.give_up(id, &format!("the log has it as {state}")).await;
            } else if !state.is_final() && !told.contains(id) && !agent.host.is_live(id) {
                agent.host.disown(id).await.map_err(|e| e.to_string())?;
            }
        }
    }
    tracing::info!(backends = told.len(), "announced");
    Ok(())
}
