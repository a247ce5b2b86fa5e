//! What must be true of the answer to any packet; panics where it is not. For the fuzzer alone (`fuzz/`).

use super::{
    message::ClientEdns,
    reply::{LARGEST_UDP, Manner, Transport},
    respond,
    zone::Zone,
};
use hickory_proto::op::Message;
use plane_core::world::{Entry, World};
use serde_json::{Value, json};

/// Bytes that an answer over UDP may have where the client says nothing of it.
const PLAIN_UDP: usize = 512;

/// A packet: its answer can be read, is one to that very question, and has no more bytes than the client takes.
pub fn dns(packet: &[u8]) {
    thread_local! {
        static SETTING: (World, Zone) = (world(), Zone::default());
    }
    SETTING.with(|(world, zone)| {
        for world in [Some(world), None] {
            for transport in [Transport::Udp, Transport::Tcp] {
                for truncated in [false, true] {
                    check(world, zone, packet, Manner { transport, truncated });
                }
            }
        }
    });
}

fn check(world: Option<&World>, zone: &Zone, packet: &[u8], manner: Manner) {
    let mut out = Vec::new();
    let request = super::message::read(packet);
    assert_eq!(respond(world, zone, packet, manner, &mut out), request.is_some());
    let Some(request) = request else { return };
    let answer = match Message::from_vec(&out) {
        Ok(answer) => answer,
        Err(error) => panic!("an answer that cannot be read, {error}: {out:02x?}"),
    };
    assert_eq!(out.get(..2), packet.get(..2), "the id of another");
    assert!(out.get(2).is_some_and(|flags| flags & 0x80 != 0), "it is no answer");
    let edns = request.edns.map(|ClientEdns { payload, .. }| usize::from(payload));
    let most = edns.unwrap_or(0).clamp(PLAIN_UDP, usize::from(LARGEST_UDP));
    assert!(manner.transport == Transport::Tcp || out.len() <= most, "{} bytes", out.len());
    assert_eq!(answer.edns.is_some(), edns.is_some(), "EDNS is answered with EDNS, and nothing else is");
    if let Some((_, range)) = &request.question {
        assert_eq!(answer.queries.len(), 1);
        assert_eq!(out.get(range.clone()), packet.get(range.clone()), "another question");
    }
    let is_empty = answer.answers.is_empty() && answer.authorities.is_empty();
    assert!(is_empty || (world.is_some() && answer.metadata.authoritative), "an answer out of nothing");
}

fn world() -> World {
    let mut world = World::default();
    let drone = |drone: &str, ip: &str| {
        let metadata = json!({"ip": ip, "version": "1", "git_hash": null});
        let message = json!({"drone": drone, "Metadata": metadata});
        (format!("drone.{drone}.meta"), json!({"cluster": "plane.test", "DroneMessage": message}))
    };
    let backend = |backend: &str, drone: &str| {
        let assignment = json!({"drone": drone, "bearer_token": null, "lock_assignment": null, "withdrawn": false});
        let message = json!({"backend": backend, "Assignment": assignment});
        (format!("backend.{backend}.assignment"), json!({"cluster": "plane.test", "BackendMessage": message}))
    };
    let values: Vec<String> = (0..40).map(|number| format!("{number}").repeat(30)).collect();
    let challenge = json!({"value": values.last(), "values": values});
    let challenge = ("acme".to_owned(), json!({"cluster": "plane.test", "AcmeMessage": challenge}));
    let entries = [drone("d", "192.0.2.4"), drone("e", "2001:db8::6"), backend("b", "d"), backend("c", "e"), challenge];
    for (sequence, (subject, payload)) in (1..).zip(entries) {
        apply(&mut world, sequence, &subject, &payload);
    }
    world
}

fn apply(world: &mut World, sequence: u64, subject: &str, payload: &Value) {
    let subject = format!("state.cluster.plane_test.{subject}");
    let payload = payload.to_string().into_bytes().into();
    let applied = world.apply(&Entry { subject, sequence, time: jiff::Timestamp::UNIX_EPOCH, payload });
    assert!(applied.is_ok(), "the world of the fuzzer is none");
}
