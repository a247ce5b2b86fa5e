//! The drone's configuration. A section that is absent is not run.

pub mod acme;
pub mod proxy;
mod schema;
#[cfg(test)]
mod tests;

use crate::{
    agent::Timing,
    cert::{Files, KeySource},
};
use acme::{AcmeConfig, KeyType};
use plane_core::{
    config::{DaemonConfig, NATS, NatsConfig, Part, Secret},
    id::{ClusterName, DroneId},
    message::drone::Capacity,
};
use proxy::ProxyConfig;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

/// Where HTTPS is, where nothing else is said (RFC 9110, section 4.2.2).
const DEFAULT_HTTPS_PORT: u16 = 443;

/// The file of the account's key, beside the certificate's key.
const ACCOUNT_FILE: &str = "acme-account.pem";

/// What a drone is told before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DroneConfig {
    /// Who the drone is. Where it is not given, an id is made once and kept in the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drone_id: Option<DroneId>,
    /// The SQLite file with what must survive a restart.
    #[serde(default = "default_db_path")]
    pub db_path: PathBuf,
    /// The cluster that the drone belongs to, which is also the domain of its backends.
    pub cluster_domain: ClusterName,
    /// Where NATS is.
    pub nats: NatsConfig,
    /// The certificate that the proxy serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<CertConfig>,
    /// The CA that it is ordered from; where it is not given, somebody else puts the files there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeConfig>,
    /// Running backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentConfig>,
    /// Taking people's requests to backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyConfig>,
}

impl DroneConfig {
    /// The port for HTTPS; `None` where there is no certificate to serve, or nothing to serve it.
    pub fn https_port(&self) -> Option<u16> {
        let proxy = self.proxy.as_ref().filter(|_| self.cert.is_some())?;
        Some(proxy.https_port.unwrap_or(DEFAULT_HTTPS_PORT))
    }
}

/// The `[cert]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertConfig {
    /// The private key, in PEM.
    pub key_path: PathBuf,
    /// The certificate and the chain behind it, in PEM.
    pub cert_path: PathBuf,
    /// Where the key of the account at the CA is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_key_path: Option<PathBuf>,
    /// The secret with which the drones of a cluster share one certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_key: Option<Secret>,
    /// A file with that secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_key_path: Option<PathBuf>,
    /// How long a drone that orders for the cluster may be silent until another one does, in seconds.
    #[serde(default = "default_shared_lease_secs")]
    pub shared_lease_secs: u32,
    /// What kind of key a certificate that is ordered has.
    #[serde(default)]
    pub key_type: KeyType,
}

impl CertConfig {
    /// Where the pair lies.
    pub fn files(&self) -> Files {
        Files::new(self.key_path.clone(), self.cert_path.clone())
    }

    /// Where the key of the account at the CA is kept: beside the certificate's key where nothing is said.
    pub fn account_file(&self) -> PathBuf {
        let beside = || self.key_path.with_file_name(ACCOUNT_FILE);
        self.account_key_path.clone().unwrap_or_else(beside)
    }

    /// Where the cluster's secret comes from, and for how long a lease for ordering lasts.
    pub fn shared(&self) -> Option<(KeySource, Duration)> {
        let given = self.shared_key.clone().map(KeySource::Given);
        let source = given.or_else(|| self.shared_key_path.clone().map(KeySource::File))?;
        Some((source, Duration::from_secs(self.shared_lease_secs.into())))
    }
}

/// The `[agent]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The address under which the drone is reached.
    pub ip: AgentIp,
    /// How long a backend may take from its start until it answers, in seconds.
    #[serde(default = "default_ready_timeout_secs")]
    pub ready_timeout_secs: u32,
    /// How long getting a backend's image may take, in seconds.
    #[serde(default = "default_load_timeout_secs")]
    pub load_timeout_secs: u32,
    /// How often the drone renews its lease, in seconds.
    #[serde(default = "default_lease_secs")]
    pub lease_secs: u32,
    /// How long backends that hold a lock go on while the lease cannot be renewed, in seconds. It has to be less than
    /// the controllers' `scheduler.lost_secs`, and is best what they have as `scheduler.fence_secs`.
    #[serde(default = "default_fence_secs")]
    pub fence_secs: u32,
    /// What the drone has room for; no limit where it is not given.
    #[serde(default, skip_serializing_if = "CapacityConfig::is_unlimited")]
    pub capacity: CapacityConfig,
    /// What the drone tells about itself, under names of the operator's choice.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The container engine.
    #[serde(default)]
    pub docker: DockerConfig,
}

impl AgentConfig {
    /// [`Self::ready_timeout_secs`] as a duration.
    pub fn ready_timeout(&self) -> Duration {
        Duration::from_secs(self.ready_timeout_secs.into())
    }

    /// The deadlines of the lease.
    pub fn timing(&self) -> Timing {
        let secs = |secs: u32| Duration::from_secs(secs.into());
        Timing { lease: secs(self.lease_secs), fence: secs(self.fence_secs) }
    }

    /// [`Self::load_timeout_secs`] as a duration.
    pub fn load_timeout(&self) -> Duration {
        Duration::from_secs(self.load_timeout_secs.into())
    }
}

/// The `[agent.capacity]` section.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapacityConfig {
    /// How many backends run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_backends: Option<u32>,
    /// Bytes of memory for the limits of all backends together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processors for the limits of all backends together. Controllers give a drone backends in proportion to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
}

impl CapacityConfig {
    fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// As it is told; `None` where nothing is limited.
    pub fn told(&self) -> Option<Capacity> {
        let Self { max_backends, memory_bytes, cpus } = *self;
        (!self.is_unlimited()).then(|| Capacity { max_backends, memory_bytes, cpus: cpus.map(f64::from) })
    }
}

/// Where the drone's address comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AgentIp {
    /// It is known.
    Fixed(IpAddr),
    /// A service knows it.
    Api {
        /// An `http://` URL that answers with the address as text.
        api: String,
    },
}

/// The `[agent.docker]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerConfig {
    /// The container runtime, such as `runsc`; the engine's own choice where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The network that containers are put in; the engine's own choice where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Gives every container all GPUs; backends can then harm each other through them.
    #[serde(default)]
    pub insecure_gpu: bool,
    /// Whether requests may mount folders of the drone's machine.
    #[serde(default)]
    pub allow_volume_mounts: bool,
    /// Where containers' logs go besides, such as `udp://10.0.0.1:514`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syslog: Option<String>,
    /// How the engine is reached.
    #[serde(default)]
    pub connection: DockerConnection,
}

/// How the container engine is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DockerConnection {
    /// Through a Unix socket.
    Socket {
        /// The socket's path.
        socket: PathBuf,
    },
    /// Through HTTP.
    Http {
        /// The engine's `http://` URL.
        http: String,
    },
}

impl Default for DockerConnection {
    fn default() -> Self {
        Self::Socket { socket: "/var/run/docker.sock".into() }
    }
}

impl DaemonConfig for DroneConfig {
    const PARTS: &'static [&'static Part] =
        &[&schema::DRONE, &NATS, &schema::CERT, &schema::ACME, &schema::AGENT, &schema::DOCKER, &proxy::PROXY];
}

fn default_db_path() -> PathBuf {
    "drone.sqlite3".into()
}

fn default_ready_timeout_secs() -> u32 {
    30
}

fn default_load_timeout_secs() -> u32 {
    900
}

fn default_lease_secs() -> u32 {
    10
}

fn default_fence_secs() -> u32 {
    45
}

fn default_shared_lease_secs() -> u32 {
    60
}
