//! The JetStream streams of Plane, and making sure that they are there.

use super::{Nats, NatsError};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

/// Lines of log that are kept of each backend.
const LOG_LINES_KEPT: i64 = 500;

/// The streams of Plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamName {
    /// `plane_state`: the newest message of each subject.
    State,
    /// `backend_status`: the public history of backends.
    Status,
    /// `backend_logs`: the last lines of each backend.
    Logs,
}

impl StreamName {
    /// Every stream.
    pub const ALL: [Self; 3] = [Self::State, Self::Status, Self::Logs];

    /// The name on the server.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "plane_state",
            Self::Status => "backend_status",
            Self::Logs => "backend_logs",
        }
    }
}

/// How a stream is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Which stream.
    pub name: StreamName,
    /// The subjects that it takes.
    pub subject: &'static str,
    /// How many messages of one subject are kept; `None` for all.
    pub per_subject: Option<i64>,
    /// Copies in a cluster.
    pub replicas: usize,
}

impl StreamConfig {
    /// The stream as the protocol has it, with as many replicas.
    pub fn new(name: StreamName, replicas: usize) -> Self {
        let (subject, per_subject) = match name {
            StreamName::State => ("state.>", Some(1)),
            StreamName::Status => ("backend.*.status", None),
            StreamName::Logs => ("backend.*.log", Some(LOG_LINES_KEPT)),
        };
        Self { name, subject, per_subject, replicas }
    }

    fn to_server(&self) -> Config {
        Config {
            name: self.name.as_str().to_owned(),
            subjects: vec![self.subject.to_owned()],
            max_messages_per_subject: self.per_subject.unwrap_or(-1),
            max_messages: -1,
            max_bytes: -1,
            num_replicas: self.replicas,
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            ..Config::default()
        }
    }
}

impl Nats {
    /// Makes a stream that is missing. One that is there is left as it is; how it differs is logged.
    ///
    /// # Errors
    /// Where JetStream is not enabled or refuses.
    pub async fn ensure_stream(&self, config: &StreamConfig) -> Result<(), NatsError> {
        let wanted = config.to_server();
        let mut stream = self
            .jetstream
            .get_or_create_stream(wanted.clone())
            .await
            .map_err(|e| NatsError::other(format!("stream {}", config.name.as_str()), e))?;
        let found = &stream.info().await.map_err(|e| NatsError::other(config.name.as_str(), e))?.config;
        let same = found.subjects == wanted.subjects
            && found.max_messages_per_subject == wanted.max_messages_per_subject
            && found.num_replicas == wanted.num_replicas;
        if !same {
            tracing::warn!(
                stream = config.name.as_str(),
                subjects = ?found.subjects,
                per_subject = found.max_messages_per_subject,
                replicas = found.num_replicas,
                "the stream differs from Plane's configuration of it; it is used as it is"
            );
        }
        Ok(())
    }
}
