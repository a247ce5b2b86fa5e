//! The rows: what each has every contender do in its turn.

use super::{
    Proxying,
    bulk::Way,
    connections::connections,
    echo::echoes,
    figures::{Column, Table, Turn, column},
    idle::{Kind, idle},
    stand::{Contender, SMALL, Stand},
    tools::{Asked, CONNECTIONS, h2load, wrk},
    turns::{at_rate, body, echoed, requests, rounds},
    watch,
};
use anyhow::Result;
use clap::ValueEnum;

const MICROS: &str = "µs of processor";
const REQUESTS: &[Column] = &[column("requests/s", 0), column(MICROS, 2), column("p99 ms", 2)];
const STREAMS: &[Column] = &[column("requests/s", 0), column(MICROS, 2)];
const OPENED: &[Column] = &[column("connections/s", 0), column(MICROS, 2)];
const ECHOES: &[Column] = &[column("messages/s", 0), column(MICROS, 2)];
const BODY: &[Column] = &[column("MiB/s", 0), column("processor ms", 0), column("memory +KiB", 0)];
const MEMORY: &[Column] = &[column("KiB a connection", 2)];

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// HTTP/1.1 on connections that stay, small answers
    Http1,
    /// The same over TLS 1.3
    Tls,
    /// HTTP/2 over TLS
    H2,
    /// A new connection for each request
    Connections,
    /// A new TLS connection for each request
    Handshakes,
    /// A large answer
    Download,
    /// A large request
    Upload,
    /// Echoes on many WebSockets
    Websocket,
    /// Memory of quiet WebSockets
    IdleWs,
    /// Memory of quiet WebSockets through TLS
    IdleWss,
    /// Memory of quiet connections that stay
    IdleHttp,
    /// Time added to that of the container itself, at a fifth of the load
    Latency,
}

impl Row {
    fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::H2 | Self::Handshakes | Self::IdleWss)
    }

    fn title(self, proxying: &Proxying) -> String {
        let Proxying { large, idle, sockets, .. } = proxying;
        let mib = large / (1024 * 1024);
        match self {
            Self::Http1 => format!("HTTP/1.1, {CONNECTIONS} connections that stay, small answers"),
            Self::Tls => format!("HTTP/1.1 over TLS 1.3, {CONNECTIONS} connections that stay, small answers"),
            Self::H2 => "HTTP/2 over TLS, 16 connections of 8 requests at once, small answers".to_owned(),
            Self::Connections => "HTTP/1.1, a new connection for each request".to_owned(),
            Self::Handshakes => "HTTP/1.1 over TLS 1.3 (X25519), a new connection for each request".to_owned(),
            Self::Download => format!("an answer of {mib} MiB, and how much memory grows meanwhile"),
            Self::Upload => format!("a request of {mib} MiB, and how much memory grows meanwhile"),
            Self::Websocket => format!("{sockets} WebSockets, each echoing 100 bytes again and again"),
            Self::IdleWs => format!("memory of {idle} quiet WebSockets, after 4 KiB echoed on each"),
            Self::IdleWss => format!("memory of {idle} quiet WebSockets through TLS, after 4 KiB echoed on each"),
            Self::IdleHttp => format!("memory of {idle} quiet HTTP/1.1 connections, after 4 KiB answered on each"),
            Self::Latency => "HTTP/1.1 at a fixed rate".to_owned(),
        }
    }

    /// Measures all contenders.
    ///
    /// # Errors
    /// Where they do not come up.
    #[allow(clippy::print_stdout, reason = "whoever waits wants to see where it stands")]
    pub(super) async fn measure(self, proxying: &Proxying) -> Result<Vec<Table>> {
        let busy = watch::busy().await?;
        let stand = Stand::start(proxying.http1, self.is_secure()).await?;
        println!("\n[{}] others keep {:.0} % of the processors busy", self.name(), busy * 100.0);
        let (lasts, title) = (proxying.lasts, self.title(proxying));
        let once = Proxying { rounds: 1, thrown_away: 0, ..proxying.clone() };
        let table = match self {
            Self::Http1 | Self::Tls => {
                let turn = async |one: &Contender| requests(one, wrk(&one.door, SMALL, lasts)).await;
                rounds(proxying, &stand.contenders, title, REQUESTS, turn).await
            }
            Self::H2 => {
                let turn = async |one: &Contender| requests(one, h2load(&one.door, SMALL, lasts)).await;
                rounds(proxying, &stand.contenders, title, STREAMS, turn).await
            }
            Self::Connections | Self::Handshakes => {
                let turn = async |one: &Contender| {
                    let asked = async {
                        let done = connections(one.door.clone(), SMALL, lasts).await?;
                        Ok(Asked { done, most: None })
                    };
                    requests(one, asked).await
                };
                rounds(proxying, &stand.contenders, title, OPENED, turn).await
            }
            Self::Download | Self::Upload => {
                let way = if self == Self::Download { Way::Down } else { Way::Up };
                let turn = async |one: &Contender| body(one, way, proxying.large).await;
                rounds(proxying, &stand.contenders, title, BODY, turn).await
            }
            Self::Websocket => {
                let turn = async |one: &Contender| {
                    Ok(echoed(echoes(one.door.clone(), one.processes.clone(), proxying.sockets, lasts).await?))
                };
                let table = rounds(proxying, &stand.contenders, title, ECHOES, turn).await;
                Table { reference: "haproxy", ..table }
            }
            Self::IdleWs | Self::IdleWss | Self::IdleHttp => {
                let kind = if self == Self::IdleHttp { Kind::KeepAlive } else { Kind::WebSocket };
                let turn = async |one: &Contender| {
                    let each = idle(one.door.clone(), one.processes.clone(), kind, proxying.idle).await?;
                    Ok(Turn { figures: vec![each], failed: 0 })
                };
                // Memory that was once taken is not given back, so the first time is what counts.
                rounds(&once, &stand.contenders, title, MEMORY, turn).await
            }
            Self::Latency => return at_rate(proxying, stand, &title).await,
        };
        Ok(vec![table])
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
