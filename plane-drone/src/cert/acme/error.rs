//! What went wrong with an order, at which stage, and what an operator may do about it.

use super::super::web::with_causes;
use instant_acme::Error;
use std::{fmt, time::Duration};

/// How much of an authority's words is told, in bytes.
const MOST_CAUSE_BYTES: usize = 1024;

/// How far an order came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Finding the authority.
    Reach,
    /// Asking when to renew.
    Window,
    /// The account.
    Account,
    /// The order itself.
    Order,
    /// Having the controllers serve the values.
    Challenge,
    /// The authority's look at them.
    Validation,
    /// The certificate.
    Issue,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reach => "the CA cannot be used",
            Self::Window => "the CA does not say when to renew",
            Self::Account => "there is no account with the CA",
            Self::Order => "the CA does not take the order",
            Self::Challenge => "no controller serves the challenge",
            Self::Validation => "the CA does not see the challenge in the DNS",
            Self::Issue => "the CA does not issue the certificate",
        })
    }
}

/// What kind of failure it is, for what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The authority did not take our nonces; asking again at once is right (RFC 8555, section 6.5).
    BadNonce,
    /// It was asked too often.
    RateLimited,
    /// It does not know the account.
    UnknownAccount,
    /// It wants an external account (RFC 8555, section 7.3.4).
    ExternalAccount,
    /// It does not issue for these names.
    NameRefused,
    /// It is not among those that the DNS allows.
    Caa,
    /// It does not let the account do this, or does not take the proof of a name.
    Unauthorized,
    /// It issued something that will not do.
    Unusable,
    /// Anything else.
    Other,
}

impl Kind {
    /// What failed. An authority may see the challenge, and refuse nevertheless.
    fn said_at(self, stage: Stage) -> String {
        match (self, stage) {
            (Self::RateLimited | Self::NameRefused | Self::Caa, Stage::Validation) => "the CA refuses".to_owned(),
            (_, stage) => stage.to_string(),
        }
    }

    fn hint(self, stage: Stage) -> &'static str {
        match (self, stage) {
            (Self::BadNonce, _) => "it is tried again",
            (Self::RateLimited, _) => {
                "wait; for trials give the CA's staging server as acme.server, and let drones share with cert.shared_key"
            }
            (Self::ExternalAccount, _) => "give acme.eab with the key_id and key that the CA hands out",
            (Self::NameRefused, _) => "check cluster_domain; the CA gives no certificates for it",
            (Self::Caa, _) => "allow this CA in the controllers' dns.caa, or give another one as acme.server",
            (Self::Unauthorized, Stage::Account | Stage::Order) => {
                "where the account was closed, move the file at cert.account_key_path away, and a new one is made"
            }
            (Self::Unusable, _) => "it counts as issued, so the next order waits for days; ask who runs the CA",
            (_, Stage::Reach | Stage::Window) => {
                "check acme.server and acme.ca_path, and that this machine may connect to it"
            }
            (_, Stage::Account) => "check acme.server, acme.admin_email and acme.eab",
            (_, Stage::Order) => "look at what the CA says",
            (_, Stage::Challenge) => "start a controller with [dns], and check that it is connected to the same NATS",
            (_, Stage::Validation) => {
                "check that the cluster's domain is delegated to the controllers' name servers and that their port 53 is \
                 reached over UDP and TCP: dig TXT _acme-challenge.CLUSTER"
            }
            (_, Stage::Issue) => "look at what the CA says; another cert.key_type may help",
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {cause}; {}", kind.said_at(*stage), kind.hint(*stage))]
pub(crate) struct AcmeError {
    /// How far it came.
    pub(crate) stage: Stage,
    /// What kind it is.
    pub(crate) kind: Kind,
    cause: String,
}

impl AcmeError {
    fn new(stage: Stage, kind: Kind, cause: &str) -> Self {
        Self { stage, kind, cause: one_line(cause) }
    }

    pub(super) fn late(limit: Duration) -> Self {
        let cause = format!("the order was not done within {} s", limit.as_secs());
        Self::new(Stage::Issue, Kind::Other, &cause)
    }
}

/// A text of others as a part of a line of the log.
fn one_line(text: &str) -> String {
    let end = text.floor_char_boundary(MOST_CAUSE_BYTES);
    let line = text[..end].replace(char::is_control, " ");
    if end < text.len() { format!("{line}…") } else { line }
}

impl AcmeError {
    /// What was issued will not do.
    pub(super) fn unusable(cause: String) -> Self {
        Self::new(Stage::Issue, Kind::Unusable, &format!("what it issued cannot be served: {cause}"))
    }
}

/// The kind of a client's error.
pub(super) fn kind_of(error: &Error) -> Kind {
    let Error::Api(problem) = error else { return Kind::Other };
    let types = [problem.r#type.as_deref()].into_iter();
    let mut types = types.chain(problem.subproblems.iter().map(|sub| sub.r#type.as_deref())).flatten();
    types
        .find_map(|name| match name.strip_prefix("urn:ietf:params:acme:error:")? {
            "badNonce" => Some(Kind::BadNonce),
            "rateLimited" => Some(Kind::RateLimited),
            "accountDoesNotExist" => Some(Kind::UnknownAccount),
            "externalAccountRequired" => Some(Kind::ExternalAccount),
            "rejectedIdentifier" => Some(Kind::NameRefused),
            "caa" => Some(Kind::Caa),
            "unauthorized" => Some(Kind::Unauthorized),
            _ => None,
        })
        .unwrap_or(Kind::Other)
}

/// Says at which stage something failed.
pub(super) trait At<T> {
    fn at(self, stage: Stage) -> Result<T, AcmeError>;
}

impl<T> At<T> for Result<T, Error> {
    fn at(self, stage: Stage) -> Result<T, AcmeError> {
        self.map_err(|error| {
            // Where the call itself failed, the stage says nothing.
            let stage = if matches!(error, Error::Api(_) | Error::Timeout(_)) { stage } else { stage.or_reach(&error) };
            AcmeError::new(stage, kind_of(&error), &with_causes(&error))
        })
    }
}

impl Stage {
    fn or_reach(self, error: &Error) -> Self {
        if matches!(error, Error::Other(_) | Error::Json(_) | Error::Http(_)) { Self::Reach } else { self }
    }
}

impl<T> At<T> for Result<T, String> {
    fn at(self, stage: Stage) -> Result<T, AcmeError> {
        self.map_err(|cause| AcmeError::new(stage, Kind::Other, &cause))
    }
}

impl<T> At<T> for Result<T, &'static str> {
    fn at(self, stage: Stage) -> Result<T, AcmeError> {
        self.map_err(str::to_owned).at(stage)
    }
}

impl<T> At<T> for Result<T, super::super::account::AccountError> {
    fn at(self, stage: Stage) -> Result<T, AcmeError> {
        self.map_err(|error| error.to_string()).at(stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use instant_acme::Problem;

    fn refused(kind: &str, detail: &str, stage: Stage) -> AcmeError {
        let r#type = Some(format!("urn:ietf:params:acme:error:{kind}"));
        let problem = Problem { r#type, detail: Some(detail.to_owned()), status: Some(403), subproblems: Vec::new() };
        Err::<(), _>(Error::Api(problem)).at(stage).unwrap_err()
    }

    #[test]
    fn what_the_ca_finds_while_it_looks_at_the_challenge_keeps_its_kind() {
        let caa = refused("caa", "CAA record forbids", Stage::Validation);
        assert_eq!((caa.stage, caa.kind), (Stage::Validation, Kind::Caa));
        let said = caa.to_string();
        assert!(said.contains("dns.caa") && said.contains("CAA record forbids"), "{said}");
        assert!(!said.contains("does not see") && !said.contains("dig"), "{said}");
        let limited = refused("rateLimited", "too many failed authorizations", Stage::Validation);
        assert_eq!(limited.kind, Kind::RateLimited);
        assert!(!limited.to_string().contains("does not see"), "{limited}");
        let unseen = refused("unauthorized", "no TXT record", Stage::Validation).to_string();
        assert!(unseen.contains("does not see the challenge") && unseen.contains("dig TXT"), "{unseen}");
    }

    #[test]
    fn for_a_closed_account_it_says_how_to_get_another() {
        for stage in [Stage::Account, Stage::Order] {
            let said = refused("unauthorized", "account is deactivated", stage).to_string();
            assert!(said.contains("move the file at cert.account_key_path away"), "{said}");
        }
    }

    #[test]
    fn what_a_ca_says_stays_one_line_of_bounded_length() {
        let said = refused("serverInternal", &"a\u{1b}\nä".repeat(100_000), Stage::Order).to_string();
        assert!(said.len() < MOST_CAUSE_BYTES + 200, "{}", said.len());
        assert!(said.contains('…') && !said.contains(char::is_control), "{said}");
    }
}
