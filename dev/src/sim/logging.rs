//! What the daemons log, as part of a run's trace.

use super::run::Sim;
use std::{
    cell::Cell,
    fmt::{self, Write},
    sync::{Arc, Once, Weak},
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::{DefaultGuard, NoSubscriber},
};

/// Shows, where a trace is wanted, what daemons log; else it goes nowhere.
pub(super) fn begin(sim: &Arc<Sim>) -> DefaultGuard {
    if sim.options.trace {
        tracing::subscriber::set_default(Shown(Arc::downgrade(sim)))
    } else {
        tracing::subscriber::set_default(NoSubscriber::default())
    }
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// How many panics there have been on this thread. Daemons go on after one; a run does not.
pub(super) fn panics() -> u64 {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
    PANICS.get()
}

struct Shown(Weak<Sim>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Shown {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("plane_")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        if let Some(sim) = self.0.upgrade() {
            sim.print(format_args!("  {}:{}", event.metadata().level(), line.0));
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
