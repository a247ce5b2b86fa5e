//! A TCP proxy that a test cuts, freezes and mends. It models a broken link between two parts that both run on.

use anyhow::Result;
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// How many bytes are read at once.
const CHUNK: usize = 16 * 1024;

/// A link of one address on loopback for each target. Dropping it ends its connections.
#[derive(Debug)]
pub struct CuttingProxy {
    addresses: Vec<SocketAddr>,
    gate: watch::Sender<Gate>,
    _listeners: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Carrying,
    Frozen,
    Cut,
}

#[derive(Debug, Clone, Copy)]
struct Gate {
    mode: Mode,
    /// How often the link was cut. A connection ends when another cut comes, even one that is mended at once.
    cuts: u64,
}

impl CuttingProxy {
    /// Listens on a port of the system's choice for each of `targets`. It runs on the runtime of the caller.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start(targets: &[SocketAddr]) -> Result<Self> {
        let gate = watch::Sender::new(Gate { mode: Mode::Carrying, cuts: 0 });
        let mut addresses = Vec::new();
        let mut listeners = JoinSet::new();
        for target in targets {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            addresses.push(listener.local_addr()?);
            listeners.spawn(listen(listener, *target, gate.subscribe()));
        }
        Ok(Self { addresses, gate, _listeners: listeners })
    }

    /// Where it listens, in the order of its targets.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Ends all connections. New ones are closed at once until [`Self::mend`].
    pub fn cut(&self) {
        self.gate.send_modify(|gate| *gate = Gate { mode: Mode::Cut, cuts: gate.cuts + 1 });
    }

    /// Carries no more bytes, in either direction, and closes nothing: neither end hears of it. New connections are
    /// taken and wait. What was sent meanwhile arrives after [`Self::mend`].
    pub fn freeze(&self) {
        self.gate.send_modify(|gate| gate.mode = Mode::Frozen);
    }

    /// Carries bytes and takes connections again.
    pub fn mend(&self) {
        self.gate.send_modify(|gate| gate.mode = Mode::Carrying);
    }
}

async fn listen(listener: TcpListener, target: SocketAddr, gate: watch::Receiver<Gate>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let now = *gate.borrow();
                if let Ok((client, _)) = accepted && now.mode != Mode::Cut {
                    connections.spawn(carry_until_cut(client, target, gate.clone(), now.cuts));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry_until_cut(client: TcpStream, target: SocketAddr, gate: watch::Receiver<Gate>, cuts: u64) {
    let mut end = gate.clone();
    tokio::select! {
        biased;
        _ = end.wait_for(|gate| gate.cuts != cuts) => {}
        // An error of one end closes the other.
        _ = carry(client, target, gate) => {}
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mut gate: watch::Receiver<Gate>) -> io::Result<()> {
    open(&mut gate).await?;
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(pump(from_client, to_server, gate.clone()), pump(from_server, to_client, gate))?;
    Ok(())
}

/// Waits until the link carries. An error means that the proxy is gone.
async fn open(gate: &mut watch::Receiver<Gate>) -> io::Result<()> {
    gate.wait_for(|gate| gate.mode == Mode::Carrying).await.map_err(io::Error::other)?;
    Ok(())
}

/// Carries one direction to its end. Reading and writing can both be broken off without losing a byte.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut gate: watch::Receiver<Gate>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut unwritten = 0..0;
    loop {
        open(&mut gate).await?;
        if unwritten.is_empty() {
            let length = tokio::select! {
                biased;
                _ = gate.changed() => continue,
                length = from.read(&mut chunk) => length?,
            };
            if length == 0 {
                return to.shutdown().await;
            }
            unwritten = 0..length;
        } else {
            tokio::select! {
                biased;
                _ = gate.changed() => {}
                length = to.write(&chunk[unwritten.clone()]) => unwritten.start += length?,
            }
        }
    }
}
