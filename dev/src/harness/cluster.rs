//! A whole Plane: NATS, controllers and drones as processes, with the real Docker.

use super::{CuttingProxy, Daemon, Drone, NatsServers, unique_cluster};
use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use plane_core::{
    id::{BackendId, BearerToken, ClusterName, DroneId},
    message::{
        backend::{BackendState, LogLine, PublicStatus, TerminateRequest},
        schedule::{Executable, ScheduleRequest, ScheduleResponse},
    },
    nats::{Event, Nats, NatsError, StreamName},
};
use plane_drone::{
    backend::machine::State,
    cert::Files,
    store::{Known, Store},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    process::Command,
    time::{Duration, Instant},
};

/// How long the harness waits for something that has to come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Keys of `[scheduler]` with which a drone is given up within seconds.
pub const QUICK_SCHEDULER: &str = "silent_secs = 5\nfence_secs = 6\nlost_secs = 8\nabandon_secs = 20\n";
/// The keys of `[agent]` that go with them.
pub const QUICK_AGENT: &str = "lease_secs = 1\nfence_secs = 6\n";

/// A section that makes a controller serve names, on a port that the system picks; to go behind keys of `[scheduler]`.
pub const DNS: &str = "[dns]\nport = 0\nbind_ip = \"127.0.0.1\"\n";

/// A running Plane; everything of it ends with this value, containers too.
#[derive(Debug)]
pub struct Cluster {
    /// Its name, which no other test has.
    pub name: ClusterName,
    /// A client's connection.
    pub client: Nats,
    /// The controllers.
    pub controllers: Vec<Daemon>,
    /// The drones.
    pub drones: Vec<Drone>,
    /// The server between them, or several.
    pub nats: NatsServers,
    /// What stands in the `[cert]` of each drone that is added, then whole sections, where drones have HTTPS.
    pub cert: String,
    /// What stands in the `[proxy]` of each drone that is added.
    pub proxy: String,
    /// The address that each drone that is added tells as its own.
    pub ip: IpAddr,
    image: String,
    http_port: u16,
    https: bool,
    proxied: bool,
    folder: tempfile::TempDir,
}

/// What a [`Cluster`] is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name; one that nobody else has where it is not given.
    pub name: Option<ClusterName>,
    /// How many controllers it has.
    pub controllers: usize,
    /// How many drones it has.
    pub drones: usize,
    /// What stands in each drone's configuration besides: keys of `[agent]`, then whole sections.
    pub agent: String,
    /// What stands in each controller's configuration besides: keys of `[scheduler]`, then whole sections.
    pub scheduler: String,
    /// How many NATS servers it has; more than one form a cluster.
    pub nats_nodes: usize,
    /// Whether each daemon reaches NATS through a [`CuttingProxy`] of its own, which is its [`Daemon::link`].
    pub proxied: bool,
    /// The port of NATS; 0: any. The servers of a cluster have any.
    pub nats_port: u16,
    /// The port of the drones' proxies; 0: any.
    pub http_port: u16,
    /// Whether the drones have a `[cert]`: HTTPS on any port, once a test installs a pair in [`Drone::files`].
    pub https: bool,
    /// Keys of each drone's `[proxy]` besides.
    pub proxy: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: None,
            controllers: 1,
            drones: 1,
            agent: String::new(),
            scheduler: String::new(),
            nats_nodes: 1,
            proxied: false,
            nats_port: 0,
            http_port: 0,
            https: false,
            proxy: String::new(),
        }
    }
}

impl Cluster {
    /// Starts one and waits until its drones take backends. `agent` is put into each drone's configuration.
    ///
    /// # Errors
    /// Where a part does not come up.
    pub async fn start_with(controllers: usize, drones: usize, agent: &str) -> Result<Self> {
        Self::start_as(Settings { controllers, drones, agent: agent.to_owned(), ..Settings::default() }).await
    }

    /// Starts one and waits until its drones take backends.
    ///
    /// # Errors
    /// Where a part does not come up.
    pub async fn start_as(settings: Settings) -> Result<Self> {
        let image = crate::image::ensure_demo_image().await?;
        let nats = NatsServers::start(settings.nats_nodes, settings.nats_port).await?;
        let client = nats.connect().await?;
        let mut cluster = Self {
            name: settings.name.unwrap_or_else(unique_cluster),
            client,
            controllers: Vec::new(),
            drones: Vec::new(),
            nats,
            cert: String::new(),
            proxy: settings.proxy,
            ip: Ipv4Addr::LOCALHOST.into(),
            image,
            http_port: settings.http_port,
            https: settings.https,
            proxied: settings.proxied,
            folder: tempfile::tempdir()?,
        };
        for _ in 0..settings.controllers {
            cluster.add_controller(&settings.scheduler).await?;
        }
        for controller in &mut cluster.controllers {
            controller.logged("controller is ready").await?;
        }
        for _ in 0..settings.drones {
            cluster.add_drone(&settings.agent).await?;
        }
        for drone in &mut cluster.drones {
            drone.daemon.logged(" registered").await?;
        }
        Ok(cluster)
    }

    /// The image of the demo backend.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Ends it as an operator would: backends first, each by the API, then the daemons.
    ///
    /// # Errors
    /// Where a part does not end.
    pub async fn shut_down(mut self) -> Result<()> {
        let ids = containers_of(&self.name, "{{.Label \"dev.plane.backend\"}}");
        let backends = ids.iter().filter_map(|id| id.parse::<BackendId>().ok());
        let ends = backends.map(|backend_id| {
            let request = TerminateRequest { cluster_id: self.name.clone(), backend_id: backend_id.clone() };
            let (client, cluster) = (&self.client, &self);
            async move {
                match client.request(&request, PATIENCE).await {
                    Ok(()) | Err(NatsError::NoResponders(_)) => cluster.container_gone(&backend_id).await,
                    Err(error) => Err(error.into()),
                }
            }
        });
        try_join_all(ends).await?;
        for daemon in self.drones.iter_mut().map(|drone| &mut drone.daemon).chain(&mut self.controllers) {
            daemon.stop(PATIENCE).await?;
        }
        Ok(())
    }

    /// One controller and one drone.
    ///
    /// # Errors
    /// Where a part does not come up.
    pub async fn start() -> Result<Self> {
        Self::start_with(1, 1, "").await
    }

    async fn add_controller(&mut self, scheduler: &str) -> Result<()> {
        self.add_controller_with(&format!("[scheduler]\n{scheduler}\n")).await
    }

    /// Starts another controller, with these sections besides `[nats]`.
    ///
    /// # Errors
    /// Where the program cannot be started.
    pub async fn add_controller_with(&mut self, sections: &str) -> Result<()> {
        let (hosts, link) = self.way_to_nats().await?;
        let config = format!("[nats]\nhosts = {hosts:?}\n{sections}");
        let name = format!("controller-{}", self.controllers.len());
        self.controllers.push(Daemon::new("plane-controller", &name, self.folder.path(), &config, link)?);
        Ok(())
    }

    /// Starts another drone.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn add_drone(&mut self, agent: &str) -> Result<()> {
        self.add_drone_as(DroneId::random(), agent).await
    }

    /// Starts another drone under an id, which may be that of a drone there is.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn add_drone_as(&mut self, id: DroneId, agent: &str) -> Result<()> {
        let name = format!("drone-{}-{id}", self.drones.len());
        let database = self.folder.path().join(format!("{name}.sqlite3"));
        let (hosts, link) = self.way_to_nats().await?;
        let config = format!(
            "drone_id = \"{id}\"\ndb_path = {database:?}\ncluster_domain = \"{}\"\n[nats]\nhosts = {hosts:?}\n\
             [agent]\nip = \"{}\"\n{agent}\n[proxy]\nbind_ip = \"127.0.0.1\"\nhttp_port = {}\nallow_path_routing = true\n{}",
            self.name, self.ip, self.http_port, self.proxy,
        );
        let pair = self.folder.path().join(format!("{name}-cert"));
        let files = self.https.then(|| Files::new(pair.join("key.pem"), pair.join("cert.pem")));
        let config = match &files {
            None => config,
            Some(files) => {
                std::fs::create_dir(&pair)?;
                let (key, cert) = (files.key_path(), files.cert_path());
                format!("{config}https_port = 0\n[cert]\nkey_path = {key:?}\ncert_path = {cert:?}\n{}", self.cert)
            }
        };
        let daemon = Daemon::new("plane-drone", &name, self.folder.path(), &config, link)?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut drone = Drone { id, daemon, proxy: nowhere, proxy_tls: None, files };
        drone.find_proxy().await?;
        self.drones.push(drone);
        Ok(())
    }

    /// The hosts that a new daemon is given, and the link that they lead through.
    async fn way_to_nats(&self) -> Result<(Vec<String>, Option<CuttingProxy>)> {
        if !self.proxied {
            return Ok((self.nats.hosts(), None));
        }
        let link = CuttingProxy::start(&self.nats.addresses()).await?;
        Ok((link.addresses().iter().map(|address| format!("nats://{address}")).collect(), Some(link)))
    }

    /// A request for the demo image, with `env` as its environment.
    ///
    /// # Panics
    /// Where `max_idle_secs` is 0.
    pub fn request(&self, max_idle_secs: u64, env: &[(&str, &str)]) -> ScheduleRequest {
        #[allow(clippy::expect_used, reason = "the caller's promise")]
        let max_idle_secs = NonZeroU64::new(max_idle_secs).expect("at least a second");
        ScheduleRequest {
            cluster: self.name.clone(),
            backend_id: None,
            max_idle_secs,
            metadata: std::collections::BTreeMap::new(),
            executable: Executable {
                image: self.image.clone(),
                env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                port: None,
                pull_policy: None,
                credentials: None,
                resource_limits: plane_core::message::schedule::ResourceLimits::default(),
                volume_mounts: Vec::new(),
            },
            require_bearer_token: false,
            lock: None,
            require_labels: std::collections::BTreeMap::new(),
        }
    }

    /// Schedules, and gives the backend and the drone that it is on.
    ///
    /// # Errors
    /// Where it is not scheduled.
    pub async fn schedule(&self, request: &ScheduleRequest) -> Result<(BackendId, DroneId)> {
        match self.client.request(request, Duration::from_secs(10)).await? {
            ScheduleResponse::Scheduled { drone, backend_id, .. } => Ok((backend_id, drone)),
            ScheduleResponse::NoDroneAvailable => bail!("no drone available"),
        }
    }

    /// Schedules a well-behaved backend with a long idle time and waits until it is Ready.
    ///
    /// # Errors
    /// Where it does not become Ready.
    pub async fn ready(&self) -> Result<BackendId> {
        let (backend, _) = self.schedule(&self.request(300, &[])).await?;
        self.wait_for(&backend, BackendState::Ready).await?;
        Ok(backend)
    }

    /// Schedules until a drone takes it, as one does once it has its first certificate, and waits until it is Ready.
    ///
    /// # Errors
    /// Where no drone takes it, or it does not become Ready.
    pub async fn ready_once_taken(&self, request: &ScheduleRequest) -> Result<(BackendId, Option<BearerToken>)> {
        let began = Instant::now();
        loop {
            let response = self.client.request(request, PATIENCE).await?;
            if let ScheduleResponse::Scheduled { backend_id, bearer_token, .. } = response {
                self.wait_for(&backend_id, BackendState::Ready).await?;
                return Ok((backend_id, bearer_token));
            }
            if began.elapsed() > PATIENCE {
                bail!("no drone takes it");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Schedules several at once and waits until all are Ready.
    ///
    /// # Errors
    /// Where one does not become Ready.
    pub async fn ready_many(&self, count: usize) -> Result<Vec<BackendId>> {
        try_join_all((0..count).map(|_| self.ready())).await
    }

    /// The public history of a backend until `last` comes (or another final state).
    ///
    /// # Errors
    /// Where it does not come.
    pub async fn history_until(&self, backend: &BackendId, last: BackendState) -> Result<Vec<PublicStatus>> {
        let mut replay = self.client.replay(StreamName::Status, &PublicStatus::subject_of(backend)).await?;
        let mut history: Vec<PublicStatus> = Vec::new();
        let reading = async {
            loop {
                if let Event::Entry(entry) = replay.next().await {
                    let status: PublicStatus = serde_json::from_slice(&entry.payload)?;
                    let state = status.state;
                    history.push(status);
                    if state == last || state.is_final() {
                        return Ok(());
                    }
                }
            }
        };
        let outcome: Result<Result<()>, _> = tokio::time::timeout(PATIENCE, reading).await;
        outcome.with_context(|| format!("{backend} did not reach {last}: {history:?}"))??;
        Ok(history)
    }

    /// What the public history of a backend says last.
    ///
    /// # Errors
    /// Where it says nothing.
    pub async fn newest(&self, backend: &BackendId) -> Result<PublicStatus> {
        let last = self.client.last(StreamName::Status, &PublicStatus::subject_of(backend)).await?;
        Ok(serde_json::from_slice(&last.context("no history")?.payload)?)
    }

    /// Waits until the public history of a backend has `state`.
    ///
    /// # Errors
    /// Where it ends otherwise, or nothing comes.
    pub async fn wait_for(&self, backend: &BackendId, state: BackendState) -> Result<PublicStatus> {
        let last = self.history_until(backend, state).await?.pop().context("no history")?;
        if last.state != state {
            bail!("{backend} became {}, not {state}: {:?}", last.state, last.reason);
        }
        Ok(last)
    }

    /// The lines that the backend's log has now.
    ///
    /// # Errors
    /// Where the stream cannot be read.
    pub async fn log_lines(&self, backend: &BackendId) -> Result<Vec<LogLine>> {
        let mut replay = self.client.replay(StreamName::Logs, &LogLine::subject_of(backend)).await?;
        let mut lines = Vec::new();
        while let Event::Entry(entry) = replay.next().await {
            lines.push(serde_json::from_slice(&entry.payload)?);
        }
        Ok(lines)
    }

    /// Ends a backend through the API and waits until the public history says so.
    ///
    /// # Errors
    /// Where it does not end.
    pub async fn end(&self, backend: &BackendId) -> Result<()> {
        let request = TerminateRequest { cluster_id: self.name.clone(), backend_id: backend.clone() };
        self.client.request(&request, PATIENCE).await?;
        self.wait_for(backend, BackendState::Terminated).await.map(|_| ())
    }

    /// Ends controllers as `kill -9` does, and waits until NATS has noticed: what it hands to them before gets no answer.
    ///
    /// # Errors
    /// Where it does not notice.
    pub async fn lose_controllers(&mut self, lost: std::ops::Range<usize>) -> Result<()> {
        self.controllers[lost].iter_mut().for_each(Daemon::kill);
        let left = self.controllers.iter().filter(|controller| controller.process.is_some()).count();
        self.nats.until_at_most(left, "plane-controller").await
    }

    /// The containers of this cluster, running or not, as `docker ps` shows them in `format`.
    pub fn containers(&self, format: &str) -> Vec<String> {
        containers_of(&self.name, format)
    }

    /// Waits until no container of a backend is left.
    ///
    /// # Errors
    /// Where one stays.
    pub async fn container_gone(&self, backend: &BackendId) -> Result<()> {
        let name = format!("plane-{backend}");
        let began = Instant::now();
        while self.containers("{{.Names}}").contains(&name) {
            if began.elapsed() > PATIENCE {
                bail!("{name} is still there");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

fn containers_of(cluster: &ClusterName, format: &str) -> Vec<String> {
    let filter = format!("label=dev.plane.cluster={cluster}");
    let listed =
        Command::new("docker").args(["ps", "-a", "--no-trunc", "--filter", &filter, "--format", format]).output();
    let text = listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.drones.clear();
        self.controllers.clear();
        if let Err(error) = self.await_late_containers() {
            eprintln!("containers of {} may be left: {error:#}", self.name);
        }
        let left = containers_of(&self.name, "{{.ID}}");
        if !left.is_empty() {
            let _ = Command::new("docker").args(["rm", "-f", "-v"]).args(left).output();
        }
    }
}

impl Cluster {
    /// Waits for containers that drones had asked for when they were killed: the engine goes on creating one for somebody
    /// who is gone, and lists it only when it is done.
    fn await_late_containers(&self) -> Result<()> {
        let listed = containers_of(&self.name, "{{.Names}}");
        let names = self.begun()?.into_iter().map(|backend| format!("plane-{backend}"));
        let began = Instant::now();
        for name in names.filter(|name| !listed.contains(name)) {
            // A name is taken from the beginning on: who gets it knows that nothing of it is to come.
            let label = format!("dev.plane.cluster={}", self.name);
            let mut create = Command::new("docker");
            create.args(["create", "--name", &name, "--label", &label, &self.image]);
            while !create.output()?.status.success() && !containers_of(&self.name, "{{.Names}}").contains(&name) {
                if began.elapsed() > PATIENCE {
                    bail!("{name} is neither there nor to be had");
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Backends for which a drone may have asked for a container that it has not seen, by the drones' databases.
    fn begun(&self) -> Result<Vec<BackendId>> {
        let mut begun = Vec::new();
        for file in std::fs::read_dir(self.folder.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "sqlite3") {
                let unfinished = on_own_thread(async move { Ok(Store::open(&path)?.unfinished().await?) })?;
                let asking = |known: &Known| matches!(known.state, State::Loading { .. } | State::Stopping { .. });
                begun.extend(unfinished.into_iter().filter(asking).map(|known| known.request.backend_id));
            }
        }
        Ok(begun)
    }
}

/// Runs something from within a runtime that must not wait for it otherwise.
fn on_own_thread<T: Send>(work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work);
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_| bail!("a thread of the harness panicked"))
}
