//! Everything that crosses the wire, as types. Each message says its subject, who sends it to whom, how it is
//! delivered, and what a duplicate of it does; a golden sample of each is in the tests.
//!
//! To add a message: give it a type in the module of its topic, implement [`Request`] or [`Publish`], and add its
//! sample to `message/tests.rs`.

use crate::id::{BackendId, ClusterName, DroneId};
use serde::{Serialize, de::DeserializeOwned};

pub mod backend;
pub mod drone;
pub mod log;
pub mod schedule;
pub mod state;
#[cfg(test)]
mod tests;

/// A message that is answered.
pub trait Request: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the answer is.
    type Reply: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The subject that it is sent to.
    fn subject(&self) -> String;

    /// Checks the rules that the types alone do not carry.
    ///
    /// # Errors
    /// Names the field and what was expected.
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// A message that nobody answers.
pub trait Publish: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The subject that it is published on.
    fn subject(&self) -> String;
}

/// Why a request was not served: the `Error` form of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Fault {
    /// What kind of fault it is, for programs.
    pub code: FaultCode,
    /// The field and what was expected, for people.
    pub message: String,
}

impl Fault {
    /// A fault of the given kind.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A request that cannot be parsed or breaks a rule.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(FaultCode::BadRequest, message)
    }
}

/// The kinds of [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum FaultCode {
    /// The request cannot be parsed or breaks a rule.
    BadRequest,
    /// The backend id belongs to a backend whose history is still kept.
    BackendIdInUse,
    /// The lock is being decided for somebody else; asking again is safe.
    LockBusy,
    /// What is needed to answer cannot be reached now; asking again is safe.
    Unavailable,
    /// A defect on the answering side.
    Internal,
}

/// A reply as it stands on the wire: the answer itself, or `{"Error": …}`.
pub type Answer<T> = Result<T, Fault>;

#[derive(Serialize)]
struct ErrorOut<'a> {
    #[serde(rename = "Error")]
    error: &'a Fault,
}

#[derive(serde::Deserialize)]
struct ErrorIn {
    #[serde(rename = "Error")]
    error: Fault,
}

/// Writes an answer as JSON.
///
/// # Errors
/// Only where a reply type cannot be JSON, which is a defect of that type.
pub fn encode_answer<T: Serialize>(answer: &Answer<T>) -> Result<Vec<u8>, serde_json::Error> {
    match answer {
        Ok(reply) => serde_json::to_vec(reply),
        Err(fault) => serde_json::to_vec(&ErrorOut { error: fault }),
    }
}

/// Reads an answer from JSON.
///
/// # Errors
/// Where the bytes are neither a reply nor the `Error` form.
pub fn decode_answer<T: DeserializeOwned>(bytes: &[u8]) -> Result<Answer<T>, serde_json::Error> {
    match serde_json::from_slice::<ErrorIn>(bytes) {
        Ok(ErrorIn { error }) => Ok(Err(error)),
        Err(_) => serde_json::from_slice(bytes).map(Ok),
    }
}

/// Reads a request from JSON.
///
/// # Errors
/// Names the field and what was expected there; where the bytes are not JSON, the line and column.
pub fn decode_request<M: Request>(bytes: &[u8]) -> Result<M, String> {
    let error = match serde_json::from_slice(bytes) {
        Ok(request) => return Ok(request),
        Err(error) if error.is_data() => error,
        Err(error) => return Err(error.to_string()),
    };
    let (text, position) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
    let text = text.strip_suffix(&position).unwrap_or(&text);
    // Noting the way to each field costs time, and good requests need none of it.
    match serde_path_to_error::deserialize::<_, M>(&mut serde_json::Deserializer::from_slice(bytes)) {
        Err(found) if found.path().iter().len() > 0 => Err(format!("{}: {text}", found.path())),
        _ => Err(text.to_owned()),
    }
}

/// Subjects, in one place, so that a writer and a listener cannot disagree.
pub mod subject {
    use super::{BackendId, ClusterName, DroneId};

    /// `cluster.C.schedule`
    pub fn schedule(cluster: &ClusterName) -> String {
        format!("cluster.{}.schedule", cluster.subject_token())
    }

    /// `cluster.C.fetch`
    pub fn fetch(cluster: &ClusterName) -> String {
        format!("cluster.{}.fetch", cluster.subject_token())
    }

    /// `cluster.C.drone.D.VERB`
    pub fn drone(cluster: &ClusterName, drone: &DroneId, verb: &str) -> String {
        format!("cluster.{}.drone.{drone}.{verb}", cluster.subject_token())
    }

    /// `cluster.C.drone.register`
    pub fn register(cluster: &ClusterName) -> String {
        format!("cluster.{}.drone.register", cluster.subject_token())
    }

    /// `cluster.C.backend.B.VERB`
    pub fn backend(cluster: &ClusterName, backend: &BackendId, verb: &str) -> String {
        format!("cluster.{}.backend.{backend}.{verb}", cluster.subject_token())
    }
}
