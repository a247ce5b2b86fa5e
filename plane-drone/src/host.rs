//! What the agent needs of the machine that it runs on: backends that survive a restart of the drone, and a memory.
//! The real one is made of the store and the drivers; another is simulated.

use async_trait::async_trait;
use jiff::Timestamp;
use plane_core::{
    id::BackendId,
    message::{drone::AnnouncedBackend, schedule::SpawnRequest},
};

/// Why a host did not do what it was asked; for people.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// What a host makes of a backend that it is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It was new, and is remembered now. It waits for the word to begin.
    New,
    /// It was remembered already, for this request.
    Known(Box<SpawnRequest>),
    /// It was given up once and is never to be started.
    Refused,
}

/// A backend that has begun and not ended.
#[derive(Debug, Clone)]
pub struct LiveBackend {
    /// What it was asked for.
    pub request: std::sync::Arc<SpawnRequest>,
    /// What is told of it.
    pub announced: AnnouncedBackend,
}

/// Backends and a memory. What is said to be remembered survives the end of the process.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// A name of this memory, made with it.
    async fn nonce(&self) -> Result<String, HostError>;
    /// The names of the processes that had this memory before, as far as they are remembered.
    async fn processes(&self) -> Result<Vec<String>, HostError>;
    /// Remembers that a process has this memory from now on.
    async fn follow(&self, process: &str) -> Result<(), HostError>;
    /// Whether the drone takes no more backends.
    async fn draining(&self) -> Result<bool, HostError>;
    /// Remembers whether the drone takes no more backends.
    async fn set_draining(&self, draining: bool) -> Result<(), HostError>;
    /// Remembers a backend, where it is new.
    async fn offer(&self, request: &SpawnRequest) -> Result<Offered, HostError>;
    /// Forgets a backend that was offered and has not begun.
    async fn discard(&self, backend: &BackendId) -> Result<(), HostError>;
    /// Begins with a backend that was offered; with one that has begun already it does nothing.
    async fn begin(&self, request: SpawnRequest) -> Result<(), HostError>;
    /// Backends that an earlier process was offered and that neither began nor were discarded.
    async fn undecided(&self) -> Result<Vec<SpawnRequest>, HostError>;
    /// Backends that have begun and not reached their final state.
    fn live(&self) -> Vec<LiveBackend>;
    /// Whether a backend is among those.
    fn is_live(&self, backend: &BackendId) -> bool;
    /// Ends a backend as Terminated; returns once that is remembered.
    async fn terminate(&self, backend: &BackendId);
    /// Ends a backend as Lost, killing its container; returns once that is remembered and nobody reaches it any more.
    async fn give_up(&self, backend: &BackendId, reason: &str);
    /// Resolves once a backend has reached its final state.
    async fn ended(&self, backend: &BackendId);
    /// Backends that reached their final state at `since` or later, where all of that has been reported.
    async fn ended_since(&self, since: Timestamp) -> Result<Vec<AnnouncedBackend>, HostError>;
    /// The log gives this drone a backend that was not told. One that ended is reported again; one that is not known is
    /// reported Lost and never started.
    async fn disown(&self, backend: &BackendId) -> Result<(), HostError>;
    /// Resolves once all that had to be reported when this was called has been.
    async fn all_told(&self);
}
