//! The loop between sockets of the test: what goes over the wire on either side, and who counts as connected.

mod ending;
mod passing;
mod refusing;
mod upgrades;

use crate::{
    config::proxy::{Http1, LimitsConfig, ProxyConfig},
    proxy::Proxy,
    route::{Activity, Routes},
};
use plane_core::task::Tasks;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
const OURS: &str = "x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: b.plane.test\r\n\
    forwarded: for=127.0.0.1;host=b.plane.test;proto=http\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok";
const PASSED_OK: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nx-plane-backend-id: b\r\ncontent-length: 2\r\n\r\nok";

struct Setting {
    tasks: Tasks,
    routes: Routes,
    proxy: SocketAddr,
    backend: TcpListener,
}

impl Setting {
    async fn new() -> Self {
        Self::with(ProxyConfig::default()).await
    }

    async fn with(config: ProxyConfig) -> Self {
        let (tasks, routes) = (Tasks::new(), Routes::default());
        let threads = std::num::NonZeroU16::new(1);
        let config =
            ProxyConfig { bind_ip: [127, 0, 0, 1].into(), http_port: 0, http1: Http1::Plane, threads, ..config };
        let cluster = "plane.test".parse().unwrap();
        let addresses = Proxy::start(&config, None, cluster, routes.clone(), &tasks).unwrap();
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { tasks, routes, proxy: addresses.http, backend }
    }

    /// With a backend that answers.
    async fn open() -> (Self, Arc<Activity>) {
        let setting = Self::new().await;
        let activity = setting.open_route();
        (setting, activity)
    }

    fn open_route(&self) -> Arc<Activity> {
        self.routes.open(&"b".parse().unwrap(), self.backend.local_addr().unwrap(), None, None)
    }

    async fn client(&self) -> Wire {
        Wire(TcpStream::connect(self.proxy).await.unwrap())
    }

    async fn accept(&self) -> Wire {
        Wire(within(self.backend.accept()).await.unwrap().0)
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes in time")
}

async fn nobody_is_connected(activity: &Arc<Activity>) {
    within(async {
        while activity.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

struct Wire(TcpStream);

impl Wire {
    async fn say(&mut self, text: &str) {
        within(self.0.write_all(text.as_bytes())).await.unwrap();
    }

    /// Reads exactly this.
    async fn hear(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        let mut filled = 0;
        within(async {
            while filled < bytes.len() {
                let read = self.0.read(&mut bytes[filled..]).await.unwrap();
                filled += read;
                if read == 0 || !text.as_bytes().starts_with(&bytes[..filled]) {
                    break;
                }
            }
        })
        .await;
        assert_eq!(String::from_utf8_lossy(&bytes[..filled]), text);
    }

    /// Reads until that comes.
    async fn hear_until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        within(async {
            while !bytes.ends_with(end.as_bytes()) {
                bytes.push(
                    self.0
                        .read_u8()
                        .await
                        .unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&bytes))),
                );
            }
        })
        .await;
        String::from_utf8(bytes).unwrap()
    }

    /// Reads until the end; what is cut off has one too.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = within(self.0.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: b.plane.test\r\n{fields}\r\n")
}

/// What a backend gets of such a request.
fn passed(line: &str, fields: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: b.plane.test\r\n{fields}{OURS}{more}\r\n")
}
