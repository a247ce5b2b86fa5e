//! A deterministic simulation of the control plane: the real controllers and the real agents of drones, many of each,
//! over a simulated network, log and host, in virtual time. Everything that is left to chance is drawn from a seed.
//!
//! A run is a while in which clients ask and things go wrong, then a quiet end. What must always hold is looked at with
//! each event and at the end; see [`Rule`]. To look into a seed, set `PLANE_SIM_TRACE=1`.

use plane_controller::{Rules, config::SchedulerConfig};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

mod burst;
mod check;
mod clients;
mod dice;
mod faults;
mod finish;
mod host;
mod logging;
mod loopback;
mod machine;
mod network;
mod process;
mod relapse;
mod run;
mod server;
pub mod stage;
mod stream;
mod transport;
mod twins;

use clients::Clients;
use dice::Dice;
pub(crate) use loopback::{Loopback, virtual_clock};
use machine::Machine;
use plane_core::message::drone::Capacity;
use run::{Sim, lock};

/// What must always hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A request gets one answer, within 8 s where its controller lives, unstopped and connected.
    Answers,
    /// A request begins at most one backend, on one drone.
    OneDrone,
    /// At most one backend of a lock is reachable; tokens rise.
    Locks,
    /// A public history goes forward, to one final state.
    History,
    /// A lock is freed once the end of its holder is public.
    Freed,
    /// In the end drones, log, history and answers agree.
    Agreement,
    /// No unlocked backend ends because NATS was away for a while.
    Outage,
    /// Backends are spread evenly.
    Balance,
    /// Of two processes that go by one drone's id, one serves and the other ends.
    OneProcess,
    /// The run comes to its end, without a panic.
    Progress,
}

/// A rule that was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// When, since the run began.
    pub at: Duration,
    /// Which rule.
    pub rule: Rule,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, rule, what } = self;
        write!(f, "seed {seed}: {rule:?} at {:.3} s: {what}", at.as_secs_f64())
    }
}

/// How a run went.
#[derive(Debug, Clone)]
pub struct Report {
    /// A hash of all that happened.
    pub trace: u64,
    /// How long it took, in virtual time.
    pub took: Duration,
    /// What happened, counted.
    pub counts: BTreeMap<&'static str, u64>,
}

/// How often, in a million cases, the network and the processes fail by themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Calls of the server that are lost, or whose answers are.
    pub lost_calls: u64,
    /// Messages that are under way for long.
    pub stalls: u64,
    /// Requests that are delivered twice.
    pub duplicates: u64,
    /// Steps of a process that it dies of.
    pub deaths: u64,
}

/// What goes wrong besides; each in so many of a million faults.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A process is stopped for a while.
    pub stops: u64,
    /// A process ends cleanly, and is started again.
    pub clean_ends: u64,
    /// A link freezes.
    pub freezes: u64,
    /// A link is cut.
    pub cuts: u64,
    /// The server restarts.
    pub restarts: u64,
    /// The server restarts without the newest that it had acknowledged.
    pub tail_losses: u64,
    /// The state log is deleted.
    pub deletions: u64,
    /// A time of day is set.
    pub clock_steps: u64,
    /// A drone loses its memory.
    pub wipes: u64,
}

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many controllers.
    pub controllers: usize,
    /// How many drones.
    pub drones: usize,
    /// How many locks clients ask for.
    pub locks: usize,
    /// Whether clients drain drones.
    pub drains: bool,
    /// Whether some drones have room for few backends.
    pub small: bool,
    /// How long clients ask and things go wrong.
    pub lasts: Duration,
    /// The longest pause between two requests, in milliseconds.
    pub pace: u64,
    /// The longest pause between two faults, in milliseconds.
    pub fault_pace: u64,
    /// What fails by itself.
    pub weather: Weather,
    /// What goes wrong besides.
    pub faults: Faults,
    /// After how many seconds of silence a drone is lost.
    pub lost_secs: u32,
    /// The rules of the controllers.
    pub rules: Rules,
    /// Whether the server stores without looking at the sequence that was expected: a planted bug.
    pub ignore_expected: bool,
    /// Whether to print what happens.
    pub trace: bool,
}

/// After how many seconds of silence a drone is lost, mostly: as soon as can be after it has fenced itself.
const LOST_SECS: u32 = 10;

impl Options {
    /// Nothing goes wrong.
    pub fn calm() -> Self {
        Self {
            controllers: 3,
            drones: 4,
            locks: 4,
            drains: false,
            small: false,
            lasts: Duration::from_secs(60),
            pace: 800,
            fault_pace: 6000,
            weather: Weather::default(),
            faults: Faults::default(),
            lost_secs: LOST_SECS,
            rules: Rules::default(),
            ignore_expected: false,
            trace: std::env::var_os("PLANE_SIM_TRACE").is_some(),
        }
    }

    /// What goes wrong is drawn from the seed: in each run some of it.
    pub fn drawn(seed: u64) -> Self {
        let dice = Dice::new(!seed);
        let some = |share: u64, of: u64| if dice.hit(share) { of } else { 0 };
        let weather = Weather {
            lost_calls: some(500_000, 10_000),
            stalls: some(500_000, 1500),
            duplicates: some(500_000, 50_000),
            deaths: some(600_000, 1500),
        };
        let faults = Faults {
            stops: some(500_000, 200_000),
            clean_ends: some(300_000, 80_000),
            freezes: some(400_000, 150_000),
            cuts: some(400_000, 150_000),
            restarts: some(300_000, 60_000),
            tail_losses: some(200_000, 60_000),
            deletions: some(60_000, 40_000),
            clock_steps: some(300_000, 100_000),
            wipes: some(100_000, 60_000),
        };
        Self {
            controllers: 1 + usize::try_from(dice.below(3)).unwrap_or(0),
            drones: 2 + usize::try_from(dice.below(4)).unwrap_or(0),
            locks: 1 + usize::try_from(dice.below(5)).unwrap_or(0),
            drains: dice.hit(300_000),
            small: dice.hit(300_000),
            lasts: Duration::from_secs(30 + dice.below(60)),
            pace: 200 + dice.below(1200),
            fault_pace: 2000 + dice.below(8000),
            weather,
            faults,
            ..Self::calm()
        }
    }

    /// The same, but that the server loses nothing that it acknowledged.
    #[must_use]
    pub fn keeping_the_log(self) -> Self {
        Self { faults: Faults { tail_losses: 0, deletions: 0, ..self.faults }, ..self }
    }

    /// The deadlines: short, in the proportions of the real ones.
    pub(crate) fn scheduler(&self) -> SchedulerConfig {
        SchedulerConfig {
            silent_secs: 6,
            fence_secs: 7,
            lost_secs: self.lost_secs,
            abandon_secs: 30,
            stopped_secs: 60,
            unaccepted_secs: 5,
            retention_secs: 300,
            ..SchedulerConfig::default()
        }
    }
}

/// Runs what a seed says.
///
/// # Errors
/// The first rule that was broken.
pub fn run(seed: u64, options: &Options) -> Result<Report, Violation> {
    drive(seed, options, |sim| async move {
        let clients = Clients::new(&sim);
        let until = options_end(&sim);
        sim.spawn(sim.clone().make_trouble(until));
        clients.clone().ask_around(until).await;
        sim.mend_all();
        sim.spawn(sim.clone().keep_running());
        // What was sent twice has arrived twice.
        tokio::time::sleep(Duration::from_secs(6)).await;
        for (_, drone) in sim.drones() {
            for _ in 0..10 {
                if clients.drain(drone.clone(), false).await {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(22)).await;
        sim.check_agreement().await;
        sim.check_locks(&clients).await;
        sim.check_agreement().await;
    })
}

/// A drone is killed, the log loses what it was given last or is `deleted`, somebody else gets its lock, and it comes
/// back. Drones are given up late, so that it finds its lease as it was.
///
/// # Errors
/// Where both are reachable at once, or another rule is broken.
pub fn run_relapse(seed: u64, options: &Options, deleted: bool) -> Result<Report, Violation> {
    let options = Options { lost_secs: 3 * LOST_SECS, locks: 1, ..options.clone() };
    drive(seed, &options, move |sim| relapse::go(sim, deleted))
}

/// Thirty requests at once through one controller to three equal drones, without faults.
///
/// # Errors
/// Where they are spread unevenly, or another rule is broken.
pub fn run_burst(seed: u64, options: &Options) -> Result<Report, Violation> {
    let options = Options { controllers: 1, drones: 3, small: false, ..options.clone() };
    drive(seed, &options, burst::ask_at_once)
}

/// Clients ask while a second process goes by the id of a drone and is started again whenever it ends; it remembers
/// nothing of the first one's, or has a copy of all of it.
///
/// # Errors
/// Where the two do not come to be one, or another rule is broken.
pub fn run_twins(seed: u64, options: &Options, copied: bool) -> Result<Report, Violation> {
    drive(seed, options, move |sim| twins::go(sim, copied))
}

fn options_end(sim: &Sim) -> Duration {
    sim.now() + sim.options.lasts
}

fn drive<F: Future<Output = ()> + Send + 'static>(
    seed: u64,
    options: &Options,
    scenario: impl FnOnce(Arc<Sim>) -> F,
) -> Result<Report, Violation> {
    let built = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => {
            return Err(Violation { seed, at: Duration::ZERO, rule: Rule::Progress, what: error.to_string() });
        }
    };
    runtime.block_on(async {
        let sim = Sim::new(seed, options.clone());
        let _logging = logging::begin(&sim);
        sim.start_server();
        sim.spawn(sim.clone().follow_agenda());
        sim.spawn(sim.clone().watch_answers());
        {
            let mut machines = lock(&sim.machines);
            machines.extend((0..options.controllers).map(|_| Machine::controller()));
            let room = |most: u32| Some(Capacity { max_backends: Some(most), ..Capacity::default() });
            machines.extend(
                (0..options.drones).filter_map(|number| {
                    Machine::drone(number, if options.small && number > 0 { room(3) } else { None })
                }),
            );
        }
        for machine in 0..options.controllers + options.drones {
            sim.start(machine);
        }
        let (done, ended) = tokio::sync::oneshot::channel();
        let scenario = scenario(sim.clone());
        sim.spawn(async move {
            scenario.await;
            let _ = done.send(());
        });
        sim.clone().go(ended).await;
        sim.tear_down();
        let checker = lock(&sim.checker);
        match &checker.violation {
            Some(violation) => Err(violation.clone()),
            None => Ok(Report { trace: sim.trace(), took: sim.now(), counts: checker.counts.clone() }),
        }
    })
}
