//! Content-Length: RFC 9110, section 8.6, and RFC 9112, section 6.3.

use super::{
    super::case::{Case, case},
    HIDDEN, get, join, post,
};

/// Values that are no number of bytes.
const WRONG: &[&str] = &[
    "+5",
    "-5",
    "0x5",
    "5x",
    "x5",
    "5 5",
    "5.0",
    "5,6",
    "5;",
    "5;5",
    "\"5\"",
    "'5'",
    "5_0",
    "five",
    "",
    ",",
    ";",
    "0 5",
    "\u{665}",
    "\u{ff15}",
    "5\u{a0}",
    "1e1",
    "18446744073709551616",
    "18446744073709551621",
    "4294967301000000000000000",
    "-0",
    "+0",
    "0x0",
    "5\t5",
    "5+0",
    "(5)",
    "5%",
    "%35",
];

pub(super) fn cases() -> Vec<Case> {
    let wrong = WRONG.iter().map(|value| {
        case(format!("Content-Length {value:?}"), post(&format!("Content-Length: {value}\r\n"), HIDDEN))
            .refused(&[400, 413])
    });
    let lists = ["5, 5", "5,5", "5,", ",5", "5, 5, 5"].map(|value| {
        case(format!("Content-Length as the list {value:?}"), post(&format!("Content-Length: {value}\r\n"), "hello"))
            .refused(&[400])
            .hyper_may(|case| case.passes(1), "RFC 9112, 6.3: a list of equal values may be taken for one of them")
    });
    let bytes: [(&str, &[u8]); 8] = [
        ("a vertical tab before", b"\x0b5"),
        ("a form feed behind", b"5\x0c"),
        ("NUL behind", b"5\0"),
        ("NUL before", b"\x005"),
        ("a CR within", b"5\r5"),
        ("a CR behind", b"5\r"),
        ("a byte that is not ASCII behind", b"5\xa0"),
        ("DEL behind", b"5\x7f"),
    ];
    let odd = bytes.map(|(name, value)| {
        let head = b"POST /post HTTP/1.1\r\nHost: {h}\r\nContent-Length: ";
        case(format!("Content-Length with {name}"), join(&[head, value, b"\r\n\r\n", HIDDEN.as_bytes()]))
            .refused(&[400])
    });
    let right = ["5", " 5", "5 ", "\t5\t", "   5   ", "005"].map(|value| {
        case(
            format!("Content-Length {value:?} with its whitespace"),
            post(&format!("Content-Length:{value}\r\n"), "hello"),
        )
        .passes(1)
        .seen(|requests, _| requests[0].body == b"hello")
    });
    // So many digits that a reader may count them instead of the value.
    let zeros =
        case("Content-Length with many zeros before", post("Content-Length: 0000000000000000000000005\r\n", "hello"));
    wrong
        .chain(lists)
        .chain(odd)
        .chain(right)
        .chain([zeros.passes(1).refused(&[400])])
        .chain(several())
        .chain(names())
        .collect()
}

fn several() -> Vec<Case> {
    let equal = "RFC 9112, 6.3: equal ones may be taken for one";
    vec![
        case("two Content-Length, equal", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"))
            .refused(&[400])
            .hyper_may(|case| case.passes(1), equal),
        case("two Content-Length, equal but for zeros", post("Content-Length: 5\r\nContent-Length: 05\r\n", "hello"))
            .refused(&[400])
            .hyper_may(|case| case.passes(1), equal),
        case(
            "two Content-Length, equal, others between",
            post("Content-Length: 5\r\nX: y\r\ncontent-length: 5\r\n", "hello"),
        )
        .refused(&[400])
        .hyper_may(|case| case.passes(1), equal),
        case("two Content-Length, the first less", post("Content-Length: 0\r\nContent-Length: 40\r\n", HIDDEN))
            .refused(&[400]),
        case("two Content-Length, the first more", post("Content-Length: 40\r\nContent-Length: 0\r\n", HIDDEN))
            .refused(&[400]),
        case("two Content-Length in different case", post("content-length: 1\r\nCONTENT-LENGTH: 2\r\n", HIDDEN))
            .refused(&[400]),
        case("two Content-Length, one of them wrong", post("Content-Length: 5\r\nContent-Length: +5\r\n", HIDDEN))
            .refused(&[400]),
        case("two Content-Length, one of them empty", post("Content-Length: 5\r\nContent-Length:\r\n", "hello"))
            .refused(&[400]),
        case("two Content-Length, one of them a list", post("Content-Length: 0\r\nContent-Length: 0, 40\r\n", HIDDEN))
            .refused(&[400]),
        case("a list of different Content-Length", post("Content-Length: 0, 40\r\n", HIDDEN)).refused(&[400]),
        case(
            "three Content-Length, the last different",
            post("Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 6\r\n", HIDDEN),
        )
        .refused(&[400]),
    ]
}

fn names() -> Vec<Case> {
    let bodiless = |field: &str| get("/get", field);
    vec![
        case("a space before Content-Length's colon", post("Content-Length : 40\r\n", HIDDEN)).refused(&[400]),
        case("a tab before Content-Length's colon", post("Content-Length\t: 40\r\n", HIDDEN)).refused(&[400]),
        case("a space before Content-Length", post("X: y\r\n Content-Length: 40\r\n", HIDDEN)).refused(&[400]),
        case("NUL before Content-Length", post("\0Content-Length: 40\r\n", HIDDEN)).refused(&[400]),
        case("NUL behind Content-Length", post("Content-Length\0: 40\r\n", HIDDEN)).refused(&[400]),
        case("Content-Length folded", post("Content-Length:\r\n 40\r\n", HIDDEN)).refused(&[400]),
        case("Content-Length behind a bare CR", post("X: y\rContent-Length: 40\r\n", HIDDEN)).refused(&[400]),
        case("Content-Length behind a bare LF", post("X: y\nContent-Length: 5\r\n", "hello"))
            .refused(&[400])
            .hyper_may(|case| case.passes(1), "RFC 9112, 2.2: a bare LF may end a line"),
        case("a name that only looks like Content-Length", bodiless("Content_Length: 5\r\n")).passes(1),
        case("a name that begins with Content-Length", bodiless("Content-Length-X: 5\r\n")).passes(1),
        case("no Content-Length at all", post("", "")).passes(1).seen(|requests, _| requests[0].body.is_empty()),
        case("Content-Length 0", post("Content-Length: 0\r\n", "")).passes(1),
        case("a GET with a body", get("/get", "Content-Length: 5\r\n") + "hello")
            .passes(1)
            .seen(|requests, _| requests[0].body == b"hello"),
        case(
            "a body that looks like a request",
            post("Content-Length: 70\r\n", &"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2)),
        )
        .passes(1)
        .seen(|requests, _| requests[0].body.len() == 70),
        case("a body longer than Content-Length", post("Content-Length: 5\r\n", "helloGARBAGE\r\n\r\n"))
            .refused_after(1, &[400]),
        case("a body shorter than Content-Length, then the end", post("Content-Length: 50\r\n", "hello")).abandoned(),
        case("the end within a head", "GET / HTTP/1.1\r\nHost: {h}\r\nX: y").abandoned(),
        case("the end behind a request line", "GET / HTTP/1.1\r\n").abandoned(),
        case(
            "Connection names Content-Length",
            post("Connection: keep-alive, content-length\r\nContent-Length: 5\r\n", "hello"),
        )
        .passes(1)
        .refused(&[400])
        .seen(|requests, _| requests[0].body == b"hello"),
    ]
}
