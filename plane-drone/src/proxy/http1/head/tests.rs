use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 1024, fields: 8, line_bytes: 100 };

fn with<T>(head: &[u8], look: impl FnOnce(RequestHead<'_, '_>) -> T) -> Result<T, Malformed> {
    let mut space = Space::new();
    let parsed = parse(head, &mut Scan::default(), &mut space, LIMITS)?;
    Ok(look(parsed.expect("the head is complete")))
}

fn refused(head: &str) -> Option<Malformed> {
    with(head.as_bytes(), |_| ()).err()
}

#[test]
fn targets_have_forms() {
    let table = [
        ("GET /a?b=c", Form::Origin, "/a?b=c", "h.test:1"),
        ("GET //a/../b", Form::Origin, "//a/../b", "h.test:1"),
        ("GET http://x.test:8/p?q", Form::Absolute, "/p?q", "x.test:8"),
        ("GET HTTPS://x.test", Form::Absolute, "", "x.test"),
        ("GET http://x.test?q", Form::Absolute, "?q", "x.test"),
        ("OPTIONS *", Form::Asterisk, "*", "h.test:1"),
        ("OPTIONS http://x.test", Form::Absolute, "*", "x.test"),
        ("CONNECT x.test:443", Form::Authority, "", "x.test:443"),
        ("x-own /|^{}[]?`", Form::Origin, "/|^{}[]?`", "h.test:1"),
    ];
    for (line, form, path, authority) in table {
        let head = format!("{line} HTTP/1.1\r\nHost: h.test:1\r\n\r\n");
        let seen = with(head.as_bytes(), |head| (head.form, head.path.to_owned(), head.authority.to_owned()));
        assert_eq!(seen, Ok((form, path.to_owned(), authority.to_owned())), "{line}");
    }
    let none = [
        "GET *",
        "GET a",
        "GET ftp://x/",
        "GET http:/x",
        "CONNECT x.test",
        "CONNECT /",
        "CONNECT http://x:1/",
        "GET /a#b",
        "GET /\u{e4}",
        "GET /\"",
        "GET /<",
        "GET /`",
        "GET /a`?b",
        "GET http://h/`",
        "GET \\",
        "GET ?q",
        "GET x.test:80",
    ];
    for line in none {
        assert_eq!(refused(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n")), Some(Malformed::Target), "{line}");
    }
    for line in ["GET http://u@x/", "GET http:///p", "GET http://x:y/", "GET http://?q"] {
        assert_eq!(refused(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n")), Some(Malformed::Host), "{line}");
    }
}

#[test]
fn hosts_are_one() {
    let table = [
        ("HTTP/1.1\r\n\r\n", Malformed::NoHost),
        ("HTTP/1.0\r\n\r\n", Malformed::NoHost),
        ("HTTP/1.1\r\nHost:\r\n\r\n", Malformed::Host),
        ("HTTP/1.1\r\nHost: a b\r\n\r\n", Malformed::Host),
        ("HTTP/1.1\r\nHost: u@a\r\n\r\n", Malformed::Host),
        ("HTTP/1.1\r\nHost: a/b\r\n\r\n", Malformed::Host),
        ("HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Malformed::SeveralHosts),
        ("HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n", Malformed::SeveralHosts),
    ];
    for (rest, why) in table {
        assert_eq!(refused(&format!("GET / {rest}")), Some(why), "{rest:?}");
    }
    assert_eq!(refused("GET http://x/ HTTP/1.1\r\n\r\n"), Some(Malformed::NoHost));
    assert_eq!(refused("GET http://x/ HTTP/1.1\r\nHost: a b\r\n\r\n"), Some(Malformed::Host));
    assert_eq!(refused("GET http://x/ HTTP/1.0\r\n\r\n"), None);
}

#[test]
fn bodies_are_framed_in_one_way() {
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let table = [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("content-length:17\r\n", Framing::Length(17)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("TRANSFER-ENCODING: \tCHUNKED \r\n", Framing::Chunked),
    ];
    for (fields, framing) in table {
        assert_eq!(with(head(fields).as_bytes(), |head| head.framing), Ok(framing), "{fields:?}");
    }
    let table = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Malformed::TwoFramings),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Malformed::TwoFramings),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Malformed::SeveralContentLengths),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Malformed::SeveralContentLengths),
        ("Content-Length: +5\r\n", Malformed::ContentLength),
        ("Content-Length: 5, 5\r\n", Malformed::ContentLength),
        ("Content-Length: \r\n", Malformed::ContentLength),
        ("Transfer-Encoding: identity\r\n", Malformed::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", Malformed::UnknownCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Malformed::TransferEncoding),
        ("Transfer-Encoding: \x0bchunked\r\n", Malformed::FieldValue),
    ];
    for (fields, why) in table {
        assert_eq!(refused(&head(fields)), Some(why), "{fields:?}");
    }
    let old = "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(old), Some(Malformed::TransferEncodingIn10));
}

#[test]
fn connections_expectations_and_upgrades() {
    let seen = |version: &str, fields: &str| {
        let head = format!("POST / HTTP/{version}\r\nHost: h\r\nContent-Length: 1\r\n{fields}\r\n");
        with(head.as_bytes(), |head| {
            let upgrade = head.protocols().map(|value| String::from_utf8_lossy(&value).into_owned());
            (head.is_persistent(), head.expects_continue, upgrade)
        })
    };
    let websocket = Some("websocket".to_owned());
    assert_eq!(seen("1.1", ""), Ok((true, false, None)));
    assert_eq!(seen("1.1", "Connection: close, TE\r\nTE: trailers\r\n"), Ok((false, false, None)));
    assert_eq!(seen("1.0", ""), Ok((false, false, None)));
    assert_eq!(seen("1.0", "Connection: Keep-Alive\r\n"), Ok((true, false, None)));
    assert_eq!(seen("1.1", "Expect: 100-Continue\r\n"), Ok((true, true, None)));
    assert_eq!(seen("1.0", "Expect: 100-continue\r\n"), Ok((false, false, None)));
    assert_eq!(seen("1.1", "Expect: payment\r\n"), Err(Malformed::Expectation));
    let asks = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(seen("1.1", asks), Ok((true, false, websocket)));
    assert_eq!(seen("1.0", asks), Ok((true, false, None)));
    assert_eq!(seen("1.1", "Upgrade: websocket\r\n"), Ok((true, false, None)));
    assert_eq!(seen("1.1", "Connection: Upgrade\r\nUpgrade: H2C\r\n"), Ok((true, false, None)));
    let both = Ok((true, false, Some("websocket, x".to_owned())));
    assert_eq!(seen("1.1", "Connection: Upgrade\r\nUpgrade: h2c, websocket, x\r\n"), both);
    let bare = with(b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n", |head| head.expects_continue);
    assert_eq!(bare, Ok(false));
}

#[test]
fn limits_hold_to_the_byte() {
    let line =
        |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(bytes - "GET / HTTP/1.1".len()));
    assert_eq!(refused(&line(100)), None);
    assert_eq!(refused(&line(101)), Some(Malformed::LineTooLong));
    let head = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: h\r\nA: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
    };
    assert_eq!(refused(&head(1024)), None);
    assert_eq!(refused(&head(1025)), Some(Malformed::HeadTooLong));
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(count - 1));
    assert_eq!(refused(&fields(8)), None);
    assert_eq!(refused(&fields(9)), Some(Malformed::TooManyFields));
    assert_eq!(refused("GET / HTTP/2.0\r\nHost: h\r\n\r\n").map(|why| why.refusal().status()), Some(505));
}

#[test]
fn what_follows_a_head_is_left_alone() {
    let length = with(b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\nGET \n\0", |head| head.length);
    assert_eq!(length, Ok(29));
}

type Seen = (String, Form, String, String, Framing, Vec<(String, Vec<u8>)>, usize);

fn outcome(bytes: &[u8], scan: &mut Scan) -> Result<Option<Seen>, Malformed> {
    let mut space = Space::new();
    let parsed = parse(bytes, scan, &mut space, LIMITS)?;
    Ok(parsed.map(|head| {
        let fields = head.fields.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
        let (method, path, authority) = (head.method.to_owned(), head.path.to_owned(), head.authority.to_owned());
        (method, head.form, path, authority, head.framing, fields, head.length)
    }))
}

/// Heads of which many are nearly right.
fn heads() -> impl Strategy<Value = String> {
    let line = "(\r\n){0,2}(GET|POST|OPTIONS|CONNECT|g-t) ?(/[a-z#?]{0,4}|\\*|http://[a-z@]{1,3}(/a)?|a:1|/{90,99}) HTTP/[0-2]\\.[01]";
    let field =
        "(Host|Content-Length|Transfer-Encoding|Connection|A{1,4}) ?: ?(h|5|chunked|close|[ -~\\x00\t\r\u{e4}]{0,4})";
    let end = "(\r\n){20}|\n|\r";
    let end = move || proptest::string::string_regex(end).unwrap().prop_map(|end| end[..end.len().min(2)].to_owned());
    let fields = proptest::collection::vec((field, end()), 0..9);
    (line, end(), fields, end(), "[a-z]{0,4}").prop_map(|(line, first, fields, last, more)| {
        let fields: String = fields.into_iter().flat_map(|(field, end)| [field, end]).collect();
        format!("{line}{first}{fields}{last}{more}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn bytes_may_come_in_any_pieces(head in heads(), pieces in proptest::collection::vec(1_usize..40, 0..20)) {
        let bytes = head.as_bytes();
        let whole = outcome(bytes, &mut Scan::default());
        let (mut scan, mut end, mut last) = (Scan::default(), 0, Ok(None));
        for piece in pieces.into_iter().chain([bytes.len()]) {
            end = (end + piece).min(bytes.len());
            last = outcome(&bytes[..end], &mut scan);
            if last != Ok(None) { break }
        }
        prop_assert_eq!(last, whole);
    }

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = outcome(&bytes, &mut Scan::default());
    }

    #[test]
    fn what_is_said_is_understood(
        (method, path) in ("[A-Z]{1,8}", "/[!$-;=?-Z_a-z~]{0,40}"),
        fields in proptest::collection::vec(("x-[a-z0-9!#$%&'*+.^_`|~-]{1,10}", "([!-~\u{80}-\u{ff}]([ -~\t]{0,20}[!-~])?)?"), 0..7),
    ) {
        prop_assume!(method != "CONNECT");
        let lines: String = fields.iter().map(|(name, value)| format!("{name}:{value} \t\r\n")).collect();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: h\r\n{lines}\r\n");
        let seen = outcome(head.as_bytes(), &mut Scan::default()).unwrap().unwrap();
        prop_assert_eq!((seen.0, seen.2, seen.4, seen.6), (method, path, Framing::None, head.len()));
        let wanted: Vec<_> = fields.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        prop_assert_eq!(&seen.5[1..], &wanted[..]);
    }
}
