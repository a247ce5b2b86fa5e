//! The command line. Values are parsed here, by their own types; what is left is valid.

use clap::{Args, Parser, Subcommand, ValueEnum};
use plane_core::{
    id::{BackendId, ClusterName, DroneId, LockName},
    message::schedule::PullPolicy,
    version,
};
use std::num::{NonZeroU8, NonZeroU16, NonZeroU64};

/// Spawns, watches and ends session backends of Plane.
#[derive(Debug, Parser)]
#[command(name = "plane", version = version::LONG, max_term_width = 100)]
pub struct Arguments {
    /// Where NATS is; several addresses of one cluster are separated by commas
    #[arg(
        long,
        global = true,
        env = "PLANE_NATS",
        value_name = "URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    pub nats: String,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables and lines for people
    Text,
    /// JSON for programs: one value, or one a line where results keep coming
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a backend and say where it is
    Spawn(Box<Spawn>),
    /// Show states of backends as they change: of one until it ends, else of all from now on
    Status {
        /// The backend; all where none is given
        backend: Option<BackendId>,
    },
    /// Show the drones
    ListDrones {
        /// Only those of this cluster
        cluster: Option<ClusterName>,
    },
    /// Show the backends that have not ended
    ListBackends {
        /// Only those of this cluster
        cluster: Option<ClusterName>,
        /// Those that have ended too
        #[arg(long)]
        all: bool,
    },
    /// Show the last lines that a backend wrote
    Logs {
        /// The backend
        backend: BackendId,
        /// Go on with new lines until the backend ends
        #[arg(short, long)]
        follow: bool,
    },
    /// End a backend
    Terminate {
        /// Its cluster
        cluster: ClusterName,
        /// The backend
        backend: BackendId,
    },
    /// Let drones take no more backends; those they have go on
    Drain {
        /// Their cluster
        cluster: ClusterName,
        /// The drones
        #[arg(required = true, value_name = "DRONE")]
        drones: Vec<DroneId>,
        /// Let them take backends again
        #[arg(long)]
        cancel: bool,
        /// Return once the last backend of each has ended
        #[arg(long, conflicts_with = "cancel")]
        wait: bool,
    },
    /// Give a backend up whose drone does not come back
    MarkBackendLost {
        /// The backend
        backend: BackendId,
    },
    /// Show all that the state log decides now, as JSON
    DumpState,
    /// Show the entries of the state log as they come
    StreamState {
        /// Only those that are there now
        #[arg(long)]
        snapshot: bool,
    },
    /// Take out of NATS what ended long ago, as controllers do by themselves
    Cleanup {
        /// How many seconds ago, by the log's time
        #[arg(long, value_name = "SECONDS", default_value = "86400", value_parser = clap::value_parser!(u32).range(3600..))]
        older_than: u32,
    },
}

/// What to start.
#[derive(Debug, Args)]
pub struct Spawn {
    /// The cluster, such as plane.example.org
    pub cluster: ClusterName,
    /// The container image
    pub image: String,
    /// End the backend after this many seconds without a connection
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub timeout: NonZeroU64,
    /// The port that it listens on; it is told in PORT
    #[arg(long, default_value = "8080")]
    pub port: NonZeroU16,
    /// A variable of its environment; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Its id, which is the first label of its host name; made up where none is given
    #[arg(long, value_name = "BACKEND")]
    pub id: Option<BackendId>,
    /// Get the backend that holds this lock, or start one that does
    #[arg(long)]
    pub lock: Option<LockName>,
    /// A folder of the drone's machine to mount, where the drone allows it; may be repeated
    #[arg(long, value_name = "HOST:CONTAINER")]
    pub mount: Vec<String>,
    /// Something to remember about it; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
    /// A label that its drone must have; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// Let only those in who show the bearer token that is printed
    #[arg(long)]
    pub require_bearer_token: bool,
    /// When the image is fetched
    #[arg(long, value_enum, default_value_t = Pull::IfNotPresent)]
    pub pull: Pull,
    /// The bytes of memory that it may use
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<NonZeroU64>,
    /// The share of one processor that it may use, in percent
    #[arg(long, value_name = "PERCENT")]
    pub cpu: Option<NonZeroU8>,
    /// Wait until it is ready
    #[arg(long)]
    pub wait: bool,
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// Where the drone does not have it
    IfNotPresent,
    /// Each time
    Always,
    /// Never: the drone must have it
    Never,
}

impl From<Pull> for PullPolicy {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::IfNotPresent => Self::IfNotPresent,
            Pull::Always => Self::Always,
            Pull::Never => Self::Never,
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
