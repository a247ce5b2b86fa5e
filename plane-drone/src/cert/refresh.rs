//! Keeps a certificate: orders the first one, renews each in time, takes from and gives to the other drones of the
//! cluster. What fails is said and tried again; nothing that still works is ever taken away.

mod outcome;
mod sharing;

use super::{
    Files, Pair, Served,
    acme::{AcmeError, Authority},
    expiry,
    lease::{State, Turn, Writer},
    rest::RestFile,
    share::{KeySource, Share},
    timing::{self, DISK_PAUSE, Window},
};
use crate::config::acme::{AcmeConfig, KeyType};
use jiff::Timestamp;
use outcome::Voice;
use plane_core::{
    chance::Chance,
    clock::Clock,
    id::{ClusterName, DroneId},
    nats::Nats,
    task::Tasks,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How often the time of day is looked at: it may be set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often the bucket is looked at while there is a good certificate.
const BUCKET_EVERY: Duration = Duration::from_secs(10);
/// The same while another drone is to order the next one.
const BUCKET_WAITING: Duration = Duration::from_secs(1);
/// How long the authority's word on when to renew holds at least and at most (RFC 9773, section 4.3.2).
const WINDOW_FOR: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(86_400));
/// The same where it could not be had.
const WINDOW_AGAIN: Duration = Duration::from_secs(3600);

/// For how long NATS may be away before it is said that a certificate has to wait for it.
const NATS_AWAY: Duration = Duration::from_secs(10);
/// The pause after an order that this process began and did not live to end.
const CRASH_PAUSE: Duration = Duration::from_secs(60);
/// After so long what is still so is said again.
const SAY_AGAIN: Duration = Duration::from_secs(3600);

/// What a drone needs to keep a certificate.
#[derive(Debug)]
pub struct Parts {
    /// The cluster that the certificate is for.
    pub cluster: ClusterName,
    /// This drone.
    pub drone: DroneId,
    /// Where the pair lies.
    pub files: Files,
    /// What the proxy serves.
    pub served: Served,
    /// The certificate authority.
    pub acme: AcmeConfig,
    /// Where the account's key lies.
    pub account_key_path: PathBuf,
    /// What kind of key the certificate has.
    pub key_type: KeyType,
    /// The cluster's secret, where drones share, and for how long a lease lasts that is not renewed.
    pub shared: Option<(KeySource, Duration)>,
    /// The connection to NATS, once there is one.
    pub nats: watch::Receiver<Option<Nats>>,
    /// Where time comes from.
    pub clock: Clock,
    /// Where random numbers come from.
    pub chance: Chance,
}

/// Keeps a certificate from now on.
pub fn start(parts: Parts, tasks: &Tasks) {
    let stop = tasks.stop_token();
    let refresher = Refresher::new(parts);
    tasks.spawn_essential("keep a certificate", async move {
        stop.run_until_cancelled(refresher.run()).await;
    });
}

struct Refresher {
    cluster: ClusterName,
    files: Files,
    served: Served,
    authority: Authority,
    share: Option<(Share, KeySource)>,
    nats: watch::Receiver<Option<Nats>>,
    clock: Clock,
    chance: Chance,
    /// The pair that this process ordered last.
    ordered: Option<Arc<Pair>>,
    /// Until when there is no order, also after a restart.
    rest: RestFile,
    /// How often in a row the authority did not see a challenge.
    unseen: u32,
    /// Since when, by the boot clock, NATS is away.
    away: Option<Duration>,
    /// What failed in a row, and until when, by the boot clock, nothing is tried.
    trying: Trying,
    writing: Trying,
    /// When the pair that is served is to be renewed.
    renewal: Renewal,
    /// What was said of waiting, of faults that stop orders, and of sharing.
    waiting: Voice,
    fault: Voice,
    complaint: Voice,
}

/// Failures in a row, and until when to wait.
#[derive(Debug, Default)]
struct Trying {
    failures: u32,
    until: Duration,
}

/// What the moment of renewal depends on, for one pair.
#[derive(Debug, Default)]
struct Renewal {
    pair: Option<Arc<Pair>>,
    draw: u64,
    window: Option<Window>,
    /// When, by the boot clock, to ask the authority.
    ask: Duration,
}

impl Refresher {
    fn new(parts: Parts) -> Self {
        let Parts { cluster, drone, files, served, acme, account_key_path, key_type, shared, .. } = parts;
        let (nats, clock, chance) = (parts.nats, parts.clock, parts.chance);
        let share = shared.map(|(source, limit)| {
            let own = Writer { drone, instance: chance.uuid().to_string() };
            (Share::new(cluster.clone(), acme.server.clone(), own, limit, clock.clone()), source)
        });
        let rest = RestFile::beside(&account_key_path);
        let authority = Authority::new(acme, account_key_path, key_type);
        let (trying, writing, renewal) = (Trying::default(), Trying::default(), Renewal::default());
        Self {
            cluster,
            files,
            served,
            authority,
            share,
            nats,
            clock,
            chance,
            ordered: None,
            rest,
            unseen: 0,
            away: None,
            trying,
            writing,
            renewal,
            waiting: Voice::default(),
            fault: Voice::default(),
            complaint: Voice::default(),
        }
    }

    async fn run(mut self) {
        self.recall();
        let (mut changed, mut nats) = (self.served.changed(), self.nats.clone());
        loop {
            changed.mark_unchanged();
            let wait = self.step().await;
            tokio::select! {
                () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
                // Neither ends before this task does.
                Ok(()) = changed.changed() => {}
                Ok(()) = nats.changed() => {}
            }
        }
    }

    /// Does what is due, and tells how long there is nothing to do.
    async fn step(&mut self) -> Duration {
        self.write_again().await;
        let Some(nats) = self.connected() else { return self.without_nats() };
        self.away = None;
        let found = match self.exchange(&nats).await {
            Ok(found) => found,
            Err(wait) => return wait,
        };
        let current = self.usable();
        let due = self.due(current.as_ref()).await;
        let left = timing::span(self.clock.wall(), due);
        if !left.is_zero() {
            (self.waiting, self.fault, self.trying) = (Voice::default(), Voice::default(), Trying::default());
            self.unseen = 0;
            self.authority.forget();
            return if found.is_some() { left.min(self.bucket_pause()) } else { left };
        }
        let mut until = self.trying.until;
        if self.served.unwritten().is_some() || self.writing.failures > 0 {
            until = until.max(self.writing.until);
        }
        let rest = until.saturating_sub(self.clock.boot());
        if !rest.is_zero() {
            return if found.is_some() { rest.min(BUCKET_WAITING) } else { rest };
        }
        // What cannot be kept is not ordered: authorities count orders.
        if self.served.unwritten().is_some() {
            return BUCKET_WAITING;
        }
        if let Err(error) = self.blocking(Files::probe).await {
            let pause = self.writing.fail(&self.clock, &self.chance, Some(DISK_PAUSE));
            self.tell_failure(&error, pause);
            return pause;
        }
        self.writing = Trying::default();
        let Some(found) = found else {
            self.begin();
            let outcome = self.order(&nats, current.as_deref()).await;
            return self.ordered(outcome).await;
        };
        match &found.turn {
            Turn::Take { failures } => self.order_for_all(&nats, &found, *failures, current.as_deref()).await,
            Turn::Wait(left) => {
                let problem = found.problem.clone().unwrap_or_else(|| "it is under way".to_owned());
                self.say(&format!("another drone orders for the cluster: {problem}"));
                (*left).min(BUCKET_WAITING)
            }
        }
    }

    /// The pair that is served, if it will do.
    fn usable(&self) -> Option<Arc<Pair>> {
        let now = self.clock.wall();
        self.served.current().filter(|pair| pair.covers(&self.cluster) && now < pair.validity().not_after)
    }

    /// When to order; at once where there is nothing that will do.
    async fn due(&mut self, current: Option<&Arc<Pair>>) -> Timestamp {
        let Some(pair) = current else { return Timestamp::MIN };
        if self.renewal.pair.as_ref().is_none_or(|known| known != pair) {
            let ask = self.clock.boot();
            self.renewal = Renewal { pair: Some(pair.clone()), draw: self.chance.number(), window: None, ask };
        }
        if self.clock.boot() >= self.renewal.ask {
            let (least, most) = WINDOW_FOR;
            let again = match self.authority.window(pair).await {
                Ok(Some((window, again))) => {
                    if self.renewal.window != Some(window) {
                        tracing::info!(start = %window.start, end = %window.end, "the CA says when to renew");
                    }
                    self.renewal.window = Some(window);
                    again.clamp(least, most)
                }
                Ok(None) => most,
                Err(error) => {
                    tracing::debug!(%error, "two thirds of the lifetime count");
                    WINDOW_AGAIN
                }
            };
            self.renewal.ask = self.clock.boot() + again;
        }
        timing::due(pair.validity(), self.renewal.window, self.renewal.draw)
    }

    async fn order(&self, nats: &Nats, current: Option<&Pair>) -> Result<Pair, AcmeError> {
        // Only an authority that has said when to renew this pair knows it.
        let replaced = current.filter(|_| self.renewal.window.is_some());
        self.authority.order(&self.cluster, replaced, nats).await
    }

    /// Serves what was ordered, or says why there is nothing.
    async fn ordered(&mut self, outcome: Result<Pair, AcmeError>) -> Duration {
        match outcome {
            Ok(pair) => {
                let pair = self.take_up(pair, "ordered").await;
                self.judge(&pair)
            }
            Err(error) => self.failed_order(&error),
        }
    }

    /// Keeps a pair and serves it; where it cannot be kept, it is served nevertheless.
    async fn take_up(&mut self, pair: Pair, origin: &str) -> Arc<Pair> {
        let pair = Arc::new(pair);
        let (days_left, not_after) = (expiry::days_left(self.clock.wall(), pair.validity()), pair.validity().not_after);
        tracing::info!(origin, days_left, %not_after, "a new certificate");
        self.writing = Trying::default();
        self.served.set_unwritten(Some(pair.clone()));
        self.write_again().await;
        pair
    }

    /// Writes a pair that the disk has not taken, and serves it.
    async fn write_again(&mut self) {
        let Some(pair) = self.served.unwritten() else { return };
        // What covers nothing or has ended is not spared, however new it is.
        let usable = self.usable();
        if usable.is_some_and(|usable| usable.validity().not_before > pair.validity().not_before) {
            self.served.set_unwritten(None);
            return;
        }
        self.served.install(pair.clone());
        if self.clock.boot() < self.writing.until {
            return;
        }
        let written = self.blocking(move |files| files.install(&pair)).await;
        match written {
            Ok(()) => self.served.set_unwritten(None),
            Err(error) => {
                let pause = self.writing.fail(&self.clock, &self.chance, Some(DISK_PAUSE));
                let again_secs = pause.as_secs();
                tracing::error!(error, again_secs, "the new certificate is served, but cannot be kept on disk");
            }
        }
    }

    fn connected(&self) -> Option<Nats> {
        self.nats.borrow().clone().filter(Nats::is_connected)
    }

    fn without_nats(&mut self) -> Duration {
        let current = self.usable();
        let due = current
            .as_ref()
            .map_or(Timestamp::MIN, |pair| timing::due(pair.validity(), self.renewal.window, self.renewal.draw));
        let now = self.clock.boot();
        let away = now.saturating_sub(*self.away.get_or_insert(now));
        if due <= self.clock.wall() && away >= NATS_AWAY {
            self.fault("a certificate is due, and NATS cannot be reached; check that it runs, and the section [nats]");
        }
        BUCKET_WAITING
    }

    /// Works on the files where that may take its time.
    async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, E> + Send + 'static,
    ) -> Result<T, String> {
        let files = self.files.clone();
        match tokio::task::spawn_blocking(move || work(&files).map_err(|error| error.to_string())).await {
            Ok(done) => done,
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Trying {
    /// Notes a failure, and gives the pause until the next try, which is no longer than `longest`.
    fn fail(&mut self, clock: &Clock, chance: &Chance, longest: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = timing::pause(self.failures, longest, chance.number());
        self.until = clock.boot() + pause;
        pause
    }
}
