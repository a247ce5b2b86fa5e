//! The simulated network and server: links that freeze and break, subjects with queue groups, and streams.
//!
//! What a process sends arrives in order, late; what it sends while its link is down waits for the next connection, as
//! the client library does it. A frozen link is noticed after a while, and what was under way is lost with it.

use super::{
    process::{Mode, ProcessId},
    run::{Sim, lock},
    stream::{Stream, matches},
};
use bytes::Bytes;
use plane_core::nats::{Connection, From, Incoming, NatsError, StreamName};
use plane_core::world::Entry;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};

/// After so long a frozen link counts as broken.
const FROZEN_FOR: Duration = Duration::from_secs(10);
/// A process that was stopped connects again so soon after it goes on.
const RECONNECTS_AFTER: Duration = Duration::from_millis(50);
/// The prefix of the subjects that answers go to.
pub(super) const INBOX: &str = "_INBOX.";

pub(super) type Parcel = Box<dyn FnOnce(&Arc<Sim>) + Send>;
/// What a reader of a stream is given.
pub(super) type Read = Result<(Entry, u64), NatsError>;

/// All links and the server.
#[derive(Default)]
pub(super) struct Network {
    pub(super) links: BTreeMap<ProcessId, Link>,
    pub(super) subscriptions: BTreeMap<u64, Subscription>,
    pub(super) streams: BTreeMap<&'static str, Stream>,
    readers: BTreeMap<u64, Reader>,
    /// How often the server was started; `None` while it is down.
    pub(super) server: Option<u64>,
    pub(super) starts: u64,
    next: u64,
    /// A quiet network loses and delays nothing.
    pub(super) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    Up,
    Frozen,
    Down,
}

/// The connection of a process.
pub(super) struct Link {
    pub(super) state: LinkState,
    /// Grows with each break; what was sent before one does not arrive after it.
    epoch: u64,
    pub(super) told: watch::Sender<Connection>,
    pub(super) server: u64,
    /// Whether its process stood still until a moment ago, and has not noticed what became of the connection.
    is_unnoticed: bool,
    up_until: Duration,
    down_until: Duration,
    held_up: Vec<Parcel>,
    held_down: Vec<Parcel>,
    pub(super) inboxes: BTreeMap<u64, oneshot::Sender<Result<Bytes, ()>>>,
}

pub(super) struct Subscription {
    process: ProcessId,
    pattern: String,
    group: Option<String>,
    pub(super) stands: bool,
    sender: mpsc::UnboundedSender<Incoming>,
}

struct Reader {
    process: ProcessId,
    stream: StreamName,
    filter: String,
    sender: mpsc::UnboundedSender<Read>,
}

impl Network {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A process connects; where the server is down, as soon as that is up.
    pub(super) fn add(&mut self, process: ProcessId) {
        let up = self.server.is_some();
        let told = watch::Sender::new(Connection { up, generation: u64::from(up) });
        let link = Link {
            state: if up { LinkState::Up } else { LinkState::Down },
            epoch: 0,
            told,
            server: self.server.unwrap_or(0),
            is_unnoticed: false,
            up_until: Duration::ZERO,
            down_until: Duration::ZERO,
            held_up: Vec::new(),
            held_down: Vec::new(),
            inboxes: BTreeMap::new(),
        };
        self.links.insert(process, link);
    }

    /// Whoever is given an answer under this number hears it.
    pub(super) fn await_answer(&mut self, process: ProcessId, sender: oneshot::Sender<Result<Bytes, ()>>) -> u64 {
        let number = self.number();
        if let Some(link) = self.links.get_mut(&process) {
            link.inboxes.insert(number, sender);
        }
        number
    }

    /// A process is gone.
    pub(super) fn remove(&mut self, process: ProcessId) {
        self.links.remove(&process);
        self.subscriptions.retain(|_, subscription| subscription.process != process);
        self.readers.retain(|_, reader| reader.process != process);
    }

    pub(super) fn subscribe(
        &mut self,
        process: ProcessId,
        pattern: &str,
        group: Option<&str>,
    ) -> (u64, mpsc::UnboundedReceiver<Incoming>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (pattern, group) = (pattern.to_owned(), group.map(str::to_owned));
        let number = self.number();
        self.subscriptions.insert(number, Subscription { process, pattern, group, stands: false, sender });
        (number, receiver)
    }

    /// Begins a reading, and gives what is to be delivered first.
    pub(super) fn read(
        &mut self,
        process: ProcessId,
        stream: StreamName,
        filter: &str,
        from: From,
    ) -> Option<(Vec<Read>, mpsc::UnboundedSender<Read>, mpsc::UnboundedReceiver<Read>)> {
        let stored = self.streams.get(stream.as_str())?.read(filter, from);
        let (sender, receiver) = mpsc::unbounded_channel();
        let number = self.number();
        let filter = filter.to_owned();
        self.readers.insert(number, Reader { process, stream, filter, sender: sender.clone() });
        let count = stored.len() as u64;
        let first = stored.into_iter().zip(1..).map(|(message, number)| Ok((entry(message), count - number))).collect();
        Some((first, sender, receiver))
    }
}

/// A message as readers are given it.
pub(super) fn entry(message: plane_core::nats::Stored) -> Entry {
    Entry { subject: message.subject, sequence: message.sequence, time: message.time, payload: message.payload }
}

impl Sim {
    /// How long a message is under way.
    fn travel(&self, quiet: bool) -> Duration {
        let weather = &self.options.weather;
        if !quiet && self.dice.hit(weather.stalls) {
            return self.dice.millis(100, 2500);
        }
        if !quiet && self.dice.hit(weather.stalls * 20) {
            return self.dice.millis(5, 100);
        }
        self.dice.millis(0, 5)
    }

    /// Sends from a process to the server.
    pub(super) fn send_up(self: &Arc<Self>, process: ProcessId, parcel: Parcel) {
        let mut network = lock(&self.network);
        let travel = self.travel(network.quiet);
        let now = self.now();
        let Some(link) = network.links.get_mut(&process) else { return };
        if link.state != LinkState::Up {
            link.held_up.push(parcel);
            return;
        }
        link.up_until = link.up_until.max(now + travel);
        let (due, epoch) = (link.up_until, link.epoch);
        drop(network);
        self.at(due, move |sim| sim.arrive(process, epoch, true, parcel));
    }

    /// Sends from the server to a process.
    pub(super) fn send_down(self: &Arc<Self>, process: ProcessId, parcel: Parcel) {
        let mut network = lock(&self.network);
        let travel = self.travel(network.quiet);
        let now = self.now();
        let Some(link) = network.links.get_mut(&process) else { return };
        if link.state == LinkState::Down {
            return;
        }
        link.down_until = link.down_until.max(now + travel);
        let (due, epoch) = (link.down_until, link.epoch);
        drop(network);
        self.at(due, move |sim| sim.arrive(process, epoch, false, parcel));
    }

    fn arrive(self: &Arc<Self>, process: ProcessId, epoch: u64, up: bool, parcel: Parcel) {
        let mut network = lock(&self.network);
        let Some(link) = network.links.get_mut(&process).filter(|link| link.epoch == epoch) else { return };
        match (link.state, up) {
            (LinkState::Up, _) => {
                drop(network);
                parcel(self);
            }
            (LinkState::Frozen, true) => link.held_up.push(parcel),
            (LinkState::Frozen, false) => link.held_down.push(parcel),
            (LinkState::Down, _) => {}
        }
    }

    /// A link breaks; both sides know.
    pub(super) fn cut(self: &Arc<Self>, process: ProcessId) {
        let mut network = lock(&self.network);
        let Some(link) = network.links.get_mut(&process).filter(|link| link.state != LinkState::Down) else { return };
        link.state = LinkState::Down;
        link.epoch += 1;
        link.held_up.clear();
        link.held_down.clear();
        link.told.send_modify(|connection| connection.up = false);
        for subscription in network.subscriptions.values_mut().filter(|one| one.process == process) {
            subscription.stands = false;
        }
        network.readers.retain(|_, reader| reader.process != process);
        drop(network);
        self.note(format_args!("link of {} is down", process.0));
        lock(&self.checker).disturb(process);
    }

    /// Nothing passes a link for a while; nobody is told.
    pub(super) fn freeze(self: &Arc<Self>, process: ProcessId) {
        let mut network = lock(&self.network);
        let Some(link) = network.links.get_mut(&process).filter(|link| link.state == LinkState::Up) else { return };
        link.state = LinkState::Frozen;
        let epoch = link.epoch;
        drop(network);
        self.note(format_args!("link of {} is frozen", process.0));
        lock(&self.checker).disturb(process);
        self.after(FROZEN_FOR, move |sim| {
            let frozen = lock(&sim.network)
                .links
                .get(&process)
                .is_some_and(|link| link.state == LinkState::Frozen && link.epoch == epoch);
            if frozen {
                sim.cut(process);
            }
        });
    }

    /// A process that was stopped goes on.
    pub(super) fn let_go_on(self: &Arc<Self>, process: ProcessId) {
        let notices = move |sim: &Arc<Self>, is_unnoticed| {
            if let Some(link) = lock(&sim.network).links.get_mut(&process) {
                link.is_unnoticed = is_unnoticed;
            }
        };
        notices(self, true);
        self.processes.resume(process);
        self.after(RECONNECTS_AFTER, move |sim| notices(sim, false));
    }

    /// A link works again: what was held passes. A broken one becomes another connection.
    pub(super) fn mend(self: &Arc<Self>, process: ProcessId) {
        let mut network = lock(&self.network);
        let Some(server) = network.server else { return };
        let Some(link) = network.links.get_mut(&process).filter(|link| link.state != LinkState::Up) else { return };
        let stands_still = self.processes.mode(process) == Mode::Stopped;
        if link.state == LinkState::Down && (stands_still || link.is_unnoticed) {
            drop(network);
            // A stopped process connects to nobody. What it has received it sees before it does.
            return self.after(RECONNECTS_AFTER, move |sim| sim.mend(process));
        }
        if link.state == LinkState::Down {
            link.server = server;
            link.told.send_modify(|connection| {
                connection.up = true;
                connection.generation += 1;
            });
        }
        link.state = LinkState::Up;
        let epoch = link.epoch;
        let (up, down) = (std::mem::take(&mut link.held_up), std::mem::take(&mut link.held_down));
        for subscription in network.subscriptions.values_mut().filter(|one| one.process == process) {
            subscription.stands = true;
        }
        drop(network);
        self.note(format_args!("link of {} is up", process.0));
        lock(&self.checker).disturb(process);
        // Before all that is due now: what was sent later is not to overtake them.
        let first = Duration::ZERO;
        up.into_iter().for_each(|parcel| self.at(first, move |sim| sim.arrive(process, epoch, true, parcel)));
        down.into_iter().for_each(|parcel| self.at(first, move |sim| sim.arrive(process, epoch, false, parcel)));
    }

    /// The server passes a message on; false where nobody listens.
    pub(super) fn route(self: &Arc<Self>, subject: &str, payload: &Bytes, reply: Option<&str>) -> bool {
        if let Some(inbox) = subject.strip_prefix(INBOX) {
            self.answer(inbox, Ok(payload.clone()));
            return true;
        }
        let mut network = lock(&self.network);
        network.subscriptions.retain(|_, subscription| !subscription.sender.is_closed());
        let mut groups: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
        let mut targets = Vec::new();
        let matching = network.subscriptions.iter().filter(|(_, one)| one.stands && matches(&one.pattern, subject));
        for (number, subscription) in matching {
            match &subscription.group {
                Some(group) => groups.entry((&subscription.pattern, group)).or_default().push(*number),
                None => targets.push(*number),
            }
        }
        targets.extend(groups.values().filter_map(|members| self.dice.one_of(members).copied()));
        let targets: Vec<_> = targets.iter().map(|number| (*number, network.subscriptions[number].process)).collect();
        drop(network);
        for (number, process) in &targets {
            let (subject, payload, reply) = (subject.to_owned(), payload.clone(), reply.map(str::to_owned));
            let (number, process) = (*number, *process);
            self.send_down(
                process,
                Box::new(move |sim| {
                    let network = lock(&sim.network);
                    let Some(subscription) = network.subscriptions.get(&number) else { return };
                    if let Some(reply) = &reply {
                        let runs = sim.processes.mode(process) == Mode::Running;
                        sim.note(format_args!("{} is asked {reply} on {subject}", process.0));
                        lock(&sim.checker).delivered(&subject, reply, process, runs, sim.now());
                    }
                    let _ = subscription.sender.send(Incoming { subject, payload, reply });
                }),
            );
        }
        !targets.is_empty()
    }

    /// Gives an answer to whoever waits at an inbox, `PROCESS.NUMBER`; an error where nobody listens.
    pub(super) fn answer(self: &Arc<Self>, inbox: &str, answer: Result<Bytes, ()>) {
        let parsed =
            inbox.split_once('.').and_then(|(process, number)| Some((process.parse().ok()?, number.parse().ok()?)));
        let Some((process, number)) = parsed.map(|(process, number): (u32, u64)| (ProcessId(process), number)) else {
            return;
        };
        self.send_down(
            process,
            Box::new(move |sim| {
                let mut network = lock(&sim.network);
                let waiting = network.links.get_mut(&process).and_then(|link| link.inboxes.remove(&number));
                if let Some(waiting) = waiting {
                    let _ = waiting.send(answer);
                }
            }),
        );
    }

    /// Gives a new message of a stream to its readers.
    pub(super) fn feed(self: &Arc<Self>, stream: StreamName, message: &plane_core::nats::Stored) {
        let mut network = lock(&self.network);
        network.readers.retain(|_, reader| !reader.sender.is_closed());
        let wanted = |reader: &&Reader| reader.stream == stream && matches(&reader.filter, &message.subject);
        let readers: Vec<_> =
            network.readers.values().filter(wanted).map(|reader| (reader.process, reader.sender.clone())).collect();
        drop(network);
        for (process, sender) in readers {
            let read = Ok((entry(message.clone()), 0));
            self.send_down(process, Box::new(move |_| drop(sender.send(read))));
        }
    }

    /// The readings of a stream end with an error.
    pub(super) fn end_readings(self: &Arc<Self>, stream: StreamName) {
        let mut network = lock(&self.network);
        let ended: Vec<_> = network.readers.extract_if(.., |_, reader| reader.stream == stream).collect();
        drop(network);
        for (_, reader) in ended {
            let error = NatsError::Other { what: stream.as_str().to_owned(), cause: "the consumer is gone".to_owned() };
            self.after(self.dice.millis(100, 5000), move |_| drop(reader.sender.send(Err(error))));
        }
    }
}
