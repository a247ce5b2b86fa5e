//! Several `nats-server`s on loopback that form one JetStream cluster.

use super::{NatsServer, PATIENCE, Process, get_with, nats, wire};
use anyhow::{Context, Result, bail};
use futures_util::future::{join_all, try_join_all};
use plane_core::{config::NatsConfig, nats::Nats};
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpSocket;

/// How long one question to a node may take before it is asked again. While there is no leader, none is answered.
const ONE_TRY: Duration = Duration::from_millis(500);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// A stream that is made to see that the cluster works, and deleted.
const SCRATCH: &str = "harness_scratch";

/// A running cluster. Nodes are counted from 0. Their stores live as long as this value.
///
/// Methods that take a node's number panic where there is no such node.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts `count` nodes, and returns once a stream with that many replicas could be made and every node has caught
    /// up with the others.
    ///
    /// # Errors
    /// Where the program is missing, or the cluster does not come up.
    pub async fn start(count: usize) -> Result<Self> {
        let held = (0..count).map(|_| nats::hold(0)).collect::<Result<Vec<_>, _>>()?;
        let routes = held.iter().map(TcpSocket::local_addr).collect::<Result<Vec<_>, _>>()?;
        let nodes = held.into_iter().enumerate().map(|(number, route)| {
            let config = node_config(number, &routes);
            async move { NatsServer::start_member(&config, route).await }
        });
        let cluster = Self { nodes: try_join_all(nodes).await? };
        cluster.wait_until_it_takes_streams().await?;
        cluster.wait_until_current().await?;
        Ok(cluster)
    }

    /// How many nodes it has, running or not.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Where the nodes listen for clients.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(NatsServer::address).collect()
    }

    /// The URLs of all nodes, as [`NatsConfig`] takes them.
    pub fn hosts(&self) -> Vec<String> {
        self.nodes.iter().map(NatsServer::url).collect()
    }

    /// The URL of one node.
    pub fn url(&self, node: usize) -> String {
        self.nodes[node].url()
    }

    /// A configuration that reaches all nodes.
    pub fn config(&self) -> NatsConfig {
        NatsConfig { hosts: self.hosts(), ..NatsConfig::default() }
    }

    /// A connection to any of the nodes, as a client has one. Where that node is paused, minutes pass before the client
    /// takes another; see [`Self::connect_to`].
    ///
    /// # Errors
    /// Where the connection cannot be configured.
    pub async fn connect(&self) -> Result<Nats> {
        Ok(Nats::connect(&self.config(), "test", "cli.inbox").await?)
    }

    /// A connection to one node, which never takes another.
    ///
    /// # Errors
    /// Where the connection cannot be configured.
    pub async fn connect_to(&self, node: usize) -> Result<Nats> {
        self.nodes[node].connect().await
    }

    /// Ends a node as a crash would; its store is kept.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a node again, on the same port and store, and returns once it takes connections. It may still be behind
    /// the others; [`Self::wait_until_current`] waits for that.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn restart(&mut self, node: usize) -> Result<()> {
        self.nodes[node].restart().await
    }

    /// Stops a node without ending it: its connections stay open, and nothing moves on them.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pause(&self, node: usize) -> Result<()> {
        self.nodes[node].pause()
    }

    /// Lets a paused node go on.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn resume(&self, node: usize) -> Result<()> {
        self.nodes[node].resume()
    }

    /// Waits until each node that was not killed has a leader and has caught up, in all streams that it keeps. A paused
    /// node never has. Nodes say this of themselves: one that was resumed this instant may not know yet that it is
    /// behind.
    ///
    /// # Errors
    /// Where one has not at the deadline.
    pub async fn wait_until_current(&self) -> Result<()> {
        let mut last = Vec::new();
        let waiting = async {
            loop {
                let running = self.nodes.iter().filter(|node| node.is_running());
                last = join_all(running.map(health)).await;
                if last.iter().all(|health| health.as_ref().is_ok_and(|text| text.contains("\"ok\""))) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, waiting).await;
        outcome.with_context(|| format!("NATS nodes are not current: {last:?}"))
    }

    /// A stream can be made once there is a leader that knows all nodes.
    async fn wait_until_it_takes_streams(&self) -> Result<()> {
        let stream = serde_json::json!({
            "name": SCRATCH,
            "subjects": [SCRATCH],
            "storage": "memory",
            "retention": "limits",
            "discard": "old",
            "num_replicas": self.size(),
        });
        self.ask_until_done("CREATE", &stream.to_string()).await?;
        self.ask_until_done("DELETE", "").await
    }

    /// Asks JetStream again and again. A try whose answer was lost may have been carried out.
    async fn ask_until_done(&self, verb: &str, payload: &str) -> Result<()> {
        let (url, subject) = (self.url(0), format!("$JS.API.STREAM.{verb}.{SCRATCH}"));
        let mut last = None;
        let asking = async {
            loop {
                let answer = tokio::time::timeout(ONE_TRY, wire::request(&url, &subject, payload.as_bytes())).await;
                if let Ok(Ok(text)) = &answer
                    && (!text.contains("\"error\"") || (verb == "DELETE" && text.contains("stream not found")))
                {
                    return;
                }
                last = Some(answer);
                tokio::time::sleep(PAUSE).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, asking).await;
        outcome.with_context(|| format!("the NATS cluster does not do {subject}: {last:?}"))
    }
}

/// How many connections with this name a server has.
async fn connections(server: &NatsServer, name: &str) -> Result<usize> {
    let monitor = server.monitor().context("a server without monitoring")?;
    let answer = tokio::time::timeout(ONE_TRY, get_with(monitor, "localhost", "/connz", &[])).await??;
    let known: serde_json::Value = serde_json::from_str(&answer.body)?;
    let all = known["connections"].as_array().context("no connections in the answer")?;
    Ok(all.iter().filter(|connection| connection["name"] == name).count())
}

/// What a node says of itself: `{"status":"ok"}`, or what is missing.
async fn health(node: &NatsServer) -> Result<String> {
    let monitor = node.monitor().context("a node without monitoring")?;
    let answer = tokio::time::timeout(ONE_TRY, get_with(monitor, "localhost", "/healthz", &[])).await??;
    Ok(answer.body)
}

/// Nodes do not tell clients of one another, so that a client stays on the addresses that it was given.
fn node_config(number: usize, routes: &[SocketAddr]) -> String {
    let others = routes.iter().enumerate().filter(|(other, _)| *other != number);
    let others: Vec<_> = others.map(|(_, address)| format!("nats-route://{address}")).collect();
    format!(
        "server_name: node-{number}\ncluster {{\n  name: harness\n  listen: \"{}\"\n  \
         no_advertise: true\n  routes: {others:?}\n}}\n",
        routes[number]
    )
}

/// The servers of a [`super::Cluster`]: one, or several that form a cluster.
#[derive(Debug)]
pub enum NatsServers {
    /// One server alone.
    One(NatsServer),
    /// A cluster of servers.
    Several(NatsCluster),
}

impl NatsServers {
    /// Starts one server on `port` (0: any), or a cluster on ports that the system picks.
    ///
    /// # Errors
    /// Where a server does not come up.
    pub async fn start(nodes: usize, port: u16) -> Result<Self> {
        match nodes {
            0 | 1 => Ok(Self::One(NatsServer::start_on(port).await?)),
            _ => Ok(Self::Several(NatsCluster::start(nodes).await?)),
        }
    }

    /// The cluster, whose nodes can be killed and paused one by one.
    ///
    /// # Errors
    /// Where there is one server alone.
    pub fn cluster(&mut self) -> Result<&mut NatsCluster> {
        match self {
            Self::One(_) => bail!("one server alone is no cluster; see Settings::nats_nodes"),
            Self::Several(cluster) => Ok(cluster),
        }
    }

    /// Where they listen for clients.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes().iter().map(NatsServer::address).collect()
    }

    /// The URLs of all.
    pub fn hosts(&self) -> Vec<String> {
        self.nodes().iter().map(NatsServer::url).collect()
    }

    /// The URL of the first.
    pub fn url(&self) -> String {
        self.nodes()[0].url()
    }

    /// The processes of those that run.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.nodes().iter().filter_map(NatsServer::process)
    }

    /// A connection to any of them, as a client has one.
    ///
    /// # Errors
    /// Where the connection cannot be configured.
    pub async fn connect(&self) -> Result<Nats> {
        match self {
            Self::One(server) => server.connect().await,
            Self::Several(cluster) => cluster.connect().await,
        }
    }

    /// Waits until they have at most so many connections with this name: until a server notices that a program was
    /// killed, it goes on handing requests to it.
    ///
    /// # Errors
    /// Where they have more at the deadline.
    pub async fn until_at_most(&self, most: usize, name: &str) -> Result<()> {
        let waiting = async {
            loop {
                let running = self.nodes().iter().filter(|node| node.is_running());
                let found = try_join_all(running.map(|node| connections(node, name))).await;
                if found.is_ok_and(|found| found.iter().sum::<usize>() <= most) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("more than {most} are called {name}"))
    }

    /// Ends all as a crash would; their stores are kept.
    pub fn kill(&mut self) {
        self.nodes_mut().iter_mut().for_each(NatsServer::kill);
    }

    /// Ends all and starts them again, on the same ports and stores. Of a cluster, every node has caught up then.
    ///
    /// # Errors
    /// Where one does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        try_join_all(self.nodes_mut().iter_mut().map(NatsServer::restart)).await?;
        match self {
            Self::One(_) => Ok(()),
            Self::Several(cluster) => cluster.wait_until_current().await,
        }
    }

    fn nodes(&self) -> &[NatsServer] {
        match self {
            Self::One(server) => std::slice::from_ref(server),
            Self::Several(cluster) => &cluster.nodes,
        }
    }

    fn nodes_mut(&mut self) -> &mut [NatsServer] {
        match self {
            Self::One(server) => std::slice::from_mut(server),
            Self::Several(cluster) => &mut cluster.nodes,
        }
    }
}
