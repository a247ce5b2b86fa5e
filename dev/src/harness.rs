//! Starts the real parts for a test: NATS, controllers and drones, each in a folder of its own and on ports that the
//! system picks. Everything ends when its value is dropped.

mod autobahn;
mod browser;
mod cluster;
mod cut;
mod daemon;
pub mod dns;
pub mod frames;
mod http;
mod lone_drone;
mod nats;
mod nats_cluster;
mod pebble;
pub mod played;
mod process;
mod renewal_info;
mod tls;
pub mod wire;

pub use autobahn::{Autobahn, Cases, FuzzingServer, Outcome, Report};
pub use browser::{Browser, Target};
pub use cluster::{Cluster, DNS, PATIENCE, QUICK_AGENT, QUICK_SCHEDULER, Settings};
pub use cut::CuttingProxy;
pub use daemon::{Daemon, Drone};
pub use http::{Answer, HeldOpen, get, get_with, websocket};
pub use lone_drone::LoneDrone;
pub use nats::NatsServer;
pub use nats_cluster::{NatsCluster, NatsServers};
pub use pebble::{EXTERNAL_ACCOUNT, Pebble, PebbleSettings};
pub use process::{Process, binary};
pub use renewal_info::RenewalInfo;
pub use tls::{Tls, TlsWebSocket, self_signed};

use plane_core::id::ClusterName;

/// A cluster name that no other test has.
///
/// # Panics
/// Never: the name follows the rule.
pub fn unique_cluster() -> ClusterName {
    let label = plane_core::id::DroneId::random().as_str()[..12].to_owned();
    #[allow(clippy::expect_used, reason = "a UUID's first characters form a DNS label")]
    format!("t{}.test", label.replace('-', "x")).parse().expect("a cluster name")
}
