//! How much room an answer has, and what a client says of itself.

use super::*;

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
