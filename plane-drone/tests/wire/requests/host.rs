//! Host: RFC 9112, section 3.2, and RFC 9110, section 7.2.

use super::super::case::{Case, case};

fn hosts(name: impl Into<String>, fields: &str) -> Case {
    case(name, format!("GET /get HTTP/1.1\r\n{fields}X: y\r\n\r\n"))
}

pub(super) fn cases() -> Vec<Case> {
    let wrong = [
        "user@{h}",
        "user:word@{h}",
        "@{h}",
        "{h}/",
        "{h}/x",
        "{h}?x",
        "{h}#x",
        "{h}\\x",
        "http://{h}",
        "http://{h}/",
        "//{h}",
        "{h} x",
        "x {h}",
        "{h}\tx",
        "{h},x",
        "{h}, {h}",
        "x,{h}",
        "{h};x",
        "{h}\"",
        "\"{h}\"",
        "'{h}'",
        "<{h}>",
        "({h})",
        "{h}:x",
        "{h}:80:80",
        "{h}:-80",
        "{h}:+80",
        "{h}: 80",
        "{h} :80",
        "{h}:80/x",
        "{h}:80x",
        "[{h}]",
        "[{h}",
        "{h}]",
        "[::1",
        "::1",
        "{h}%",
        "{h}%00",
        "{h}%2f",
        "{h}|x",
        "{h}^x",
        "{h}`x`",
        "{h}=x",
        "{h}*",
        "*",
        "\u{e9}.plane.test",
        "{h}\u{a0}",
        "{h}..",
        ".{h}",
        "a..{h}",
        "%62.plane.test",
    ]
    .map(|host| hosts(format!("the Host {host:?}"), &format!("Host: {host}\r\n")).turned(&[400, 404, 421]));
    let unknown = [
        "nobody.plane.test",
        "plane.test",
        "evil.test",
        "localhost",
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]",
        "[::1]:80",
        "a.{h}",
        "-",
        "_",
        "a",
        "{h}.evil.test",
    ]
    .map(|host| {
        hosts(format!("the Host {host:?}, which is nobody's"), &format!("Host: {host}\r\n")).turned(&[404, 421])
    });
    let lenient = ["{h}:", "{h}.", "{h}.:80", "{h}:0", "{h}:65535", "{h}:99999", "{h}:000080"].map(|host| {
        hosts(format!("the Host {host:?}, which may be taken"), &format!("Host: {host}\r\n"))
            .passes(1)
            .turned(&[400, 404, 421])
    });
    let refused = [
        ("no Host", ""),
        ("an empty Host", "Host:\r\n"),
        ("a Host of blanks", "Host: \t\r\n"),
        ("two Hosts, equal", "Host: {h}\r\nHost: {h}\r\n"),
        ("two Hosts, the second another's", "Host: {h}\r\nHost: evil.test\r\n"),
        ("two Hosts, the first another's", "Host: evil.test\r\nHost: {h}\r\n"),
        ("two Hosts, others between, in another case", "Host: {h}\r\nY: z\r\nhOST: {h}\r\n"),
        ("two Hosts, the second empty", "Host: {h}\r\nHost:\r\n"),
        ("two Hosts, the first empty", "Host:\r\nHost: {h}\r\n"),
        ("a space before Host's colon", "Host : {h}\r\n"),
        ("a tab before Host's colon", "Host\t: {h}\r\n"),
        ("a space before Host", " Host: {h}\r\n"),
        ("Host on the next line", "Host:\r\n {h}\r\n"),
        ("Host folded", "Host: {h}\r\n evil.test\r\n"),
        ("a second Host, folded", "Host: {h}\r\n Host: evil.test\r\n"),
        ("a second Host behind a bare CR", "Host: {h}\rHost: evil.test\r\n"),
        ("a second Host behind a bare LF", "Host: {h}\nHost: evil.test\r\n"),
        ("NUL in Host", "Host: {h}\0\r\n"),
        ("NUL and another in Host", "Host: {h}\0.evil.test\r\n"),
        ("a vertical tab before Host", "Host: \u{b}{h}\r\n"),
        ("DEL in Host", "Host: {h}\u{7f}\r\n"),
    ]
    .map(|(name, fields)| hosts(name, fields).turned(&[400]));
    let old = [
        case("HTTP/1.0 without Host", "GET /get HTTP/1.0\r\nX: y\r\n\r\n").turned(&[400, 404, 421]),
        case("HTTP/1.0 with two Hosts", "GET /get HTTP/1.0\r\nHost: {h}\r\nHost: {h}\r\n\r\n").turned(&[400]),
    ];
    let right = [
        hosts("a Host", "Host: {h}\r\n").passes(1),
        hosts("a Host in no blanks", "Host:{h}\r\n").passes(1),
        hosts("a Host in blanks", "Host: \t {h} \t\r\n").passes(1),
        hosts("a Host in capitals", "HOST: {h}\r\n").passes(1),
        hosts("a Host that is not the first field", "A: b\r\nhost: {h}\r\n").passes(1),
        hosts("a Host with a port", "Host: {h}:8080\r\n").passes(1).seen(|requests, _| requests[0].fields.text("host")[0].ends_with(".plane.test:8080")),
        hosts("others that name hosts", "Host: {h}\r\nX-Host: evil.test\r\nX-Forwarded-Host: evil.test\r\nForwarded: host=evil.test\r\nX-Forwarded-Server: evil.test\r\nX-Original-URL: /smuggled\r\n")
            .passes(1)
            .seen(|requests, _| {
                let said = requests[0].fields.text("x-forwarded-host");
                let forwarded = requests[0].fields.text("forwarded").concat();
                said.len() == 1 && said[0].ends_with(".plane.test") && !forwarded.contains("evil")
            }),
        unknown_with_body(),
    ];
    [&wrong[..], &unknown, &lenient, &refused, &old, &right].concat()
}

/// Its body is not to be taken for the next request.
fn unknown_with_body() -> Case {
    let body = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = format!("POST /post HTTP/1.1\r\nHost: nobody.plane.test\r\nContent-Length: {}\r\n\r\n", body.len());
    case("a Host that is nobody's, with a body like a request", head + body).turned(&[404, 421])
}
