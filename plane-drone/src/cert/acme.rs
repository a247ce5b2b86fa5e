//! Orders a certificate (RFC 8555): a wildcard with the apex, proved over DNS (DNS-01), whose values the controllers
//! serve. Nothing is kept between orders but the account's key. An order that the authority is fulfilling is kept until
//! its certificate was fetched: whatever fails then is gone on with, since authorities count what they issue.

mod error;
mod proof;

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
    Account, AccountBuilder, CertificateIdentifier, Error, ExternalAccountKey, Identifier, Key, NewAccount, NewOrder,
    Order, OrderStatus, Problem, RetryPolicy,
};
use jiff::Timestamp;
use plane_core::{id::ClusterName, nats::Nats};
use proof::prove;
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
    RsaKeySize,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use zeroize::Zeroizing;

/// How long one order may take in all.
const ORDER_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the authority may take to look at the challenges, and as long again to issue.
const WORK_TIMEOUT: Duration = Duration::from_secs(120);
/// The first pause between two questions whether it is done; each is half as long again as the one before.
const POLL_EVERY: Duration = Duration::from_millis(250);
const POLL_FACTOR: f32 = 1.5;
/// Attempts that follow each other at once where the authority takes none of our nonces: the client gives up after three.
const NONCE_TRIES: usize = 4;
/// How often one order that is being fulfilled is gone on with: for about a day, by the pauses between attempts.
const MOST_RESUMED: u32 = 24;

/// A certificate authority and the account with it.
#[derive(Debug)]
pub(super) struct Authority {
    config: AcmeConfig,
    account: AccountFile,
    key_type: KeyType,
    /// The order that is being fulfilled.
    pending: Mutex<Option<Arc<Pending>>>,
}

/// An order that the authority was asked to fulfil, or is about to be.
struct Pending {
    url: String,
    key_pem: Zeroizing<String>,
    /// The request for a certificate, as DER.
    csr: Vec<u8>,
    /// How often it was gone on with.
    resumed: u32,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Authority {
    pub(super) fn new(config: AcmeConfig, account_key_path: PathBuf, key_type: KeyType) -> Self {
        Self { config, account: AccountFile::new(account_key_path), key_type, pending: Mutex::default() }
    }

    /// Where the authority is found.
    pub(super) fn server(&self) -> &str {
        &self.config.server
    }

    /// Whether the authority may be issuing a certificate that was not fetched yet.
    pub(super) fn is_issuing(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Goes on with no earlier order: there is a certificate by other means.
    pub(super) fn forget(&self) {
        self.set_pending(None);
    }

    fn set_pending(&self, pending: Option<Arc<Pending>>) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = pending;
    }

    /// The order to go on with, which counts as one more time.
    fn resumed(&self) -> Option<Arc<Pending>> {
        let mut kept = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Pending { url, key_pem, csr, resumed } = kept.as_deref().filter(|p| p.resumed < MOST_RESUMED)?;
        let again = Pending { url: url.clone(), key_pem: key_pem.clone(), csr: csr.clone(), resumed: resumed + 1 };
        let again = Arc::new(again);
        *kept = Some(again.clone());
        Some(again)
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
                        tracing::debug!(%error, "the order is tried again");
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
        if let Some(pending) = self.resumed() {
            match account.order(pending.url.clone()).await {
                Ok(order) => {
                    tracing::info!(%cluster, order = pending.url, "goes on with an earlier order");
                    return self.fulfil(order, &pending, cluster).await;
                }
                Err(error) if is_final(&error) => {
                    tracing::warn!(%error, "the CA does not know an earlier order any more");
                }
                Err(error) => return Err(error).at(Stage::Issue),
            }
        }
        self.forget();
        let names = [format!("*.{cluster}"), cluster.to_string()];
        let mut order = new_order(&account, &names.clone().map(Identifier::Dns), replaced).await?;
        tracing::info!(%cluster, order = order.url(), "ordered a certificate");
        prove(&mut order, cluster, nats).await?;
        let key_type = self.key_type;
        let made = tokio::task::spawn_blocking(move || csr(key_type, names)).await;
        let (key_pem, csr) = made.map_err(|e| e.to_string()).and_then(|made| made).at(Stage::Issue)?;
        let pending = Arc::new(Pending { url: order.url().to_owned(), key_pem, csr, resumed: 0 });
        self.set_pending(Some(pending.clone()));
        self.fulfil(order, &pending, cluster).await
    }

    /// Has an order fulfilled whose names are proved, and fetches the certificate. Where this fails the order is kept,
    /// unless the authority will never fulfil it.
    async fn fulfil(&self, mut order: Order, pending: &Pending, cluster: &ClusterName) -> Result<Pair, AcmeError> {
        if order.state().status == OrderStatus::Ready
            && let Err(error) = order.finalize_csr(&pending.csr).await
        {
            if is_final(&error) {
                self.forget();
            }
            return Err(error).at(Stage::Issue);
        }
        let chain_pem = match order.poll_certificate(&polling()).await {
            Ok(chain_pem) => chain_pem,
            Err(error) => {
                if matches!(order.state().status, OrderStatus::Invalid | OrderStatus::Pending) {
                    self.forget();
                }
                return Err(error).at(Stage::Issue);
            }
        };
        // It was issued, and counts; to fetch it again would not make it better.
        self.forget();
        let pair = Pair::parse(&pending.key_pem, &chain_pem).map_err(|error| error.to_string());
        let pair = pair.map_err(AcmeError::unusable)?;
        if pair.covers(cluster) {
            return Ok(pair);
        }
        Err(AcmeError::unusable(format!("it is for {:?}", pair.names())))
    }
}

/// Orders a certificate; says which one it takes the place of, where the authority takes that.
async fn new_order(account: &Account, identifiers: &[Identifier], replaced: Option<&Pair>) -> Result<Order, AcmeError> {
    let plain = || NewOrder::new(identifiers);
    let leaf = replaced.map(|pair| CertificateDer::from(pair.leaf_der()));
    if let Some(identifier) = leaf.as_ref().and_then(|leaf| CertificateIdentifier::try_from(leaf).ok()) {
        match account.new_order(&plain().replaces(identifier)).await {
            // A courtesy, which authorities refuse for certificates of another account. Where one passes over it in
            // silence, the client gives up what has been ordered, with an error of no kind; nothing was issued for that.
            Err(error) if matches!(error, Error::Unsupported(_) | Error::Other(_)) || is_final(&error) => {
                tracing::debug!(%error, "the order does not say what it replaces");
            }
            ordered => return ordered.at(Stage::Order),
        }
    }
    account.new_order(&plain()).await.at(Stage::Order)
}

/// Whether asking for the same again is of no use: the authority refuses it, and for no passing reason.
fn is_final(error: &Error) -> bool {
    let Error::Api(Problem { status, .. }) = error else { return false };
    let passing = matches!(kind_of(error), Kind::BadNonce | Kind::RateLimited);
    !passing && status.is_none_or(|status| (400..500).contains(&status) && status != 429)
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
    fn only_what_the_authority_refuses_for_good_is_given_up() {
        let problem = |kind: &str, status| {
            let text = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","status":{status}}}"#);
            Error::Api(serde_json::from_str(&text).unwrap())
        };
        for error in [problem("malformed", 404), problem("badCSR", 400), problem("unauthorized", 403)] {
            assert!(is_final(&error), "{error:?}");
        }
        let passing = [problem("badNonce", 400), problem("rateLimited", 429), problem("serverInternal", 500)];
        for error in passing.into_iter().chain([Error::Timeout(None), Error::Str("no answer")]) {
            assert!(!is_final(&error), "{error:?}");
        }
    }

    #[test]
    fn an_order_that_is_being_fulfilled_is_gone_on_with_for_a_while() {
        let config = serde_json::from_str(r#"{"server":"https://ca.test/dir","admin_email":"a@b.test"}"#).unwrap();
        let authority = Authority::new(config, "/nowhere".into(), KeyType::EcdsaP256);
        assert!(authority.resumed().is_none() && !authority.is_issuing());
        let pending =
            Pending { url: "https://ca.test/1".into(), key_pem: Zeroizing::default(), csr: vec![1], resumed: 0 };
        authority.set_pending(Some(Arc::new(pending)));
        for _ in 0..MOST_RESUMED {
            assert!(authority.is_issuing());
            assert_eq!(authority.resumed().unwrap().url, "https://ca.test/1");
        }
        assert!(authority.resumed().is_none());
        authority.forget();
        assert!(!authority.is_issuing());
    }

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
