//! The command `plane`: developers spawn and end backends with it, operators look at drones and drain them.
//!
//! It is a client of the wire protocol like any other and knows nothing that a program could not. Results go to
//! stdout, as tables for people or as JSON for programs; everything else goes to stderr.

mod arguments;
mod command;
mod failure;
mod output;
#[cfg(test)]
mod tests;

pub use arguments::Arguments;
pub use failure::Failure;

use arguments::Command;
use plane_core::{
    config::NatsConfig,
    nats::{Nats, Unreached},
};
use std::time::Duration;

/// The prefix of the command's inboxes.
const INBOX_PREFIX: &str = "cli.inbox";
/// How long NATS may take to be reached.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long an answer may take; controllers answer within 8 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Does what the arguments ask for.
///
/// # Errors
/// Where it could not be done; the failure says what to try next.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let nats = connect(&arguments.nats).await?;
    let output = arguments.output;
    match arguments.command {
        Command::Spawn(spawn) => command::spawn::run(&nats, *spawn, output).await,
        Command::Status { backend } => command::status::run(&nats, backend.as_ref(), output).await,
        Command::ListDrones { cluster } => command::list::drones(&nats, cluster.as_ref(), output).await,
        Command::ListBackends { cluster, all } => command::list::backends(&nats, cluster.as_ref(), all, output).await,
        Command::Logs { backend, follow } => command::logs::run(&nats, &backend, follow, output).await,
        Command::Terminate { cluster, backend } => command::terminate::run(&nats, cluster, backend, output).await,
        Command::Drain { cluster, drones, cancel, wait } => {
            command::drain::run(&nats, &cluster, drones, command::drain::Wish { drain: !cancel, wait }, output).await
        }
        Command::MarkBackendLost { backend } => command::lost::run(&nats, backend, output).await,
        Command::DumpState => command::state::dump(&nats).await,
        Command::StreamState { snapshot } => command::state::stream(&nats, snapshot, output).await,
        Command::Cleanup { older_than } => command::cleanup::run(&nats, older_than, output).await,
    }
}

async fn connect(url: &str) -> Result<Nats, Failure> {
    let hosts = url.split(',').map(|host| host.trim().to_owned()).collect();
    let config = NatsConfig { hosts, ..NatsConfig::default() };
    let mut cause = format!("nothing was heard within {} s", CONNECT_LIMIT.as_secs());
    let connecting = Nats::connect_unless(&config, "plane", INBOX_PREFIX, |unreached| match unreached {
        Unreached::ForNow(now) => {
            cause = now;
            Ok(())
        }
        Unreached::Refused(cause) => Err(Failure::NotLetIn { url: without_secret(url), cause }),
        Unreached::BadAddress(cause) => Err(Failure::BadAddress(cause)),
    });
    let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
    connected.unwrap_or_else(|_| Err(Failure::Unreachable { url: without_secret(url), cause }))
}

/// A URL without the user and password that it may hold.
fn without_secret(url: &str) -> String {
    let hosts = url.split(',').map(|host| match (host.split_once("://"), host.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, address))) => format!("{scheme}://{address}"),
        (None, Some((_, address))) => address.to_owned(),
        (_, None) => host.to_owned(),
    });
    hosts.collect::<Vec<_>>().join(",")
}
