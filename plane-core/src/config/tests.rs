//! A small daemon's configuration, and every way to get it wrong.

use super::*;
use serde::Deserialize;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    db_path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    nats: NatsConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<Agent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bare: Option<toml::Table>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Agent {
    ip: toml::Value,
    #[serde(default)]
    wait_secs: Option<u32>,
    #[serde(default)]
    open: bool,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
}

static SAMPLE: Part = Part {
    keys: &[
        Key::always("db_path", Kind::String),
        Key::optional("port", Kind::Port),
        Key::required("agent.ip", Kind::Text("an IP address", is_ip)),
        Key::required("agent.ip.api", Kind::Text("an http:// URL", is_http_url)),
        Key::optional("agent.wait_secs", Kind::Int(1, 100)),
        Key::optional("agent.open", Kind::Bool),
        Key::optional("agent.labels", Kind::Map),
        Key::optional("bare", Kind::Section),
    ],
    exclusive: &[],
    rules: |_| {},
};

impl DaemonConfig for Sample {
    const PARTS: &'static [&'static Part] = &[&SAMPLE, &NATS];
}

const GOOD: &str = r#"
    db_path = "x"
    port = "443"
    [nats]
    hosts = ["nats://a:4222", "b", "tls://user:word@[::1]:1"]
    [nats.auth]
    token = "top"
    [nats.tls]
    [agent]
    ip = { api = "http://ip.test/" }
    wait_secs = 5
    labels = { zone = "a" }
    [bare]
"#;

fn read(text: &str, env: &[(&str, &str)]) -> Result<Sample, String> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load_text(Some((Path::new("f.toml"), text)), env).map_err(|faults| faults.to_string())
}

fn faults(text: &str, env: &[(&str, &str)]) -> String {
    read(text, env).expect_err("it was accepted")
}

#[test]
fn a_good_file_is_read() {
    let sample = read(GOOD, &[]).unwrap();
    assert_eq!(sample.port, Some(443));
    assert_eq!(sample.nats.auth, Some(NatsAuth::Token { token: Secret::from("top".to_owned()) }));
    assert_eq!(sample.nats.tls, Some(NatsTls::default()));
    assert_eq!(sample.agent.unwrap().labels["zone"], "a");
}

#[test]
fn variables_alone_are_enough_and_others_are_not_ours() {
    let env = [
        ("PLANE_DB_PATH", "y"),
        ("PLANE_NATS__HOSTS", "a, b:1,"),
        ("PLANE_NATS__AUTH__USERNAME", "u"),
        ("PLANE_NATS__AUTH__PASSWORD", "p"),
        ("PLANE_AGENT__IP", "10.0.0.1"),
        ("PLANE_AGENT__WAIT_SECS", "7"),
        ("PLANE_AGENT__OPEN", "true"),
        ("PLANE_AGENT__LABELS__ZONE", "b"),
        ("PLANE_PORT", "81"),
        ("PLANE_BARE", "true"),
        ("PLANE_NATS_PORT", "tcp://10.0.0.1:4222"),
        ("PLANE_LOG_LEVEL", "3"),
        ("PLANE_AGENT__UNKNOWN", "x"),
        ("plane_port", "82"),
        ("HOME", "/"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let sample: Sample = load(None, env).unwrap();
    assert_eq!(sample.nats.hosts, ["a", "b:1"]);
    assert!(matches!(sample.nats.auth, Some(NatsAuth::UserPassword { .. })));
    assert_eq!((sample.port, sample.bare), (Some(81), Some(toml::Table::new())));
    let agent = sample.agent.unwrap();
    assert_eq!((agent.wait_secs, agent.open, agent.labels["zone"].as_str()), (Some(7), true, "b"));
}

#[test]
fn a_variable_wins_over_the_file_and_sets_rivals_aside() {
    let sample = read(
        GOOD,
        &[
            ("PLANE_DB_PATH", "env"),
            ("PLANE_NATS__AUTH__USERNAME", "u"),
            ("PLANE_NATS__AUTH__PASSWORD", "p"),
            ("PLANE_AGENT__IP", "::1"),
            ("PLANE_AGENT__LABELS__RACK", "7"),
            ("PLANE_BARE", "true"),
        ],
    )
    .unwrap();
    assert_eq!(sample.db_path, "env");
    assert!(matches!(sample.nats.auth, Some(NatsAuth::UserPassword { .. })));
    let agent = sample.agent.unwrap();
    assert_eq!(agent.ip.as_str(), Some("::1"));
    assert_eq!(agent.labels.len(), 2);

    let other_way = GOOD.replace("{ api = \"http://ip.test/\" }", "'10.0.0.1'");
    let agent = read(&other_way, &[("PLANE_AGENT__IP__API", "http://x/")]).unwrap().agent.unwrap();
    assert_eq!(agent.ip["api"].as_str(), Some("http://x/"));
}

#[test]
fn rivals_in_one_place_are_refused() {
    let both = GOOD.replace("token = \"top\"", "token = 't'\nusername = 'u'\npassword = 'p'");
    assert!(faults(&both, &[]).contains("nats.auth.token: cannot be given together with nats.auth.username"));
    let text = faults(GOOD, &[("PLANE_AGENT__IP", "::1"), ("PLANE_AGENT__IP__API", "http://x/")]);
    assert!(text.contains("PLANE_AGENT__IP__API: agent.ip.api: cannot be given together with PLANE_AGENT__IP"));
}

#[test]
fn an_unknown_key_is_refused_at_every_level() {
    let table: toml::Table = GOOD.parse().unwrap();
    let mut places = vec![String::new()];
    collect_tables("", &table, &mut places);
    assert_eq!(places, ["", "agent", "agent.ip", "bare", "nats", "nats.auth", "nats.tls"]);
    for place in places {
        let mut table = table.clone();
        let inner = place
            .split('.')
            .filter(|part| !part.is_empty())
            .fold(&mut table, |table, part| table[part].as_table_mut().unwrap());
        inner.insert("intruder".to_owned(), 1.into());
        let key = if place.is_empty() { "intruder".to_owned() } else { format!("{place}.intruder") };
        let text = faults(&table.to_string(), &[]);
        assert!(text.starts_with(&format!("bad configuration: f.toml: {key}: unknown key;")), "{text}");
    }
}

/// The tables whose names are ours: labels are the writer's.
fn collect_tables(prefix: &str, table: &toml::Table, places: &mut Vec<String>) {
    for (name, value) in table.iter().filter(|(name, _)| *name != "labels") {
        if let Some(inner) = value.as_table() {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            places.push(path.clone());
            collect_tables(&path, inner, places);
        }
    }
}

#[test]
fn a_quoted_name_is_not_a_path() {
    let text = faults(&format!("\"agent.open\" = true\n{GOOD}"), &[]);
    assert!(text.contains("agent.open: unknown key"), "{text}");
}

#[test]
fn wrong_types_say_what_was_expected() {
    for (good, bad, expected) in [
        ("db_path = \"x\"", "db_path = 3", "db_path: expected a string that is not empty, found 3"),
        ("db_path = \"x\"", "db_path = ''", "db_path: expected a string that is not empty, found \"\""),
        ("port = \"443\"", "port = 65536", "port: expected a port, 0 to 65535, found 65536"),
        ("port = \"443\"", "port = 'http'", "port: expected a port, 0 to 65535, found \"http\""),
        ("wait_secs = 5", "wait_secs = 0", "agent.wait_secs: expected a whole number from 1 to 100, found 0"),
        ("wait_secs = 5", "wait_secs = 1.5", "agent.wait_secs: expected a whole number from 1 to 100, found 1.5"),
        ("wait_secs = 5", "open = 'yes'", "agent.open: expected true or false, found \"yes\""),
        ("{ zone = \"a\" }", "{ zone = 1 }", "agent.labels: expected a table of strings, found 1 under \"zone\""),
        ("{ zone = \"a\" }", "3", "agent.labels: expected a table of strings, found 3"),
        ("{ api = \"http://ip.test/\" }", "'here'", "agent.ip: expected an IP address, found \"here\""),
        ("http://ip", "https://ip", "agent.ip.api: expected an http:// URL, found \"https://ip.test/\""),
        ("token = \"top\"", "token = 123456", "nats.auth.token: expected a string that is not empty, found integer"),
        (
            "\"b\"",
            "7",
            "nats.hosts: expected a list, each the address of a NATS server, such as nats://10.0.0.1:4222, found 7",
        ),
    ] {
        let text = faults(&GOOD.replace(good, bad), &[]);
        let sole = format!("bad configuration: f.toml: {expected}");
        assert!(text.starts_with(&sole), "{text}\n{sole}");
    }
    assert_eq!(
        faults(&format!("nats = 3\n{}", "db_path = 'x'"), &[]),
        "bad configuration: f.toml: nats: expected a table"
    );
}

#[test]
fn faults_of_variables_name_the_variable() {
    for (name, value, key) in [
        ("PLANE_PORT", "x", "port"),
        ("PLANE_AGENT__WAIT_SECS", "soon", "agent.wait_secs"),
        ("PLANE_AGENT__OPEN", "1", "agent.open"),
        ("PLANE_AGENT__IP", "", "agent.ip"),
        ("PLANE_BARE", "no", "bare"),
        ("PLANE_NATS__HOSTS", "http://a", "nats.hosts"),
        ("PLANE_NATS__HOSTS", "", "nats.hosts"),
        ("PLANE_AGENT__LABELS", "a=b", "agent.labels"),
    ] {
        let text = faults(GOOD, &[(name, value)]);
        assert!(text.starts_with(&format!("bad configuration: {name}: {key}: expected ")), "{text}");
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let text = faults("port = -1\nodd = 1\n[agent]\nopen = 2\n", &[("PLANE_AGENT__WAIT_SECS", "x")]);
    assert_eq!(
        text,
        "bad configuration, 7 faults:\
         \n  f.toml: agent.ip: missing; it may also be given as PLANE_AGENT__IP\
         \n  f.toml: agent.open: expected true or false, found 2\
         \n  PLANE_AGENT__WAIT_SECS: agent.wait_secs: expected a whole number from 1 to 100, found \"x\"\
         \n  f.toml: db_path: missing; it may also be given as PLANE_DB_PATH\
         \n  f.toml: nats.hosts: missing; it may also be given as PLANE_NATS__HOSTS\
         \n  f.toml: odd: unknown key; known here: agent, bare, db_path, nats, port\
         \n  f.toml: port: expected a port, 0 to 65535, found -1"
    );
}

#[test]
fn without_a_file_missing_keys_name_their_variables() {
    let faults = load::<Sample>(None, []).unwrap_err();
    let first = faults.iter().next().unwrap();
    assert_eq!((first.key.as_str(), &first.origin), ("db_path", &Origin::Nowhere));
    assert!(faults.to_string().contains("PLANE_NATS__HOSTS"));
}

#[test]
fn rules_of_nats_are_checked() {
    for (good, bad, expected) in [
        ("token = \"top\"", "", "nats.auth: expected a token"),
        ("token = \"top\"", "username = 'u'", "nats.auth.username: needs nats.auth.password"),
        ("token = \"top\"", "password = 'u'", "nats.auth.password: needs nats.auth.username"),
        ("[nats.tls]", "[nats.tls]\ncert_path = '/dev/null'", "nats.tls.cert_path: needs nats.tls.key_path"),
        ("[nats.tls]", "[nats.tls]\nca_path = '/no/such'", "nats.tls.ca_path: the file \"/no/such\" cannot be read"),
        ("hosts = [", "creds_path = '/dev/null'\nhosts = [", "nats.creds_path: cannot be given together"),
    ] {
        let text = faults(&GOOD.replace(good, bad), &[]);
        assert!(text.starts_with(&format!("bad configuration: f.toml: {expected}")), "{text}");
    }
    for host in ["", "nats://", "http://a", "a b", "a:99999", "nats://a/b", "[::1", "[x]:1"] {
        assert!(read("", &[("PLANE_DB_PATH", "x"), ("PLANE_NATS__HOSTS", host)]).is_err(), "{host}");
    }
    for host in ["a", "a.b:1", "10.0.0.1", "[::1]:4222", "tls://a_b:1/", "nats://u:p@a"] {
        assert!(read("", &[("PLANE_DB_PATH", "x"), ("PLANE_NATS__HOSTS", host)]).is_ok(), "{host}");
    }
}

#[test]
fn files_that_are_no_toml_say_where_and_keep_secrets() {
    let text = faults("db_path = 'x'\n[nats.auth]\ntoken = secret word\n", &[]);
    assert!(text.starts_with("bad configuration: f.toml: not valid TOML: line 3, column "), "{text}");
    assert!(!text.contains("word"), "{text}");
    let missing = load::<Sample>(Some(Path::new("/no/such.toml")), []).unwrap_err();
    assert!(missing.to_string().starts_with("bad configuration: /no/such.toml: cannot be read: "));
}

#[test]
fn neither_dumps_nor_faults_show_secrets() {
    let text = dump(&read(GOOD, &[]).unwrap()).unwrap();
    assert!(text.contains("token = \"***\"") && text.contains("tls://***@[::1]:1"), "{text}");
    assert!(!text.contains("top") && !text.contains("word"), "{text}");
    read(&text, &[]).unwrap();
    let text = faults(GOOD, &[("PLANE_NATS__HOSTS", "http://user:word@a")]);
    assert!(!text.contains("word"), "{text}");
    let text = faults(GOOD, &[("PLANE_NATS__AUTH__TOKEN", "")]);
    assert!(text.contains("PLANE_NATS__AUTH__TOKEN: nats.auth.token: expected"), "{text}");
    assert_eq!(format!("{:?}", Secret::from("top".to_owned())), "***");
}
