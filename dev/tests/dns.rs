//! The controllers' name server, asked by `dig`, by raw packets and by a recursive resolver.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::{
    id::{BackendId, DroneId},
    message::{
        drone::{RegisterRequest, SetAcmeRecord},
        schedule::ScheduleResponse,
        state::{Assignment, BackendMessage, StateEntry},
    },
};
use plane_dev::harness::{
    Cluster, DNS, PATIENCE, Settings,
    dns::{A, Resolver, ask, outcome, question, read_over_tcp, send_over_tcp},
    unique_cluster, wire,
};
use serde_json::json;
use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// What `dig` prints, which asks once.
fn dig(server: SocketAddr, arguments: &str) -> String {
    let mut command = Command::new("dig");
    command.arg(format!("@{}", server.ip())).args(["-p", &server.port().to_string(), "+tries=1", "+timeout=5"]);
    let done = command.args(arguments.split_whitespace()).output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

/// A Plane without drones, one controller of which serves names.
async fn name_server(dns: &str) -> (Cluster, SocketAddr) {
    let settings = Settings { drones: 0, scheduler: format!("{DNS}{dns}"), ..Settings::default() };
    let mut cluster = Cluster::start_as(settings).await.unwrap();
    let server = cluster.controllers[0].name_server().await.unwrap();
    (cluster, server)
}

/// Puts a backend into the log, on a drone that nobody runs.
async fn enter(cluster: &Cluster, ip: &str) -> String {
    let (drone, backend) = (DroneId::random(), BackendId::random());
    let name = cluster.name.clone();
    let ip = ip.parse().unwrap();
    let register = RegisterRequest {
        drone_id: drone.clone(),
        cluster: name.clone(),
        ip,
        version: None,
        git_hash: None,
        features: vec![],
    };
    assert!(cluster.client.request(&register, PATIENCE).await.unwrap());
    let assignment = BackendMessage::Assignment(Assignment { accepted: true, ..Assignment::to(drone, None) });
    let entry = StateEntry::backend(name.clone(), backend.clone(), assignment);
    cluster.client.publish_entry(entry.subject(), &entry).await.unwrap();
    format!("{backend}.{name}")
}

/// Asks until the answer has this code and so many records.
async fn until(server: SocketAddr, name: &str, wanted: (u8, u16)) -> Duration {
    let began = Instant::now();
    loop {
        let answer = ask(server, &question(7, name, A), PATIENCE).await.unwrap().unwrap();
        if outcome(&answer) == Some(wanted) {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "{name}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_backend_has_a_name_until_its_end() {
    let mut cluster = Cluster::start_as(Settings { scheduler: DNS.to_owned(), ..Settings::default() }).await.unwrap();
    let server = cluster.controllers[0].name_server().await.unwrap();
    let (backend, _) = cluster.schedule(&cluster.request(300, &[])).await.unwrap();
    let name = format!("{backend}.{}", cluster.name);
    // At once: the reply was sent when the name could be asked for.
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(dig(server, &format!("+short {transport} {name} A")), "127.0.0.1\n");
    }
    cluster.end(&backend).await.unwrap();
    let answer = dig(server, &format!("{name} A"));
    assert!(answer.contains("status: NXDOMAIN") && answer.contains("SOA"), "{answer}");
}

#[tokio::test]
async fn challenge_values_are_served_once_they_are_set() {
    let (cluster, server) = name_server("").await;
    let question = format!("+short _acme-challenge.{} TXT", cluster.name);
    let mut expected = Vec::new();
    for number in 0..12 {
        let value = format!("value-{number}");
        let request = SetAcmeRecord { cluster: cluster.name.clone(), value: value.clone() };
        assert!(cluster.client.request(&request, PATIENCE).await.unwrap());
        assert!(cluster.client.request(&request, PATIENCE).await.unwrap());
        expected.push(format!("\"{value}\""));
        let answer = dig(server, &question);
        let newest = &expected[expected.len().saturating_sub(10)..];
        assert_eq!(answer.lines().collect::<Vec<_>>(), newest);
    }
    // One that is set again is the newest again: it outlives those that were.
    let again = SetAcmeRecord { cluster: cluster.name.clone(), value: "value-2".to_owned() };
    assert!(cluster.client.request(&again, PATIENCE).await.unwrap());
    let newest = expected[3..].iter().map(String::as_str).chain(["\"value-2\""]);
    assert_eq!(dig(server, &question).lines().collect::<Vec<_>>(), newest.collect::<Vec<_>>());
    let subject = format!("cluster.{}.set_acme_record", cluster.name.subject_token());
    wire::refuses_malformed(&cluster.nats.url(), &subject).await.unwrap();
    for value in ["", "é", &"x".repeat(256)] {
        let request = json!({"cluster": cluster.name, "value": value}).to_string();
        let answer = wire::request(&cluster.nats.url(), &subject, request.as_bytes()).await.unwrap();
        assert!(answer.contains("BadRequest") && answer.contains("value: expected"), "{answer}");
    }
}

/// What RFC 8906 section 8 asks of every authoritative server, and the refusals besides: what `dig` is given behind
/// `+norec`, what its output must hold, and what it must not.
const BATTERY: &[(&str, &[&str], &[&str])] = &[
    ("+noedns +noad soa ZONE", &["NOERROR", "flags: qr aa;", "60 IN SOA"], &["OPT PSEUDOSECTION"]),
    ("+noedns +noad type1000 ZONE", &["NOERROR", "flags: qr aa;", "ANSWER: 0", "AUTHORITY: 1"], &[]),
    ("+noedns +noad +cd soa ZONE", &["NOERROR", "qr aa", "60 IN SOA"], &[]),
    ("+noedns +ad soa ZONE", &["NOERROR", "flags: qr aa;", "60 IN SOA"], &[]),
    ("+noedns +noad +aaflag soa ZONE", &["NOERROR", "flags: qr aa;", "60 IN SOA"], &[]),
    ("+noedns +noad +zflag soa ZONE", &["NOERROR", "flags: qr aa;", "60 IN SOA"], &["MBZ"]),
    ("+noedns +noad +rec soa ZONE", &["NOERROR", "flags: qr aa rd;", "60 IN SOA"], &[]),
    ("+noedns +noad +opcode=15 +header-only", &["NOTIMP", "flags: qr;"], &[]),
    ("+noedns +noad +opcode=1 +header-only", &["NOTIMP", "flags: qr;"], &[]),
    ("+noedns +noad +opcode=status +header-only", &["NOTIMP", "flags: qr;"], &[]),
    ("+noedns +noad +opcode=notify soa ZONE", &["REFUSED", "flags: qr;"], &["ANSWER: 1"]),
    ("+noedns +noad +opcode=update soa ZONE", &["REFUSED", "flags: qr;"], &["ANSWER: 1"]),
    ("+noedns +noad +header-only", &["FORMERR", "flags: qr;", "QUERY: 0"], &[]),
    ("+edns=0 +nocookie +noad +header-only", &["FORMERR", "flags: qr;", "EDNS: version: 0"], &[]),
    ("+edns=0 +nocookie +noad +opcode=15 +header-only", &["NOTIMP", "flags: qr;", "EDNS: version: 0"], &[]),
    ("+edns=1 +nocookie +noednsneg +noad +opcode=15 +header-only", &["BADVERS", "EDNS: version: 0"], &[]),
    ("+noedns +noad +tcp soa ZONE", &["NOERROR", "flags: qr aa;", "60 IN SOA"], &["OPT PSEUDOSECTION"]),
    ("+edns=0 +nocookie +noad soa ZONE", &["NOERROR", "flags: qr aa;", "60 IN SOA", "EDNS: version: 0"], &[]),
    ("+edns=0 +cookie +noad soa ZONE", &["NOERROR", "flags: qr aa;", "60 IN SOA", "EDNS: version: 0"], &["COOKIE"]),
    ("+edns=1 +nocookie +noednsneg +noad soa ZONE", &["BADVERS", "EDNS: version: 0"], &["60 IN SOA"]),
    ("+edns=0 +nocookie +noad +ednsopt=100 soa ZONE", &["NOERROR", "60 IN SOA", "EDNS: version: 0"], &["OPT=100"]),
    ("+edns=0 +nocookie +noad +ednsopt=100:c0ffee soa ZONE", &["NOERROR", "60 IN SOA"], &["OPT=100", "c0 ff ee"]),
    ("+edns=0 +nocookie +noad +ednsflags=0x40 soa ZONE", &["NOERROR", "60 IN SOA", "EDNS: version: 0"], &["MBZ"]),
    ("+edns=1 +nocookie +noednsneg +noad +ednsopt=100 soa ZONE", &["BADVERS"], &["60 IN SOA", "OPT=100"]),
    ("+edns=1 +nocookie +noednsneg +noad +ednsflags=0x40 soa ZONE", &["BADVERS"], &["60 IN SOA", "MBZ"]),
    ("+edns=0 +nocookie +noad +dnssec soa ZONE", &["NOERROR", "60 IN SOA", "EDNS: version: 0, flags: do;"], &[]),
    (
        "+edns=0 +nocookie +noad +nsid +expire +subnet=192.0.2.0/24 +padding=100 soa ZONE",
        &["NOERROR", "60 IN SOA"],
        &[],
    ),
    ("+edns=0 +nocookie +noad +tcp +keepalive soa ZONE", &["NOERROR", "60 IN SOA"], &[]),
    ("+nocookie +bufsize=512 +ignore txt _acme-challenge.ZONE", &["NOERROR", "qr aa tc", "QUERY: 1", "ANSWER: 0"], &[]),
    ("+nocookie +bufsize=512 txt _acme-challenge.ZONE", &["NOERROR", "Truncated, retrying in TCP", "ANSWER: 10"], &[]),
    ("+nocookie +bufsize=1232 +ignore txt _acme-challenge.ZONE", &["NOERROR", "ANSWER: 10"], &["qr aa tc"]),
    ("any ZONE", &["NOERROR", "ANSWER: 1", "RFC8482"], &["SOA"]),
    ("ns ZONE", &["NOERROR", "ns1.ZONE.", "192.0.2.53", "2001:db8::53"], &[]),
    ("caa ZONE", &["NOERROR", "CAA\t0 issue \"ca.example\""], &[]),
    ("a nobody.ZONE", &["NXDOMAIN", "flags: qr aa", "AUTHORITY: 1", "2\tIN\tSOA"], &[]),
    ("axfr ZONE", &["Transfer failed."], &["SOA"]),
    ("+tcp ixfr=1 ZONE", &["Transfer failed."], &[]),
    ("a elsewhere.example", &["REFUSED", "flags: qr;"], &[]),
    ("ns .", &["REFUSED", "flags: qr;"], &[]),
    ("ch txt version.bind", &["REFUSED", "flags: qr;"], &[]),
    ("-c ANY soa ZONE", &["REFUSED"], &["60\tIN\tSOA"]),
];

#[tokio::test]
async fn every_kind_of_question_gets_its_answer() {
    let dns = "ns_ips = [\"192.0.2.53\", \"2001:db8::53\"]\ncaa = ['0 issue \"ca.example\"']\n";
    let (cluster, server) = name_server(dns).await;
    for number in 0..10 {
        let value = number.to_string().repeat(43);
        let request = SetAcmeRecord { cluster: cluster.name.clone(), value };
        assert!(cluster.client.request(&request, PATIENCE).await.unwrap());
    }
    let own = |text: &str| text.replace("ZONE", cluster.name.as_str());
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (arguments, holds, lacks) in BATTERY {
        let said = dig(server, &own(&format!("+norec {arguments}")));
        let flat = squeezed(&said);
        assert!(
            !said.contains("malformed") && !said.contains("mismatch") && !said.contains("no servers"),
            "{arguments}\n{said}"
        );
        for part in *holds {
            assert!(flat.contains(&squeezed(&own(part))), "{arguments}: {part}\n{said}");
        }
        for part in *lacks {
            assert!(!flat.contains(&squeezed(&own(part))), "{arguments}: not {part}\n{said}");
        }
    }
}

#[tokio::test]
async fn a_resolver_finds_a_backend_and_loses_it() {
    let name = unique_cluster();
    let dns = format!("{DNS}ttl_secs = 1\ndomain_name = \"a.ns.{name}\"\nns_ips = [\"192.0.2.53\"]\n");
    let settings = Settings { name: Some(name.clone()), scheduler: dns, ..Settings::default() };
    let mut cluster = Cluster::start_as(settings).await.unwrap();
    let server = cluster.controllers[0].name_server().await.unwrap();
    let running = Resolver::start(&name, server).await.unwrap();
    let resolver = running.address;
    // Somebody asked too early: that is soon forgotten.
    let early = BackendId::random();
    let full = format!("{early}.{name}");
    until(resolver, &full, (3, 0)).await;
    let mut request = cluster.request(300, &[]);
    request.backend_id = Some(early);
    let (backend, _) = cluster.schedule(&request).await.unwrap();
    let waited = until(resolver, &full, (0, 1)).await;
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    assert_eq!(dig(resolver, &format!("+short {full} A")), "127.0.0.1\n");
    // On the way to this one stands a name that has nothing.
    assert_eq!(dig(resolver, &format!("+short a.ns.{name} A")), "192.0.2.53\n");
    assert_eq!(dig(resolver, &format!("+short {name} NS")), format!("a.ns.{name}.\n"));
    cluster.end(&backend).await.unwrap();
    let waited = until(resolver, &full, (3, 0)).await;
    assert!(waited < Duration::from_secs(4), "{waited:?}");
}

#[tokio::test]
async fn a_resolver_finds_all_that_is_served() {
    let name = unique_cluster();
    let dns = "ns_ips = [\"192.0.2.53\", \"2001:db8::53\"]\ncaa = ['0 issue \"ca.example\"']\n";
    let settings =
        Settings { name: Some(name.clone()), drones: 0, scheduler: format!("{DNS}{dns}"), ..Settings::default() };
    let mut cluster = Cluster::start_as(settings).await.unwrap();
    let server = cluster.controllers[0].name_server().await.unwrap();
    let backend = enter(&cluster, "2001:db8::7").await;
    until(server, &backend, (0, 0)).await;
    let mut values: Vec<String> = (0..10).map(|number| number.to_string().repeat(200)).collect();
    for value in &values {
        let request = SetAcmeRecord { cluster: name.clone(), value: value.clone() };
        assert!(cluster.client.request(&request, PATIENCE).await.unwrap());
    }
    // A zone of its own stands further below: between them is a name that has nothing.
    let below = format!("deep.down.{name}").parse().unwrap();
    let request = SetAcmeRecord { cluster: below, value: "below".to_owned() };
    assert!(cluster.client.request(&request, PATIENCE).await.unwrap());
    let running = Resolver::start(&name, server).await.unwrap();
    let resolver = running.address;
    let sorted = |question: &str| {
        let mut lines: Vec<String> = dig(resolver, &format!("+short {question}")).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&format!("{backend} AAAA")), ["2001:db8::7"]);
    assert!(sorted(&format!("{backend} A")).is_empty());
    // They fit no datagram: both the resolver and whoever asks it ask again over TCP.
    values.iter_mut().for_each(|value| *value = format!("\"{value}\""));
    assert_eq!(sorted(&format!("_acme-challenge.{name} TXT")), values);
    assert_eq!(sorted(&format!("{name} CAA")), ["0 issue \"ca.example\""]);
    assert_eq!(sorted(&format!("{name} NS")), [format!("ns1.{name}.")]);
    assert_eq!(sorted(&format!("ns1.{name} A")), ["192.0.2.53"]);
    assert_eq!(sorted(&format!("ns1.{name} AAAA")), ["2001:db8::53"]);
    let nothing = dig(resolver, &format!("down.{name} A"));
    assert!(nothing.contains("status: NOERROR") && nothing.contains("ANSWER: 0"), "{nothing}");
    assert_eq!(sorted(&format!("_acme-challenge.deep.down.{name} TXT")), ["\"below\""]);
}

#[tokio::test]
async fn controllers_with_and_without_names_or_a_schedule_work_together() {
    // The first schedules and has no name server, the second has both, the third only serves names.
    let mut cluster = Cluster::start().await.unwrap();
    cluster.add_controller_with(&format!("[scheduler]\n{DNS}domain_name = \"dns.{}\"\n", cluster.name)).await.unwrap();
    cluster.add_controller_with(DNS).await.unwrap();
    let mut servers = Vec::new();
    for controller in &mut cluster.controllers[1..] {
        controller.logged("controller is ready").await.unwrap();
        servers.push(controller.name_server().await.unwrap());
    }
    for _ in 0..10 {
        let (backend, _) = cluster.schedule(&cluster.request(300, &[])).await.unwrap();
        for server in &servers {
            let waited = until(*server, &format!("{backend}.{}", cluster.name), (0, 1)).await;
            assert!(waited < Duration::from_secs(1), "{waited:?}");
        }
        let value = format!("of-{backend}");
        let request = SetAcmeRecord { cluster: cluster.name.clone(), value: value.clone() };
        assert!(cluster.client.request(&request, PATIENCE).await.unwrap());
        for server in &servers {
            let began = Instant::now();
            while !dig(*server, &format!("+short _acme-challenge.{} TXT", cluster.name)).contains(&value) {
                assert!(began.elapsed() < Duration::from_secs(1), "{value}");
            }
        }
        cluster.end(&backend).await.unwrap();
    }
    // Those that schedule are gone: names are served, and nothing is scheduled.
    cluster.lose_controllers(0..2).await.unwrap();
    assert!(
        cluster.client.request(&cluster.request(300, &[]), PATIENCE).await.unwrap_err().to_string().contains("nobody")
    );
    assert!(dig(servers[1], &format!("{} SOA", cluster.name)).contains("status: NOERROR"));
    // Each refuses what would take its name server's label.
    cluster.controllers[1].start().unwrap();
    cluster.controllers[1].logged("controller is ready").await.unwrap();
    let mut request = cluster.request(300, &[]);
    request.backend_id = Some("dns".parse().unwrap());
    let refused = cluster.client.request(&request, PATIENCE).await.unwrap_err().to_string();
    assert!(refused.contains("BadRequest") && refused.contains("backend_id"), "{refused}");
    request.backend_id = Some("ns1".parse().unwrap());
    let answer = cluster.client.request(&request, PATIENCE).await.unwrap();
    assert!(matches!(answer, ScheduleResponse::Scheduled { .. }), "{answer:?}");
    // And what would be the name of another cluster.
    let below = SetAcmeRecord { cluster: format!("below.{}", cluster.name).parse().unwrap(), value: "x".to_owned() };
    assert!(cluster.client.request(&below, PATIENCE).await.unwrap());
    let server = cluster.controllers[1].name_server().await.unwrap();
    until(server, below.cluster.as_str(), (0, 0)).await;
    request.backend_id = Some("below".parse().unwrap());
    let refused = cluster.client.request(&request, PATIENCE).await.unwrap_err().to_string();
    assert!(refused.contains("BadRequest") && refused.contains("is a cluster"), "{refused}");
}

#[tokio::test]
async fn names_are_served_while_nats_is_away() {
    let settings = Settings { drones: 0, scheduler: DNS.to_owned(), ..Settings::default() };
    let mut cluster = Cluster::start_as(Settings { proxied: true, ..settings }).await.unwrap();
    let server = cluster.controllers[0].name_server().await.unwrap();
    let name = enter(&cluster, "192.0.2.1").await;
    until(server, &name, (0, 1)).await;
    cluster.controllers[0].link.as_ref().unwrap().cut();
    assert_eq!(dig(server, &format!("+short {name} A")), "192.0.2.1\n");
    // One that has never read the log denies nothing.
    cluster.controllers[0].kill();
    cluster.controllers[0].start().unwrap();
    let server = cluster.controllers[0].name_server().await.unwrap();
    assert!(dig(server, &format!("{name} A")).contains("status: SERVFAIL"));
}

#[tokio::test]
async fn many_questions_share_a_connection_and_idle_ones_give_way() {
    let (cluster, server) = name_server("tcp_connections = 3\ntcp_idle_secs = 2\n").await;
    let name = enter(&cluster, "192.0.2.1").await;
    until(server, &name, (0, 1)).await;
    let mut first = TcpStream::connect(server).await.unwrap();
    for id in 0..200_u16 {
        send_over_tcp(&mut first, &question(id, &name, A)).await.unwrap();
    }
    for id in 0..200_u16 {
        let answer = read_over_tcp(&mut first).await.unwrap();
        assert_eq!((&answer[..2], outcome(&answer)), (&id.to_be_bytes()[..], Some((0, 1))));
    }
    // Byte by byte is fine too.
    let mut framed = question(9, &name, A);
    framed.splice(0..0, u16::try_from(framed.len()).unwrap().to_be_bytes());
    for byte in framed {
        tokio::io::AsyncWriteExt::write_all(&mut first, &[byte]).await.unwrap();
    }
    read_over_tcp(&mut first).await.unwrap();
    let mut others = Vec::new();
    for id in 0..3 {
        let mut other = TcpStream::connect(server).await.unwrap();
        send_over_tcp(&mut other, &question(id, &name, A)).await.unwrap();
        read_over_tcp(&mut other).await.unwrap();
        others.push(other);
    }
    // The first one has asked nothing for longer than the others: it was closed for the last of them.
    assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
    let began = Instant::now();
    for other in &mut others {
        assert_eq!(tokio::time::timeout(PATIENCE, other.read(&mut [0])).await.unwrap().unwrap(), 0);
    }
    assert!(began.elapsed() > Duration::from_millis(1500), "they were idle for too short a time");
    // What is no request ends a connection; what was asked before is answered.
    let mut odd = TcpStream::connect(server).await.unwrap();
    let mut packets = Vec::new();
    for packet in [&question(1, &name, A)[..], &question(2, &name, A), &[0xff; 20]] {
        packets.extend(u16::try_from(packet.len()).unwrap().to_be_bytes());
        packets.extend(packet);
    }
    tokio::io::AsyncWriteExt::write_all(&mut odd, &packets).await.unwrap();
    for id in [1, 2] {
        assert_eq!(read_over_tcp(&mut odd).await.unwrap()[..2], [0, id]);
    }
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(1), odd.read_to_end(&mut rest)).await.unwrap().ok();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn connections_give_way_where_the_system_has_no_files_left() {
    let (cluster, server) = name_server("tcp_idle_secs = 600\n").await;
    let name = enter(&cluster, "192.0.2.1").await;
    until(server, &name, (0, 1)).await;
    let pid = cluster.controllers[0].process.as_ref().unwrap().pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(files[3], files[4], "{limits}");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = format!("--nofile={0}:{0}", open + 5);
    assert!(Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap().success());
    let mut kept = Vec::new();
    for id in 0..15 {
        let mut stream = TcpStream::connect(server).await.unwrap();
        send_over_tcp(&mut stream, &question(id, &name, A)).await.unwrap();
        assert_eq!(read_over_tcp(&mut stream).await.unwrap()[..2], id.to_be_bytes());
        kept.push(stream);
    }
}

#[tokio::test]
async fn it_listens_on_both_families() {
    let any = DNS.replace("127.0.0.1", "::");
    let settings = Settings { drones: 0, scheduler: any, ..Settings::default() };
    let mut cluster = Cluster::start_as(settings).await.unwrap();
    let port = cluster.controllers[0].name_server().await.unwrap().port();
    let name = enter(&cluster, "2001:db8::7").await;
    for ip in ["127.0.0.1", "127.0.0.9", "::1"] {
        let server = SocketAddr::new(ip.parse().unwrap(), port);
        until(server, &name, (0, 0)).await;
        for transport in ["+notcp", "+tcp"] {
            assert_eq!(dig(server, &format!("+short {transport} {name} AAAA")), "2001:db8::7\n", "{ip}");
        }
    }
}

#[tokio::test]
async fn a_flood_from_one_network_gets_few_answers() {
    let (cluster, server) = name_server("rate_limit_per_sec = 20\n").await;
    let name = enter(&cluster, "192.0.2.1").await;
    until(server, &name, (0, 1)).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    let began = Instant::now();
    let (mut whole, mut truncated, mut answer) = (0, 0, [0; 512]);
    for id in 0..400 {
        socket.send(&question(id, &name, A)).await.unwrap();
        while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(1), socket.recv(&mut answer)).await {
            if answer[2] & 2 == 0 { whole += 1 } else { truncated += 1 }
        }
    }
    let most = 21 + usize::try_from(began.elapsed().as_millis()).unwrap() / 50;
    assert!(whole <= most && truncated > 100 && truncated < 220, "{whole} of {most}, {truncated}");
    // Who really asks is answered over TCP.
    assert!(dig(server, &format!("+tcp +short {name} A")).contains("192.0.2.1"));
}
