use super::*;
use proptest::prelude::*;

fn trusted() -> Vec<Network> {
    ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().unwrap()).into()
}

fn origin_of(peer: &str, fields: &[(&str, &str)]) -> Origin {
    let claims = Claims::of(fields.iter().map(|(name, value)| (*name, value.as_bytes())));
    Origin::resolve(SocketAddr::new(peer.parse().unwrap(), 4711), Scheme::Http, &claims, &trusted())
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

/// The client, and `X-Forwarded-For`, `Forwarded`, `-Proto` and `-Host` as they are sent on.
fn told(peer: &str, fields: &[(&str, &str)]) -> [String; 5] {
    let origin = origin_of(peer, fields);
    [
        origin.client.to_string(),
        written(|out| origin.write_forwarded_for(out)),
        written(|out| origin.write_forwarded("b.plane.test:8080", out)),
        origin.proto().to_owned(),
        origin.host("b.plane.test:8080").to_owned(),
    ]
}

#[test]
fn who_is_not_trusted_is_the_client_whatever_it_claims() {
    for peer in ["192.0.2.7", "::ffff:192.0.2.7"] {
        let claims = [
            ("X-Forwarded-For", "6.6.6.6"),
            ("Forwarded", "for=6.6.6.6;proto=https;host=evil.test"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.test"),
        ];
        let forwarded = "for=192.0.2.7;host=\"b.plane.test:8080\";proto=http";
        assert_eq!(told(peer, &claims), ["192.0.2.7", "192.0.2.7", forwarded, "http", "b.plane.test:8080"]);
    }
    let forwarded = "for=\"[2001:db8::7]\";host=\"b.plane.test:8080\";proto=http";
    assert_eq!(told("2001:db8::7", &[]), ["2001:db8::7", "2001:db8::7", forwarded, "http", "b.plane.test:8080"]);
}

#[test]
fn trusted_proxies_are_believed_up_to_the_first_that_is_none() {
    let ours = "host=\"b.plane.test:8080\"";
    for (fields, client, sent, forwarded) in [
        (&[][..], "10.0.0.1", "10.0.0.1".to_owned(), format!("for=10.0.0.1;{ours};proto=http")),
        (
            &[("x-forwarded-for", "192.0.2.7")],
            "192.0.2.7",
            "192.0.2.7, 10.0.0.1".into(),
            format!("for=192.0.2.7;{ours};proto=http, for=10.0.0.1"),
        ),
        (
            &[("x-forwarded-for", "6.6.6.6, 192.0.2.7,10.9.9.9")],
            "192.0.2.7",
            "6.6.6.6, 192.0.2.7,10.9.9.9, 10.0.0.1".into(),
            format!("for=6.6.6.6, for=192.0.2.7;{ours};proto=http, for=10.9.9.9, for=10.0.0.1"),
        ),
        (
            &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "[2001:db8::7]:99")],
            "2001:db8::7",
            "6.6.6.6, [2001:db8::7]:99, 10.0.0.1".into(),
            format!("for=6.6.6.6, for=\"[2001:db8::7]\";{ours};proto=http, for=10.0.0.1"),
        ),
        (
            &[("x-forwarded-for", "6.6.6.6, unknown, 10.0.0.2")],
            "10.0.0.2",
            "6.6.6.6, unknown, 10.0.0.2, 10.0.0.1".into(),
            format!("for=6.6.6.6, for=unknown, for=10.0.0.2;{ours};proto=http, for=10.0.0.1"),
        ),
        (
            &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")],
            "10.0.0.3",
            "10.0.0.3, 10.0.0.2, 10.0.0.1".into(),
            format!("for=10.0.0.3;{ours};proto=http, for=10.0.0.2, for=10.0.0.1"),
        ),
        (
            &[("x-forwarded-for", "nonsense")],
            "10.0.0.1",
            "nonsense, 10.0.0.1".into(),
            format!("for=unknown, for=10.0.0.1;{ours};proto=http"),
        ),
    ] {
        let [is, list, element, ..] = told("10.0.0.1", fields);
        assert_eq!((is.as_str(), list, element), (client, sent, forwarded), "{fields:?}");
    }
}

#[test]
fn what_a_trusted_proxy_says_of_scheme_and_host_is_kept() {
    let claims = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "www.test:1")];
    let forwarded = "for=192.0.2.7;host=\"www.test:1\";proto=https, for=10.0.0.1";
    assert_eq!(told("10.0.0.1", &claims), ["192.0.2.7", "192.0.2.7, 10.0.0.1", forwarded, "https", "www.test:1"]);
    let odd = [("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b")];
    assert_eq!(told("10.0.0.1", &odd)[3..], ["http", "b.plane.test:8080"]);
    let several = [("x-forwarded-proto", "http, https"), ("x-forwarded-host", "evil.test,good.test")];
    assert_eq!(told("10.0.0.1", &several)[3..], ["https", "good.test"]);
}

#[test]
fn forwarded_is_read_where_there_is_no_other() {
    let line = "for=6.6.6.6;proto=gopher, for=\"[2001:db8::7]\";proto=https;host=www.test, for=10.9.9.9;proto=http";
    let claims = [("forwarded", line), ("x-forwarded-proto", "http"), ("x-forwarded-host", "evil.test")];
    assert_eq!(
        told("2001:db8:1::1", &claims),
        [
            "2001:db8::7",
            "6.6.6.6, 2001:db8::7, 10.9.9.9, 2001:db8:1::1",
            &format!("{line}, for=\"[2001:db8:1::1]\""),
            "https",
            "www.test"
        ]
    );
    // What a client left open swallows what the proxy wrote, so neither counts.
    let open = [("forwarded", "for=\", for=192.0.2.7")];
    let forwarded = "for=10.0.0.1;host=\"b.plane.test:8080\";proto=http";
    assert_eq!(told("10.0.0.1", &open)[..3], ["10.0.0.1", "10.0.0.1", forwarded]);
    let apart = [("forwarded", "for=\""), ("forwarded", "for=192.0.2.7")];
    assert_eq!(told("10.0.0.1", &apart)[..2], ["192.0.2.7", "192.0.2.7, 10.0.0.1"]);
}

#[test]
fn fields_about_the_origin_are_known_by_name() {
    for name in ["forwarded", "Forwarded", "X-Forwarded-For", "x-forwarded-ssl", "x-forwarded-"] {
        assert!(is_forwarding(name), "{name}");
    }
    for name in ["forwarded-for", "x-forwarded", "x-real-ip", "host", "", "\u{e9}-forwarded-"] {
        assert!(!is_forwarding(name), "{name}");
    }
}

proptest! {
    #[test]
    fn nothing_that_a_client_writes_hides_it(before in "[ -~]{0,40}", client: [u8; 4], lines: bool) {
        let client = IpAddr::from(client);
        prop_assume!(!trusted().iter().any(|network| network.contains(client)));
        let appended = client.to_string();
        let joined = format!("{before}, {appended}");
        let fields =
            if lines { vec![("x-forwarded-for", &*before), ("x-forwarded-for", &*appended)] } else { vec![("x-forwarded-for", &*joined)] };
        prop_assert_eq!(origin_of("10.0.0.1", &fields).client, client);
    }

    #[test]
    fn a_client_that_writes_forwarded_is_nobody_else(before in "[ -~]{0,40}", client: [u8; 4]) {
        let client = IpAddr::from(client);
        prop_assume!(!trusted().iter().any(|network| network.contains(client)));
        let found = origin_of("10.0.0.1", &[("forwarded", &format!("{before}, for={client}"))]).client;
        prop_assert!(found == client || found == IpAddr::from([10, 0, 0, 1]), "{}", found);
    }

    #[test]
    fn a_second_proxy_that_trusts_this_one_finds_the_same(client: IpAddr, https: bool, hops in 0usize..4) {
        let client = client.to_canonical();
        prop_assume!(!trusted().iter().any(|network| network.contains(client)));
        let scheme = if https { Scheme::Https } else { Scheme::Http };
        let mut origin = Origin::resolve(SocketAddr::new(client, 1), scheme, &Claims::default(), &trusted());
        for hop in 0..hops {
            let list = written(|out| origin.write_forwarded("b.plane.test", out));
            let before = SocketAddr::new(IpAddr::from([10, 0, 0, hop as u8]), 1);
            let claims = Claims::of([("forwarded", list.as_bytes())]);
            origin = Origin::resolve(before, Scheme::Http, &claims, &trusted());
            prop_assert_eq!((origin.client, origin.scheme, origin.host("x")), (client, scheme, "b.plane.test"));
        }
    }

    #[test]
    fn any_bytes_are_taken_and_what_is_written_is_a_field(values: Vec<Vec<u8>>, is_for: bool) {
        let name = if is_for { FOR } else { FORWARDED };
        let clean: Vec<Vec<u8>> = values.into_iter()
            .map(|value| value.into_iter().filter(|byte| !matches!(byte, 0..=8 | 10..=31 | 127)).collect()).collect();
        let claims = Claims::of(clean.iter().map(|value| (name, value.as_slice())));
        let origin = Origin::resolve(([10, 0, 0, 1], 1).into(), Scheme::Http, &claims, &trusted());
        let mut out = Vec::new();
        origin.write_forwarded("b", &mut out);
        origin.write_forwarded_for(&mut out);
        prop_assert!(hyper::header::HeaderValue::from_bytes(&out).is_ok());
    }
}
