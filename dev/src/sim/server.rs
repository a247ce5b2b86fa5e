//! What the simulated server does to its streams: it stores, restarts, and loses.

use super::{
    Rule,
    network::Network,
    process::ProcessId,
    run::{Sim, lock},
    stream::{Refused, Stream},
};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use plane_core::{message::state::StateEntry, nats::StreamName};
use std::{sync::Arc, time::Duration};

impl Sim {
    /// Puts a message into a stream and gives it to the readers.
    pub(super) fn store(
        self: &Arc<Self>,
        process: ProcessId,
        stream: StreamName,
        subject: &str,
        payload: &Bytes,
        expected: Option<u64>,
    ) -> Result<u64, Refused> {
        let now = self.time();
        let mut network = lock(&self.network);
        let found = network.streams.get(stream.as_str()).ok_or(Refused::NoStream)?;
        let last = found.last(subject).map_or(0, |stored| stored.sequence);
        if expected.is_none_or(|expected| expected == last) {
            self.check(&network, process, stream, subject, payload);
        }
        let found = network.streams.get_mut(stream.as_str()).ok_or(Refused::NoStream)?;
        let stored = found.store(subject, payload, expected, now);
        drop(network);
        if subject != "state.heartbeat" {
            let sequence = stored.as_ref().map(|stored| stored.sequence);
            let text = String::from_utf8_lossy(payload);
            self.note(format_args!("store of {} on {subject} expecting {expected:?}: {sequence:?} {text}", process.0));
        }
        let stored = stored?;
        self.feed(stream, &stored);
        Ok(stored.sequence)
    }

    fn check(&self, network: &Network, process: ProcessId, stream: StreamName, subject: &str, payload: &Bytes) {
        match stream {
            StreamName::State if subject != "state.heartbeat" => match serde_json::from_slice::<StateEntry>(payload) {
                Ok(entry) => self.check_entry(network, process, &entry),
                Err(error) => self.violated(Rule::History, format!("an entry cannot be read: {error}")),
            },
            StreamName::Status => self.check_history(network, subject, payload),
            StreamName::State | StreamName::Logs | StreamName::Certificates => {}
        }
    }

    /// The server goes down, and comes up again after a while, maybe without the newest that it had acknowledged.
    pub(super) fn restart_server(self: &Arc<Self>, down_for: Duration, lost: Option<Duration>) {
        let mut network = lock(&self.network);
        if network.server.take().is_none() {
            return;
        }
        let processes: Vec<ProcessId> = network.links.keys().copied().collect();
        drop(network);
        self.note(format_args!("the server goes down for {down_for:?} and loses {lost:?}"));
        for process in processes {
            self.cut(process);
        }
        if let Some(lost) = lost {
            self.lose_tail(lost);
        }
        self.after(down_for, |sim| sim.start_server());
    }

    /// The server is up, and processes connect to it.
    pub(super) fn start_server(self: &Arc<Self>) {
        let mut network = lock(&self.network);
        if network.server.is_some() {
            return;
        }
        network.starts += 1;
        network.server = Some(network.starts);
        let processes: Vec<ProcessId> = network.links.keys().copied().collect();
        drop(network);
        self.note(format_args!("the server is up"));
        for process in processes {
            self.after(self.dice.millis(0, 1500), move |sim| sim.mend(process));
        }
    }

    fn lose_tail(self: &Arc<Self>, lost: Duration) {
        let lost = SignedDuration::try_from(lost).unwrap_or(SignedDuration::ZERO);
        let until = self.time().saturating_sub(lost).unwrap_or(Timestamp::MIN);
        let on_disk = self.dice.hit(500_000);
        let mut network = lock(&self.network);
        // With all of the history the log may be gone as well, and look like one that nobody has used yet: what a
        // controller grants then is told among what is not guaranteed.
        if network.streams.get(StreamName::Status.as_str()).is_none_or(|history| !history.has_before(until)) {
            drop(network);
            return self.note(format_args!("nothing is lost: all would be"));
        }
        let mut counts = Vec::new();
        for name in [StreamName::State, StreamName::Status] {
            if let Some(stream) = network.streams.get_mut(name.as_str()) {
                counts.push(stream.lose_after(until, || on_disk || self.dice.hit(300_000)));
            }
        }
        drop(network);
        lock(&self.checker).log_lost = true;
        self.note(format_args!("lost so many entries: {counts:?}"));
    }

    /// The state log is deleted.
    pub(super) fn delete_log(self: &Arc<Self>) {
        let deleted: Option<Stream> = lock(&self.network).streams.remove(StreamName::State.as_str());
        if deleted.is_some() {
            lock(&self.checker).log_lost = true;
            self.note(format_args!("the state log is deleted"));
            self.end_readings(StreamName::State);
        }
    }
}
