//! Field lines, and the head as a whole: RFC 9112, sections 2.2 and 5; RFC 9110, section 5.5.

use super::{
    super::case::{Case, case},
    HIDDEN, get, join,
};

/// The most that a head may have where nothing is configured: fields, and bytes in all.
const FIELDS: usize = 100;
const HEAD_BYTES: usize = 65_536;

/// A request with a field as given, line end included, and one that is hidden behind it.
fn with(name: &str, field: impl AsRef<[u8]>) -> Case {
    case(name, join(&[b"GET /get HTTP/1.1\r\nHost: {h}\r\n", field.as_ref(), b"\r\n", HIDDEN.as_bytes()]))
}

fn wrong(name: &str, field: impl AsRef<[u8]>) -> Case {
    with(name, field).refused(&[400])
}

/// A request with a field as given, and nothing behind it.
fn alone(name: impl Into<String>, field: impl AsRef<[u8]>) -> Case {
    case(name, join(&[b"GET /get HTTP/1.1\r\nHost: {h}\r\n", field.as_ref(), b"\r\n"]))
}

pub(super) fn cases() -> Vec<Case> {
    [names(), values(), lines(), limits(), connections(), upgrades(), expectations()].concat()
}

fn names() -> Vec<Case> {
    let separators = b" \t\0\x0b\x7f\"(),/;<=>?@[\\]{}\x80\xe9\xff";
    let wrong_ones = separators.iter().map(|byte| {
        let field = [b"X".as_slice(), &[*byte], b"Y: z\r\n"].concat();
        wrong(&format!("{} in a field's name", byte.escape_ascii()), field)
    });
    let right = "!#$%&'*+-.^_`|~"
        .chars()
        .map(|sign| alone(format!("{sign} in a field's name"), format!("X{sign}Y: z\r\n")).passes(1).refused(&[400]));
    let others = [
        wrong("an empty field name", ": x\r\n"),
        wrong("a line that is a colon", ":\r\n"),
        wrong("a line without colon", "nothing\r\n"),
        wrong("a space before a colon", "X : y\r\n"),
        wrong("a tab before a colon", "X\t: y\r\n"),
        wrong("a request line in the place of a field", "GET /smuggled HTTP/1.1\r\n"),
        alone("a name in any case", "x-OWN-fIELD: y\r\n")
            .passes(1)
            .seen(|requests, _| requests[0].fields.text("X-Own-Field") == ["y"]),
        alone("a name that begins with a digit", "1X: y\r\n").passes(1),
    ];
    wrong_ones.chain(right).chain(others).collect()
}

fn values() -> Vec<Case> {
    let controls = (0..=31).chain([127]).filter(|byte| !matches!(byte, b'\t' | b'\n' | b'\r'));
    let controls = controls.map(|byte: u8| {
        wrong(&format!("the control character {byte:#x} in a value"), [b"X: a", &[byte][..], b"b\r\n"].concat())
    });
    let others = [
        alone("an empty value", "X:\r\n").passes(1).seen(|requests, _| requests[0].fields.text("X") == [""]),
        alone("a value of blanks", "X: \t \r\n").passes(1).seen(|requests, _| requests[0].fields.text("X") == [""]),
        alone("blanks around a value", "X: \t y\tz \t\r\n")
            .passes(1)
            .seen(|requests, _| requests[0].fields.text("X") == ["y\tz"]),
        alone("no blank before a value", "X:y\r\n").passes(1).seen(|requests, _| requests[0].fields.text("X") == ["y"]),
        alone("colons in a value", "X: y: z:\r\n")
            .passes(1)
            .seen(|requests, _| requests[0].fields.text("X") == ["y: z:"]),
        alone("bytes that are not ASCII in a value", b"X: \x80\xff\xc3\xa9\r\n".as_slice())
            .passes(1)
            .seen(|requests, _| requests[0].fields.all("X").next() == Some(b"\x80\xff\xc3\xa9")),
        alone("a field twice, in its order", "X: 1\r\nY: 2\r\nX: 3\r\n")
            .passes(1)
            .seen(|requests, _| requests[0].fields.text("X") == ["1", "3"]),
    ];
    controls.chain(others).collect()
}

fn lines() -> Vec<Case> {
    let bare = "RFC 9112, 2.2: a bare LF may end a line";
    vec![
        wrong("a folded value", "X: a\r\n b\r\n"),
        wrong("a value folded with a tab", "X: a\r\n\tb\r\n"),
        wrong("a value folded to nothing", "X: a\r\n \r\n"),
        case("blanks before the first field", format!("GET /get HTTP/1.1\r\n Host: {{h}}\r\n\r\n{HIDDEN}"))
            .refused(&[400]),
        case(
            "a line of a blank before the first field",
            format!("GET /get HTTP/1.1\r\n \r\nHost: {{h}}\r\n\r\n{HIDDEN}"),
        )
        .refused(&[400]),
        case("a fold behind the request line", format!("GET /get HTTP/1.1\r\n X: y\r\nHost: {{h}}\r\n\r\n{HIDDEN}"))
            .refused(&[400]),
        wrong("a bare CR in a value", "X: a\rb\r\n"),
        wrong("a bare CR before a field", "\rX: a\r\n"),
        wrong("a bare CR in a name", "X\rY: a\r\n"),
        wrong("a CR twice at a line's end", "X: a\r\r\n"),
        wrong("lines that end in CR alone", "X: a\rY: b\r"),
        wrong("LF CR at a line's end", "X: a\n\r"),
        alone("a field that ends in LF alone", "X: a\n").refused(&[400]).hyper_may(|case| case.passes(1), bare),
        case("a head whose lines end in LF alone", "GET /get HTTP/1.1\nHost: {h}\n\n")
            .refused(&[400])
            .hyper_may(|case| case.passes(1), bare),
        case("an empty line of LF alone", "GET /get HTTP/1.1\r\nHost: {h}\r\n\n")
            .refused(&[400])
            .hyper_may(|case| case.passes(1), bare),
        case("a request line that ends in LF alone", "GET /get HTTP/1.1\nHost: {h}\r\n\r\n")
            .refused(&[400])
            .hyper_may(|case| case.passes(1), bare),
        case("a request line that ends in CR alone", format!("GET /get HTTP/1.1\rHost: {{h}}\r\n\r\n{HIDDEN}"))
            .refused(&[400]),
    ]
}

fn limits() -> Vec<Case> {
    let fields = |count: usize| (0..count).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    let long = |bytes: usize| format!("X: {}\r\n", "y".repeat(bytes));
    vec![
        alone("as many fields as may be", fields(FIELDS - 1)).passes(1),
        alone("one field more than may be", fields(FIELDS)).refused(&[431]),
        alone("a thousand fields", fields(1000)).refused(&[431]),
        alone("a hundred thousand fields", fields(100_000)).refused(&[431]),
        alone("a long value", long(60_000))
            .passes(1)
            .seen(|requests, _| requests[0].fields.text("X")[0].len() == 60_000),
        alone("a value that is too long", long(HEAD_BYTES)).refused(&[431]),
        alone("a value that is far too long", long(2_000_000)).refused(&[431]),
        alone("a name that is too long", format!("{}: y\r\n", "x".repeat(HEAD_BYTES + 1000))).refused(&[431, 400]),
        alone("fields that are too many bytes in all", format!("X: {}\r\n", "y".repeat(1000)).repeat(90))
            .refused(&[431]),
    ]
}

fn connections() -> Vec<Case> {
    let old = |fields: &str| format!("GET /get HTTP/1.0\r\nHost: {{h}}\r\n{fields}\r\n");
    let removed = |name: &str, field: &str, own: &str| alone(name, format!("{field}\r\n{own}: y\r\n")).passes(1);
    vec![
        alone("Connection: close", format!("Connection: close\r\n\r\n{HIDDEN}"))
            .passes_and_closes(1)
            .seen(|_, replies| replies[0].fields.text("connection") == ["close"]),
        alone("Connection: Close among others", format!("Connection: X-Own ,\tClose\r\nX-Own: y\r\n\r\n{HIDDEN}"))
            .passes_and_closes(1)
            .seen(|requests, _| !requests[0].fields.has("x-own")),
        alone(
            "Connection: close in the second of two",
            format!("Connection: keep-alive\r\nConnection: close\r\n\r\n{HIDDEN}"),
        )
        .passes_and_closes(1),
        alone(
            "Connection: keep-alive",
            "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n",
        )
        .passes(1),
        alone("an empty Connection", "Connection:\r\n").passes(1),
        alone("Connection with empty elements", "Connection: ,, ,\r\n").passes(1),
        removed("fields that Connection names", "Connection: X-Own", "x-OWN")
            .seen(|requests, _| !requests[0].fields.has("x-own")),
        removed("fields that two Connection name", "Connection: X-Other\r\nConnection: X-Own", "X-Own")
            .seen(|requests, _| !requests[0].fields.has("x-own")),
        removed("Host named by Connection", "Connection: Host", "X-Own")
            .refused(&[400])
            .seen(|requests, _| requests[0].fields.has("x-own")),
        removed(
            "X-Forwarded-For named by Connection",
            "Connection: X-Forwarded-For, X-Forwarded-Proto",
            "X-Forwarded-For",
        )
        .seen(|requests, _| {
            requests[0].fields.text("x-forwarded-for") == ["127.0.0.1"] && requests[0].fields.has("x-forwarded-proto")
        }),
        removed(
            "Authorization and Cookie named by Connection",
            "Connection: Authorization, Cookie\r\nCookie: a=b",
            "Authorization",
        )
        .seen(|requests, _| !requests[0].fields.has("authorization") && !requests[0].fields.has("cookie")),
        removed("fields that CGI takes for X-Forwarded-For", "X_Forwarded_For: 6.6.6.6", "x_forwarded-PROTO").seen(
            |requests, _| {
                !["x_forwarded_for", "x_forwarded-proto"].iter().any(|name| requests[0].fields.has(name))
                    && requests[0].fields.text("x-forwarded-for") == ["127.0.0.1"]
            },
        ),
        alone("TE", "Connection: TE\r\nTE: trailers, gzip\r\n").passes(1).seen(|requests, _| {
            let fields = &requests[0].fields;
            fields.text("te") == ["trailers"] && fields.text("connection").iter().any(|value| value.contains("te"))
        }),
        case("HTTP/1.0", old("") + HIDDEN).passes_and_closes(1),
        case("HTTP/1.0, kept alive", old("Connection: keep-alive\r\n")).passes(1).seen(|_, replies| {
            replies[0].minor == 0
                || replies[0].fields.text("connection").iter().any(|value| value.eq_ignore_ascii_case("keep-alive"))
        }),
        case("HTTP/1.0, kept alive and closed", old("Connection: keep-alive, close\r\n") + HIDDEN).passes_and_closes(1),
    ]
}

fn upgrades() -> Vec<Case> {
    let kept = |case: Case| case.passes(1).refused(&[400, 501]);
    vec![
        kept(alone(
            "an upgrade to h2c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        )),
        kept(alone(
            "an upgrade to h2c that Connection does not name",
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        )),
        kept(alone("upgrades to h2c and to WebSockets", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n")),
        alone("an upgrade that the backend does not take", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
            .passes(1)
            .passes_and_closes(1)
            .seen(|requests, _| requests[0].fields.text("upgrade") == ["websocket"]),
        alone("several upgrades", "Connection: Upgrade\r\nUpgrade: a/1, h2c, b\r\n")
            .passes(1)
            .passes_and_closes(1)
            .seen(|requests, _| requests[0].fields.text("upgrade") == ["a/1, b"]),
        alone("an upgrade that Connection does not name", "Upgrade: websocket\r\n")
            .passes(1)
            .seen(|requests, _| !requests[0].fields.has("upgrade")),
        case(
            "an upgrade of HTTP/1.0",
            "GET /get HTTP/1.0\r\nHost: {h}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .passes_and_closes(1)
        .refused(&[400])
        .seen(|requests, _| !requests[0].fields.has("upgrade")),
    ]
}

fn expectations() -> Vec<Case> {
    let post = |version: &str, expect: &str| {
        format!("POST /post HTTP/{version}\r\nHost: {{h}}\r\nExpect: {expect}\r\nContent-Length: 5\r\n\r\nhello")
    };
    vec![
        case("Expect: 100-continue", post("1.1", "100-continue"))
            .passes(1)
            .seen(|requests, _| requests[0].body == b"hello"),
        case("Expect in another case", post("1.1", "100-Continue")).passes(1),
        case("an unknown Expect", post("1.1", "200-ok")).passes(1).refused(&[417]),
        case("Expect of HTTP/1.0", post("1.0", "100-continue"))
            .passes_and_closes(1)
            .seen(|_, replies| replies[0].interim.is_empty()),
        case("Expect without a body", get("/get", "Expect: 100-continue\r\n")).passes(1),
    ]
}
