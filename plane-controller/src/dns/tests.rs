//! The whole way from a packet to its answer, without sockets.

mod hostile;
mod names;
mod room;

use super::*;
use crate::config::DnsConfig;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RecordType},
};
use plane_core::world::Entry;
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
