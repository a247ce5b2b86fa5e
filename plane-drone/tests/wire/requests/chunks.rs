//! Chunked bodies: RFC 9112, section 7.1.

use super::{
    super::case::{Case, case},
    HIDDEN, join, post,
};

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
/// What lies between an LF alone and the CRLF that hyper takes for the end of the trailers is the next request for whoever
/// ends lines with LF alone, and nothing for hyper and the backend. So nobody's answer may follow on that connection.
const BARE_LF: &str = "RFC 9112, 2.2: a bare LF may end a line; the connection is closed after it";
/// hyper does not say how trailers ended.
const TRAILERS: &str = "RFC 9112, 9.6: a connection may be closed after any answer";
/// A line of extensions or trailers longer than anybody needs.
const FAR_TOO_LONG: usize = 200_000;

fn chunked(name: impl Into<String>, body: impl AsRef<[u8]>) -> Case {
    case(name, join(&[post(CHUNKED, "").as_bytes(), body.as_ref()]))
}

fn right(name: &str, body: impl AsRef<[u8]>) -> Case {
    chunked(name, body).passes(1).seen(|requests, _| requests[0].body == b"hello")
}

fn wrong(name: impl Into<String>, body: impl AsRef<[u8]>) -> Case {
    // Where the fault is in the first bytes of a body, a proxy may not have begun to pass the request on.
    chunked(name, join(&[body.as_ref(), HIDDEN.as_bytes()])).body_refused(&[400])
}

pub(super) fn cases() -> Vec<Case> {
    [right_ones(), sizes(), line_ends(), extensions(), trailers(), ends()].concat()
}

fn right_ones() -> Vec<Case> {
    let ten = format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(10));
    vec![
        right("one chunk", "5\r\nhello\r\n0\r\n\r\n"),
        right("two chunks", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        right("a size with zeros before", "0005\r\nhello\r\n0\r\n\r\n"),
        right("a last chunk of many zeros", "5\r\nhello\r\n000\r\n\r\n"),
        right("a size with an extension", "5;a=b\r\nhello\r\n0\r\n\r\n"),
        right("an extension without value", "5;a\r\nhello\r\n0;b\r\n\r\n"),
        right("a quoted extension", "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"),
        right("several extensions", "5;a=b;c=d;e\r\nhello\r\n0\r\n\r\n"),
        right("a trailer", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n").hyper_may(|case| case.passes_and_closes(1), TRAILERS),
        chunked("an empty body", "0\r\n\r\n").passes(1).seen(|requests, _| requests[0].body.is_empty()),
        chunked("a size in small letters", "a\r\n0123456789\r\n0\r\n\r\n")
            .passes(1)
            .seen(|requests, _| requests[0].body.len() == 10),
        chunked("a size in capital letters", "A\r\n0123456789\r\n0\r\n\r\n")
            .passes(1)
            .seen(|requests, _| requests[0].body.len() == 10),
        chunked("many chunks", ten).passes(1).seen(|requests, _| requests[0].body == [b'x'; 10]),
        chunked("line ends within a chunk", "4\r\n\r\n\r\n\r\n0\r\n\r\n")
            .passes(1)
            .seen(|requests, _| requests[0].body == b"\r\n\r\n"),
        chunked("a last chunk within a chunk", "5\r\n0\r\n\r\n\r\n0\r\n\r\n")
            .passes(1)
            .seen(|requests, _| requests[0].body == b"0\r\n\r\n"),
        chunked("a second request behind it", "5\r\nhello\r\n0\r\n\r\nGET /second HTTP/1.1\r\nHost: {h}\r\n\r\n")
            .passes(2),
    ]
}

fn sizes() -> Vec<Case> {
    let sizes = [
        "0x5", "0X5", "x5", "-5", "+5", "5h", "h", "5 5", "5.0", "5,", "5,5", "\"5\"", "5_0", "5:", "5=", "", "\t5",
        " 5", "5\0", "\x0b5", "5\x0b", "5\x0c", "5\x7f",
    ];
    let sizes =
        sizes.iter().map(|size| wrong(format!("a chunk's size {size:?}"), format!("{size}\r\nhello\r\n0\r\n\r\n")));
    // Nothing is hidden behind these, since they may be taken.
    let blank = ["5 ", "5\t", "5  "].map(|size| {
        chunked(format!("a chunk's size with blanks behind, {size:?}"), format!("{size}\r\nhello\r\n0\r\n\r\n"))
            .body_refused(&[400])
            .hyper_may(|case| case.passes(1), "blanks behind a size pad it in old software")
    });
    let others = [
        wrong("a chunk's size of 2^64 + 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        wrong("a chunk's size of more than 64 bits", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        wrong("a chunk's size of 2^128 + 5", "100000000000000000000000000000005\r\nhello\r\n0\r\n\r\n"),
        wrong("a chunk's size without end", "0".repeat(FAR_TOO_LONG)),
        wrong("a chunk's size that is less than its data", "4\r\nhello\r\n0\r\n\r\n"),
        wrong("a chunk's size that is more than its data", "6\r\nhello\r\n0\r\n\r\n"),
        wrong("a chunk's size in a script of other digits", "\u{665}\r\nhello\r\n0\r\n\r\n"),
        chunked("the largest size, then the end", "ffffffffffffffff\r\nhello").abandoned(),
        chunked("the largest positive size, then the end", "7fffffffffffffff\r\nhello").abandoned(),
    ];
    sizes.chain(blank).chain(others).collect()
}

fn line_ends() -> Vec<Case> {
    vec![
        wrong("LF alone behind a size", "5\nhello\r\n0\r\n\r\n"),
        wrong("LF alone behind the data", "5\r\nhello\n0\r\n\r\n"),
        wrong("LF alone behind the last size", "5\r\nhello\r\n0\n\r\n"),
        wrong("LF alone at the end", "5\r\nhello\r\n0\r\n\n").hyper_may(|case| case.passes_and_closes(1), BARE_LF),
        wrong("LF alone behind a trailer", "5\r\nhello\r\n0\r\nX: y\n\r\n")
            .hyper_may(|case| case.passes_and_closes(1), BARE_LF),
        wrong(
            "LF alone at the end, and more requests",
            "5\r\nhello\r\n0\r\n\nGET /smuggled HTTP/1.1\r\nHost: {h}\r\n\r\n",
        )
        .hyper_may(|case| case.passes_and_closes(1), BARE_LF),
        wrong("LF alone throughout", "5\nhello\n0\n\n"),
        wrong("CR alone behind a size", "5\rhello\r\n0\r\n\r\n"),
        wrong("CR alone behind the data", "5\r\nhello\r0\r\n\r\n"),
        wrong("CR twice behind a size", "5\r\r\nhello\r\n0\r\n\r\n"),
        wrong("CR and another byte behind the data", "5\r\nhello\rX0\r\n\r\n"),
        wrong("two other bytes in the place of CR LF", "5\r\nhelloXX0\r\n\r\n"),
        wrong("LF CR behind a size", "5\n\rhello\r\n0\r\n\r\n"),
        wrong("no line end behind the data", "5\r\nhello0\r\n\r\n"),
        wrong("an empty line before a size", "\r\n5\r\nhello\r\n0\r\n\r\n"),
        wrong("an empty line between chunks", "5\r\nhello\r\n\r\n0\r\n\r\n"),
    ]
}

fn extensions() -> Vec<Case> {
    let odd: [(&str, &[u8]); 8] = [
        ("LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("LF in an extension of the last chunk", b"5\r\nhello\r\n0;a\nb\r\n\r\n"),
        ("LF alone behind an extension", b"5;a=b\nhello\r\n0\r\n\r\n"),
        ("a bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("LF in a quoted extension", b"5;a=\"\n\"\r\nhello\r\n0\r\n\r\n"),
        ("CR LF in a quoted extension", b"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n"),
        ("no semicolon before an extension", b"5a=b\r\nhello\r\n0\r\n\r\n"),
        ("a blank and no semicolon before an extension", b"5 a=b\r\nhello\r\n0\r\n\r\n"),
    ];
    let odd = odd.map(|(name, body)| wrong(name, body));
    let lax = [
        "5;\r\n",
        "5;;\r\n",
        "5;=\r\n",
        "5; a = b\r\n",
        "5 ;a=b\r\n",
        "5;a=\"b\r\n",
        "5;a=b c\r\n",
        "5;\x7f\r\n",
        "5;a\0b\r\n",
        "5;\u{e9}=1\r\n",
    ]
    .map(|line| {
        let body = format!("{line}hello\r\n0\r\n\r\n");
        chunked(format!("an extension that is not well formed, {line:?}"), body)
            .passes(1)
            .body_refused(&[400])
            .seen(|requests, _| requests[0].body == b"hello")
    });
    let long = [
        wrong("an extension without end", format!("5;{}", "a".repeat(FAR_TOO_LONG))),
        wrong(
            "extensions on every chunk that are far more than the data",
            format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "a".repeat(1000)).repeat(300)),
        ),
    ];
    odd.into_iter().chain(lax).chain(long).collect()
}

fn trailers() -> Vec<Case> {
    let hello = |trailers: &str| format!("5\r\nhello\r\n0\r\n{trailers}\r\n");
    let forbidden = [
        "Content-Length: 40",
        "Transfer-Encoding: chunked",
        "Host: evil.test",
        "Authorization: Bearer x",
        "Cookie: a=b",
        "Connection: close",
    ]
    .map(|field| {
        chunked(format!("a trailer that must be none, {field}"), hello(&format!("{field}\r\n")))
            .passes(1)
            .body_refused(&[400])
            .seen(|requests, _| requests[0].body == b"hello" && requests[0].fields.all("host").count() == 1)
            .hyper_may(|case| case.passes_and_closes(1), TRAILERS)
    });
    let wrong_ones = ["no colon", "X : y", " X: y", ": y", "X: \0", "X: y\r", "X(: y", "X: y\r\n folded"]
        .map(|field| wrong(format!("a trailer {field:?}"), hello(&format!("{field}\r\n"))));
    let others = [
        chunked("a trailer that is announced", hello("X-Sum: 1\r\nX-More: 2\r\n"))
            .passes(1)
            .hyper_may(|case| case.passes_and_closes(1), TRAILERS),
        wrong("a request in the place of trailers", "5\r\nhello\r\n0\r\n"),
        wrong("trailers without end", format!("5\r\nhello\r\n0\r\n{}", "X: y\r\n".repeat(FAR_TOO_LONG / 6))),
        wrong("a trailer without end", format!("5\r\nhello\r\n0\r\nX: {}", "y".repeat(FAR_TOO_LONG))),
    ];
    forbidden.into_iter().chain(wrong_ones).chain(others).collect()
}

/// The client says that nothing more comes.
fn ends() -> Vec<Case> {
    [
        "",
        "5",
        "5\r",
        "5\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5\r\nhello\r",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\n\r",
        "5\r\nhello\r\n0\r\nX: y\r\n",
    ]
    .map(|body| chunked(format!("the end behind {body:?}"), body).abandoned())
    .into()
}
