//! How Plane proves to NATS who it is, with each way that a configuration knows, against a real server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use plane_core::{
    config::{NatsConfig, NatsTls},
    nats::{Nats, install_crypto_provider},
};
use plane_dev::harness::{NatsServer, PATIENCE};
use serde_json::{Value, json};
use std::{path::PathBuf, process::Command, time::Duration};

/// How long a connection that must not come about is watched.
const REFUSED_FOR: Duration = Duration::from_secs(1);

fn auth(value: Value) -> Option<plane_core::config::NatsAuth> {
    Some(serde_json::from_value(value).unwrap())
}

async fn lets_in(config: &NatsConfig) {
    let nats = tokio::time::timeout(PATIENCE, Nats::connect(config, "test", "cli.inbox")).await.unwrap().unwrap();
    nats.flush().await.unwrap();
    assert!(nats.is_connected());
}

/// It goes on waiting: what is wrong may be mended at the server.
async fn keeps_out(config: &NatsConfig) {
    let outcome = tokio::time::timeout(REFUSED_FOR, Nats::connect(config, "test", "cli.inbox")).await;
    assert!(outcome.is_err(), "{outcome:?}");
}

#[tokio::test]
async fn by_token_and_by_password() {
    let server = NatsServer::start_configured("authorization { token: \"t0ken\" }").await.unwrap();
    lets_in(&NatsConfig { auth: auth(json!({"token": "t0ken"})), ..server.config() }).await;
    keeps_out(&NatsConfig { auth: auth(json!({"token": "other"})), ..server.config() }).await;
    keeps_out(&server.config()).await;
    let server = NatsServer::start_configured("authorization { user: u, password: \"pass\" }").await.unwrap();
    lets_in(&NatsConfig { auth: auth(json!({"username": "u", "password": "pass"})), ..server.config() }).await;
    keeps_out(&NatsConfig { auth: auth(json!({"username": "u", "password": "word"})), ..server.config() }).await;
    let in_url = server.url().replace("://", "://u:pass@");
    lets_in(&NatsConfig { hosts: vec![in_url], ..server.config() }).await;
    let wrong = server.url().replace("://", "://u:word@");
    keeps_out(&NatsConfig { hosts: vec![wrong], ..server.config() }).await;
}

#[tokio::test]
async fn by_nkey() {
    let folder = tempfile::tempdir().unwrap();
    let (pair, seed) = (KeyPair::new_user(), folder.path().join("seed"));
    std::fs::write(&seed, format!("{}\n", pair.seed().unwrap())).unwrap();
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", pair.public_key());
    let server = NatsServer::start_configured(&users).await.unwrap();
    lets_in(&NatsConfig { nkey_seed_path: Some(seed), ..server.config() }).await;
    let missing = NatsConfig { nkey_seed_path: Some(folder.path().join("none")), ..server.config() };
    let error = Nats::connect(&missing, "test", "cli.inbox").await.unwrap_err().to_string();
    assert!(error.contains("nats.nkey_seed_path"), "{error}");
}

/// A claim signed by `issuer`, as NATS's JWTs are.
fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = json!({"jti": "made-for-a-test", "iat": 1_700_000_000, "iss": issuer.public_key(),
        "sub": subject.public_key(), "name": "test", "nats": claims});
    let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&body));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn by_credentials_file() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
    let operator_jwt = jwt(&operator, &operator, &json!({"type": "operator", "version": 2}));
    let account_jwt = jwt(&operator, &account, &json!({"type": "account", "version": 2, "limits": unlimited}));
    let user_jwt = jwt(&account, &user, &json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}));
    let key = account.public_key();
    let config = format!("operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {key}: {account_jwt} }}\n");
    // Where there are accounts, the one for the server's own affairs has to be named, or JetStream does not start.
    let config = format!("{config}system_account: {key}\n");
    let server = NatsServer::start_configured(&config).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let creds = folder.path().join("user.creds");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(&creds, text).unwrap();
    lets_in(&NatsConfig { creds_path: Some(creds), ..server.config() }).await;
}

/// A certificate authority of its own, and certificates by it.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        authority.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca");
        std::fs::write(authority.path("san"), "subjectAltName=IP:127.0.0.1,DNS:localhost").unwrap();
        for name in ["server", "client"] {
            authority.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"));
            authority.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile san"
            ));
        }
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn server(&self, rest: &str) -> String {
        let path = |name| self.path(name).display().to_string();
        let (cert, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{ca}\"{rest} }}")
    }
}

#[tokio::test]
async fn over_tls_with_a_private_authority_and_a_certificate_of_its_own() {
    install_crypto_provider();
    let authority = Authority::new();
    let trusting = NatsTls { ca_path: Some(authority.path("ca.pem")), ..NatsTls::default() };
    let own = NatsTls {
        cert_path: Some(authority.path("client.pem")),
        key_path: Some(authority.path("client.key")),
        ..trusting.clone()
    };
    let server = NatsServer::start_configured(&authority.server("")).await.unwrap();
    lets_in(&NatsConfig { tls: Some(trusting.clone()), ..server.config() }).await;
    keeps_out(&server.config()).await;
    let server = NatsServer::start_configured(&authority.server(", verify: true")).await.unwrap();
    lets_in(&NatsConfig { tls: Some(own), ..server.config() }).await;
    keeps_out(&NatsConfig { tls: Some(trusting), ..server.config() }).await;
}

#[tokio::test]
async fn at_whichever_host_is_there() {
    let server = NatsServer::start().await.unwrap();
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("nats://{}", listener.local_addr().unwrap())
    };
    for hosts in [vec![dead.clone(), server.url()], vec![server.url(), dead]] {
        lets_in(&NatsConfig { hosts, ..server.config() }).await;
    }
}
