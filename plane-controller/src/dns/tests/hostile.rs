//! What is no question, or no packet at all.

use super::*;
use proptest::prelude::*;

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
