//! Keeps a certificate: orders the first one, renews each in time, takes from and gives to the other drones of the
//! cluster. What fails is said and tried again; nothing that still works is ever taken away.

mod sharing;

use super::{
    Files, Pair, Served,
    acme::{AcmeError, Authority, Kind},
    expiry,
    lease::{State, Turn},
    share::{KeySource, Share},
    timing::{self, RATE_LIMITED_PAUSE, UNUSABLE_PAUSE, Window},
};
use crate::config::acme::{AcmeConfig, KeyType};
use jiff::Timestamp;
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
    /// A pair that is served and that the disk has not taken.
    unwritten: Option<Arc<Pair>>,
    /// What failed in a row, and until when, by the boot clock, nothing is tried.
    trying: Trying,
    writing: Trying,
    /// When the pair that is served is to be renewed.
    renewal: Renewal,
    /// What was said last, so that it is said once.
    said: Option<String>,
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
            (Share::new(cluster.clone(), drone, chance.uuid().to_string(), limit, clock.clone()), source)
        });
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
            unwritten: None,
            trying,
            writing,
            renewal,
            said: None,
        }
    }

    async fn run(mut self) {
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
        let found = match self.exchange(&nats).await {
            Ok(found) => found,
            Err(wait) => return wait,
        };
        let current = self.usable();
        let due = self.due(current.as_ref()).await;
        let left = timing::span(self.clock.wall(), due);
        if !left.is_zero() {
            (self.said, self.trying) = (None, Trying::default());
            return if found.is_some() { left.min(self.bucket_pause()) } else { left };
        }
        let rest = self.trying.until.saturating_sub(self.clock.boot());
        if !rest.is_zero() {
            return if found.is_some() { rest.min(BUCKET_WAITING) } else { rest };
        }
        // What cannot be kept is not ordered: authorities count orders.
        if let Err(error) = self.blocking(Files::probe).await {
            return self.failed(&error, None);
        }
        let Some(found) = found else {
            let outcome = self.order(&nats, current.as_deref()).await;
            return self.ordered(outcome).await;
        };
        match &found.turn {
            Turn::Take { failures } => self.order_for_all(&nats, &found, *failures, current.as_deref()).await,
            Turn::Wait(left) => {
                let problem = found.problem.clone().unwrap_or_else(|| "it is under way".to_owned());
                self.say(format!("another drone orders for the cluster: {problem}"));
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
                self.take_up(pair, "ordered").await;
                self.judge()
            }
            Err(error) => {
                let least = (error.kind == Kind::RateLimited).then_some(RATE_LIMITED_PAUSE);
                self.failed(&error, least)
            }
        }
    }

    /// Looks at what was just ordered, and gives the pause until there may be another order: a clock that is wrong, or a
    /// life that is too short, must not make one order follow the other.
    fn judge(&mut self) -> Duration {
        let Some(pair) = self.usable() else {
            let error = "the certificate that the CA has just issued has ended by this machine's clock; set the clock";
            return self.failed(&error, Some(UNUSABLE_PAUSE));
        };
        if timing::due(pair.validity(), None, u64::MAX) <= self.clock.wall() {
            let error = "the certificate that the CA has just issued is to be renewed already; have it issue for longer, and check \
                         this machine's clock";
            return self.failed(&error, None);
        }
        Duration::ZERO
    }

    /// Keeps a pair and serves it; where it cannot be kept, it is served nevertheless.
    async fn take_up(&mut self, pair: Pair, origin: &str) {
        let pair = Arc::new(pair);
        let (days_left, not_after) = (expiry::days_left(self.clock.wall(), pair.validity()), pair.validity().not_after);
        tracing::info!(origin, days_left, %not_after, "a new certificate");
        self.writing = Trying::default();
        self.said = None;
        self.unwritten = Some(pair);
        self.write_again().await;
    }

    /// Writes a pair that the disk has not taken, and serves it.
    async fn write_again(&mut self) {
        let Some(pair) = self.unwritten.clone() else { return };
        let served = self.served.current();
        if served.as_ref().is_some_and(|served| served.validity().not_before > pair.validity().not_before) {
            self.unwritten = None;
            return;
        }
        if self.clock.boot() < self.writing.until {
            return;
        }
        let writing = pair.clone();
        let written = self.blocking(move |files| files.install(&writing)).await;
        if let Ok(again) = Pair::parse(pair.key_pem(), pair.chain_pem()) {
            self.served.install(again);
        }
        match written {
            Ok(()) => self.unwritten = None,
            Err(error) => {
                let pause = self.writing.fail(&self.clock, &self.chance, None);
                let again_secs = pause.as_secs();
                tracing::error!(error, again_secs, "the new certificate is served, but cannot be kept on disk");
            }
        }
    }

    /// Notes a failure and says it, and gives the pause until the next try.
    fn failed(&mut self, error: &dyn std::fmt::Display, least: Option<Duration>) -> Duration {
        let current = self.usable();
        let left = current.as_ref().and_then(|pair| timing::left(self.clock.wall(), pair.validity()));
        self.trying.fail(&self.clock, &self.chance, left);
        if let Some(least) = least {
            self.trying.until = self.trying.until.max(self.clock.boot() + least);
        }
        let pause = self.trying.until.saturating_sub(self.clock.boot());
        let again_secs = pause.as_secs();
        match current {
            Some(pair) => {
                let days_left = expiry::days_left(self.clock.wall(), pair.validity());
                tracing::warn!(%error, days_left, again_secs, "no new certificate; the one that there is stays in service");
            }
            None => tracing::error!(%error, again_secs, "no certificate"),
        }
        pause
    }

    fn connected(&self) -> Option<Nats> {
        self.nats.borrow().clone().filter(Nats::is_connected)
    }

    fn without_nats(&mut self) -> Duration {
        let current = self.usable();
        let due = current
            .as_ref()
            .map_or(Timestamp::MIN, |pair| timing::due(pair.validity(), self.renewal.window, self.renewal.draw));
        if due <= self.clock.wall() {
            self.say("a certificate is due, and NATS cannot be reached".to_owned());
        }
        BUCKET_WAITING
    }

    /// Says something once.
    fn say(&mut self, what: String) {
        if self.said.as_ref() != Some(&what) {
            tracing::info!(what, "waiting for a certificate");
            self.said = Some(what);
        }
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
    /// Notes a failure, and gives the pause until the next try.
    fn fail(&mut self, clock: &Clock, chance: &Chance, left: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = timing::pause(self.failures, left, chance.number());
        self.until = clock.boot() + pause;
        pause
    }
}
