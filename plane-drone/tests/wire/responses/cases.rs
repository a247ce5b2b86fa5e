//! The answers.

use super::{Case, Expected, case};

/// What is hidden behind answers.
const HIDDEN: &str = "HTTP/1.1 200 OK\r\nX-Smuggled: 1\r\nContent-Length: 3\r\n\r\nbad";
const ENDLESS: usize = 200_000;

fn ok(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}")
}

fn sized(fields: &str) -> String {
    ok(&format!("{fields}Content-Length: 5\r\n"), "hello")
}

fn chunked(body: &str) -> String {
    ok("Transfer-Encoding: chunked\r\n", body)
}

pub(super) fn all() -> Vec<Case> {
    let groups = [
        status_lines(),
        fields(),
        lengths(),
        codings(),
        chunks(),
        bodiless(),
        interim(),
        ends(),
        hidden(),
        to_old_clients(),
    ];
    groups.into_iter().flatten().collect()
}

fn status_lines() -> Vec<Case> {
    let garbage = [
        "garbage",
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 abc OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1 0x8 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 2 0 OK",
        "HTTP/1.1\t200\tOK",
        "HTTP/2.0 200 OK",
        "HTTP/0.9 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1200 OK",
        "ICY 200 OK",
        " HTTP/1.1 200 OK",
        "200 OK",
        "GET / HTTP/1.1",
        "HTTP/1.1 200\0OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "HTTP/1.1 000 OK",
        "HTTP/1.1 200OK",
        "\u{1}\u{2}\u{3}",
        "SSH-2.0-OpenSSH_9.2",
        "<html>",
        "220 mail ESMTP",
        "HTTP/1.1 2\u{660}0 OK",
    ];
    let garbage = garbage.map(|line| {
        case(format!("the status line {line:?}"), format!("{line}\r\nContent-Length: 5\r\n\r\nhello")).refused()
    });
    let others = [
        case("a status line without reason", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello").passed("hello"),
        case("a status line without the blank before the reason", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello")
            .passed("hello")
            .refused(),
        case("an unknown status", "HTTP/1.1 299 Odd\r\nContent-Length: 5\r\n\r\nhello")
            .or(Expected::Passed(299, "hello")),
        case("a status above 599", "HTTP/1.1 999 Odd\r\nContent-Length: 5\r\n\r\nhello")
            .or(Expected::Passed(999, "hello"))
            .refused(),
        case("an empty line before", format!("\r\n{}", sized(""))).refused().passed("hello"),
        case("nothing, then the end", "").closing().refused(),
        case("nothing", "").refused_or_late(),
        case("half a status line, then the end", "HTTP/1.1 2").closing().refused(),
        case("half a status line", "HTTP/1.1 2").refused_or_late(),
        case("a status line without end", "HTTP/1.1 200 ".to_owned() + &"x".repeat(ENDLESS)).refused_or_late(),
        case("garbage without end", "x".repeat(ENDLESS)).times(20).refused(),
    ];
    garbage.into_iter().chain(others).collect()
}

fn fields() -> Vec<Case> {
    let wrong = [
        "no colon\r\n",
        ": y\r\n",
        "X(: y\r\n",
        "X Y: z\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "X: a\u{1}b\r\n",
        "X: a\u{7f}\r\n",
        "X\u{e9}: y\r\n",
        "X\0: y\r\n",
        "\0\r\n",
    ]
    .map(|field| case(format!("the field {field:?}"), sized(field)).refused());
    // A proxy removes or mends these, or refuses (RFC 9112, 5.1 and 5.2); the client's reader is strict.
    let mended = ["X : y\r\n", "X\t: y\r\n", "X: a\r\n b\r\n", "X: a\n", "Content-Length : 5\r\n"].map(|field| {
        let bytes = if field.starts_with("Content") { ok(field, "hello") } else { sized(field) };
        case(format!("the field {field:?}, to be mended"), bytes).refused().passed("hello")
    });
    let hop_by_hop = |field: &str| {
        case(format!("{field} to the client"), sized(field)).passed("hello").seen(|reply| {
            !reply.fields.has("keep-alive")
                && !reply.fields.has("x-own")
                && !reply.fields.has("upgrade")
                && !reply.fields.has("proxy-connection")
        })
    };
    let many: String = (0..50_000).map(|number| format!("X-{number}: y\r\n")).collect();
    let others = [
        case("a good answer", sized("")).passed("hello"),
        case("as many fields as an answer may have", sized(&"X: y\r\n".repeat(255)))
            .passed("hello")
            .seen(|reply| reply.fields.all("X").count() == 255),
        case("lines that end in LF alone", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello").refused().passed("hello"),
        case(
            "bytes that are not ASCII in a value",
            [b"HTTP/1.1 200 OK\r\nX: \x80\xff\r\nContent-Length: 5\r\n\r\nhello".as_slice()].concat(),
        )
        .passed("hello")
        .seen(|reply| reply.fields.all("X").next() == Some(b"\x80\xff")),
        case("two Set-Cookie", sized("Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n"))
            .passed("hello")
            .seen(|reply| reply.fields.text("set-cookie") == ["a=b", "c=d"]),
        hop_by_hop("Keep-Alive: timeout=5\r\n"),
        hop_by_hop("Connection: X-Own\r\nX-Own: y\r\n"),
        hop_by_hop("Connection: keep-alive, x-own\r\nX-OWN: y\r\n"),
        hop_by_hop("Upgrade: h2c\r\n"),
        hop_by_hop("Proxy-Connection: close\r\n"),
        case("Connection: close", sized("Connection: close\r\n")).closing().passed("hello"),
        case("Connection names Content-Length", sized("Connection: Content-Length\r\n")).passed("hello").refused(),
        case("a hundred thousand fields", ok(&many, "")).refused(),
        case("one field without end", "HTTP/1.1 200 OK\r\nX: ".to_owned() + &"x".repeat(ENDLESS)).times(50).refused(),
        case("a name without end", "HTTP/1.1 200 OK\r\n".to_owned() + &"x".repeat(ENDLESS)).times(50).refused(),
        case("a large head", sized(&format!("X: {}\r\n", "y".repeat(30_000)))).passed("hello"),
    ];
    wrong.into_iter().chain(mended).chain(others).collect()
}

fn lengths() -> Vec<Case> {
    let wrong = ["+5", "-5", "0x5", "5x", "five", "5 5", "5,6", "", "18446744073709551621", "5.0", "\u{665}", "5;"]
        .map(|value| {
            case(format!("Content-Length {value:?}"), ok(&format!("Content-Length: {value}\r\n"), "hello")).refused()
        });
    let several = [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 0\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: +5\r\n",
    ]
    .map(|fields| case(format!("{fields:?}"), ok(fields, "hello")).refused());
    let equal = ["Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5, 5\r\n"].map(|fields| {
        case(format!("{fields:?}, which may be taken for one"), ok(fields, "hello")).refused().passed("hello")
    });
    let others = [
        case("a Content-Length that is more than the body", ok("Content-Length: 50\r\n", "hello"))
            .closing()
            .cut()
            .refused()
            .dropped_by_hyper(),
        case("a Content-Length that is far more than the body", ok("Content-Length: 9223372036854775807\r\n", "hello"))
            .closing()
            .cut()
            .refused()
            .dropped_by_hyper(),
        case("Content-Length 0", ok("Content-Length: 0\r\n", "")).passed(""),
        case("no length, then the end", ok("", "hello")).closing().passed("hello"),
    ];
    wrong.into_iter().chain(several).chain(equal).chain(others).collect()
}

fn codings() -> Vec<Case> {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let coded = |fields: &str| case(format!("{fields:?}"), ok(fields, body));
    let unknown = [
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "xchunked",
        "chunked, chunked",
        "chunked;a",
        "\"chunked\"",
        "",
        "chun ked",
        "chunked, identity",
    ]
    .map(|value| coded(&format!("Transfer-Encoding: {value}\r\n")).closing().refused());
    let both = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: +5\r\n",
    ]
    .map(|fields| {
        case(format!("{fields:?}, to be refused or resolved"), ok(fields, &format!("{body}{HIDDEN}")))
            .refused()
            .passed("hello")
    });
    let others = [
        case("two Transfer-Encoding", ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", body))
            .refused(),
        case("Transfer-Encoding in capitals", ok("TRANSFER-ENCODING: CHUNKED\r\n", body)).passed("hello"),
        case("Transfer-Encoding of HTTP/1.0", format!("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
            .closing()
            .refused()
            .passed(""),
        case("Transfer-Encoding behind a vertical tab", ok("Transfer-Encoding: \u{b}chunked\r\n", body)).refused(),
        case("HTTP/1.0 without length", "HTTP/1.0 200 OK\r\n\r\nhello").closing().passed("hello"),
        case("HTTP/1.0 with a length", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello").closing().passed("hello"),
        case("HTTP/1.0 with a length, kept open without a word", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            .passed("hello"),
    ];
    unknown.into_iter().chain(both).chain(others).collect()
}

fn chunks() -> Vec<Case> {
    let wrong = [
        "zz\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
    ]
    .map(|body| case(format!("the chunks {body:?}"), chunked(body)).closing().cut().refused().dropped_by_hyper());
    let early = [
        "",
        "5",
        "5\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n",
    ]
    .map(|body| case(format!("the end behind {body:?}"), chunked(body)).closing().cut().refused().dropped_by_hyper());
    let others = [
        case("chunks", chunked("2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n")).passed("hello"),
        case("chunks with a trailer", chunked("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")).passed("hello"),
        case(
            "chunks with trailers that must be none",
            chunked("5\r\nhello\r\n0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\n\r\n"),
        )
        .passed("hello")
        .cut()
        .seen(|reply| !reply.trailers.has("content-length") && !reply.trailers.has("transfer-encoding")),
        case("an extension without end", chunked(&format!("5;{}", "x".repeat(ENDLESS))))
            .closing()
            .cut()
            .refused()
            .dropped_by_hyper(),
        case("a trailer without end", chunked(&format!("5\r\nhello\r\n0\r\nX: {}", "x".repeat(ENDLESS))))
            .closing()
            .cut()
            .refused()
            .dropped_by_hyper(),
        case("trailers without end", chunked(&format!("5\r\nhello\r\n0\r\n{}", "X: y\r\n".repeat(ENDLESS))))
            .closing()
            .cut()
            .refused()
            .dropped_by_hyper(),
    ];
    wrong.into_iter().chain(early).chain(others).collect()
}

/// Answers that have no body whatever they say (RFC 9112, section 6.3).
fn bodiless() -> Vec<Case> {
    let none = |status: u16, fields: &str| {
        let bytes = format!("HTTP/1.1 {status} None\r\n{fields}\r\n{HIDDEN}");
        case(format!("{status} with {fields:?} and more behind it"), bytes).or(Expected::Passed(status, "")).refused()
    };
    vec![
        none(204, ""),
        none(204, "Content-Length: 70\r\n"),
        none(204, "Transfer-Encoding: chunked\r\n"),
        none(304, ""),
        none(304, "Content-Length: 70\r\n"),
        none(304, "Transfer-Encoding: chunked\r\n"),
        case("an answer to HEAD", ok("Content-Length: 5\r\n", ""))
            .method("HEAD")
            .passed("")
            .seen(|reply| reply.fields.text("content-length") == ["5"]),
        case("an answer to HEAD with chunks announced", chunked("")).method("HEAD").passed(""),
        case("an answer to HEAD with a body", sized("")).method("HEAD").passed(""),
        case("an answer to HEAD with another behind it", ok("Content-Length: 70\r\n", HIDDEN))
            .method("HEAD")
            .passed(""),
        case("304 with a length and no body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n")
            .or(Expected::Passed(304, "")),
        case("205 with a length", "HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n").or(Expected::Passed(205, "")),
    ]
}

fn interim() -> Vec<Case> {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let good = sized("");
    vec![
        case("103 before", format!("{hint}{good}")).passed("hello"),
        case("100 before", format!("HTTP/1.1 100 Continue\r\n\r\n{good}")).passed("hello"),
        case("102 before", format!("HTTP/1.1 102 Processing\r\n\r\n{good}")).passed("hello"),
        case("five before", format!("{}{good}", hint.repeat(5))).passed("hello"),
        case("an interim answer with a length", format!("HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n{good}"))
            .passed("hello")
            .refused(),
        case("an interim answer, then the end", hint).closing().refused(),
        case(
            "101 that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .refused(),
        case("101 without Upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n").refused(),
        case(
            "101 with an answer behind it",
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n{HIDDEN}"),
        )
        .refused(),
    ]
}

/// Answers without end, of which each is much for the proxy to read.
pub(super) fn floods() -> Vec<Case> {
    let interim = |field: &str| format!("HTTP/1.1 103 Early Hints\r\n{field}\r\n");
    vec![
        case("interim answers without end", interim("").repeat(1000)).times(5000).refused_or_late(),
        case("large interim answers without end", interim(&format!("X: {}\r\n", "y".repeat(10_000))))
            .times(5000)
            .refused_or_late(),
        case("fields without end", "X: y\r\n".repeat(10_000)).times(500).refused(),
        case("a field without end", "x".repeat(ENDLESS)).times(500).refused(),
    ]
}

fn ends() -> Vec<Case> {
    vec![
        case("half a head, then the end", "HTTP/1.1 200 OK\r\nContent-Le").closing().refused(),
        case("a head without its empty line, then the end", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n")
            .closing()
            .refused(),
        case("half a head", "HTTP/1.1 200 OK\r\nContent-Le").refused_or_late(),
        case("a good answer, then the end", sized("")).closing().passed("hello"),
    ]
}

/// A second answer where none is due.
fn hidden() -> Vec<Case> {
    vec![
        case("an answer behind a length", sized("") + HIDDEN).passed("hello"),
        case("an answer behind a length of 0", ok("Content-Length: 0\r\n", HIDDEN)).passed(""),
        case("an answer behind chunks", chunked(&format!("5\r\nhello\r\n0\r\n\r\n{HIDDEN}"))).passed("hello"),
        case("an answer behind trailers", chunked(&format!("5\r\nhello\r\n0\r\nX: y\r\n\r\n{HIDDEN}"))).passed("hello"),
        case("ten answers behind a length", sized("") + &HIDDEN.repeat(10)).passed("hello"),
        case("half an answer behind a length", sized("") + "HTTP/1.1 200 OK\r\nX-Smug").passed("hello"),
        case("a byte behind a length", sized("") + "H").passed("hello"),
        case("line ends behind a length", sized("") + "\r\n\r\n").passed("hello"),
        case("an interim answer behind a length", sized("") + "HTTP/1.1 100 Continue\r\n\r\n").passed("hello"),
        case("megabytes behind a length", sized("") + &"x".repeat(ENDLESS)).times(20).passed("hello"),
    ]
}

/// HTTP/1.0 knows no chunks (RFC 9112, section 7), no interim answers (RFC 9110, section 15.2), and closes.
fn to_old_clients() -> Vec<Case> {
    vec![
        case("chunks to HTTP/1.0", chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")).old_client().passed("hello"),
        case("an interim answer to HTTP/1.0", format!("HTTP/1.1 103 Early Hints\r\n\r\n{}", sized("")))
            .old_client()
            .passed("hello")
            .seen(|reply| reply.interim.is_empty()),
        case("a length to HTTP/1.0", sized("")).old_client().passed("hello"),
        case("no length to HTTP/1.0", ok("", "hello")).closing().old_client().passed("hello"),
    ]
}
