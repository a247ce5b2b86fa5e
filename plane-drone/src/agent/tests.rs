use super::*;
use crate::host::Offered;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream, stream::BoxStream};
use jiff::Timestamp;
use plane_core::{
    message::{drone::AnnouncedBackend, schedule::SpawnRequest},
    nats::{Connection, From, Incoming, Stored, StreamConfig, StreamInfo, StreamName, Transport},
    world::Entry,
};
use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

/// A host that remembers whether it drains, slowly where it does, and that panics when it is offered something.
#[derive(Default)]
struct OddHost {
    draining: AtomicBool,
}

#[async_trait]
impl Host for OddHost {
    async fn nonce(&self) -> Result<String, HostError> {
        Ok("nonce".to_owned())
    }
    async fn draining(&self) -> Result<bool, HostError> {
        Ok(self.draining.load(Ordering::Relaxed))
    }
    async fn set_draining(&self, draining: bool) -> Result<(), HostError> {
        self.draining.store(draining, Ordering::Relaxed);
        if draining {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
    async fn offer(&self, _: &SpawnRequest) -> Result<Offered, HostError> {
        panic!("on purpose")
    }
    async fn discard(&self, _: &BackendId) -> Result<(), HostError> {
        Ok(())
    }
    async fn begin(&self, _: SpawnRequest) -> Result<(), HostError> {
        Ok(())
    }
    async fn undecided(&self) -> Result<Vec<SpawnRequest>, HostError> {
        Ok(Vec::new())
    }
    fn live(&self) -> Vec<LiveBackend> {
        Vec::new()
    }
    fn is_live(&self, _: &BackendId) -> bool {
        false
    }
    async fn terminate(&self, _: &BackendId) {}
    async fn give_up(&self, _: &BackendId, _: &str) {}
    async fn ended(&self, _: &BackendId) {}
    async fn ended_since(&self, _: Timestamp) -> Result<Vec<AnnouncedBackend>, HostError> {
        Ok(Vec::new())
    }
    async fn disown(&self, _: &BackendId) -> Result<(), HostError> {
        Ok(())
    }
    async fn all_told(&self) {}
}

/// A connection on which nobody listens.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Transport for Nobody {
    async fn publish(&self, _: String, _: Bytes) -> Result<(), NatsError> {
        Ok(())
    }
    async fn request(&self, subject: String, _: Bytes, _: Duration) -> Result<Bytes, NatsError> {
        Err(NatsError::NoResponders(subject))
    }
    async fn subscribe(&self, _: &str, _: Option<&str>) -> Result<BoxStream<'static, Incoming>, NatsError> {
        Ok(stream::pending().boxed())
    }
    async fn flush(&self) -> Result<(), NatsError> {
        Ok(())
    }
    async fn store(&self, _: String, _: Bytes, _: Option<u64>) -> Result<u64, NatsError> {
        std::future::pending().await
    }
    async fn last(&self, _: StreamName, _: &str) -> Result<Option<Stored>, NatsError> {
        Ok(None)
    }
    async fn get(&self, _: StreamName, _: u64) -> Result<Option<Stored>, NatsError> {
        Ok(None)
    }
    async fn read(
        &self,
        _: StreamName,
        _: &str,
        _: From,
    ) -> Result<BoxStream<'static, Result<(Entry, u64), NatsError>>, NatsError> {
        Ok(stream::pending().boxed())
    }
    async fn info(&self, _: StreamName) -> Result<Option<StreamInfo>, NatsError> {
        Ok(None)
    }
    async fn purge(&self, _: StreamName, _: &str, _: u64) -> Result<(), NatsError> {
        Ok(())
    }
    async fn ensure_stream(&self, _: &StreamConfig) -> Result<Option<String>, NatsError> {
        Ok(None)
    }
    fn connection(&self) -> watch::Receiver<Connection> {
        watch::channel(Connection::default()).1
    }
    fn server(&self) -> String {
        "server".to_owned()
    }
}

async fn agent() -> (Arc<Agent>, Arc<OddHost>) {
    let (host, clock) = (Arc::new(OddHost::default()), Clock::machine());
    let timing = Timing { lease: Duration::from_secs(10), fence: Duration::from_secs(45) };
    let identity = Identity {
        cluster: "plane.test".parse().unwrap(),
        drone: "d".parse().unwrap(),
        ip: [127, 0, 0, 1].into(),
        labels: BTreeMap::new(),
        capacity: Some(Capacity { max_backends: Some(1), memory_bytes: None, cpus: None }),
    };
    let parts = Parts {
        identity,
        nats: Nats::over(Arc::new(Nobody)),
        host: host.clone(),
        fence: Arc::new(Fence::closed(clock.clone(), timing.fence)),
        certificate: None,
        timing,
        clock,
        chance: Chance::system(),
    };
    (Agent::start(parts, &Tasks::new()).await.unwrap(), host)
}

#[tokio::test(start_paused = true)]
async fn of_two_drains_at_once_the_one_that_is_remembered_holds() {
    let (agent, host) = agent().await;
    let (one, other) = tokio::join!(agent.drain(true), agent.drain(false));
    one.and(other).unwrap();
    let remembered = host.draining().await.unwrap();
    assert_eq!(agent.life().draining, remembered);
}

#[tokio::test]
async fn a_host_that_panics_takes_no_room_for_good() {
    let (agent, _) = agent().await;
    for id in ["a", "b"] {
        let request: SpawnRequest = serde_json::from_value(serde_json::json!({
            "cluster": "plane.test", "drone_id": "d", "max_idle_secs": 1, "backend_id": id, "metadata": {},
            "executable": {"image": "i", "env": {}, "resource_limits": {}},
        }))
        .unwrap();
        assert!(AssertUnwindSafe(agent.clone().spawn(request)).catch_unwind().await.is_err(), "{id} was refused");
        assert!(agent.life().deciding.is_empty());
    }
}
