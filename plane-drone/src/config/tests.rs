use super::{
    proxy::{AccessLogTarget, Http1, LimitsConfig, SameSite},
    *,
};
use plane_core::config::{dump, load};

const GOOD: &str = r#"
drone_id = "d1"
cluster_domain = "plane.test"
[nats]
hosts = ["nats://127.0.0.1:4222"]
[agent]
ip = "10.0.0.1"
[agent.docker]
runtime = "runsc"
[agent.docker.connection]
http = "http://127.0.0.1:2375"
[proxy]
http_port = "0"
passthrough = "10.0.0.9:80"
"#;

fn read_with(text: &str, env: &[(&str, &str)]) -> Result<DroneConfig, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("drone.toml");
    std::fs::write(&file, text).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(&file), env).map_err(|faults| faults.to_string())
}

fn read(text: &str) -> Result<DroneConfig, String> {
    read_with(text, &[])
}

fn faults(text: &str) -> String {
    read(text).expect_err("it was accepted")
}

#[test]
fn a_good_file_is_read_and_its_dump_too() {
    let config = read(GOOD).unwrap();
    assert_eq!(config.drone_id.as_ref().unwrap().as_str(), "d1");
    let agent = config.agent.clone().unwrap();
    assert_eq!(agent.ip, AgentIp::Fixed("10.0.0.1".parse().unwrap()));
    assert_eq!(agent.docker.connection, DockerConnection::Http { http: "http://127.0.0.1:2375".to_owned() });
    let proxy = config.proxy.clone().unwrap();
    assert_eq!((proxy.http_port, proxy.passthrough), (0, Some("10.0.0.9:80".parse().unwrap())));
    assert_eq!(read(&dump(&config).unwrap()).unwrap(), config);
}

#[test]
fn variables_alone_are_enough_and_the_rest_has_its_defaults() {
    let env = [
        ("PLANE_CLUSTER_DOMAIN", "plane.test"),
        ("PLANE_NATS__HOSTS", "a,b"),
        ("PLANE_AGENT__IP__API", "http://ip.test"),
        ("PLANE_PROXY", "true"),
    ];
    let config: DroneConfig = load(None, env.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
    assert_eq!(config.drone_id, None);
    assert_eq!(config.db_path, PathBuf::from("drone.sqlite3"));
    let agent = config.agent.unwrap();
    assert_eq!(agent.ip, AgentIp::Api { api: "http://ip.test".to_owned() });
    assert_eq!((agent.ready_timeout(), agent.load_timeout()), (Duration::from_secs(30), Duration::from_secs(900)));
    assert_eq!(agent.docker, DockerConfig::default());
    assert_eq!(agent.docker.connection, DockerConnection::Socket { socket: "/var/run/docker.sock".into() });
    let proxy = config.proxy.unwrap();
    assert_eq!((proxy.bind_ip.to_string().as_str(), proxy.http_port, proxy.https_port), ("0.0.0.0", 80, None));
    assert!(!proxy.allow_path_routing && !agent.docker.insecure_gpu && !agent.docker.allow_volume_mounts);
}

#[test]
fn the_drone_id_may_stand_in_the_agent_section() {
    let inside = GOOD.replace("drone_id = \"d1\"\n", "").replace("[agent]", "[agent]\ndrone_id = \"d1\"");
    assert_eq!(read(&inside).unwrap(), read(GOOD).unwrap());
    let both = GOOD.replace("[agent]", "[agent]\ndrone_id = \"d1\"");
    assert_eq!(read(&both).unwrap(), read(GOOD).unwrap());
    let text = faults(&GOOD.replace("[agent]", "[agent]\ndrone_id = \"d2\""));
    assert!(text.contains("agent.drone_id: differs from drone_id"), "{text}");
    let text = read_with(GOOD, &[("PLANE_DRONE_ID", "a.b")]).unwrap_err();
    assert!(text.contains("PLANE_DRONE_ID: drone_id: expected a drone id"), "{text}");
}

#[test]
fn https_needs_a_certificate() {
    let text = faults(&GOOD.replace("[proxy]", "[proxy]\nhttps_port = 443"));
    assert!(text.contains("drone.toml: proxy.https_port: needs a section [cert]"), "{text}");
}

#[test]
fn a_certificate_brings_https() {
    let with = |proxy: &str, cert: &str| {
        let proxy = format!("[proxy]\n{proxy}");
        let good = GOOD.replace("[proxy]\nhttp_port = \"0\"\n", &proxy);
        format!("{good}[cert]\nkey_path = 'k'\ncert_path = 'c'\n{cert}")
    };
    let config = read(&with("", "account_key_path = 'a'\n")).unwrap();
    assert_eq!(config.https_port(), Some(443));
    let cert = config.cert.clone().unwrap();
    assert_eq!((cert.files().key_path(), cert.files().cert_path()), ("k".as_ref(), "c".as_ref()));
    assert_eq!(read(&dump(&config).unwrap()).unwrap(), config);
    assert_eq!(read(&with("http_port = 0\nhttps_port = 0\n", "")).unwrap().https_port(), Some(0));
    assert_eq!(read(GOOD).unwrap().https_port(), None);
    for (proxy, cert, fault) in [
        ("https_port = 80\n", "", "proxy.https_port: is the same port"),
        ("http_port = 443\n", "", "proxy.http_port: is the same port"),
    ] {
        let text = faults(&with(proxy, cert));
        assert!(text.contains(fault) && !text.contains('\n'), "{text}");
    }
    let text = faults(&with("", "").replace("'c'", "'k'"));
    assert!(text.contains("cert.cert_path: is the same file"), "{text}");
    let alone = GOOD.split("[proxy]").next().unwrap();
    let text = faults(&format!("{alone}[cert]\nkey_path = 'k'\ncert_path = 'c'\n"));
    assert!(text.contains("cert: needs a section [proxy]"), "{text}");
    let text = faults(&format!("{GOOD}[cert]\nkey_path = 'k'\n"));
    assert!(text.contains("cert.cert_path: missing"), "{text}");
}

#[test]
fn certificates_are_ordered_where_a_ca_is_given() {
    let with = |cert: &str, acme: &str| {
        let acme = format!("[acme]\nserver = 'https://ca.test/dir'\nadmin_email = 'a@b.test'\n{acme}");
        format!("{GOOD}[cert]\nkey_path = '/k/key.pem'\ncert_path = 'c'\n{cert}{acme}")
    };
    let eab = "ca_path = 'r'\neab = { key_id = 'i', key = 'aGlkZGVu' }\n";
    let config = read(&with("shared_key_path = 's'\nkey_type = 'rsa-2048'\n", eab)).unwrap();
    let (acme, cert) = (config.acme.clone().unwrap(), config.cert.clone().unwrap());
    assert_eq!((acme.server.as_str(), acme.eab.unwrap().key.expose()), ("https://ca.test/dir", "aGlkZGVu"));
    assert_eq!((cert.key_type, cert.account_file()), (KeyType::Rsa2048, "/k/acme-account.pem".into()));
    assert_eq!(cert.shared(), Some((KeySource::File("s".into()), Duration::from_secs(60))));
    let shown = dump(&config).unwrap();
    assert!(shown.contains("key_type = \"rsa-2048\"") && !shown.contains("aGlkZGVu"), "{shown}");
    let cert = read(&with("account_key_path = 'a'\n", "")).unwrap().cert.unwrap();
    assert_eq!((cert.key_type, cert.account_file(), cert.shared()), (KeyType::EcdsaP256, "a".into(), None));
    for (cert, acme, fault) in [
        ("shared_key = 'c2hvcnQ='\n", "", "cert.shared_key: the cluster's secret has to be 32 bytes in base64"),
        ("key_type = 'dsa'\n", "", "cert.key_type: expected ecdsa-p256, "),
        ("shared_lease_secs = 1\n", "", "cert.shared_lease_secs: expected a whole number from 4"),
        (
            "shared_key = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='\nshared_key_path = 'b'\n",
            "",
            "cert.shared_key: cannot be given together",
        ),
        ("", "eab = { key_id = 'i', key = '%' }\n", "acme.eab.key: expected base64"),
        ("", "eab = { key_id = 'i' }\n", "acme.eab.key: missing"),
    ] {
        let text = faults(&with(cert, acme));
        assert!(text.contains(fault) && !text.contains('\n'), "{text}");
    }
    let text = faults(&with("", "").replace("https://", "http://"));
    assert!(text.contains("acme.server: expected the https:// URL"), "{text}");
    let text = faults(&with("", "").replace("a@b.test", "b.test"));
    assert!(text.contains("acme.admin_email: expected an e-mail address"), "{text}");
    let text = faults(&format!("{GOOD}[acme]\nserver = 'https://ca.test/dir'\nadmin_email = 'a@b.test'\n"));
    assert!(text.contains("acme: needs a section [cert]"), "{text}");
    let secret = "shared_key = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='\n";
    assert!(read(&with(secret, "")).unwrap().cert.unwrap().shared().is_some());
    let text = faults(&format!("{GOOD}[cert]\nkey_path = 'k'\ncert_path = 'c'\n{secret}"));
    assert!(text.contains("cert.shared_key: needs a section [acme]"), "{text}");
}

#[test]
fn the_proxy_has_its_defaults_and_takes_every_key() {
    let config = read(GOOD).unwrap().proxy.unwrap();
    let left_out = ProxyConfig { http_port: 0, passthrough: config.passthrough, ..ProxyConfig::default() };
    assert_eq!(config, left_out);
    assert!(config.threads() > 0);
    assert_eq!((config.start_wait(), config.answer()), (Duration::from_secs(30), Duration::from_secs(60)));
    let keys = "http1 = 'plane'\nthreads = 3\ncookie_same_site = 'None'\ntrusted_proxies = ['10.0.0.0/8', '::1']\n\
        proxy_protocol = true\nwaiting_page = true\nstart_wait_secs = 5\nanswer_secs = 6\naccess_log = '/l'\n\
        [proxy.limits]\nconnections = 1\nconnections_per_address = 1\nstreams_per_connection = 2\n\
        header_bytes = 8192\nheader_count = 10\nrequest_line_bytes = 8192\nbody_bytes = 7\nhandshake_secs = 1\n\
        header_secs = 2\nidle_secs = 3\nbody_secs = 4\nsend_secs = 5\nheld_per_backend = 6\n";
    let whole = read(&format!("{GOOD}{keys}")).unwrap();
    assert_eq!(read(&dump(&whole).unwrap()).unwrap(), whole);
    let proxy = whole.proxy.unwrap();
    assert_eq!((proxy.http1, proxy.threads(), proxy.cookie_same_site), (Http1::Plane, 3, SameSite::None));
    assert_eq!(proxy.trusted_proxies, ["10.0.0.0/8", "::1"].map(|network| network.parse().unwrap()));
    assert_eq!(proxy.access_log, Some(AccessLogTarget::File("/l".into())));
    assert_eq!(proxy.limits.connections_per_address(), Some(1));
    assert_eq!(proxy.limits.body_bytes().unwrap().get(), 7);
    let none = LimitsConfig::default();
    assert_eq!((none.body_bytes(), none.connections_per_address()), (None, None));
    let env = [("PLANE_PROXY__ACCESS_LOG", "-"), ("PLANE_PROXY__TRUSTED_PROXIES", "10.0.0.7, ::/0")];
    let proxy = read_with(GOOD, &env).unwrap().proxy.unwrap();
    assert_eq!((proxy.access_log, proxy.trusted_proxies.len()), (Some(AccessLogTarget::Stdout), 2));
    let limited = read_with(GOOD, &[("PLANE_PROXY__LIMITS__IDLE_SECS", "9")]).unwrap().proxy.unwrap();
    assert_eq!(limited.limits, LimitsConfig { idle_secs: 9, ..none });
}

#[test]
fn what_the_proxy_cannot_do_is_refused() {
    for (keys, fault) in [
        ("http1 = 'nginx'", "proxy.http1: expected hyper or plane"),
        ("threads = 0", "proxy.threads: expected a whole number from 1 to 1024"),
        ("cookie_same_site = 'lax'", "proxy.cookie_same_site: expected Lax, Strict or None"),
        ("cookie_same_site = 'None'", "proxy.cookie_same_site: needs TLS"),
        ("cookie_same_site = 'None'\ntrusted_proxies = []", "proxy.cookie_same_site: needs TLS"),
        (
            "trusted_proxies = ['10.0.0.0/33']",
            "proxy.trusted_proxies: expected a list, each an IP address or a network",
        ),
        ("trusted_proxies = ['10.0.0.1/8']", "proxy.trusted_proxies: expected a list, each an IP address or a network"),
        ("trusted_proxies = '10.0.0.1'", "proxy.trusted_proxies: expected a list"),
        ("proxy_protocol = true", "proxy.proxy_protocol: needs proxy.trusted_proxies"),
        ("proxy_protocol = true\ntrusted_proxies = ['x']", "proxy.trusted_proxies: expected a list"),
        ("start_wait_secs = 0", "proxy.start_wait_secs: expected a whole number from 1 to 86400"),
        ("answer_secs = 86401", "proxy.answer_secs: expected a whole number"),
        ("access_log = ''", "proxy.access_log: expected a string"),
        ("limits = 3", "proxy.limits: expected a table"),
        ("limits.connections = 0", "proxy.limits.connections: expected a whole number from 1"),
        ("limits.connections_per_address = -1", "proxy.limits.connections_per_address: expected a whole number from 0"),
        ("limits.connections_per_address = 20001", "proxy.limits.connections_per_address: expected at most"),
        ("limits.header_bytes = 4096", "proxy.limits.header_bytes: expected a whole number from 8192 to 1048576"),
        ("limits.header_bytes = 9000", "proxy.limits.header_bytes: expected proxy.limits.request_line_bytes (16384)"),
        ("limits.request_line_bytes = 70000", "proxy.limits.request_line_bytes: expected proxy.limits.request_line"),
        ("limits.body_bytes = -1", "proxy.limits.body_bytes: expected a whole number from 0"),
        ("limits.idle_secs = 0", "proxy.limits.idle_secs: expected a whole number from 1"),
        ("limits.odd = 0", "proxy.limits.odd: unknown key; known here: backend_connections, "),
    ] {
        let text = faults(&GOOD.replace("[proxy]", &format!("[proxy]\n{keys}")));
        assert!(text.contains(&format!("drone.toml: {fault}")) && !text.contains('\n'), "{keys}: {text}");
    }
}

#[test]
fn a_passthrough_to_the_proxy_itself_is_refused() {
    let with = |keys: &str| GOOD.replace("http_port = \"0\"\npassthrough = \"10.0.0.9:80\"\n", keys);
    let safe = "[cert]\nkey_path = 'k'\ncert_path = 'c'\n";
    for keys in [
        "passthrough = '127.0.0.1:80'\n",
        "http_port = 8080\npassthrough = '0.0.0.0:8080'\n",
        "passthrough = '[::1]:80'\nbind_ip = '::'\n",
        // What agent.ip says is this machine's address.
        "passthrough = '10.0.0.1:80'\n",
        "passthrough = '10.0.0.7:80'\nbind_ip = '10.0.0.7'\n",
        &format!("passthrough = '127.0.0.1:443'\n{safe}"),
    ] {
        let text = faults(&with(keys));
        let told = "drone.toml: proxy.passthrough: is where this proxy itself listens";
        assert!(text.contains(told) && !text.contains('\n'), "{keys}: {text}");
    }
    for keys in ["passthrough = '127.0.0.1:3000'\n", "passthrough = '127.0.0.1:443'\n", "passthrough = '10.0.0.9:80'\n"]
    {
        assert!(read(&with(keys)).is_ok(), "{keys}");
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let alone = "cluster_domain = 'a.b'\n[nats]\nhosts = ['a']\n";
    assert!(faults(alone).contains("agent: there is nothing to run"));
    assert!(faults(&format!("{alone}[proxy]\n")).contains("proxy: the section [proxy] needs [agent]"));
    assert!(read(&format!("{alone}[agent]\nip = '::1'\n")).is_ok());
    let text = faults(&GOOD.replace("http = ", "socket = '/s'\nhttp = "));
    assert!(text.contains("agent.docker.connection.socket: cannot be given together"), "{text}");
    let config = read_with(GOOD, &[("PLANE_AGENT__DOCKER__CONNECTION__SOCKET", "/s")]).unwrap();
    let connection = config.agent.unwrap().docker.connection;
    assert_eq!(connection, DockerConnection::Socket { socket: "/s".into() });
}

#[test]
fn wrong_values_name_their_keys() {
    for (good, bad, key) in [
        ("\"plane.test\"", "'Plane.test'", "cluster_domain"),
        ("\"plane.test\"", "3", "cluster_domain"),
        ("\"10.0.0.1\"", "'10.0.0'", "agent.ip"),
        ("\"10.0.0.1\"", "{ api = 'https://x' }", "agent.ip.api"),
        ("\"10.0.0.1\"", "'::1'\nready_timeout_secs = 0", "agent.ready_timeout_secs"),
        ("runtime = \"runsc\"", "insecure_gpu = 1", "agent.docker.insecure_gpu"),
        ("runtime = \"runsc\"", "syslog = 'here'", "agent.docker.syslog"),
        ("\"http://127.0.0.1:2375\"", "'127.0.0.1:2375'", "agent.docker.connection.http"),
        ("\"0\"", "'x'", "proxy.http_port"),
        ("\"10.0.0.9:80\"", "'10.0.0.9'", "proxy.passthrough"),
    ] {
        let text = faults(&GOOD.replace(good, bad));
        assert!(text.contains(&format!("drone.toml: {key}: expected ")) && !text.contains('\n'), "{text}");
    }
    let text = faults(&GOOD.replace("cluster_domain = \"plane.test\"\n", ""));
    assert!(text.contains("cluster_domain: missing; it may also be given as PLANE_CLUSTER_DOMAIN"), "{text}");
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    assert!(faults(&format!("odd = 1\n{GOOD}")).contains("drone.toml: odd: unknown key"));
    for section in ["nats", "agent", "agent.docker", "agent.docker.connection", "proxy"] {
        let header = format!("[{section}]\n");
        let text = faults(&GOOD.replace(&header, &format!("{header}odd = 1\n")));
        assert!(text.contains(&format!("drone.toml: {section}.odd: unknown key")), "{text}");
    }
    for section in ["cert", "acme", "acme.eab", "nats.auth", "nats.tls", "proxy.limits"] {
        let text = faults(&format!("{GOOD}[{section}]\nodd = 1\n"));
        assert!(text.contains(&format!("drone.toml: {section}.odd: unknown key")), "{text}");
    }
    let text = faults(&GOOD.replace("\"10.0.0.1\"", "{ api = 'http://x', odd = 1 }"));
    assert!(text.contains("drone.toml: agent.ip.odd: unknown key"), "{text}");
}
