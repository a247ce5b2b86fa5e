//! The whole way from a packet to its answer, without sockets.

use super::*;
use crate::config::DnsConfig;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RecordType},
};
use plane_core::world::Entry;
use proptest::prelude::*;
use reply::Transport;
use serde_json::{Value, json};

const BACKEND: &str = "0a1b2c3d-0000-4000-8000-123456789abc";
const UDP: Manner = Manner { transport: Transport::Udp, truncated: false };
const TCP: Manner = Manner { transport: Transport::Tcp, truncated: false };

fn entry(world: &mut World, subject: &str, payload: &Value) {
    let sequence = world.sequence() + 1;
    let time = jiff::Timestamp::from_second(1_800_000_000).unwrap();
    let payload = payload.to_string().into_bytes().into();
    world.apply(&Entry { subject: subject.to_owned(), sequence, time, payload }).unwrap();
}

fn assign(world: &mut World, cluster: &str, backend: &str, drone: &str, withdrawn: bool) {
    let subject = format!("state.cluster.{}.backend.{backend}.assignment", cluster.replace('.', "_"));
    let assignment = json!({"drone": drone, "bearer_token": null, "lock_assignment": null, "withdrawn": withdrawn});
    let message = json!({"backend": backend, "Assignment": assignment});
    entry(world, &subject, &json!({"cluster": cluster, "BackendMessage": message}));
}

fn drone(world: &mut World, cluster: &str, drone: &str, ip: &str) {
    let subject = format!("state.cluster.{}.drone.{drone}.meta", cluster.replace('.', "_"));
    let metadata = json!({"ip": ip, "version": "1", "git_hash": null});
    entry(world, &subject, &json!({"cluster": cluster, "DroneMessage": {"drone": drone, "Metadata": metadata}}));
}

fn challenge(world: &mut World, cluster: &str, values: &[&str]) {
    let subject = format!("state.cluster.{}.acme", cluster.replace('.', "_"));
    let message = json!({"value": values.last(), "values": values});
    entry(world, &subject, &json!({"cluster": cluster, "AcmeMessage": message}));
}

fn world() -> World {
    let mut world = World::default();
    drone(&mut world, "plane.test", "four", "192.0.2.4");
    drone(&mut world, "plane.test", "six", "2001:db8::6");
    assign(&mut world, "plane.test", BACKEND, "four", false);
    assign(&mut world, "plane.test", "six", "six", false);
    assign(&mut world, "plane.test", "withdrawn", "four", true);
    assign(&mut world, "plane.test", "ended", "four", false);
    let ended = json!({"backend": "ended", "State": {"state": "Exited", "timestamp": 1}});
    let ended = json!({"cluster": "plane.test", "BackendMessage": ended});
    entry(&mut world, "state.cluster.plane_test.backend.ended.state.Exited", &ended);
    challenge(&mut world, "plane.test", &["one", "two"]);
    challenge(&mut world, "deep.down.plane.test", &["three"]);
    drone(&mut world, "other.example", "d", "192.0.2.9");
    world
}

fn zone(config: &str) -> Zone {
    let mut keys: serde_json::Map<String, Value> = serde_json::from_str(config).unwrap();
    keys.entry("ttl_secs").or_insert(60.into());
    Zone::new(&serde_json::from_value::<DnsConfig>(Value::Object(keys)).unwrap())
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

fn ask_packet(world: &World, zone: &Zone, packet: &[u8], manner: Manner) -> Option<Message> {
    let mut out = Vec::new();
    respond(Some(world), zone, packet, manner, &mut out).then(|| Message::from_vec(&out).unwrap())
}

fn ask(world: &World, zone: &Zone, query: &Message) -> Message {
    ask_packet(world, zone, &query.to_vec().unwrap(), UDP).unwrap()
}

/// An answer in short: the code, then what is in each section.
fn short(answer: &Message) -> String {
    let section = |records: &[hickory_proto::rr::Record]| {
        let records = records.iter().map(|record| match record.record_type() {
            RecordType::SOA => format!("{} SOA/{}", record.name, record.ttl),
            kind => format!("{kind}/{} {}", record.ttl, record.data),
        });
        records.collect::<Vec<_>>().join(", ")
    };
    let aa = if answer.authoritative { " aa" } else { "" };
    let tc = if answer.truncation { " tc" } else { "" };
    let [answers, authorities, additionals] = [&answer.answers, &answer.authorities, &answer.additionals];
    format!(
        "{:?}{aa}{tc} [{}] [{}] [{}]",
        answer.response_code,
        section(answers),
        section(authorities),
        section(additionals)
    )
}

const NO_NAME: &str = "NXDomain aa [] [plane.test. SOA/2] []";
const NO_DATA: &str = "NoError aa [] [plane.test. SOA/2] []";
const REFUSED: &str = "Refused [] [] []";

#[test]
fn each_name_has_what_it_should_have() {
    let (world, zone) =
        (world(), zone(r#"{"ns_ips": ["198.51.100.1", "2001:db8::53"], "caa": ["128 issue \"ca.example\""]}"#));
    let backend = &format!("{BACKEND}.plane.test");
    let glue = "[] [A/60 198.51.100.1, AAAA/60 2001:db8::53]";
    let hinfo = "NoError aa [HINFO/60 RFC8482 ] [] []";
    for (name, kind, expected) in [
        (backend.as_str(), RecordType::A, "NoError aa [A/60 192.0.2.4] [] []"),
        (backend, RecordType::AAAA, NO_DATA),
        (backend, RecordType::TXT, NO_DATA),
        (backend, RecordType::CAA, NO_DATA),
        (backend, RecordType::NS, NO_DATA),
        (backend, RecordType::DS, NO_DATA),
        (backend, RecordType::Unknown(65_280), NO_DATA),
        (backend, RecordType::ANY, hinfo),
        (backend, RecordType::AXFR, REFUSED),
        (backend, RecordType::IXFR, REFUSED),
        ("six.plane.test", RecordType::AAAA, "NoError aa [AAAA/60 2001:db8::6] [] []"),
        ("six.plane.test", RecordType::A, NO_DATA),
        ("ended.plane.test", RecordType::A, NO_NAME),
        ("withdrawn.plane.test", RecordType::A, NO_NAME),
        ("unknown.plane.test", RecordType::A, NO_NAME),
        ("unknown.plane.test", RecordType::ANY, NO_NAME),
        ("*.plane.test", RecordType::A, NO_NAME),
        ("below.six.plane.test", RecordType::AAAA, NO_NAME),
        ("six.unknown.plane.test", RecordType::AAAA, NO_NAME),
        ("plane.test", RecordType::SOA, "NoError aa [plane.test. SOA/60] [] []"),
        ("plane.test", RecordType::NS, &format!("NoError aa [NS/60 ns1.plane.test.] {glue}")),
        ("plane.test", RecordType::CAA, "NoError aa [CAA/60 128 issue \"ca.example\"] [] []"),
        ("plane.test", RecordType::A, NO_DATA),
        ("plane.test", RecordType::DS, NO_DATA),
        ("plane.test", RecordType::ANY, hinfo),
        ("plane.test", RecordType::AXFR, REFUSED),
        ("ns1.plane.test", RecordType::A, "NoError aa [A/60 198.51.100.1] [] []"),
        ("ns1.plane.test", RecordType::AAAA, "NoError aa [AAAA/60 2001:db8::53] [] []"),
        ("ns1.plane.test", RecordType::TXT, NO_DATA),
        ("ns2.plane.test", RecordType::A, NO_NAME),
        ("_acme-challenge.plane.test", RecordType::TXT, "NoError aa [TXT/2 one, TXT/2 two] [] []"),
        ("_acme-challenge.plane.test", RecordType::A, NO_DATA),
        ("_acme-challenge.six.plane.test", RecordType::TXT, NO_NAME),
        // Between a zone and one below it there is a name without anything; the zone below has its own names, and of
        // what belongs above its apex the zone above speaks.
        ("down.plane.test", RecordType::A, NO_DATA),
        ("up.plane.test", RecordType::A, NO_NAME),
        ("deep.down.plane.test", RecordType::A, "NoError aa [] [deep.down.plane.test. SOA/2] []"),
        ("deep.down.plane.test", RecordType::DS, NO_DATA),
        ("x.deep.down.plane.test", RecordType::A, "NXDomain aa [] [deep.down.plane.test. SOA/2] []"),
        // Another cluster has no values, and so not the name.
        ("_acme-challenge.other.example", RecordType::TXT, "NXDomain aa [] [other.example. SOA/2] []"),
        ("test", RecordType::A, REFUSED),
        ("other.test", RecordType::A, REFUSED),
        ("xplane.test", RecordType::A, REFUSED),
        ("example", RecordType::SOA, REFUSED),
        (".", RecordType::NS, REFUSED),
    ] {
        assert_eq!(short(&ask(&world, &zone, &query(name, kind))), expected, "{name} {kind}");
    }
}

#[test]
fn the_name_server_may_have_any_name() {
    let world = world();
    let ns = |config: &str, name: &str, kind| short(&ask(&world, &zone(config), &query(name, kind)));
    // Elsewhere: no glue, and its label is free.
    let elsewhere = r#"{"domain_name": "NS.example.org.", "ns_ips": ["198.51.100.1"]}"#;
    assert_eq!(ns(elsewhere, "plane.test", RecordType::NS), "NoError aa [NS/60 ns.example.org.] [] []");
    assert_eq!(ns(elsewhere, "ns1.plane.test", RecordType::A), NO_NAME);
    assert_eq!(zone(elsewhere).reserved_label("plane.test"), None);
    // Two labels below the cluster: the name between has nothing, and is there.
    let below = r#"{"domain_name": "a.ns.plane.test", "ns_ips": ["198.51.100.1"]}"#;
    let glue = "NoError aa [NS/60 a.ns.plane.test.] [] [A/60 198.51.100.1]";
    assert_eq!(ns(below, "plane.test", RecordType::NS), glue);
    assert_eq!(ns(below, "ns.plane.test", RecordType::A), NO_DATA);
    assert_eq!(ns(below, "a.ns.plane.test", RecordType::A), "NoError aa [A/60 198.51.100.1] [] []");
    assert_eq!(ns(below, "b.ns.plane.test", RecordType::A), NO_NAME);
    assert_eq!(zone(below).reserved_label("plane.test"), None);
    assert_eq!(ns(below, "other.example", RecordType::NS), "NoError aa [NS/60 a.ns.plane.test.] [] []");
    // The cluster itself.
    let apex = r#"{"domain_name": "plane.test", "ns_ips": ["198.51.100.1"]}"#;
    assert_eq!(ns(apex, "plane.test", RecordType::A), "NoError aa [A/60 198.51.100.1] [] []");
    assert_eq!(ns(apex, "plane.test", RecordType::NS), "NoError aa [NS/60 plane.test.] [] [A/60 198.51.100.1]");
    // One label: no backend may have it.
    let own = zone(r#"{"domain_name": "dns.plane.test"}"#);
    assert_eq!((own.reserved_label("plane.test"), own.reserved_label("lane.test")), (Some("dns"), None));
    assert_eq!(Zone::default().reserved_label("plane.test"), Some("ns1"));
}

#[test]
fn the_start_of_a_zone_says_who_is_responsible() {
    let world = world();
    let soa =
        |config: &str| ask(&world, &zone(config), &query("plane.test", RecordType::SOA)).answers[0].data.to_string();
    let serial = world.sequence();
    let rest = format!("{serial} 3600 600 86400 2");
    assert_eq!(soa("{}"), format!("ns1.plane.test. hostmaster.plane.test. {rest}"));
    let own = soa(r#"{"domain_name": "ns.example.org", "soa_email": "jane.doe@example.org"}"#);
    assert_eq!(own, format!(r"ns.example.org. jane\.doe.example.org. {rest}"));
}

#[test]
fn the_case_of_a_question_is_kept() {
    let mut query = query("sIx.PlAnE.tEsT", RecordType::AAAA);
    query.metadata.recursion_desired = true;
    let answer = ask(&world(), &Zone::default(), &query);
    assert_eq!(answer.queries[0].name().to_ascii(), "sIx.PlAnE.tEsT.");
    assert_eq!(answer.answers[0].name.to_ascii(), "sIx.PlAnE.tEsT.");
    assert_eq!((answer.id, answer.recursion_desired, answer.recursion_available), (4711, true, false));
    let denied = ask(&world(), &Zone::default(), &self::query("x.PlAnE.tEsT", RecordType::A));
    assert_eq!(denied.authorities[0].name.to_ascii(), "PlAnE.tEsT.");
}

#[test]
fn what_does_not_fit_is_asked_for_over_tcp() {
    let mut world = world();
    let values: Vec<String> = (0..10).map(|number| format!("{number}").repeat(43)).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    challenge(&mut world, "plane.test", &values);
    let zone = Zone::default();
    let mut query = query("_acme-challenge.plane.test", RecordType::TXT);
    let truncated = "NoError aa tc [] [] []";
    assert_eq!(short(&ask(&world, &zone, &query)), truncated);
    for (payload, whole) in [(0, false), (511, false), (512, false), (700, true), (65_535, true)] {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        query.edns = Some(edns);
        let answer = ask(&world, &zone, &query);
        assert_eq!(answer.answers.len(), if whole { 10 } else { 0 }, "{payload}");
        assert_eq!((answer.truncation, answer.queries.len()), (!whole, 1));
        assert_eq!(answer.edns.as_ref().map(Edns::max_payload), Some(1232));
    }
    query.edns = None;
    let answer = ask_packet(&world, &zone, &query.to_vec().unwrap(), TCP).unwrap();
    assert_eq!((answer.answers.len(), answer.truncation), (10, false));
    // Texts longer than one string are several; the largest answers are cut even for clients that take more.
    challenge(&mut world, "plane.test", &["x".repeat(700).as_str(), "y".repeat(600).as_str()]);
    query.edns = Some(Edns::new());
    query.edns.as_mut().unwrap().set_max_payload(4096);
    assert_eq!(short(&ask(&world, &zone, &query)), truncated);
    let answer = ask_packet(&world, &zone, &query.to_vec().unwrap(), TCP).unwrap();
    assert_eq!(answer.answers.len(), 2);
    let limited = Manner { transport: Transport::Udp, truncated: true };
    let answer = ask_packet(&world, &zone, &query.to_vec().unwrap(), limited).unwrap();
    assert_eq!((answer.answers.len(), answer.truncation, answer.queries.len()), (0, true, 1));
}

#[test]
fn an_answer_takes_all_the_room_that_there_is() {
    let (mut world, zone) = (world(), Zone::default());
    let mut query = query("_acme-challenge.plane.test", RecordType::TXT);
    // What there is without the values, each of which takes 13 bytes more than it has.
    let empty = query.to_vec().unwrap().len() + 2 * 13;
    let mut size = |size: usize, query: &Message| {
        let (first, rest) = ("x".repeat(240), "y".repeat(size - empty - 240));
        challenge(&mut world, "plane.test", &[&first, &rest]);
        let mut out = Vec::new();
        assert!(respond(Some(&world), &zone, &query.to_vec().unwrap(), UDP, &mut out));
        (out.len(), Message::from_vec(&out).unwrap().truncation)
    };
    for whole in [501, 502, 511, 512] {
        assert_eq!(size(whole, &query), (whole, false));
    }
    assert!(size(513, &query).1);
    query.edns = Some(Edns::new());
    query.edns.as_mut().unwrap().set_max_payload(512);
    assert_eq!(size(501, &query), (512, false));
    assert!(size(502, &query).1);
}

#[test]
fn what_a_client_says_of_itself_is_heard_whatever_else_is_wrong() {
    let (world, zone) = (world(), Zone::default());
    let opt = |version: u8, options: &[u8]| {
        let length = u8::try_from(options.len()).unwrap();
        [&[0, 0, 41, 4, 208, 0, version, 0, 0, 0, length], options].concat()
    };
    let question = query("six.plane.test", RecordType::AAAA).to_vec().unwrap()[12..].to_vec();
    let record = [&[0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4][..], &[192, 0, 2, 1]].concat();
    let say = |opcode: u8, counts: [u8; 3], rest: &[&[u8]]| {
        let [questions, answers, authorities] = counts;
        let header = [0, 7, opcode << 3, 0, 0, questions, 0, answers, 0, authorities, 0, 1];
        let answer = ask_packet(&world, &zone, &[&header[..], &rest.concat()].concat(), UDP).unwrap();
        (u16::from(answer.response_code), answer.edns.map(|edns| edns.version()))
    };
    let (good, newer) = (opt(0, &[]), opt(1, &[]));
    // FORMERR is 1, NOTIMP 4, REFUSED 5, BADVERS 16.
    for (opcode, empty, whole) in [(0, 1, 0), (1, 4, 4), (2, 4, 4), (4, 5, 5), (5, 5, 5), (15, 4, 4)] {
        assert_eq!(say(opcode, [0, 0, 0], &[&good]), (empty, Some(0)), "{opcode}");
        assert_eq!(say(opcode, [1, 0, 0], &[&question, &good]), (whole, Some(0)), "{opcode}");
        assert_eq!(say(opcode, [0, 0, 0], &[&newer]), (16, Some(0)), "{opcode}");
        assert_eq!(say(opcode, [1, 0, 0], &[&question, &newer]), (16, Some(0)), "{opcode}");
    }
    assert_eq!(say(0, [2, 0, 0], &[&question, &question, &good]), (1, Some(0)));
    assert_eq!(say(0, [1, 1, 0], &[&question, &record, &good]), (1, Some(0)));
    assert_eq!(say(0, [1, 0, 1], &[&question, &record, &good]), (1, Some(0)));
    // An incremental transfer says what it has, once.
    let transfer = query("plane.test", RecordType::IXFR).to_vec().unwrap()[12..].to_vec();
    assert_eq!(say(0, [1, 0, 1], &[&transfer, &record, &good]), (5, Some(0)));
    assert_eq!(say(0, [1, 0, 2], &[&transfer, &record, &record, &good]), (1, Some(0)));
    assert_eq!(say(0, [1, 1, 0], &[&transfer, &record, &good]), (1, Some(0)));
    // What options of a later version look like is not known.
    assert_eq!(say(0, [1, 0, 0], &[&question, &opt(1, &[0, 100, 0, 9])]), (16, Some(0)));
    assert_eq!(say(0, [1, 0, 0], &[&question, &opt(0, &[0, 100, 0, 9])]).0, 1);
}

#[test]
fn extensions_are_answered_as_their_version_has_it() {
    let (world, zone) = (world(), Zone::default());
    let mut query = query("six.plane.test", RecordType::AAAA);
    assert_eq!(ask(&world, &zone, &query).edns, None);
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true);
    edns.flags_mut().z = 0x40;
    query.edns = Some(edns.clone());
    let answer = ask(&world, &zone, &query);
    let own = answer.edns.unwrap();
    assert_eq!((own.version(), own.flags().dnssec_ok, own.flags().z), (0, true, 0));
    assert_eq!(answer.answers.len(), 1);
    query.edns = Some(edns.set_version(1).clone());
    let answer = ask(&world, &zone, &query);
    // 16 is BADVERS in an answer's extended code (RFC 6891 section 9); it has another name in signatures.
    assert_eq!((u16::from(answer.response_code), answer.answers.len(), answer.authoritative), (16, 0, false));
    assert_eq!(answer.edns.unwrap().version(), 0);
    // Two of them, or one that does not belong to the root, or with a broken option, are malformed.
    query.edns = None;
    let plain = query.to_vec().unwrap();
    let with = |records: &[&[u8]]| {
        let mut packet = plain.clone();
        packet[11] = u8::try_from(records.len()).unwrap();
        records.iter().for_each(|record| packet.extend_from_slice(record));
        short(&ask_packet(&world, &zone, &packet, UDP).unwrap())
    };
    let good: &[u8] = &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0];
    let option: &[u8] = &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 6, 0, 100, 0, 2, 1, 2];
    let cut_option: &[u8] = &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 6, 0, 100, 0, 9, 1, 2];
    let owned: &[u8] = &[1, b'x', 0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0];
    for whole in [good, option] {
        assert_eq!(with(&[whole]), "NoError aa [AAAA/60 2001:db8::6] [] []");
    }
    for bad in [&[good, good][..], &[cut_option], &[owned], &[&good[..8]]] {
        assert!(with(bad).starts_with("FormErr ["), "{bad:?}");
    }
}

#[test]
fn what_is_no_question_is_answered_or_not_as_it_should_be() {
    let (world, zone) = (world(), Zone::default());
    let plain = query("six.plane.test", RecordType::AAAA).to_vec().unwrap();
    let say = |packet: &[u8]| ask_packet(&world, &zone, packet, UDP).map(|answer| short(&answer));
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = plain.clone();
        change(&mut packet);
        say(&packet)
    };
    for length in 0..12 {
        assert_eq!(say(&plain[..length]), None, "{length}");
    }
    let malformed = Some("FormErr [] [] []".to_owned());
    for length in 12..plain.len() {
        assert_eq!(say(&plain[..length]), malformed, "{length}");
    }
    assert_eq!(changed(&|packet| packet[2] |= 0x80), None);
    assert_eq!(changed(&|packet| packet[5] = 0), malformed);
    assert_eq!(changed(&|packet| packet[5] = 2), malformed);
    assert_eq!(changed(&|packet| packet[7] = 1), malformed);
    assert_eq!(changed(&|packet| packet[9] = 1), malformed);
    // A name that points to itself, or into the header.
    for to in [0, 4, 12] {
        assert_eq!(changed(&|packet| packet.splice(12..13, [0xC0, to]).for_each(drop)), malformed);
    }
    let opcode = |code: u8| changed(&|packet| packet[2] |= code << 3);
    for (code, expected) in [(1, "NotImp"), (2, "NotImp"), (4, "Refused"), (5, "Refused"), (15, "NotImp")] {
        assert_eq!(opcode(code), Some(format!("{expected} [] [] []")));
    }
    for class in [0, 3, 4, 254, 255] {
        let class = changed(&|packet| *packet.last_mut().unwrap() = class);
        assert_eq!(class.as_deref(), Some(REFUSED));
    }
    // Bits that mean nothing in a question are neither minded nor copied.
    let flagged = ask_packet(&world, &zone, &[&plain[..2], &[0x06, 0xE0], &plain[4..]].concat(), UDP).unwrap();
    assert_eq!(short(&flagged), "NoError aa [AAAA/60 2001:db8::6] [] []");
    assert_eq!((flagged.authentic_data, flagged.recursion_available), (false, false));
    // While the log is being read nothing is denied.
    let mut out = Vec::new();
    assert!(respond(None, &zone, &plain, UDP, &mut out));
    assert_eq!(short(&Message::from_vec(&out).unwrap()), "ServFail [] [] []");
}

/// What must hold of the answer to any packet.
fn check(world: &World, zone: &Zone, packet: &[u8], out: &mut Vec<u8>) {
    for (world, manner, answers) in [
        (Some(world), UDP, true),
        (Some(world), TCP, true),
        (None, UDP, false),
        (None, TCP, false),
        (Some(world), Manner { truncated: true, ..UDP }, false),
        (Some(world), Manner { truncated: true, ..TCP }, false),
    ] {
        if !respond(world, zone, packet, manner, out) {
            assert!(packet.len() < 12 || packet[2] & 0x80 != 0, "not answered: {packet:?}");
            continue;
        }
        assert_eq!(out[..2], packet[..2], "the id");
        assert!(out[2] & 0x80 != 0 && out[3] & 0x60 == 0, "flags: {out:?}");
        assert!(manner.transport == Transport::Tcp || out.len() <= 1232, "{} bytes", out.len());
        let answer = Message::from_vec(out).unwrap_or_else(|error| panic!("{error}: {packet:?} → {out:?}"));
        assert_eq!(answer.message_type, MessageType::Response);
        if let Some(question) = answer.queries.first() {
            assert!(out[12..].starts_with(&packet[12..12 + question.name().len()]), "the question");
        }
        let records = answer.answers.len() + answer.authorities.len() + answer.additionals.len();
        assert!(answers || (records == 0 && !answer.authoritative), "{answer}");
        if world.is_none() {
            assert!(!matches!(answer.response_code, ResponseCode::NoError | ResponseCode::NXDomain), "{answer}");
        }
        for record in &answer.answers {
            assert_eq!(Some(&record.name), answer.queries.first().map(Query::name), "{answer}");
        }
        let denies = answer.authoritative && answer.answers.is_empty() && !answer.truncation;
        assert_eq!(answer.authorities.len(), usize::from(denies), "{answer}");
        assert!(answer.authorities.iter().all(|record| record.ttl <= 2));
    }
}

/// Numbers that look drawn, the same in every run.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }
}

#[test]
fn mutated_packets_harm_nothing() {
    let (world, zone) = (world(), zone(r#"{"ns_ips": ["198.51.100.1"], "caa": ["0 issue ca.example"]}"#));
    let mut seeds = Vec::new();
    for name in ["six.plane.test", "plane.test", "_acme-challenge.plane.test", "a.b.c.d.e.f", "down.plane.test"] {
        for kind in [RecordType::A, RecordType::TXT, RecordType::NS, RecordType::SOA, RecordType::ANY, RecordType::IXFR]
        {
            let mut query = query(name, kind);
            seeds.push(query.to_vec().unwrap());
            query.edns = Some(Edns::new());
            seeds.push(query.to_vec().unwrap());
            query.metadata.op_code = OpCode::Update;
            query.queries[0].set_query_class(DNSClass::CH);
            seeds.push(query.to_vec().unwrap());
        }
    }
    let (mut drawn, mut out) = (Drawn(1), Vec::new());
    for _ in 0..200_000 {
        let mut packet = seeds[drawn.below(seeds.len())].clone();
        for _ in 0..=drawn.below(4) {
            let at = drawn.below(packet.len());
            match drawn.below(6) {
                0 => packet.truncate(at),
                1 => packet.insert(at.min(packet.len()), u8::try_from(drawn.below(256)).unwrap()),
                2 => packet.extend(seeds[drawn.below(seeds.len())].iter().skip(at)),
                3 if at < packet.len() => packet[at] = [0, 1, 63, 64, 0x80, 0xC0, 0xFF][drawn.below(7)],
                4 if at < packet.len() => packet[at] ^= 1 << drawn.below(8),
                _ if at < packet.len() => packet[at] = u8::try_from(drawn.below(256)).unwrap(),
                _ => {}
            }
        }
        check(&world, &zone, &packet, &mut out);
    }
}

proptest! {
    #[test]
    fn any_packet_is_answered_within_bounds(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        check(&world(), &Zone::default(), &packet, &mut Vec::new());
    }

    #[test]
    fn any_name_is_answered_as_its_lower_case_is(
        labels in proptest::collection::vec("[a-zA-Z0-9_.*-]{1,20}", 0..4),
        tail in prop_oneof![Just("Plane.Test"), Just("dEEp.down.plane.test"), Just("test"), Just("six.plane.test")],
        kind in prop_oneof![Just(RecordType::A), Just(RecordType::AAAA), Just(RecordType::TXT), Just(RecordType::ANY)],
    ) {
        let labels = labels.iter().map(|label| label.as_bytes());
        let name = Name::from_labels(labels.chain(tail.split('.').map(str::as_bytes))).unwrap();
        let (world, zone) = (world(), Zone::default());
        let ask = |name: Name| {
            let mut message = query(".", kind);
            message.queries[0].set_name(name);
            ask(&world, &zone, &message)
        };
        let answer = ask(name.clone());
        prop_assert!(answer.queries[0].name().eq_case(&name));
        prop_assert_eq!(short(&answer).to_lowercase(), short(&ask(name.to_lowercase())).to_lowercase());
    }
}
