//! Transfer-Encoding, alone and beside Content-Length: RFC 9112, sections 6.1 and 6.3.

use super::{
    super::case::{Case, case},
    HIDDEN, join, post,
};

/// Where Transfer-Encoding overrides Content-Length, the connection is closed afterwards.
const OVERRIDES: &str = "RFC 9112, 6.3: Transfer-Encoding may override Content-Length where the connection is closed";

/// Codings that are not known, or do not say where the body ends.
const UNKNOWN: &[&str] = &[
    "identity",
    "gzip",
    "deflate",
    "compress",
    "br",
    "xchunked",
    "chunkedx",
    "chunk",
    "x-chunked",
    "chunked-x",
    "cow",
    "trailers",
    "chunked, identity",
    "chunked,identity",
    "chunked, gzip",
    "chunked, cow",
    "gzip, chunked",
    "identity, chunked",
    "cow, chunked",
    "chunked, chunked",
    "chunked,chunked",
    "chunked;q=1",
    "chunked; a=b",
    "chunked;",
    "\"chunked\"",
    "'chunked'",
    "[chunked]",
    "chunked#",
    "chunked/1",
    "chun ked",
    "chunked chunked",
    "gzip chunked",
    "chunked\tx",
    "chunked\"",
    "",
    "0",
    "*",
    "chunked:",
    "identity;q=1, chunked;q=0.5",
    "\u{ff43}hunked",
    "chun\u{212a}ed",
];

pub(super) fn cases() -> Vec<Case> {
    let unknown = UNKNOWN.iter().map(|value| {
        // Nothing is hidden behind these: a refusal may leave the connection open where the body's end is beyond doubt.
        let bytes = post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n");
        case(format!("Transfer-Encoding {value:?}"), bytes).turned(&[400, 501])
    });
    let unknown_with_length = UNKNOWN.iter().map(|value| {
        let bytes =
            post(&format!("Content-Length: 5\r\nTransfer-Encoding: {value}\r\n"), &format!("0\r\n\r\n{HIDDEN}"));
        case(format!("Content-Length and Transfer-Encoding {value:?}"), bytes).refused(&[400, 501])
    });
    let right = ["chunked", "Chunked", "CHUNKED", "cHuNkEd", " chunked", "chunked ", "\tchunked\t", "  chunked  "].map(
        |value| {
            case(
                format!("Transfer-Encoding {value:?} with its whitespace"),
                post(&format!("Transfer-Encoding:{value}\r\n"), "5\r\nhello\r\n0\r\n\r\n"),
            )
            .passes(1)
            .seen(|requests, _| requests[0].body == b"hello")
        },
    );
    let empty_elements = ["chunked,", ",chunked", "chunked, ,", " , chunked"].map(|value| {
        case(
            format!("Transfer-Encoding with empty elements {value:?}"),
            post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n"),
        )
        .turned(&[400, 501])
        .hyper_may(|case| case.passes(1), "RFC 9110, 5.6.1.2: empty elements of a list are ignored")
    });
    unknown
        .chain(unknown_with_length)
        .chain(right)
        .chain(empty_elements)
        .chain(odd_bytes())
        .chain(several())
        .chain(beside_length())
        .collect()
}

/// Bytes that some readers take for whitespace, or for the end of a line, and others do not.
fn odd_bytes() -> Vec<Case> {
    let fields: [(&str, &[u8]); 22] = [
        ("a vertical tab before the value", b"Transfer-Encoding: \x0bchunked\r\n"),
        ("a vertical tab behind the value", b"Transfer-Encoding: chunked\x0b\r\n"),
        ("a form feed before the value", b"Transfer-Encoding: \x0cchunked\r\n"),
        ("NUL behind the value", b"Transfer-Encoding: chunked\0\r\n"),
        ("NUL before the value", b"Transfer-Encoding: \0chunked\r\n"),
        ("a byte that is not ASCII before the value", b"Transfer-Encoding: \xffchunked\r\n"),
        ("a no-break space before the value", b"Transfer-Encoding: \xa0chunked\r\n"),
        ("a bare CR behind the value", b"Transfer-Encoding: chunked\r \r\n"),
        ("a bare CR before the value", b"Transfer-Encoding:\rchunked\r\n"),
        ("a space before the colon", b"Transfer-Encoding : chunked\r\n"),
        ("a tab before the colon", b"Transfer-Encoding\t: chunked\r\n"),
        ("a vertical tab before the colon", b"Transfer-Encoding\x0b: chunked\r\n"),
        ("NUL before the colon", b"Transfer-Encoding\0: chunked\r\n"),
        ("a byte that is not ASCII in the name", b"Transfer\xadEncoding: chunked\r\n"),
        ("a space in the name", b"Transfer Encoding: chunked\r\n"),
        ("a space before the name", b"X: y\r\n Transfer-Encoding: chunked\r\n"),
        ("a tab before the name", b"X: y\r\n\tTransfer-Encoding: chunked\r\n"),
        ("the value on the next line", b"Transfer-Encoding:\r\n chunked\r\n"),
        ("the value folded", b"Transfer-Encoding: chunked\r\n , identity\r\n"),
        ("a bare CR before the name", b"X: y\rTransfer-Encoding: chunked\r\n"),
        ("a CR twice", b"X: y\r\r\nTransfer-Encoding: chunked\r\n"),
        ("no colon", b"Transfer-Encoding chunked\r\n"),
    ];
    let head = b"POST /post HTTP/1.1\r\nHost: {h}\r\n";
    let alone = fields.map(|(name, field)| {
        let bytes = join(&[head, field, b"\r\n0\r\n\r\n", HIDDEN.as_bytes()]);
        case(format!("Transfer-Encoding with {name}"), bytes).refused(&[400, 501])
    });
    let with_length = fields.map(|(name, field)| {
        let bytes = join(&[head, b"Content-Length: 5\r\n", field, b"\r\n0\r\n\r\n", HIDDEN.as_bytes()]);
        case(format!("Content-Length, and Transfer-Encoding with {name}"), bytes).refused(&[400, 501])
    });
    alone.into_iter().chain(with_length).collect()
}

fn several() -> Vec<Case> {
    let two = |first: &str, second: &str| {
        let fields = format!("Transfer-Encoding: {first}\r\nTransfer-Encoding: {second}\r\n");
        case(format!("two Transfer-Encoding, {first} and {second}"), post(&fields, "0\r\n\r\n")).turned(&[400, 501])
    };
    let old = |fields: &str| format!("POST /post HTTP/1.0\r\nHost: {{h}}\r\n{fields}\r\n0\r\n\r\n{HIDDEN}");
    vec![
        two("chunked", "chunked"),
        two("chunked", "identity"),
        two("identity", "chunked"),
        two("gzip", "chunked"),
        two("chunked", ""),
        two("", "chunked"),
        two("chunked", "cow"),
        two("cow", "chunked"),
        case("Transfer-Encoding in HTTP/1.0", old("Transfer-Encoding: chunked\r\n")).refused(&[400, 501]),
        case(
            "Transfer-Encoding in HTTP/1.0, kept alive",
            old("Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n"),
        )
        .refused(&[400, 501]),
        case(
            "Transfer-Encoding and Content-Length in HTTP/1.0",
            old("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        )
        .refused(&[400, 501]),
        case(
            "Connection names Transfer-Encoding",
            post(
                "Connection: keep-alive, transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
                "5\r\nhello\r\n0\r\n\r\n",
            ),
        )
        .passes(1)
        .refused(&[400])
        .seen(|requests, _| requests[0].body == b"hello"),
        case(
            "a name that only looks like Transfer-Encoding",
            post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "hello"),
        )
        .passes(1)
        .refused(&[400])
        .seen(|requests, _| requests[0].body == b"hello"),
    ]
}

fn beside_length() -> Vec<Case> {
    let both = |name: &str, fields: &str, body: &str| case(name, post(fields, body)).refused(&[400]);
    let rest = format!("0\r\n\r\n{HIDDEN}");
    let resolved = |case: Case| case.hyper_may(|case| case.passes_and_closes(1), OVERRIDES);
    vec![
        resolved(both(
            "Content-Length, then Transfer-Encoding (CL.TE)",
            "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n",
            &rest,
        )),
        resolved(both(
            "Transfer-Encoding, then Content-Length (TE.CL)",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            &rest,
        )),
        resolved(both(
            "Content-Length 0 and Transfer-Encoding",
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            &rest,
        )),
        resolved(both(
            "the right Content-Length and Transfer-Encoding",
            "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        )),
        resolved(both(
            "a wrong Content-Length beside Transfer-Encoding",
            "Content-Length: +5\r\nTransfer-Encoding: chunked\r\n",
            &rest,
        )),
        resolved(both(
            "two Content-Length beside Transfer-Encoding",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n",
            &rest,
        )),
        both(
            "Content-Length beside two Transfer-Encoding",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n",
            &rest,
        )
        .refused(&[501]),
        resolved(both(
            "Transfer-Encoding behind a bare LF, beside Content-Length",
            "Content-Length: 5\r\nX: y\nTransfer-Encoding: chunked\r\n",
            &rest,
        )),
        both(
            "a prefix of a request as the rest of the body",
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\nG",
        )
        .hyper_may(|case| case.passes_and_closes(1), OVERRIDES),
        both(
            "Content-Length named by Connection beside Transfer-Encoding",
            "Connection: content-length\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            &rest,
        )
        .hyper_may(|case| case.passes_and_closes(1), OVERRIDES),
    ]
}
