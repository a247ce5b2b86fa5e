//! Configuration of the daemons: a TOML file, and the environment over it.
//!
//! A configuration says, as data, which keys it knows ([`Part`]); from that come the names of the environment
//! variables, the refusal of unknown keys and the checks of types and rules. All faults are found in one go, each with
//! its file or variable and its key. What a daemon does with its configuration is the daemon's own affair.

mod draft;
mod fault;
mod nats;
mod schema;
mod secret;
#[cfg(test)]
mod tests;

pub use draft::Draft;
pub use fault::{ConfigFault, ConfigFaults, Origin};
pub use nats::{NATS, NatsAuth, NatsConfig, NatsTls};
pub use schema::{Key, Kind, Part, is_http_url, is_ip, is_socket_addr};
pub use secret::Secret;

use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The exit code of a daemon whose configuration is at fault.
pub const EXIT_BAD_CONFIG: u8 = 2;

/// The configuration of a daemon.
pub trait DaemonConfig: Serialize + DeserializeOwned {
    /// The parts that it is made of; together they know every key.
    const PARTS: &'static [&'static Part];
}

/// What both daemons take on their command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DaemonArgs {
    /// The configuration, as TOML; not needed where the environment gives everything.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Check the configuration, say what is wrong with it, and end.
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration as it takes effect, secrets masked, and end.
    #[arg(long, conflicts_with = "check_config")]
    pub dump_config: bool,
}

/// What is to be done after the command line and the configuration were read.
#[derive(Debug)]
pub enum Launch<C> {
    /// Run with this configuration.
    Run(C),
    /// End with this code: all there is to say has been said.
    Exit(ExitCode),
}

impl DaemonArgs {
    /// Reads the configuration from the file and from this process's environment, and does what `--check-config` and
    /// `--dump-config` ask for. Faults go to stderr.
    pub fn launch<C: DaemonConfig>(&self) -> Launch<C> {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        let config = match load::<C>(self.file.as_deref(), env) {
            Ok(config) => config,
            Err(faults) => {
                // A stderr that is closed leaves nobody to tell.
                let _ = writeln!(std::io::stderr(), "{faults}");
                return Launch::Exit(ExitCode::from(EXIT_BAD_CONFIG));
            }
        };
        if self.check_config {
            return Launch::Exit(print("configuration is valid"));
        }
        if self.dump_config {
            return Launch::Exit(match dump(&config) {
                Ok(text) => print(text.trim_end()),
                Err(error) => {
                    let _ = writeln!(std::io::stderr(), "the configuration cannot be written as TOML: {error}");
                    ExitCode::FAILURE
                }
            });
        }
        Launch::Run(config)
    }
}

fn print(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A configuration as TOML, its defaults filled in and its secrets masked.
///
/// # Errors
/// Only where the type cannot be TOML, which is a defect of that type.
pub fn dump<C: DaemonConfig>(config: &C) -> Result<String, toml::ser::Error> {
    toml::to_string_pretty(config)
}

/// Reads a configuration from a file, if one is given, and from environment variables, which win over the file.
///
/// A variable counts only if its name is `PLANE_` and a known key in upper case, its dots written `__`. Lists are
/// separated by commas.
///
/// # Errors
/// All faults that there are. Only a file that is no TOML at all is reported alone.
pub fn load<C: DaemonConfig>(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<C, ConfigFaults> {
    let text = match file {
        None => None,
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Some((path, text)),
            Err(error) => {
                let problem = format!("cannot be read: {error}");
                return Err(ConfigFault::new(Origin::File(path.to_owned()), "", problem).into());
            }
        },
    };
    load_text(text.as_ref().map(|(path, text)| (*path, text.as_str())), env)
}

/// [`load`], of a file that has been read.
fn load_text<C: DaemonConfig>(
    file: Option<(&Path, &str)>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<C, ConfigFaults> {
    let table = match file {
        None => None,
        Some((path, text)) => match text.parse::<toml::Table>() {
            Ok(table) => Some((path.to_owned(), table)),
            Err(error) => return Err(fault::not_toml(path, text, &error).into()),
        },
    };
    let mut draft = Draft::new(C::PARTS, table);
    draft.overlay(env);
    let origin = draft.origin("");
    let table = draft.finish()?;
    // The schema has checked everything that serde checks; should the two ever disagree, this says where.
    table.try_into().map_err(|error: toml::de::Error| ConfigFault::new(origin, "", error.message()).into())
}
