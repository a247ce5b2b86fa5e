//! The daemons' own log: to stderr for the operator, and through a tap to NATS for whoever listens there.
//!
//! The tap never blocks and never grows: lines that nobody takes are dropped and counted.

use crate::{
    message::log::{Component, DaemonLog, Severity},
    nats::Nats,
};
use jiff::Timestamp;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt,
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{EnvFilter, Layer, layer::Context, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged where `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "info,async_nats=warn,hickory_server=warn";
/// How many lines wait to be published; more are dropped.
const TAP_LINES: usize = 1024;
/// The longest text of one field that is published, in bytes.
const FIELD_BYTES: usize = 8 * 1024;

/// Starts logging to stderr, as `RUST_LOG` and `NO_COLOR` say, and gives the tap that its lines can be published from.
/// Only the first call in a process has an effect on where lines go.
pub fn init() -> LogTap {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let (filter, fault) = match asked.as_deref().map(EnvFilter::try_new) {
        None => (EnvFilter::new(DEFAULT_FILTER), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
    };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(!no_color && std::io::stderr().is_terminal());
    let (layer, tap) = tap(TAP_LINES);
    // It fails only where logging has been started before, and then goes on as it was.
    let _ = tracing_subscriber::registry().with(filter).with(stderr).with(layer).try_init();
    if let Some(error) = fault {
        tracing::warn!(%error, "RUST_LOG is not a valid filter, going on with {DEFAULT_FILTER:?}");
    }
    tap
}

/// The end of the log that is published.
#[derive(Debug)]
pub struct LogTap {
    lines: mpsc::Receiver<Line>,
    dropped: Arc<AtomicU64>,
}

impl LogTap {
    /// The next line, as told by this component; `None` when there will be none. It may be dropped while it waits.
    pub async fn recv(&mut self, component: &Component) -> Option<DaemonLog> {
        let line = self.lines.recv().await?;
        let mut fields = line.fields;
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            fields.insert("lines_dropped_before".to_owned(), dropped.into());
        }
        Some(DaemonLog {
            component: component.clone(),
            target: line.target.to_owned(),
            name: line.name.to_owned(),
            severity: line.severity,
            time: line.time,
            fields,
        })
    }

    /// Publishes every line until there are no more. What cannot be published is dropped: stderr has it.
    pub async fn forward(mut self, component: Component, nats: Nats) {
        while let Some(line) = self.recv(&component).await {
            let _ = nats.publish(&line).await;
        }
    }
}

/// A line that nobody has signed yet: who the drone is becomes known only after its first lines.
#[derive(Debug)]
struct Line {
    target: &'static str,
    name: &'static str,
    severity: Severity,
    time: Timestamp,
    fields: BTreeMap<String, Value>,
}

/// The layer that hands lines to the tap.
struct TapLayer {
    lines: mpsc::Sender<Line>,
    dropped: Arc<AtomicU64>,
}

fn tap(capacity: usize) -> (TapLayer, LogTap) {
    let (sender, receiver) = mpsc::channel(capacity);
    let dropped = Arc::new(AtomicU64::new(0));
    (TapLayer { lines: sender, dropped: dropped.clone() }, LogTap { lines: receiver, dropped })
}

/// Whether a line may be published. Publishing makes lines itself, and those must not be published in turn: neither
/// those of the NATS client, nor the finer ones of the libraries beneath it.
fn is_published(target: &str, level: Level) -> bool {
    let from_nats = ["async_nats", "plane_core::nats"].iter().any(|module| is_within(target, module));
    !from_nats && (level <= Level::INFO || target.starts_with("plane_"))
}

fn is_within(target: &str, module: &str) -> bool {
    target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

impl<S: Subscriber> Layer<S> for TapLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if !is_published(metadata.target(), *metadata.level()) {
            return;
        }
        let Ok(slot) = self.lines.try_reserve() else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        slot.send(Line {
            target: metadata.target(),
            name: metadata.name(),
            severity: (*metadata.level()).into(),
            time: Timestamp::now(),
            fields: fields.0,
        });
    }
}

struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn put_text(&mut self, field: &Field, mut text: String) {
        text.truncate(text.floor_char_boundary(FIELD_BYTES));
        self.put(field, text);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value.to_owned());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::subscriber::with_default;

    #[tokio::test]
    async fn a_line_keeps_its_level_target_and_fields() {
        let (layer, mut tap) = tap(4);
        with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(target: "plane_drone::agent", backend = "b", count = 3_u64, ok = true, "it is {}", "slow");
        });
        let component = Component::Drone { drone_id: "d1".parse().unwrap() };
        let line = tap.recv(&component).await.unwrap();
        assert_eq!((line.component, line.severity), (component, Severity::Warn));
        assert_eq!(line.target, "plane_drone::agent");
        let fields = serde_json::to_value(&line.fields).unwrap();
        assert_eq!(fields, serde_json::json!({"backend": "b", "count": 3, "ok": true, "message": "it is slow"}));
    }

    #[tokio::test]
    async fn a_full_tap_drops_counts_and_ends() {
        let (layer, mut tap) = tap(1);
        with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..3 {
                tracing::info!("line");
            }
        });
        let line = tap.recv(&Component::Controller).await.unwrap();
        assert_eq!(line.fields["lines_dropped_before"], 2);
        assert!(tap.recv(&Component::Controller).await.is_none());
    }

    #[tokio::test]
    async fn what_publishing_itself_says_is_not_published() {
        let (layer, mut tap) = tap(8);
        with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!(target: "async_nats::connector", "x");
            tracing::error!(target: "plane_core::nats::connect", "x");
            tracing::error!(target: "plane_core::nats", "x");
            tracing::debug!(target: "mio::poll", "x");
            tracing::debug!(target: "plane_drone", "kept");
        });
        assert_eq!(tap.recv(&Component::Controller).await.unwrap().fields["message"], "kept");
        assert!(tap.recv(&Component::Controller).await.is_none());
    }

    #[tokio::test]
    async fn long_fields_are_cut_between_characters() {
        let (layer, mut tap) = tap(1);
        with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!("{}é", "€".repeat(FIELD_BYTES));
        });
        let line = tap.recv(&Component::Controller).await.unwrap();
        let text = line.fields["message"].as_str().unwrap();
        assert!(text.len() <= FIELD_BYTES && text.len() > FIELD_BYTES - 4);
    }
}
