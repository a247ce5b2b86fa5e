//! What each name is answered with.

use super::*;

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
