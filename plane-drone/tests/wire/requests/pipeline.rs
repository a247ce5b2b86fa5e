//! Several requests on one connection: RFC 9112, section 9.3.

use super::{
    super::case::{Case, case},
    HIDDEN, get, post,
};

const BAD: &str = "GET /bad HTTP/1.1\r\nHost: {h}\r\nX : y\r\n\r\n";

pub(super) fn cases() -> Vec<Case> {
    let one = || get("/one", "");
    let chunked = || post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n");
    let sized = || post("Content-Length: 5\r\n", "hello");
    let head = "HEAD /head HTTP/1.1\r\nHost: {h}\r\n\r\n";
    let many: String = (0..50).map(|number| get(&format!("/{number}"), "")).collect();
    let mixed: String = (0..10).map(|number| get(&format!("/{number}"), "") + &sized() + &chunked()).collect();
    let closing = get("/last", "Connection: close\r\n") + HIDDEN;
    vec![
        case("one", one()).passes(1),
        case("two", one() + &get("/two", "")).passes(2),
        case("fifty", many).passes(50),
        case("thirty of three kinds", mixed).passes(30),
        case("one with a length, then another", sized() + &one()).passes(2),
        case("one with chunks, then another", chunked() + &one()).passes(2),
        case("HEAD, then another", head.to_owned() + &one()).methods(&["HEAD", "GET"]).passes(2),
        case("HEAD between others", one() + head + &one()).methods(&["GET", "HEAD", "GET"]).passes(3),
        case("an empty line between", sized() + "\r\n" + &one()).passes(2),
        case("two empty lines between", sized() + "\r\n\r\n" + &one()).passes(2).refused_after(1, &[400]),
        case("a good one, then a bad one", one() + BAD + HIDDEN).refused_after(1, &[400]),
        case("a good one with a body, then a bad one", sized() + BAD + HIDDEN).refused_after(1, &[400]),
        case("a good one with chunks, then a bad one", chunked() + BAD + HIDDEN).refused_after(1, &[400]),
        case("ten good ones, then a bad one", one().repeat(10) + BAD + HIDDEN).refused_after(10, &[400]),
        case("a bad one, then good ones", BAD.to_owned() + HIDDEN + HIDDEN).refused(&[400]),
        case("a last one, then another", closing.clone()).passes_and_closes(1),
        case("one, a last one, then another", one() + &closing).passes_and_closes(2),
        case(
            "a last one with a body, then another",
            post("Connection: close\r\nContent-Length: 5\r\n", "hello") + HIDDEN,
        )
        .passes_and_closes(1),
        case(
            "a last one with chunks, then another",
            post("Connection: close\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n") + HIDDEN,
        )
        .passes_and_closes(1),
        case("one of HTTP/1.0, then another", format!("GET /old HTTP/1.0\r\nHost: {{h}}\r\n\r\n{HIDDEN}"))
            .passes_and_closes(1),
        case("one for nobody, then one for somebody", get("/one", "").replace("{h}", "nobody.plane.test"))
            .turned(&[404, 421]),
    ]
}
