//! Request lines: RFC 9112, section 3, and versions: RFC 9110, section 2.5.

use super::{
    super::case::{Case, case},
    HIDDEN, get,
};

fn line(name: impl Into<String>, line: &str) -> Case {
    case(name, format!("{line}\r\nHost: {{h}}\r\n\r\n{HIDDEN}"))
}

pub(super) fn cases() -> Vec<Case> {
    [versions(), spaces(), methods(), before()].concat()
}

fn versions() -> Vec<Case> {
    let unknown = ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9", "HTTP/9.9", "HTTP/2", "HTTP/0.0"]
        .map(|version| line(format!("the version {version}"), &format!("GET /get {version}")).refused(&[400, 505]));
    let wrong = [
        "http/1.1",
        "Http/1.1",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/11",
        "HTTP/1.1.1",
        "HTTP/1,1",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/+1.1",
        "HTTP/-1.1",
        "HTTP/1.x",
        "HTTP/ 1.1",
        "HTTP /1.1",
        "HTTP\\1.1",
        "HTTPS/1.1",
        "HTP/1.1",
        "HTTP",
        "1.1",
        "/1.1",
        "HTTP/1.1x",
        "HTTP/1.1,",
        "HTTP/1.1;a",
        "HTTP/\u{661}.1",
        "XHTTP/1.1",
        "HTTP/1.1HTTP/1.1",
        "HTTP/1.1 HTTP/1.1",
        "HTTP//1.1",
        "ICY/1.1",
        "SIP/2.0",
    ];
    let wrong = wrong
        .map(|version| line(format!("the version {version}"), &format!("GET /get {version}")).refused(&[400, 505]));
    let others = [
        case("the version HTTP/1.2", "GET /get HTTP/1.2\r\nHost: {h}\r\n\r\n").refused(&[400, 505]).passes(1),
        case("HTTP/0.9", format!("GET /get\r\n{HIDDEN}")).refused(&[400, 505]),
        case("HTTP/0.9 with a blank", format!("GET /get \r\n{HIDDEN}")).refused(&[400, 505]),
        case("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .refused(&[400, 505])
            .hyper_may(Case::dropped, "whoever speaks HTTP/2 cannot read an answer of HTTP/1.1"),
    ];
    unknown.into_iter().chain(wrong).chain(others).collect()
}

fn spaces() -> Vec<Case> {
    let lines = [
        ("two spaces behind the method", "GET  /get HTTP/1.1"),
        ("two spaces behind the target", "GET /get  HTTP/1.1"),
        ("a space before the method", " GET /get HTTP/1.1"),
        ("a tab before the method", "\tGET /get HTTP/1.1"),
        ("a space behind the version", "GET /get HTTP/1.1 "),
        ("a tab behind the version", "GET /get HTTP/1.1\t"),
        ("a tab behind the method", "GET\t/get HTTP/1.1"),
        ("a tab behind the target", "GET /get\tHTTP/1.1"),
        ("tabs throughout", "GET\t/get\tHTTP/1.1"),
        ("a vertical tab behind the method", "GET\x0b/get HTTP/1.1"),
        ("a form feed behind the target", "GET /get\x0cHTTP/1.1"),
        ("a no-break space behind the method", "GET\u{a0}/get HTTP/1.1"),
        ("a space within the target", "GET /get there HTTP/1.1"),
        ("a request line within the target", "GET /get HTTP/1.1 /smuggled HTTP/1.1"),
        ("a bare CR behind the method", "GET\r/get HTTP/1.1"),
        ("a bare CR within the target", "GET /get\r/x HTTP/1.1"),
        ("a bare CR behind the version", "GET /get HTTP/1.1\r"),
        ("a bare LF behind the method", "GET\n/get HTTP/1.1"),
        ("NUL behind the version", "GET /get HTTP/1.1\0"),
        ("no target", "GET HTTP/1.1"),
        ("an empty target", "GET  HTTP/1.1"),
        ("no method", "/get HTTP/1.1"),
        ("an empty method", " /get HTTP/1.1"),
        ("a method alone", "GET"),
        ("a blank line of one space", " "),
        ("garbage", "\u{1}\u{2}\u{3}"),
        ("a TLS handshake", "\x16\x03\x01\x02\0\x01\0\x01"),
    ];
    lines.map(|(name, bytes)| line(name, bytes).refused(&[400, 505])).into()
}

fn methods() -> Vec<Case> {
    let wrong = [
        "G(T", "G,T", "G/T", "G:T", "G;T", "G<T", "G=T", "G>T", "G?T", "G@T", "G[T", "G\\T", "G{T", "G\"T", "G\u{e9}T",
        "G\0T", "G\x7fT", "GET:", "@",
    ];
    let wrong =
        wrong.map(|method| line(format!("the method {method:?}"), &format!("{method} /get HTTP/1.1")).refused(&[400]));
    let right = [
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "PROPFIND",
        "MKCOL",
        "QUERY",
        "get",
        "Get",
        "G-T",
        "A",
        "X!#$%&'*+-.^_`|~9",
    ]
    .map(|method| {
        case(
            format!("the method {method}"),
            format!("{method} /get HTTP/1.1\r\nHost: {{h}}\r\nContent-Length: 0\r\n\r\n"),
        )
        .passes(1)
        .turned(&[405, 501])
    });
    let others = [
        case("HEAD", "HEAD /get HTTP/1.1\r\nHost: {h}\r\n\r\n")
            .methods(&["HEAD"])
            .passes(1)
            .seen(|requests, _| requests[0].method == "HEAD"),
        case("TRACE", "TRACE /get HTTP/1.1\r\nHost: {h}\r\n\r\n").passes(1).turned(&[405, 501]),
        case("a long method", format!("{} /get HTTP/1.1\r\nHost: {{h}}\r\n\r\n", "M".repeat(70_000)))
            .turned(&[400, 414, 431, 501]),
    ];
    wrong.into_iter().chain(right).chain(others).collect()
}

fn before() -> Vec<Case> {
    let after = |name: &str, bytes: &str| case(name, bytes.to_owned() + &get("/get", ""));
    vec![
        after("an empty line before", "\r\n").passes(1),
        after("several empty lines before", "\r\n\r\n\r\n").passes(1).refused(&[400]),
        after("an LF before", "\n").passes(1).refused(&[400]),
        after("a CR before", "\r").refused(&[400]),
        after("NUL before", "\0").refused(&[400]),
        after("a blank and an empty line before", " \r\n").refused(&[400]),
        after("a byte order mark before", "\u{feff}").refused(&[400]),
        after("empty lines without end before", &"\r\n".repeat(100_000)).passes(1).refused(&[400, 414, 431]),
    ]
}
