//! Targets in their four forms: RFC 9112, section 3.2.

use super::super::case::{Case, case};

fn asked(name: impl Into<String>, method: &str, target: &str) -> Case {
    case(name, format!("{method} {target} HTTP/1.1\r\nHost: {{h}}\r\n\r\n"))
}

fn wrong(name: impl Into<String>, method: &str, target: &str) -> Case {
    asked(name, method, target).turned(&[400])
}

pub(super) fn cases() -> Vec<Case> {
    [origin(), absolute(), others()].concat()
}

fn origin() -> Vec<Case> {
    let exact = [
        "/",
        "//",
        "//evil.test/x",
        "/a/../b",
        "/./a",
        "/a//b",
        "/%",
        "/%zz",
        "/%2e%2e/",
        "/%00",
        "/%0d%0aX:%20y",
        "/a?b",
        "/?",
        "/a?b?c",
        "/a?b=c&d",
        "/a;b=c",
        "/~a",
        "/:80",
        "/@",
        "/a=b",
        "/http://evil.test/",
        "/a+b",
        "/a|b",
        "/a%20b",
        "/a*b",
        "/'",
        "/(a)",
        "/!$&,",
        "/_plane",
        "/a?%0a",
        "/a?b`c`",
    ];
    let exact = exact.map(|target| asked(format!("the target {target}"), "GET", target).passes(1).arrives_at(target));
    let doubtful = ["/a\"b", "/<a>", "/a\\b", "/a^b", "/{a}", "/[a]", "/a?[b]", "/a?\"b\""].map(|target| {
        asked(format!("the target {target}, which wants escaping"), "GET", target)
            .passes(1)
            .turned(&[400])
            .arrives_at(target)
    });
    let wrong_ones = [
        "/a`b",
        "/a`?b",
        "/a\u{0}",
        "/a\u{1}b",
        "/a\u{7f}b",
        "/a\tb",
        "/a\u{b}b",
        "get",
        "get/",
        "?a",
        "#",
        "..",
        ".",
        "\\",
        "%2f",
    ]
    .map(|target| wrong(format!("the target {target:?}"), "GET", target));
    let raw = asked("a target with bytes that are not ASCII", "GET", "/\u{e9}").turned(&[400]);
    let long = format!("/{}", "a".repeat(15_000));
    let too_long = format!("/{}", "a".repeat(16_400));
    let far_too_long = format!("/{}", "a".repeat(1_000_000));
    let others = [
        raw,
        asked("a fragment", "GET", "/a#b")
            .turned(&[400])
            .hyper_may(|case| case.passes(1).arrives_at("/a"), "a fragment is not part of a target"),
        asked("a long target", "GET", &long).passes(1).arrives_at(&long),
        asked("a target that is too long", "GET", &too_long).turned(&[414]),
        asked("a target that is far too long", "GET", &far_too_long).turned(&[414, 431]),
    ];
    exact.into_iter().chain(doubtful).chain(wrong_ones).chain(others).collect()
}

fn absolute() -> Vec<Case> {
    let other_host =
        |name: &str, target: &str, host: &str| case(name, format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let host_is_ours = |case: Case| {
        case.seen(|requests, _| {
            let hosts = requests[0].fields.text("host");
            hosts.len() == 1 && hosts[0].starts_with('b') && hosts[0].contains(".plane.test")
        })
    };
    let turned = [
        "http://",
        "http:///a",
        "http:/a",
        "http:a",
        "http://:80/a",
        "http://[::1/a",
        "http://[]/a",
        "http://user@{h}/a",
        "http://user:word@{h}/a",
        "http://@{h}/a",
        "http://{h}:x/a",
        "http://{h}:-1/a",
        "http://{h} /a",
        "http://{h}%00/a",
        "http://{h}\\evil.test/a",
        "http://a,{h}/a",
        "ftp://{h}/a",
        "file:///a",
        "javascript:a",
        "://{h}/a",
        "ws://{h}/a",
    ]
    .map(|target| {
        case(format!("the absolute target {target}"), format!("GET {target} HTTP/1.1\r\nHost: {{h}}\r\n\r\n"))
            .turned(&[400, 404, 421])
    });
    let right = [
        asked("an absolute target", "GET", "http://{h}/a?b").passes(1).arrives_at("/a?b"),
        asked("an absolute target in capitals", "GET", "HTTP://{h}/a").passes(1).turned(&[400]).arrives_at("/a"),
        asked("an absolute target with a port", "GET", "http://{h}:80/a").passes(1).arrives_at("/a"),
        asked("an absolute target without path", "GET", "http://{h}").passes(1).arrives_at("/"),
        asked("an absolute target with a query alone", "GET", "http://{h}?a")
            .passes(1)
            .turned(&[400])
            .arrives_at("/?a"),
        asked("an absolute target of https in the open", "GET", "https://{h}/a")
            .passes(1)
            .turned(&[400, 404, 421])
            .arrives_at("/a"),
        host_is_ours(other_host("an absolute target and another Host", "http://{h}/a", "evil.test").passes(1)),
        host_is_ours(other_host("an absolute target and an empty Host", "http://{h}/a", "").passes(1).turned(&[400])),
        other_host("an absolute target elsewhere and a Host of ours", "http://evil.test/a", "{h}").turned(&[404, 421]),
        case("an absolute target without Host", "GET http://{h}/a HTTP/1.1\r\n\r\n").turned(&[400]),
        case("an absolute target and two Hosts", "GET http://{h}/a HTTP/1.1\r\nHost: {h}\r\nHost: {h}\r\n\r\n")
            .turned(&[400]),
    ];
    turned.into_iter().chain(right).collect()
}

fn others() -> Vec<Case> {
    vec![
        asked("the server as a whole", "OPTIONS", "*").passes(1).turned(&[400, 405, 501]).arrives_at("*"),
        wrong("an asterisk for GET", "GET", "*"),
        wrong("an asterisk and a path", "OPTIONS", "*/a"),
        wrong("an authority for GET", "GET", "{h}:80"),
        wrong("a host's name for GET", "GET", "{h}"),
        asked("CONNECT", "CONNECT", "{h}:80").turned(&[405, 501]),
        asked("CONNECT without port", "CONNECT", "{h}").turned(&[400, 405, 501]),
        asked("CONNECT of a path", "CONNECT", "/a").turned(&[400, 405, 501]),
        asked("CONNECT of a URL", "CONNECT", "http://{h}/").turned(&[400, 405, 501]),
    ]
}
