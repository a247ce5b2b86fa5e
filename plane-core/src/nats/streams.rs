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
    /// The key-value bucket `plane_certificates`: what drones of a cluster that share a certificate keep. It is made as
    /// the stream that it is, since servers before 2.10 do not answer what the client asks when it makes a bucket.
    Certificates,
}

impl StreamName {
    /// Every stream.
    pub const ALL: [Self; 4] = [Self::State, Self::Status, Self::Logs, Self::Certificates];

    /// The name on the server.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "plane_state",
            Self::Status => "backend_status",
            Self::Logs => "backend_logs",
            Self::Certificates => "KV_plane_certificates",
        }
    }
}

/// How a stream is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Which stream.
    pub name: StreamName,
    /// Copies in a cluster.
    pub replicas: usize,
    /// Where messages are kept.
    pub storage: Storage,
    /// How many bytes the stream may take; `None` for no limit of its own. At the limit the logs of backends lose their
    /// oldest lines, the other streams refuse what is new: they must not forget what was decided.
    pub max_bytes: Option<i64>,
}

/// Where a stream keeps its messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In files.
    #[default]
    File,
    /// In memory: a restart of its servers loses them.
    Memory,
}

impl StreamConfig {
    /// The stream as the protocol has it, with as many replicas, in files, without a limit.
    pub fn new(name: StreamName, replicas: usize) -> Self {
        Self { name, replicas, storage: Storage::File, max_bytes: None }
    }

    pub(super) fn to_server(&self) -> Config {
        let (subject, per_subject) = match self.name {
            StreamName::State => ("state.>", 1),
            StreamName::Status => ("backend.*.status", -1),
            StreamName::Logs => ("backend.*.log", LOG_LINES_KEPT),
            StreamName::Certificates => ("$KV.plane_certificates.>", 1),
        };
        let is_bucket = self.name == StreamName::Certificates;
        Config {
            name: self.name.as_str().to_owned(),
            subjects: vec![subject.to_owned()],
            max_messages_per_subject: per_subject,
            max_messages: -1,
            max_bytes: self.max_bytes.unwrap_or(-1),
            num_replicas: self.replicas,
            storage: match self.storage {
                Storage::File => StorageType::File,
                Storage::Memory => StorageType::Memory,
            },
            retention: RetentionPolicy::Limits,
            discard: match self.name {
                StreamName::State | StreamName::Status if self.max_bytes.is_some() => DiscardPolicy::New,
                StreamName::State | StreamName::Status | StreamName::Logs => DiscardPolicy::Old,
                StreamName::Certificates => DiscardPolicy::New,
            },
            // What NATS's own tools expect of a bucket.
            allow_rollup: is_bucket,
            deny_delete: is_bucket,
            allow_direct: is_bucket,
            ..Config::default()
        }
    }

    /// How a stream that is there differs from this, for people.
    pub(super) fn drift(&self, found: &Config) -> Option<String> {
        let wanted = self.to_server();
        let pairs = [
            ("subjects", format!("{:?}", found.subjects), format!("{:?}", wanted.subjects)),
            (
                "messages a subject",
                found.max_messages_per_subject.to_string(),
                wanted.max_messages_per_subject.to_string(),
            ),
            ("messages", found.max_messages.max(-1).to_string(), wanted.max_messages.to_string()),
            ("bytes", found.max_bytes.to_string(), wanted.max_bytes.to_string()),
            ("replicas", found.num_replicas.to_string(), wanted.num_replicas.to_string()),
            ("storage", format!("{:?}", found.storage), format!("{:?}", wanted.storage)),
            ("age limit", format!("{:?}", found.max_age), format!("{:?}", wanted.max_age)),
            ("discard", format!("{:?}", found.discard), format!("{:?}", wanted.discard)),
        ];
        let differ: Vec<String> = pairs
            .into_iter()
            .filter(|(_, found, wanted)| found != wanted)
            .map(|(what, found, wanted)| format!("{what}: {found}, not {wanted}"))
            .collect();
        (!differ.is_empty()).then(|| differ.join("; "))
    }
}

impl Nats {
    /// Makes a stream that is missing. One that is there is left as it is; how it differs is logged.
    ///
    /// # Errors
    /// Where JetStream is not enabled or refuses.
    pub async fn ensure_stream(&self, config: &StreamConfig) -> Result<(), NatsError> {
        if let Some(drift) = self.transport().ensure_stream(config).await? {
            let stream = config.name.as_str();
            tracing::warn!(stream, drift, "the stream differs from Plane's configuration of it; it is used as it is");
        }
        Ok(())
    }
}
