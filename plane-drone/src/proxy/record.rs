//! What is noted of one request while it is under way, and told to the counters and the access log at its end.
//!
//! Texts are kept only where there is an access log; else a request costs two looks at the clock and a few additions.

use super::{
    access_log::Entry,
    connection::Seat,
    outcome::Outcome,
    refusal::Refusal,
    worker::{Stage, Worker},
};
use jiff::Timestamp;
use std::{
    cell::{Cell, OnceCell},
    net::IpAddr,
    time::Instant,
};

/// What is spoken with an upgraded connection.
const WEBSOCKET: &str = "websocket";

/// What of its head is told of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    /// Its method.
    pub(super) method: &'a str,
    /// The host that it asks, as it came.
    pub(super) host: &'a str,
    /// The path and query that it asks for, as they came.
    pub(super) path: &'a str,
    /// What is spoken, such as `HTTP/1.1`.
    pub(super) protocol: &'static str,
}

/// What is noted of one request.
#[derive(Debug)]
pub(super) struct Record {
    began: Instant,
    status: Cell<Option<u16>>,
    outcome: Cell<Option<Outcome>>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    /// Whether another record is about the same request.
    is_void: Cell<bool>,
    /// Where there is an access log.
    texts: OnceCell<Box<Texts>>,
}

#[derive(Debug)]
struct Texts {
    method: String,
    host: String,
    path: String,
    protocol: Cell<&'static str>,
    client: Cell<IpAddr>,
    backend: OnceCell<String>,
}

impl Record {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
            status: Cell::new(None),
            outcome: Cell::new(None),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            is_void: Cell::new(false),
            texts: OnceCell::new(),
        }
    }

    /// Notes what a request's head says, where that is told to somebody.
    pub(super) fn head<'a>(&self, seat: &Seat, told: impl FnOnce() -> Told<'a>) {
        if seat.worker.shared.access_log.is_none() {
            return;
        }
        self.texts.get_or_init(|| {
            let Told { method, host, path, protocol } = told();
            Box::new(Texts {
                method: method.to_owned(),
                host: host.to_owned(),
                path: path.to_owned(),
                protocol: Cell::new(protocol),
                client: Cell::new(seat.client.peer.ip().to_canonical()),
                backend: OnceCell::new(),
            })
        });
    }

    /// It comes from there.
    pub(super) fn client(&self, client: IpAddr) {
        if let Some(texts) = self.texts.get() {
            texts.client.set(client);
        }
    }

    /// It is for that backend.
    pub(super) fn backend(&self, backend: &str) {
        if let Some(texts) = self.texts.get() {
            texts.backend.get_or_init(|| backend.to_owned());
        }
    }

    /// Its connection was upgraded.
    pub(super) fn upgraded(&self) {
        if let Some(texts) = self.texts.get() {
            texts.protocol.set(WEBSOCKET);
        }
    }

    /// So many bytes of its body came.
    pub(super) fn received(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
    }

    /// So many bytes of its answer's body go to the client.
    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
    }

    /// The client gets an answer with this status.
    pub(super) fn status(&self, status: u16) {
        self.status.set(Some(status));
    }

    /// The answer is complete.
    pub(super) fn passed(&self) {
        self.ends(Outcome::Passed);
    }

    /// The client has left.
    pub(super) fn client_gone(&self) {
        self.ends(Outcome::ClientGone);
    }

    /// The proxy answers itself, with what is no refusal.
    pub(super) fn answered(&self, status: u16) {
        self.status(status);
        self.passed();
    }

    /// The proxy refuses it.
    pub(super) fn refused(&self, refusal: Refusal) {
        if self.outcome.get().is_none() {
            self.status(refusal.status());
            self.broken_off(refusal);
        }
    }

    /// The proxy breaks it off, though its answer has begun.
    pub(super) fn broken_off(&self, refusal: Refusal) {
        self.ends(Outcome::Refused(refusal));
    }

    /// Another record is about the same request.
    pub(super) fn void(&self) {
        self.is_void.set(true);
    }

    /// What is known first is why.
    fn ends(&self, outcome: Outcome) {
        self.outcome.set(self.outcome.get().or(Some(outcome)));
    }

    /// The request is over.
    pub(super) fn tell(&self, worker: &Worker) {
        if self.is_void.get() {
            return;
        }
        let duration = self.began.elapsed();
        let outcome = self.outcome.get().unwrap_or(match worker.stage() {
            Stage::Closing => Outcome::Refused(Refusal::Draining),
            Stage::Serving | Stage::Draining => Outcome::ClientGone,
        });
        let (bytes_in, bytes_out) = (self.bytes_in.get(), self.bytes_out.get());
        worker.counter.request(outcome, duration);
        worker.counter.bytes(bytes_in, bytes_out);
        let Some((log, texts)) = worker.shared.access_log.as_ref().zip(self.texts.get()) else { return };
        let now = Timestamp::now();
        log.log(&Entry {
            time: now.checked_sub(duration).unwrap_or(now),
            backend: texts.backend.get().map(String::as_str),
            method: &texts.method,
            host: &texts.host,
            path: &texts.path,
            protocol: texts.protocol.get(),
            status: self.status.get(),
            outcome,
            bytes_in,
            bytes_out,
            duration,
            client: texts.client.get(),
        });
    }
}
