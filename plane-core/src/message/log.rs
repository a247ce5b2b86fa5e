//! What the daemons tell about themselves: their own log, on NATS.

use super::Publish;
use crate::id::DroneId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of a daemon's own log.
///
/// Subject `logs.controller` or `logs.drone.D`; from a daemon to whoever listens; core NATS, so it may be lost. A
/// duplicate is a line told twice and does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonLog {
    /// Who tells it.
    pub component: Component,
    /// The module that it comes from.
    pub target: String,
    /// The name of the event: where in the source it stands, unless it has been given one.
    pub name: String,
    /// How grave it is.
    pub severity: Severity,
    /// When it was told.
    pub time: Timestamp,
    /// What it says; `message` is for people.
    pub fields: BTreeMap<String, serde_json::Value>,
}

impl Publish for DaemonLog {
    fn subject(&self) -> String {
        match &self.component {
            Component::Controller => "logs.controller".to_owned(),
            Component::Drone { drone_id } => format!("logs.drone.{drone_id}"),
        }
    }
}

/// Who tells a line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Component {
    /// A controller.
    Controller,
    /// A drone.
    Drone {
        /// Which one.
        drone_id: DroneId,
    },
}

/// How grave a line of a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// Steps that matter to whoever looks for a defect.
    Trace,
    /// Steps that matter to developers.
    Debug,
    /// What an operator wants to have read afterwards.
    Info,
    /// Something is wrong, and the daemon copes.
    Warn,
    /// Something is wrong, and somebody has to act.
    Error,
}

impl From<tracing::Level> for Severity {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::TRACE => Self::Trace,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::INFO => Self::Info,
            tracing::Level::WARN => Self::Warn,
            tracing::Level::ERROR => Self::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_of_a_drone_is_as_the_protocol_says() {
        let sample = json!({
            "component": {"type": "Drone", "drone_id": "d1"},
            "target": "plane_drone::agent", "name": "event agent.rs:7", "severity": "INFO",
            "time": "2024-05-01T12:00:00Z", "fields": {"message": "ready", "backend": "b", "count": 3},
        });
        let line: DaemonLog = serde_json::from_value(sample.clone()).unwrap();
        assert_eq!(line.subject(), "logs.drone.d1");
        assert_eq!(serde_json::to_value(&line).unwrap(), sample);
    }

    #[test]
    fn a_line_of_a_controller_is_as_the_protocol_says() {
        let sample = json!({
            "component": {"type": "Controller"}, "target": "plane_controller", "name": "n", "severity": "ERROR",
            "time": "2024-05-01T12:00:00Z", "fields": {},
        });
        let line: DaemonLog = serde_json::from_value(sample.clone()).unwrap();
        assert_eq!(line.subject(), "logs.controller");
        assert_eq!(serde_json::to_value(&line).unwrap(), sample);
    }
}
