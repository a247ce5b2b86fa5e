use super::*;
use crate::proxy::http1::{HeadLimits, head, head::Space, malformed::Malformed, response, scan::Scan};
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 8192, fields: 64, line_bytes: 4096 };
const ORIGIN: &str = "x-forwarded-for: 10.0.0.7\r\n";

fn written(request: &str, ours: &Ours<'_>) -> Result<String, Malformed> {
    let mut space = Space::new();
    let head = head::parse(request.as_bytes(), &mut Scan::default(), &mut space, LIMITS)?.expect("complete");
    let mut out = Vec::new();
    let protocols = head.protocols();
    put_request(&mut out, &head, &Ours { protocols: protocols.as_deref(), ..*ours }, |out| put(out, &[ORIGIN]));
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// What a backend gets of a request with such fields, without what is always there.
fn passed(fields: &str, token: Option<&str>) -> String {
    let request = format!("GET /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let token = token.map(|token| BearerToken::from(token.to_owned()));
    let all = written(&request, &Ours { path: "/x", token: token.as_ref(), protocols: None }).unwrap();
    let rest = all.strip_prefix("GET /x HTTP/1.1\r\nhost: h\r\n").unwrap();
    rest.strip_suffix("\r\n").unwrap().replacen(ORIGIN, "|", 1)
}

#[test]
fn what_concerns_one_connection_ends_here() {
    let table = [
        ("Accept: */*\r\nX-A:b \r\nx-a: c\r\n", "Accept: */*\r\nX-A: b\r\nx-a: c\r\n|"),
        ("Connection: close, X-Own, Y\r\nx-own: 1\r\nX-OWN: 2\r\nY: 3\r\nZ: 4\r\n", "Z: 4\r\n|"),
        ("Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nUpgrade: h2c\r\n", "|"),
        ("Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_Proto: x\r\nx-forwarded-port: 1\r\n", "|"),
        ("Content-Length: 5\r\n", "|content-length: 5\r\n"),
        ("Content-Length: 005\r\nExpect: 100-continue\r\n", "|content-length: 5\r\n"),
        ("Transfer-Encoding: Chunked\r\nTrailer: X\r\n", "Trailer: X\r\n|transfer-encoding: chunked\r\n"),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", "|connection: upgrade\r\nupgrade: websocket\r\n"),
        ("Connection: TE\r\nTE: trailers, gzip;q=0.5\r\n", "|connection: te\r\nte: trailers\r\n"),
        (
            "Connection: Upgrade\r\nUpgrade: a/1, h2c,b\r\nUpgrade: c\r\n",
            "|connection: upgrade\r\nupgrade: a/1, b, c\r\n",
        ),
        // What is ours to say cannot be taken away by naming it.
        ("Connection: host, x-forwarded-for, content-length\r\nContent-Length: 5\r\n", "|content-length: 5\r\n"),
    ];
    for (fields, wanted) in table {
        assert_eq!(passed(fields, None), wanted, "{fields:?}");
    }
}

#[test]
fn what_a_token_is_for_stays_here() {
    let fields = "Authorization: Bearer s\r\nCookie: a=b; _plane_auth=s; c=d\r\nCookie: _plane_auth=s\r\n";
    // The cookie may be another backend's.
    assert_eq!(passed(fields, None), "Authorization: Bearer s\r\nCookie: a=b; c=d\r\n|");
    assert_eq!(passed(fields, Some("s")), "Cookie: a=b; c=d\r\n|");
    assert_eq!(passed("Authorization: Bearer other\r\n", Some("s")), "Authorization: Bearer other\r\n|");
    assert_eq!(passed("Authorization: Basic cw==\r\n", Some("s")), "Authorization: Basic cw==\r\n|");
}

#[test]
fn paths_get_their_slash_and_targets_their_host() {
    let line = |target: &str, path: &str| {
        let ours = Ours { path, token: None, protocols: None };
        let all = written(&format!("{target} HTTP/1.0\r\nHost: h\r\n\r\n"), &ours).unwrap();
        all.split_inclusive("\r\n").take(2).collect::<String>()
    };
    assert_eq!(line("GET /p?q", "?q"), "GET /?q HTTP/1.1\r\nhost: h\r\n");
    assert_eq!(line("GET http://x.test:8", ""), "GET / HTTP/1.1\r\nhost: x.test:8\r\n");
    assert_eq!(line("OPTIONS *", "*"), "OPTIONS * HTTP/1.1\r\nhost: h\r\n");
}

fn answered(response: &str, to_head: bool, framing: Framing, after: After) -> String {
    let mut space = Space::new();
    let parsed = response::parse(response.as_bytes(), &mut Scan::default(), &mut space, LIMITS, to_head);
    let answering = Answering { backend: Some("b"), framing, after, date: "now" };
    let (head, mut out) = (parsed.unwrap().expect("complete"), Vec::new());
    if head.is_interim() {
        put_interim(&mut out, &head);
    } else {
        put_response(&mut out, &head, &answering);
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn responses_say_what_is_so_for_the_client() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let table = [
        (
            "Content-Length: 5\r\nDate: x\r\n",
            Framing::Length(5),
            After::GoesOn,
            "Date: x\r\nx-plane-backend-id: b\r\ncontent-length: 5\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\nTrailer: X\r\n",
            Framing::Chunked,
            After::GoesOn,
            "Trailer: X\r\ndate: now\r\nx-plane-backend-id: b\r\ntransfer-encoding: chunked\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\nTrailer: X\r\n",
            Framing::UntilClose,
            After::Closes,
            "date: now\r\nx-plane-backend-id: b\r\nconnection: close\r\n",
        ),
        (
            "Connection: close, X-Own\r\nX-Own: 1\r\nKeep-Alive: 5\r\nX-Plane-Backend-Id: evil\r\n",
            Framing::Chunked,
            After::GoesOn,
            "date: now\r\nx-plane-backend-id: b\r\ntransfer-encoding: chunked\r\n",
        ),
        (
            "Content-Length: 5\r\n",
            Framing::Length(5),
            After::SaidToGoOn,
            "date: now\r\nx-plane-backend-id: b\r\ncontent-length: 5\r\nconnection: keep-alive\r\n",
        ),
        (
            "Upgrade: h2c\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-Forwarded-For: x\r\n",
            Framing::UntilClose,
            After::Closes,
            "Set-Cookie: a\r\nSet-Cookie: b\r\nX-Forwarded-For: x\r\ndate: now\r\nx-plane-backend-id: b\r\nconnection: close\r\n",
        ),
    ];
    for (fields, framing, after, wanted) in table {
        let said = answered(&format!("{ok}{fields}\r\n"), false, framing, after);
        assert_eq!(said, format!("{ok}{wanted}\r\n"), "{fields:?}");
    }
    let head = answered("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, Framing::None, After::GoesOn);
    assert!(head.contains("content-length: 5\r\n"), "{head}");
    let none = answered("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false, Framing::None, After::GoesOn);
    assert!(!none.contains("content-length"), "{none}");
}

#[test]
fn numbers_are_decimal() {
    for number in [0, 7, 10, 1234, u64::MAX] {
        let mut out = Vec::new();
        put_framing(&mut out, Framing::Length(number));
        assert_eq!(String::from_utf8(out).unwrap(), format!("content-length: {number}\r\n"));
    }
}

#[test]
fn interim_responses_and_upgrades() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(answered(hints, false, Framing::None, After::GoesOn), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nA: b\r\n\r\n";
    let wanted = "HTTP/1.1 101 Switching Protocols\r\nA: b\r\ndate: now\r\nx-plane-backend-id: b\r\n\
        connection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(answered(switching, false, Framing::None, After::GoesOn), wanted);
}

proptest! {
    /// What goes on is well-formed, means the same, and goes on again as it is.
    #[test]
    fn what_is_written_can_be_read(
        method in "(GET|POST|PUT|X-Y)",
        path in "/[a-z0-9?&=%/]{0,20}",
        fields in proptest::collection::vec(("[A-Za-z!#$%&'*+.^_`|~-]{1,20}", "([!-~\u{80}-\u{ff}]([ -~\t]{0,20}[!-~])?)?"), 0..20),
        body in "(Content-Length: [0-9]{1,9}\r\n|Transfer-Encoding: chunked\r\n|)",
    ) {
        let lines: String = fields.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{lines}{body}\r\n");
        let Ok(once) = written(&request, &Ours { path: &path, token: None, protocols: None }) else { return Ok(()) };
        let twice = written(&once, &Ours { path: &path, token: None, protocols: None }).unwrap();
        prop_assert_eq!(sorted(&once), sorted(&twice));
        let (mut before, mut after) = (Space::new(), Space::new());
        let before = head::parse(request.as_bytes(), &mut Scan::default(), &mut before, LIMITS).unwrap().unwrap();
        let after = head::parse(once.as_bytes(), &mut Scan::default(), &mut after, LIMITS).unwrap().unwrap();
        prop_assert_eq!((before.method, before.path, before.framing), (after.method, after.path, after.framing));
        let others = |fields: &[Field<'_>]| -> Vec<(String, Vec<u8>)> {
            let others = fields.iter().filter(|field| Known::of(field.name) == Known::Other);
            others.map(|field| (field.name.to_owned(), field.value.to_vec())).collect()
        };
        prop_assert_eq!(others(before.fields), others(after.fields));
    }
}

fn sorted(head: &str) -> Vec<&str> {
    let mut lines: Vec<_> = head.split("\r\n").collect();
    lines.sort_unstable();
    lines
}
