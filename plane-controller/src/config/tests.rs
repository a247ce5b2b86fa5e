use super::*;
use plane_core::config::{dump, load};

const NATS_HOSTS: (&str, &str) = ("PLANE_NATS__HOSTS", "nats://127.0.0.1:4222");

fn read(env: &[(&str, &str)]) -> Result<ControllerConfig, String> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(None, env).map_err(|faults| faults.to_string())
}

fn faults(env: &[(&str, &str)]) -> String {
    read(env).expect_err("it was accepted")
}

fn read_file(text: &str) -> Result<ControllerConfig, String> {
    let mut file = std::env::temp_dir();
    file.push(format!("plane-controller-config-{}-{:?}.toml", std::process::id(), std::thread::current().id()));
    std::fs::write(&file, text).unwrap();
    let config = load(Some(&file), []).map_err(|faults| faults.to_string());
    std::fs::remove_file(&file).unwrap();
    config
}

#[test]
fn a_scheduler_needs_nothing_but_nats() {
    let config = read(&[NATS_HOSTS, ("PLANE_SCHEDULER", "true")]).unwrap();
    assert_eq!(config.scheduler, Some(SchedulerConfig::default()));
    let from_file = read_file("[nats]\nhosts = ['nats://127.0.0.1:4222']\n[scheduler]\n").unwrap();
    assert_eq!(from_file, config);
    assert_eq!(read_file(&dump(&config).unwrap()).unwrap(), config);
}

#[test]
fn streams_have_as_many_replicas_as_jetstream_can_keep() {
    let with = |replicas| read(&[NATS_HOSTS, ("PLANE_SCHEDULER__STREAM_REPLICAS", replicas)]);
    assert_eq!(with("3").unwrap().scheduler.unwrap().stream_replicas, 3);
    for bad in ["0", "6", "three"] {
        assert!(with(bad).unwrap_err().contains("scheduler.stream_replicas"), "{bad}");
    }
}

#[test]
fn without_a_section_there_is_nothing_to_run() {
    assert!(faults(&[NATS_HOSTS]).contains("scheduler: there is nothing to run"));
}

#[test]
fn sections_of_later_steps_are_refused_by_name() {
    let text = faults(&[NATS_HOSTS, ("PLANE_HTTP__CLUSTER", "a.b"), ("PLANE_HTTP__SERVICES__SHOP", "image")]);
    assert!(text.contains("http: the section [http] cannot be served yet"), "{text}");
}

#[test]
fn what_is_in_them_is_checked_all_the_same() {
    // As a name it has 254 bytes, which do not fit on the wire.
    let long = ["a".repeat(62).as_str(); 4].join(".") + "a";
    let longest = format!("x@{}", &long[1..]);
    assert!(read(&[NATS_HOSTS, ("PLANE_DNS__SOA_EMAIL", &longest)]).is_ok());
    for (name, value, key) in [
        ("PLANE_DNS__SOA_EMAIL", "admin.example.org", "dns.soa_email"),
        ("PLANE_DNS__SOA_EMAIL", "@example.org", "dns.soa_email"),
        ("PLANE_DNS__SOA_EMAIL", &format!("x@{long}"), "dns.soa_email"),
        ("PLANE_DNS__NS_IPS", "10.0.0.1,x", "dns.ns_ips"),
        ("PLANE_DNS__DOMAIN_NAME", "a..b", "dns.domain_name"),
        ("PLANE_DNS__TTL_SECS", "-1", "dns.ttl_secs"),
        ("PLANE_DNS__CAA", "issue ca.example", "dns.caa"),
        ("PLANE_DNS__TCP_CONNECTIONS", "0", "dns.tcp_connections"),
        ("PLANE_DNS__TCP_IDLE_SECS", "0", "dns.tcp_idle_secs"),
        ("PLANE_DNS__RATE_LIMIT_PER_SEC", "0", "dns.rate_limit_per_sec"),
        ("PLANE_HTTP__CLUSTER", "A", "http.cluster"),
    ] {
        let text = faults(&[NATS_HOSTS, ("PLANE_SCHEDULER", "true"), (name, value)]);
        assert!(text.contains(&format!("{name}: {key}: expected ")), "{text}");
    }
    let good = [("PLANE_DNS__SOA_EMAIL", "admin@example.org"), ("PLANE_DNS__DOMAIN_NAME", "plane.test."), NATS_HOSTS];
    let dns = read(&good).unwrap().dns.unwrap();
    assert_eq!(
        (dns.soa_email.as_deref(), dns.domain_name.as_deref()),
        (Some("admin@example.org"), Some("plane.test."))
    );
}

#[test]
fn a_name_server_needs_nothing_but_nats() {
    let config = read(&[NATS_HOSTS, ("PLANE_DNS", "true")]).unwrap();
    assert_eq!((config.scheduler, config.dns), (None, Some(DnsConfig::default())));
    let all = "[nats]\nhosts = ['nats://127.0.0.1:4222']\n[dns]\nport = '5353'\nbind_ip = '::'\nsoa_email = 'a@b.c'\n\
        domain_name = 'ns.b.c'\nns_ips = ['192.0.2.1', '2001:db8::1']\nttl_secs = 5\ncaa = ['0 issue \"ca.example\"']\n\
        tcp_connections = 2\ntcp_idle_secs = 3\nrate_limit_per_sec = 4\n";
    let config = read_file(all).unwrap();
    assert_eq!(read_file(&dump(&config).unwrap()).unwrap(), config);
    let dns = config.dns.unwrap();
    assert_eq!((dns.port, dns.ns_ips.len(), dns.tcp_connections), (5353, 2, 2));
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    let good = "[nats]\nhosts = ['a']\n[nats.auth]\ntoken = 't'\n[nats.tls]\n[scheduler]\n[dns]\n";
    read_file(good).unwrap();
    assert!(read_file(&format!("odd = 1\n{good}")).unwrap_err().contains(": odd: unknown key"));
    for section in ["nats", "nats.auth", "nats.tls", "scheduler", "dns"] {
        let header = format!("[{section}]\n");
        let text = read_file(&good.replace(&header, &format!("{header}odd = 1\n"))).unwrap_err();
        assert!(text.contains(&format!(": {section}.odd: unknown key")), "{text}");
    }
    let text = read_file(&format!("{good}[http]\nodd = 1\n")).unwrap_err();
    assert!(text.contains(": http.odd: unknown key"), "{text}");
}

#[test]
fn each_deadline_is_later_than_the_one_before_it() {
    let with = |name: &str, value: &str| {
        read(&[NATS_HOSTS, (&format!("PLANE_SCHEDULER__{name}"), value)]).map(|config| config.scheduler.unwrap())
    };
    assert_eq!(with("LOST_SECS", "50").unwrap().timing().lost, Duration::from_secs(50));
    for (name, value) in [("SILENT_SECS", "45"), ("FENCE_SECS", "60"), ("LOST_SECS", "45"), ("ABANDON_SECS", "60")] {
        let fault = with(name, value).unwrap_err();
        assert!(fault.contains(&format!("scheduler.{}", name.to_lowercase())) && fault.contains(value), "{fault}");
    }
    assert!(with("STREAM_STORAGE", "tape").unwrap_err().contains("file or memory"));
    assert_eq!(with("STREAM_STORAGE", "memory").unwrap().stream_storage, Storage::Memory);
    assert!(with("STATE_MAX_BYTES", "1").unwrap_err().contains("scheduler.state_max_bytes"));
}
