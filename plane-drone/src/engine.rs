//! The container engine, as the drone needs it. What a container is for is not known here.
//!
//! Every call names a backend, and touches only the container that this drone made for it: one that carries the
//! drone's own labels. A container of the same name that somebody else made counts as none.

mod docker;

pub use docker::DockerEngine;

use crate::backend::machine::{Container, End};
use futures_util::stream::BoxStream;
use plane_core::{
    id::BackendId,
    message::{backend::LogKind, schedule::Executable},
};
use std::{net::IpAddr, time::Duration};

/// Why the engine did not do what it was asked, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// A line that a container wrote: where to, and `"<RFC 3339 time> <line>\n"`.
pub type Line = (LogKind, String);

/// What a container uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory, without what the kernel could take back at once.
    pub memory_used: u64,
    /// Bytes of memory that it may use.
    pub memory_limit: u64,
    /// Nanoseconds of processor time since it started.
    pub cpu_total: u64,
    /// Nanoseconds of processor time of the whole machine since that started.
    pub cpu_system: u64,
}

/// An engine that runs containers.
#[async_trait::async_trait]
pub trait Engine: Send + Sync {
    /// Fetches an image, as its pull policy says.
    async fn pull(&self, executable: &Executable) -> Result<(), EngineError>;

    /// Creates a container; one that is there already is as good.
    async fn create(&self, backend: &BackendId, executable: &Executable) -> Result<(), EngineError>;

    /// Starts a container and gives its address; `None` where it has none, or has ended already.
    async fn start(&self, backend: &BackendId) -> Result<Option<IpAddr>, EngineError>;

    /// Looks at a container; `None` where there is none.
    async fn look(&self, backend: &BackendId) -> Result<Option<Container>, EngineError>;

    /// Waits until a container does not run.
    async fn wait(&self, backend: &BackendId) -> Result<End, EngineError>;

    /// Stops a container, by SIGKILL after `grace`, and gives its exit status. No container is as good as a stopped one.
    async fn stop(&self, backend: &BackendId, grace: Duration) -> Result<Option<i64>, EngineError>;

    /// Removes a container and its anonymous volumes, whatever it does. No container is as good as a removed one.
    async fn remove(&self, backend: &BackendId) -> Result<(), EngineError>;

    /// The backends that this drone made containers for that are still there, running or not.
    async fn list(&self) -> Result<Vec<BackendId>, EngineError>;

    /// What a container writes, from the Unix time `since` in seconds on, until it ends.
    fn lines(&self, backend: &BackendId, since: i32) -> BoxStream<'static, Result<Line, EngineError>>;

    /// What a container uses; `None` where it does not run.
    async fn usage(&self, backend: &BackendId) -> Result<Option<Usage>, EngineError>;
}
