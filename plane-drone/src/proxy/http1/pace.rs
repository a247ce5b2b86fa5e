//! What ends a connection, or an exchange on it, that takes too long; looked at by the thread's coarse clock.

use crate::proxy::{
    connection::{Ending, Seat},
    leaving::LOOK_EVERY,
    passage::Passage,
    timers::{Look, after},
    worker::Stage,
};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

/// Why a connection's task is to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interruption {
    /// The connection has to end.
    Ends(Ending),
    /// What it waits for was given up; its passage says why.
    GivenUp,
}

/// What a connection waits for.
#[derive(Debug, Default)]
pub(super) struct Pace {
    awaited: RefCell<Option<Rc<Passage>>>,
    /// The answer has begun: of what is awaited, only the rest of the request may take too long.
    has_begun: Cell<bool>,
    is_ending: Cell<bool>,
    tunnels: Cell<bool>,
    /// The answer under way ends where the connection does.
    is_open_ended: Cell<bool>,
    /// The client is not read, so that its leaving is not seen.
    is_unheard: Cell<bool>,
}

impl Pace {
    /// An answer is waited for from now on.
    pub(super) fn awaits(&self, passage: &Rc<Passage>) {
        self.awaited.replace(Some(passage.clone()));
        self.has_begun.set(false);
    }

    /// The answer has begun, and the request is not complete.
    pub(super) fn awaits_body(&self) {
        self.has_begun.set(true);
    }

    /// Nothing of that kind is waited for any more.
    pub(super) fn awaits_nothing(&self) {
        self.awaited.replace(None);
    }

    /// An answer has begun; tells whether it ends where the connection does.
    pub(super) fn set_open_ended(&self, is_open_ended: bool) {
        self.is_open_ended.set(is_open_ended);
    }

    /// Whether the connection's end would say that the answer under way is complete.
    pub(super) fn is_open_ended(&self) -> bool {
        self.is_open_ended.get()
    }

    /// Tells whether the client is not read at the moment: then its leaving has to be looked for.
    pub(super) fn set_unheard(&self, is_unheard: bool) {
        self.is_unheard.set(is_unheard);
    }

    /// Whether the connection ends after what is under way.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.get()
    }

    /// Has the connection end after what is under way.
    pub(super) fn end(&self) {
        self.is_ending.set(true);
    }

    /// The connection was upgraded: it may be silent for as long as it likes.
    pub(super) fn tunnels(&self) {
        self.tunnels.set(true);
    }

    /// Whether something took too long, at a time.
    pub(super) fn look(&self, seat: &Seat, now: u64) -> Look<Interruption> {
        if self.tunnels.get() {
            return match seat.worker.stage() {
                Stage::Serving | Stage::Draining => Look::Again(u64::MAX),
                Stage::Closing => Look::Over(Interruption::Ends(Ending::AtOnce("the drone stops"))),
            };
        }
        let until = match seat.look(now, false) {
            Look::Over(Ending::Gently) if self.is_ending() => u64::MAX,
            Look::Over(ending) => return Look::Over(Interruption::Ends(ending)),
            Look::Again(until) => until,
        };
        let until = if self.is_unheard.get() { until.min(after(now, LOOK_EVERY)) } else { until };
        let mut awaited = self.awaited.borrow_mut();
        let look = |passage: &Rc<Passage>| match self.has_begun.get() {
            true => passage.look_at_body(now),
            false => passage.look(now),
        };
        match awaited.as_ref().map(|passage| (passage, look(passage))) {
            None => Look::Again(until),
            Some((_, Look::Again(sooner))) => Look::Again(until.min(sooner)),
            Some((passage, Look::Over(refusal))) => {
                passage.give_up(refusal);
                *awaited = None;
                Look::Over(Interruption::GivenUp)
            }
        }
    }
}
