//! Making the connection: hosts, authentication, TLS, and reconnecting for ever.

use super::{Nats, NatsError, jetstream::JetStream, transport::Connection};
use crate::config::{NatsAuth, NatsConfig};
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions, Event};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What the log says while NATS cannot be reached.
pub const LOST_CONNECTION_HINT: &str = "waiting for NATS";

/// The longest pause between two tries to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that left two of these unanswered counts as gone: a lease has to be renewed elsewhere in time.
const PING_EVERY: Duration = Duration::from_secs(4);
/// Messages that a subscription holds before it drops more.
const SUBSCRIPTION_CAPACITY: usize = 65_536;
/// Each message that is dropped is an event; the log tells of them so often at most.
const TELL_DROPPED_EVERY: Duration = Duration::from_secs(5);

/// What one try to connect failed with, in words that hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// The next try may fare better.
    #[error("{0}")]
    ForNow(String),
    /// NATS does not let this client in.
    #[error("{0}")]
    Refused(String),
    /// The addresses are none.
    #[error("{0}")]
    BadAddress(String),
}

impl From<&ConnectError> for Unreached {
    fn from(error: &ConnectError) -> Self {
        let cause = error.to_string();
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => Self::Refused(cause),
            ConnectErrorKind::ServerParse => Self::BadAddress(cause),
            _ => Self::ForNow(cause),
        }
    }
}

impl Nats {
    /// Connects, waiting for as long as it takes; the log says that it waits. `name` is shown by the server's monitoring.
    ///
    /// # Errors
    /// Only for what waiting cannot mend: an unreadable credentials file, key or certificate.
    pub async fn connect(config: &NatsConfig, name: &str, inbox_prefix: &str) -> Result<Self, NatsError> {
        Self::connect_unless(config, name, inbox_prefix, |_| Ok(())).await
    }

    /// Connects like [`Self::connect`], for as long as `go_on` has nothing against what each try failed with.
    ///
    /// # Errors
    /// As [`Self::connect`], and those of `go_on`.
    pub async fn connect_unless<E: From<NatsError>>(
        config: &NatsConfig,
        name: &str,
        inbox_prefix: &str,
        mut go_on: impl FnMut(Unreached) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut pause = Duration::from_millis(100);
        loop {
            let (connection, seen) = watch::channel(Connection::default());
            let options = options(config, name, inbox_prefix, connection).await?;
            match options.connect(config.hosts.as_slice()).await {
                Ok(client) => {
                    if !client.is_server_compatible(2, 10, 0) {
                        let version = client.server_info().version;
                        tracing::warn!(
                            version,
                            "this nats-server is older than 2.10; it works, but misses security fixes"
                        );
                    }
                    let mut context = async_nats::jetstream::new(client.clone());
                    context.set_timeout(CONNECT_TIMEOUT);
                    return Ok(Self::over(Arc::new(JetStream::new(client, context, seen))));
                }
                Err(error) => {
                    tracing::warn!(hosts = ?hosts_for_log(config), %error, "{LOST_CONNECTION_HINT}");
                    go_on(Unreached::from(&error))?;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

fn hosts_for_log(config: &NatsConfig) -> Vec<String> {
    let without_secret = |host: &String| host.rsplit_once('@').map_or(host.clone(), |(_, address)| address.to_owned());
    config.hosts.iter().map(without_secret).collect()
}

async fn options(
    config: &NatsConfig,
    name: &str,
    inbox_prefix: &str,
    connection: watch::Sender<Connection>,
) -> Result<ConnectOptions, NatsError> {
    let dropped = Mutex::new(Dropped::default());
    let mut options = ConnectOptions::new()
        .name(name)
        .custom_inbox_prefix(inbox_prefix)
        .connection_timeout(CONNECT_TIMEOUT)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .ping_interval(PING_EVERY)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| Duration::from_millis(50 * (1_u64 << attempts.min(6))).min(LONGEST_PAUSE))
        .event_callback(move |event| {
            match event {
                Event::Disconnected => {
                    connection.send_modify(|connection| connection.up = false);
                    tracing::warn!("connection to NATS lost; {LOST_CONNECTION_HINT}");
                }
                Event::Connected => {
                    connection.send_modify(|connection| {
                        *connection = Connection { up: true, generation: connection.generation + 1 };
                    });
                    tracing::info!("connected to NATS");
                }
                // Among them what a client may not do there.
                Event::ServerError(error) => tracing::warn!(%error, "NATS refused something"),
                Event::SlowConsumer(subscription) => {
                    let mut dropped = dropped.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(messages) = dropped.count(Instant::now()) {
                        tracing::warn!(
                            messages,
                            subscription,
                            "messages were dropped: they come faster than this process takes them"
                        );
                    }
                }
                other => tracing::debug!(event = %other, "NATS"),
            }
            std::future::ready(())
        });
    match &config.auth {
        Some(NatsAuth::Token { token }) => options = options.token(token.expose().to_owned()),
        Some(NatsAuth::UserPassword { username, password }) => {
            options = options.user_and_password(username.clone(), password.expose().to_owned());
        }
        None => options = with_secret_of_url(options, &config.hosts),
    }
    if let Some(path) = &config.creds_path {
        let what = || format!("nats.creds_path {}", path.display());
        options = options.credentials_file(path).await.map_err(|e| NatsError::other(what(), e))?;
    }
    if let Some(path) = &config.nkey_seed_path {
        let what = || format!("nats.nkey_seed_path {}", path.display());
        let seed = tokio::fs::read_to_string(path).await.map_err(|e| NatsError::other(what(), e))?;
        options = options.nkey(seed.trim().to_owned());
    }
    if let Some(tls) = &config.tls {
        options = options.require_tls(true);
        if let Some(path) = &tls.ca_path {
            options = options.add_root_certificates(path.clone());
        }
        if let (Some(cert), Some(key)) = (&tls.cert_path, &tls.key_path) {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
    }
    Ok(options)
}

/// The messages that were dropped and not told of.
#[derive(Default)]
struct Dropped {
    messages: u64,
    told: Option<Instant>,
}

impl Dropped {
    /// Counts one more, and gives how many are to be told of now.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.messages += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_DROPPED_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.messages))
    }
}

/// The user and password, or the token, that stand in front of a host, as other NATS clients understand them.
fn with_secret_of_url(options: ConnectOptions, hosts: &[String]) -> ConnectOptions {
    let addresses = hosts.iter().filter_map(|host| host.parse::<async_nats::ServerAddr>().ok());
    let found = addresses.filter_map(|address| {
        let user = decoded(address.username()?);
        Some((user, address.password().map(decoded)))
    });
    match found.into_iter().next() {
        Some((user, Some(password))) => options.user_and_password(user, password),
        Some((token, None)) => options.token(token),
        None => options,
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Makes aws-lc-rs the one TLS provider of this process. To be called first thing in `main`; calling it again does nothing.
pub fn install_crypto_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_messages_are_told_of_at_once_and_then_now_and_then_with_their_number() {
        let (mut dropped, began) = (Dropped::default(), Instant::now());
        assert_eq!(dropped.count(began), Some(1));
        for millis in 1..=1000 {
            assert_eq!(dropped.count(began + Duration::from_millis(millis)), None);
        }
        assert_eq!(dropped.count(began + TELL_DROPPED_EVERY), Some(1001));
        assert_eq!(dropped.count(began + TELL_DROPPED_EVERY), None);
    }
}
