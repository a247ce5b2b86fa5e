//! Orders a certificate (RFC 8555): a wildcard with the apex, proved over DNS (DNS-01), whose values the controllers
//! serve. Nothing is kept between orders but the account's key.

mod error;

use super::{
    Pair,
    account::{AccountError, AccountFile},
    seal::lenient_base64,
    timing::Window,
    web::Web,
};
use crate::config::acme::{AcmeConfig, KeyType};
pub(super) use error::{AcmeError, Kind, Stage};
use error::{At, kind_of};
use instant_acme::{
    Account, AccountBuilder, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, ExternalAccountKey,
    Identifier, Key, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use jiff::Timestamp;
use plane_core::{id::ClusterName, message::drone::SetAcmeRecord, nats::Nats};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
    RsaKeySize,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::{path::PathBuf, time::Duration};
use zeroize::Zeroizing;

/// How long one order may take in all.
const ORDER_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the authority may take to look at the challenges, and as long again to issue.
const WORK_TIMEOUT: Duration = Duration::from_secs(120);
/// The first pause between two questions whether it is done; each is half as long again as the one before.
const POLL_EVERY: Duration = Duration::from_millis(250);
const POLL_FACTOR: f32 = 1.5;
/// How long a controller may take to serve a value.
const CONTROLLER_TIMEOUT: Duration = Duration::from_secs(10);
/// After one controller's answer the others serve a value within this time.
const OTHER_CONTROLLERS: Duration = Duration::from_secs(1);
/// Orders that are begun again at once where the authority takes none of our nonces: the client gives up after three.
const NONCE_TRIES: usize = 4;

/// A certificate authority and the account with it.
#[derive(Debug)]
pub(super) struct Authority {
    config: AcmeConfig,
    account: AccountFile,
    key_type: KeyType,
}

impl Authority {
    pub(super) fn new(config: AcmeConfig, account_key_path: PathBuf, key_type: KeyType) -> Self {
        Self { config, account: AccountFile::new(account_key_path), key_type }
    }

    /// Orders a certificate for a cluster. `replaced` is the one that it takes the place of, where the authority has
    /// said when to renew that.
    pub(super) async fn order(
        &self,
        cluster: &ClusterName,
        replaced: Option<&Pair>,
        nats: &Nats,
    ) -> Result<Pair, AcmeError> {
        let ordering = async {
            let mut left = NONCE_TRIES;
            loop {
                left -= 1;
                match self.attempt(cluster, replaced, nats).await {
                    Err(error) if error.kind == Kind::BadNonce && left > 0 => {
                        tracing::debug!(%error, "the order is begun again");
                    }
                    outcome => return outcome,
                }
            }
        };
        let late = || AcmeError::late(ORDER_TIMEOUT);
        tokio::time::timeout(ORDER_TIMEOUT, ordering).await.unwrap_or_else(|_| Err(late()))
    }

    /// When the authority would like a certificate to be renewed, and when to ask again; `None` where it does not say
    /// such things (RFC 9773). It needs no account.
    pub(super) async fn window(&self, pair: &Pair) -> Result<Option<(Window, Duration)>, AcmeError> {
        let certificate = CertificateDer::from(pair.leaf_der());
        // A certificate without the fields that name it there.
        let Ok(identifier) = CertificateIdentifier::try_from(&certificate) else { return Ok(None) };
        let (_, unused) = Key::generate_pkcs8().at(Stage::Reach)?;
        let account = self.builder().await?.from_parts(String::new(), unused, self.config.server.clone()).await;
        let (info, again) = match account.at(Stage::Reach)?.renewal_info(&identifier).await {
            Ok(told) => told,
            Err(Error::Unsupported(_)) => return Ok(None),
            Err(error) => return Err(error).at(Stage::Window),
        };
        let time = |time: i64| Timestamp::from_second(time).unwrap_or(Timestamp::UNIX_EPOCH);
        let window = info.suggested_window;
        let window = Window { start: time(window.start.unix_timestamp()), end: time(window.end.unix_timestamp()) };
        Ok(Some((window, again)))
    }

    async fn builder(&self) -> Result<AccountBuilder, AcmeError> {
        let path = self.config.ca_path.clone();
        let made = tokio::task::spawn_blocking(move || Web::new(path.as_deref())).await;
        let web = made.map_err(|error| error.to_string()).and_then(|made| made).at(Stage::Reach)?;
        Ok(Account::builder_with_http(Box::new(web)))
    }

    async fn account_file<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AccountFile) -> Result<T, AccountError> + Send + 'static,
    ) -> Result<T, AcmeError> {
        let file = self.account.clone();
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        done.map_err(|error| error.to_string()).at(Stage::Account)?.at(Stage::Account)
    }

    /// The account of the kept key, which is made where there is none.
    async fn account(&self) -> Result<Account, AcmeError> {
        let server = || self.config.server.clone();
        let contact = format!("mailto:{}", self.config.admin_email);
        let wanted = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
        let kept = self.account_file(AccountFile::load).await?;
        if let Some(kept) = &kept {
            let key =
                (Key::from_pkcs8_der(kept.clone_key()).at(Stage::Account)?, PrivateKeyDer::Pkcs8(kept.clone_key()));
            match self.builder().await?.from_key(key, server()).await {
                Ok((account, _)) => return Ok(account),
                Err(error) if kind_of(&error) == Kind::UnknownAccount => {}
                Err(error) => return Err(error).at(Stage::Account),
            }
        }
        if let Some(external) = &self.config.eab {
            // The client binds only keys that it makes itself, and an external account may be bound only once.
            self.account_file(AccountFile::probe).await?;
            let secret = Zeroizing::new(lenient_base64(external.key.expose()).unwrap_or_default());
            let bound = ExternalAccountKey::new(external.key_id.clone(), &secret);
            let made = self.builder().await?.create(&wanted, server(), Some(&bound)).await;
            let (account, credentials) = made.at(Stage::Account)?;
            let key = credentials.private_key().clone_key();
            if let Some(kept) = self.account_file(|file| file.keep(key)).await? {
                tracing::warn!(kept = %kept.display(), "the CA does not know the account key; it is kept, and a new account was made");
            }
            tracing::info!(account = account.id(), "made an account with the CA");
            return Ok(account);
        }
        let key = match kept {
            Some(key) => key,
            None => self.account_file(AccountFile::make).await?,
        };
        let key = (Key::from_pkcs8_der(key.clone_key()).at(Stage::Account)?, PrivateKeyDer::Pkcs8(key));
        let (account, _) = self.builder().await?.create_from_key(key, server()).await.at(Stage::Account)?;
        tracing::info!(account = account.id(), "made an account with the CA");
        if let Err(error) = account.update_contacts(wanted.contact).await {
            tracing::warn!(%error, "the CA does not take acme.admin_email");
        }
        Ok(account)
    }

    async fn attempt(&self, cluster: &ClusterName, replaced: Option<&Pair>, nats: &Nats) -> Result<Pair, AcmeError> {
        let account = self.account().await?;
        let names = [format!("*.{cluster}"), cluster.to_string()];
        let identifiers = names.clone().map(Identifier::Dns);
        let plain = || NewOrder::new(&identifiers);
        let leaf = replaced.map(|pair| CertificateDer::from(pair.leaf_der()));
        let identifier = leaf.as_ref().and_then(|leaf| CertificateIdentifier::try_from(leaf).ok());
        let mut order = match identifier {
            None => account.new_order(&plain()).await.at(Stage::Order)?,
            // A courtesy, which authorities refuse for certificates of another account.
            Some(identifier) => match account.new_order(&plain().replaces(identifier)).await {
                Ok(order) => order,
                Err(error) => {
                    tracing::debug!(%error, "the order does not say what it replaces");
                    account.new_order(&plain()).await.at(Stage::Order)?
                }
            },
        };
        tracing::info!(%cluster, order = order.url(), "ordered a certificate");
        prove(&mut order, cluster, nats).await?;
        let key_type = self.key_type;
        let made = tokio::task::spawn_blocking(move || csr(key_type, names)).await;
        let (key_pem, csr) = made.map_err(|e| e.to_string()).and_then(|made| made).at(Stage::Issue)?;
        order.finalize_csr(&csr).await.at(Stage::Issue)?;
        let chain_pem = order.poll_certificate(&polling()).await.at(Stage::Issue)?;
        let pair = Pair::parse(&key_pem, &chain_pem).map_err(|error| error.to_string()).at(Stage::Issue)?;
        if pair.covers(cluster) {
            return Ok(pair);
        }
        Err(format!("it issued a certificate for {:?}", pair.names())).at(Stage::Issue)
    }
}

/// Proves to the authority that the names are ours.
async fn prove(order: &mut Order, cluster: &ClusterName, nats: &Nats) -> Result<(), AcmeError> {
    match order.state().status {
        // Earlier proofs still count.
        OrderStatus::Ready => return Ok(()),
        // To poll would be to wait in vain.
        status @ (OrderStatus::Valid | OrderStatus::Invalid) => {
            return Err(format!("the order is {status:?} before it was proved")).at(Stage::Order);
        }
        OrderStatus::Pending | OrderStatus::Processing => {}
    }
    let mut values = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.at(Stage::Order)?;
        // An earlier proof may still count.
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let challenge = authorization.challenge(ChallengeType::Dns01);
        let challenge = challenge.ok_or("it offers no challenge over DNS (dns-01), which wildcards need");
        values.push(challenge.at(Stage::Order)?.key_authorization().dns_value());
    }
    for value in &values {
        let request = SetAcmeRecord { cluster: cluster.clone(), value: value.clone() };
        let served = nats.request(&request, CONTROLLER_TIMEOUT).await.map_err(|error| error.to_string());
        if !served.at(Stage::Challenge)? {
            return Err("a controller refused").at(Stage::Challenge);
        }
    }
    if !values.is_empty() {
        tokio::time::sleep(OTHER_CONTROLLERS).await;
    }
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.at(Stage::Validation)?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        if let Some(mut challenge) = authorization.challenge(ChallengeType::Dns01) {
            challenge.set_ready().await.at(Stage::Validation)?;
        }
    }
    match order.poll_ready(&polling()).await {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(status) => match refusal(order).await {
            Some(problem) => Err(Error::Api(problem)).at(Stage::Validation),
            None => Err(format!("the order is {status:?}")).at(Stage::Validation),
        },
        Err(error) if matches!(kind_of(&error), Kind::BadNonce | Kind::RateLimited) => Err(error).at(Stage::Validation),
        Err(error) => Err(refusal(order).await.map_or(error, Error::Api)).at(Stage::Validation),
    }
}

/// Why the authority did not take the proof, in its own words.
async fn refusal(order: &mut Order) -> Option<Problem> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = authorization.refresh().await.ok()?;
        let found = state.challenges.iter().find_map(|challenge| challenge.error.clone());
        if found.is_some() {
            return found;
        }
    }
    None
}

fn polling() -> RetryPolicy {
    RetryPolicy::new().initial_delay(POLL_EVERY).backoff(POLL_FACTOR).timeout(WORK_TIMEOUT)
}

/// A new key as PEM, and a request for a certificate for it, as DER.
fn csr(key_type: KeyType, names: [String; 2]) -> Result<(Zeroizing<String>, Vec<u8>), String> {
    let key = match key_type {
        KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyType::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        KeyType::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
    };
    let key = key.map_err(|error| error.to_string())?;
    let mut params = CertificateParams::new(names).map_err(|error| error.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|error| error.to_string())?;
    Ok((Zeroizing::new(key.serialize_pem()), request.der().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

    #[test]
    fn a_key_of_each_kind_asks_for_both_names() {
        for (key_type, algorithm) in [
            (KeyType::EcdsaP256, "1.2.840.10045.2.1"),
            (KeyType::EcdsaP384, "1.2.840.10045.2.1"),
            (KeyType::Rsa2048, "1.2.840.113549.1.1.1"),
        ] {
            let (key, request) = csr(key_type, ["*.plane.test".into(), "plane.test".into()]).unwrap();
            assert!(key.contains("PRIVATE KEY"));
            let (_, request) = X509CertificationRequest::from_der(&request).unwrap();
            let info = &request.certification_request_info;
            assert_eq!(info.subject_pki.algorithm.algorithm.to_id_string(), algorithm);
            assert_eq!(info.subject.iter().count(), 0);
            let asked = format!("{:?}", request.requested_extensions().unwrap().collect::<Vec<_>>());
            assert!(asked.contains("\"*.plane.test\"") && asked.contains("\"plane.test\""), "{asked}");
        }
    }
}
