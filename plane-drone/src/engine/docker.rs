//! Docker, and what speaks its API, from 20.10 on.

mod spec;

use super::{Engine, EngineError, Line, Usage};
use crate::{
    backend::machine::{Container, End},
    config::{DockerConfig, DockerConnection},
};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    container::LogOutput,
    errors::Error,
    models::{ContainerInspectResponse, ContainerStatsResponse},
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
        RemoveContainerOptionsBuilder, StatsOptionsBuilder, StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use plane_core::{
    id::{BackendId, ClusterName, DroneId},
    message::{
        backend::LogKind,
        schedule::{Executable, PullPolicy},
    },
};
use std::{collections::HashMap, net::IpAddr, time::Duration};

/// How long the engine may take to begin an answer, in seconds.
const ANSWER_SECS: u64 = 120;

/// A Docker engine, for the containers of one drone.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    docker: Docker,
    config: DockerConfig,
    cluster: ClusterName,
    drone: DroneId,
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        Self(match error {
            Error::DockerResponseServerError { message, .. } => message,
            Error::DockerStreamError { error } => error,
            other => format!("the container engine: {other}"),
        })
    }
}

fn status_of(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

impl DockerEngine {
    /// Connects, and agrees with the engine on a version of its API.
    ///
    /// # Errors
    /// Where the engine does not answer.
    pub async fn connect(config: &DockerConfig, cluster: ClusterName, drone: DroneId) -> Result<Self, EngineError> {
        let docker = match &config.connection {
            DockerConnection::Socket { socket } => {
                Docker::connect_with_unix(&socket.to_string_lossy(), ANSWER_SECS, API_DEFAULT_VERSION)?
            }
            DockerConnection::Http { http } => Docker::connect_with_http(http, ANSWER_SECS, API_DEFAULT_VERSION)?,
        };
        let docker = docker.negotiate_version().await?;
        Ok(Self { docker, config: config.clone(), cluster, drone })
    }

    /// The container that this drone made for a backend.
    async fn own(&self, backend: &BackendId) -> Result<Option<ContainerInspectResponse>, EngineError> {
        match self.docker.inspect_container(&spec::container_name(backend), None).await {
            Ok(found) => {
                let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
                let ours = spec::labels(&self.cluster, &self.drone, backend);
                let is_own =
                    labels.is_some_and(|labels| ours.iter().all(|(key, value)| labels.get(key) == Some(value)));
                Ok(is_own.then_some(found))
            }
            Err(error) if status_of(&error) == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn own_id(&self, backend: &BackendId) -> Result<Option<String>, EngineError> {
        Ok(self.own(backend).await?.and_then(|found| found.id))
    }
}

#[async_trait::async_trait]
impl Engine for DockerEngine {
    async fn pull(&self, executable: &Executable) -> Result<(), EngineError> {
        let image = &executable.image;
        match executable.pull_policy.unwrap_or_default() {
            PullPolicy::Never => return Ok(()),
            PullPolicy::IfNotPresent if self.docker.inspect_image(image).await.is_ok() => return Ok(()),
            PullPolicy::IfNotPresent | PullPolicy::Always => {}
        }
        // Without a tag the engine would fetch all tags there are.
        let tagged = image.rsplit('/').next().is_some_and(|name| name.contains([':', '@']));
        let options = CreateImageOptionsBuilder::default().from_image(image).tag(if tagged { "" } else { "latest" });
        let credentials = executable.credentials.as_ref().map(spec::credentials);
        self.docker.create_image(Some(options.build()), None, credentials).try_for_each(|_| async { Ok(()) }).await?;
        Ok(())
    }

    async fn create(&self, backend: &BackendId, executable: &Executable) -> Result<(), EngineError> {
        let body = spec::body(&self.config, &self.cluster, &self.drone, backend, executable)?;
        let options = CreateContainerOptionsBuilder::default().name(&spec::container_name(backend)).build();
        match self.docker.create_container(Some(options), body).await {
            Ok(_) => Ok(()),
            Err(error) if status_of(&error) == Some(409) && self.own(backend).await?.is_some() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn start(&self, backend: &BackendId) -> Result<Option<IpAddr>, EngineError> {
        match self.docker.start_container(&spec::container_name(backend), None).await {
            Ok(()) => {}
            Err(error) if status_of(&error) == Some(304) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.own(backend).await?.as_ref().and_then(address))
    }

    async fn look(&self, backend: &BackendId) -> Result<Option<Container>, EngineError> {
        Ok(self.own(backend).await?.map(|found| {
            let state = found.state.as_ref();
            let never = |at: &str| at.is_empty() || at.starts_with("0001-");
            Container {
                running: state.and_then(|state| state.running).unwrap_or(false),
                started: state.and_then(|state| state.started_at.as_deref()).is_some_and(|at| !never(at)),
                ip: address(&found),
                end: end(&found),
            }
        }))
    }

    async fn wait(&self, backend: &BackendId) -> Result<End, EngineError> {
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let ended = self.docker.wait_container(&spec::container_name(backend), Some(options)).next().await;
        let code = match ended {
            Some(Ok(ended)) => ended.status_code,
            Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) if status_of(&error) == Some(404) => return Ok(End::Removed),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(EngineError("the container engine ended the wait for a container".to_owned())),
        };
        let found = self.own(backend).await?;
        let removal = found.as_ref().and_then(|found| found.state.as_ref()?.status).map(|status| status.to_string());
        Ok(match found {
            None => End::Removed,
            Some(_) if removal.as_deref() == Some("removing") => End::Removed,
            Some(found) => match end(&found) {
                End::Exited { oom_killed, .. } => End::Exited { code, oom_killed },
                End::Removed => End::Removed,
            },
        })
    }

    async fn stop(&self, backend: &BackendId, grace: Duration) -> Result<Option<i64>, EngineError> {
        let Some(id) = self.own_id(backend).await? else { return Ok(None) };
        let done = if grace.is_zero() {
            self.docker.kill_container(&id, None).await
        } else {
            let secs = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
            self.docker.stop_container(&id, Some(StopContainerOptionsBuilder::default().t(secs).build())).await
        };
        match done {
            Ok(()) => {}
            // Not there, or does not run.
            Err(error) if matches!(status_of(&error), Some(304 | 404 | 409)) => {}
            Err(error) => return Err(error.into()),
        }
        match self.own(backend).await? {
            None => Ok(None),
            Some(found) if found.state.as_ref().and_then(|state| state.running) == Some(true) => {
                match self.wait(backend).await? {
                    End::Exited { code, .. } => Ok(Some(code)),
                    End::Removed => Ok(None),
                }
            }
            Some(found) => Ok(found.state.filter(|state| state.pid.is_some()).and_then(|state| state.exit_code)),
        }
    }

    async fn remove(&self, backend: &BackendId) -> Result<(), EngineError> {
        let Some(id) = self.own_id(backend).await? else { return Ok(()) };
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.docker.remove_container(&id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if status_of(&error) == Some(404) => Ok(()),
            // Somebody else is at it; whether they succeed is seen at the next try.
            Err(error) => Err(error.into()),
        }
    }

    async fn list(&self) -> Result<Vec<BackendId>, EngineError> {
        let labels = spec::drone_labels(&self.cluster, &self.drone);
        let filters = HashMap::from([("label", labels.map(|(key, value)| format!("{key}={value}")).to_vec())]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = self.docker.list_containers(Some(options)).await?;
        let ids = found.into_iter().filter_map(|found| found.labels?.get(spec::BACKEND_LABEL)?.parse().ok());
        Ok(ids.collect())
    }

    fn lines(&self, backend: &BackendId, since: i32) -> BoxStream<'static, Result<Line, EngineError>> {
        let options =
            LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).timestamps(true).since(since);
        let docker = self.docker.clone();
        let name = spec::container_name(backend);
        let lines = docker.logs(&name, Some(options.build())).map(|chunk| {
            let chunk = chunk?;
            let kind = match chunk {
                LogOutput::StdErr { .. } => LogKind::Stderr,
                LogOutput::StdOut { .. } | LogOutput::StdIn { .. } | LogOutput::Console { .. } => LogKind::Stdout,
            };
            let mut text = String::from_utf8_lossy(chunk.as_ref()).into_owned();
            if !text.ends_with('\n') {
                text.push('\n');
            }
            Ok((kind, text))
        });
        lines.boxed()
    }

    async fn usage(&self, backend: &BackendId) -> Result<Option<Usage>, EngineError> {
        let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        match self.docker.stats(&spec::container_name(backend), Some(options)).next().await {
            Some(Ok(stats)) => Ok(usage(&stats)),
            Some(Err(error)) if status_of(&error) == Some(404) => Ok(None),
            Some(Err(error)) => Err(error.into()),
            None => Ok(None),
        }
    }
}

/// The address in the first network that gives one: engines name theirs differently.
fn address(found: &ContainerInspectResponse) -> Option<IpAddr> {
    let networks = found.network_settings.as_ref()?.networks.as_ref()?;
    let addresses = networks.values().flat_map(|end| [end.ip_address.as_deref(), end.global_ipv6_address.as_deref()]);
    addresses.flatten().find_map(|text| text.parse().ok())
}

fn end(found: &ContainerInspectResponse) -> End {
    let state = found.state.as_ref();
    End::Exited {
        code: state.and_then(|state| state.exit_code).unwrap_or_default(),
        oom_killed: state.and_then(|state| state.oom_killed).unwrap_or(false),
    }
}

/// Engines leave out what they do not know, and what a stopped container does not have.
fn usage(stats: &ContainerStatsResponse) -> Option<Usage> {
    let (memory, cpu) = (stats.memory_stats.as_ref()?, stats.cpu_stats.as_ref()?);
    // What could be dropped at once has another name in each version of control groups.
    let reclaimable = memory.stats.as_ref().and_then(|all| all.get("total_inactive_file").or(all.get("inactive_file")));
    Some(Usage {
        memory_used: memory.usage?.saturating_sub(reclaimable.copied().unwrap_or(0)),
        memory_limit: memory.limit.unwrap_or(0),
        cpu_total: cpu.cpu_usage.as_ref()?.total_usage?,
        cpu_system: cpu.system_cpu_usage.unwrap_or(0),
    })
}
