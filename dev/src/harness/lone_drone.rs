//! A drone that has nothing but its proxy: no NATS, no container engine. All requests go on to one address of the test.

use super::{Daemon, Drone, PATIENCE, self_signed};
use anyhow::{Context, Result};
use plane_core::id::{ClusterName, DroneId};
use plane_drone::cert::{Files, Pair};
use std::{net::SocketAddr, time::Instant};

/// A running drone.
#[derive(Debug)]
pub struct LoneDrone {
    /// The drone, with a certificate of its own making.
    pub drone: Drone,
    /// What it serves.
    pub pair: Pair,
    _folder: tempfile::TempDir,
}

impl LoneDrone {
    /// Starts one whose proxy leads to `backend`, with `keys` in `[proxy]` and sections behind it; it serves HTTPS.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn start(cluster: &ClusterName, backend: SocketAddr, keys: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (database, cert) = (folder.path().join("drone.sqlite3"), folder.path().join("cert"));
        std::fs::create_dir(&cert)?;
        let (files, pair) = (Files::new(cert.join("key.pem"), cert.join("cert.pem")), self_signed(cluster)?);
        files.install(&pair)?;
        // Nobody listens there, and what the proxy does does not depend on it.
        let nats = "nats://127.0.0.1:1";
        let config = format!(
            "cluster_domain = \"{cluster}\"\ndb_path = {database:?}\n[nats]\nhosts = [{nats:?}]\n\
             [cert]\nkey_path = {:?}\ncert_path = {:?}\n\
             [proxy]\nbind_ip = \"127.0.0.1\"\nhttp_port = 0\nhttps_port = 0\npassthrough = \"{backend}\"\n{keys}\n",
            files.key_path(),
            files.cert_path(),
        );
        let daemon = Daemon::new("plane-drone", "drone", folder.path(), &config, None)?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut drone = Drone { id: DroneId::random(), daemon, proxy: nowhere, proxy_tls: None, files: Some(files) };
        drone.find_proxy().await?;
        let lone = Self { drone, pair, _folder: folder };
        lone.serves(cluster).await?;
        Ok(lone)
    }

    /// The number of its process.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.drone.daemon.process.as_ref().context("it does not run")?.pid())
    }

    /// Waits until handshakes come about.
    async fn serves(&self, cluster: &ClusterName) -> Result<()> {
        let (tls, began) = (super::Tls::trusting([self.pair.leaf_der()])?, Instant::now());
        loop {
            match tls.shown(self.drone.https()?, cluster.as_str()).await {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    }
}
