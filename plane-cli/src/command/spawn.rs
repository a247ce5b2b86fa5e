//! `plane spawn`

use crate::{
    ANSWER_LIMIT, Failure,
    arguments::{Output, Spawn},
    command::status::Follower,
    output,
};
use plane_core::{
    id::BackendId,
    message::{
        backend::BackendState,
        schedule::{Executable, ResourceLimits, ScheduleRequest, ScheduleResponse},
    },
    nats::Nats,
};

pub(crate) async fn run(nats: &Nats, spawn: Spawn, output: Output) -> Result<(), Failure> {
    let wait = spawn.wait;
    let request = request(spawn);
    let response = nats.request(&request, ANSWER_LIMIT).await?;
    let ScheduleResponse::Scheduled { drone, backend_id, bearer_token, spawned } = &response else {
        return Err(Failure::NoDrone(request.cluster));
    };
    if wait {
        until_ready(nats, backend_id).await?;
    }
    output::print(output, &response, || {
        let mut lines = vec![
            format!("backend  {backend_id}{}", if *spawned { "" } else { " (ran already, and holds the lock)" }),
            format!("host     {backend_id}.{}", request.cluster),
            format!("drone    {drone}"),
        ];
        lines.extend(bearer_token.as_ref().map(|token| format!("token    {}", token.expose())));
        lines.join("\n")
    })
}

fn request(spawn: Spawn) -> ScheduleRequest {
    ScheduleRequest {
        cluster: spawn.cluster,
        backend_id: spawn.id,
        max_idle_secs: spawn.timeout,
        metadata: spawn.metadata.into_iter().collect(),
        executable: Executable {
            image: spawn.image,
            env: spawn.env.into_iter().collect(),
            port: Some(spawn.port),
            pull_policy: Some(spawn.pull.into()),
            credentials: None,
            resource_limits: ResourceLimits {
                memory_limit_bytes: spawn.memory,
                cpu_period_percent: spawn.cpu,
                ..ResourceLimits::default()
            },
            volume_mounts: spawn.mount.into_iter().map(Into::into).collect(),
        },
        require_bearer_token: spawn.require_bearer_token,
        lock: spawn.lock,
        require_labels: spawn.label.into_iter().collect(),
    }
}

async fn until_ready(nats: &Nats, backend: &BackendId) -> Result<(), Failure> {
    let mut follower = Follower::start(nats, Some(backend)).await?;
    loop {
        let status = follower.next().await?;
        if status.state == BackendState::Ready {
            return Ok(());
        }
        if status.state.is_final() {
            let reason = status.reason.unwrap_or_else(|| "no reason is known".to_owned());
            return Err(Failure::Ended { backend: backend.clone(), state: status.state.to_string(), reason });
        }
    }
}
