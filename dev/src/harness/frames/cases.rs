//! What the ends of a WebSocket may say to each other, and what they may not: after the sections of the Autobahn test
//! suite, and beyond in how bytes are cut and how connections end.

use super::{BINARY, CLOSE, CONTINUATION, Frame, From, PING, PONG, TEXT, closing};

/// How one end goes once it has said all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It says so, and still hears the other: a half-close.
    Finishes,
    /// It hears the other to its end first.
    Follows,
    /// It breaks off, with a reset.
    Resets,
}

/// What the two ends say, each in pieces that are sent one by one, and how each goes.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is about.
    pub name: String,
    /// What the client says.
    pub client: Vec<Vec<u8>>,
    /// What the backend says.
    pub backend: Vec<Vec<u8>>,
    /// How the client goes.
    pub client_end: End,
    /// How the backend goes.
    pub backend_end: End,
}

/// Lengths at which a frame's head changes, or buffers end.
const LENGTHS: [usize; 16] =
    [0, 1, 2, 124, 125, 126, 127, 128, 129, 4096, 8192, 65_534, 65_535, 65_536, 65_537, 1_048_576];
/// The largest message.
const LARGEST: usize = 16 * 1024 * 1024;
/// How much is cut into pieces, in bytes.
const CUT: usize = 6_000;
const CLOSE_CODES: [u16; 30] = [
    0, 1, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 1015, 1016,
    1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 32_768, 65_535,
];
/// Text that is UTF-8.
const GOOD_TEXTS: [&str; 7] =
    ["Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "日本語", "\u{10ffff}", "\u{feff}", "\0", "😀\u{1f3fd}\u{200d}"];
/// Bytes that are not: lone, missing, overlong, surrogates, beyond the last one.
const BAD_TEXTS: [&[u8]; 12] = [
    b"\x80",
    b"abc\xff",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf0\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xce\xba\xe1\xbd",
    b"\xfe\xfe\xff\xff",
];

/// Bytes in which a lost, doubled or moved one shows.
fn filling(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ (at / 251) as u8).collect()
}

/// What is said, by frames; both ends say the same, each in its way.
struct Said {
    name: String,
    frames: Vec<Frame>,
}

fn said(name: impl Into<String>, frames: impl Into<Vec<Frame>>) -> Said {
    Said { name: name.into(), frames: frames.into() }
}

fn lengths() -> Vec<Said> {
    let mut all = Vec::new();
    for length in LENGTHS {
        all.push(said(format!("text of {length}"), [Frame::new(TEXT, vec![b'*'; length])]));
        all.push(said(format!("binary of {length}"), [Frame::new(BINARY, filling(length))]));
    }
    all
}

fn control() -> Vec<Said> {
    let mut all = Vec::new();
    for length in [0, 1, 125, 126, 1000] {
        all.push(said(format!("ping of {length}"), [Frame::new(PING, filling(length))]));
        all.push(said(format!("pong of {length}"), [Frame::new(PONG, filling(length))]));
    }
    all.push(said("ten pings", (0..10).map(|number| Frame::new(PING, vec![number])).collect::<Vec<_>>()));
    all.push(said("a ping in pieces", [Frame::piece(PING, "pi"), Frame::new(CONTINUATION, "ng")]));
    all.push(said("a close in pieces", [Frame::piece(CLOSE, closing(1000, b"")), Frame::new(CONTINUATION, "more")]));
    all
}

fn reserved() -> Vec<Said> {
    let mut all = Vec::new();
    for bits in 1..8 {
        for operation in [TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG] {
            let frames =
                [Frame::new(TEXT, "before"), Frame::new(operation, "with").reserving(bits), Frame::new(PING, "")];
            all.push(said(format!("reserved bits {bits} of operation {operation}"), frames));
        }
    }
    let operations = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(|operation| {
        said(format!("reserved operation {operation}"), [Frame::new(operation, "what"), Frame::new(PING, "")])
    });
    all.extend(operations);
    all
}

fn fragments() -> Vec<Said> {
    let text = "κόσμε, in pieces that do not heed where characters end".as_bytes();
    let mut all: Vec<Said> = [1, 2, 3, 5, 7, 13, text.len()]
        .map(|size| {
            let count = text.len().div_ceil(size);
            let pieces = text.chunks(size).enumerate().flat_map(|(number, piece)| {
                let operation = if number == 0 { TEXT } else { CONTINUATION };
                let frame = Frame { last: number + 1 == count, ..Frame::new(operation, piece) };
                [frame, Frame::new(PING, "between")]
            });
            said(format!("pieces of {size} with pings between"), pieces.collect::<Vec<_>>())
        })
        .into();
    let fragments = [(64, 65_536), (1024, 65_536), (65_536, 1_048_576)].map(|(size, of)| {
        let count = of / size;
        let pieces = (0..count).map(|number| {
            let operation = if number == 0 { BINARY } else { CONTINUATION };
            Frame { last: number + 1 == count, ..Frame::new(operation, filling(size)) }
        });
        said(format!("{of} in frames of {size}"), pieces.collect::<Vec<_>>())
    });
    all.extend(fragments);
    all.push(said("nothing to continue", [Frame::new(CONTINUATION, "of what"), Frame::new(TEXT, "after")]));
    all.push(said("two begun", [Frame::piece(TEXT, "one"), Frame::piece(BINARY, "two"), Frame::new(CONTINUATION, "")]));
    all.push(said(
        "empty pieces",
        [Frame::piece(TEXT, ""), Frame::piece(CONTINUATION, ""), Frame::new(CONTINUATION, "")],
    ));
    all.push(said("never finished", [Frame::piece(BINARY, filling(1000))]));
    all
}

fn texts() -> Vec<Said> {
    let whole = GOOD_TEXTS.iter().map(|text| text.as_bytes()).chain(BAD_TEXTS);
    let mut all = Vec::new();
    for (number, text) in whole.enumerate() {
        all.push(said(format!("text {number}"), [Frame::new(TEXT, text)]));
        let bytes = text.iter().enumerate().map(|(at, byte)| {
            let operation = if at == 0 { TEXT } else { CONTINUATION };
            Frame { last: at + 1 == text.len(), ..Frame::new(operation, vec![*byte]) }
        });
        all.push(said(format!("text {number} in frames of a byte"), bytes.collect::<Vec<_>>()));
    }
    all
}

fn closes() -> Vec<Said> {
    let mut all: Vec<Said> = CLOSE_CODES
        .map(|code| said(format!("close {code}"), [Frame::new(TEXT, "last"), Frame::new(CLOSE, closing(code, b"why"))]))
        .into();
    let reasons: [(&str, Vec<u8>); 6] = [
        ("nothing", Vec::new()),
        ("one byte", vec![3]),
        ("no reason", closing(1000, b"")),
        ("the longest reason", closing(1000, &[b'*'; 123])),
        ("too long a reason", closing(1000, &[b'*'; 124])),
        ("a reason that is no text", closing(1000, b"\xce\xba\xff")),
    ];
    all.extend(reasons.map(|(name, payload)| said(format!("close with {name}"), [Frame::new(CLOSE, payload)])));
    let close = || Frame::new(CLOSE, closing(1000, b""));
    all.push(said("two closes", [close(), close()]));
    all.push(said("text after the close", [close(), Frame::new(TEXT, "late")]));
    all.push(said("a ping after the close", [close(), Frame::new(PING, "late")]));
    all.push(said("much after the close", [close(), Frame::new(BINARY, filling(300_000))]));
    all
}

/// What frames cannot say: wrong masks, wrong lengths, no frames at all.
fn malformed() -> Vec<(String, [Vec<u8>; 2])> {
    let hello = Frame::new(TEXT, "hello");
    let either = |bytes: Vec<u8>| [bytes.clone(), bytes];
    vec![
        ("masks the wrong way round".to_owned(), [hello.bytes(From::Backend), hello.bytes(From::Client)]),
        (
            "a length that fewer bytes would hold".to_owned(),
            [From::Client, From::Backend].map(|from| hello.with_length(from, 5)),
        ),
        ("a length of 2^63".to_owned(), [From::Client, From::Backend].map(|from| hello.with_length(from, 1 << 63))),
        ("more promised than sent".to_owned(), [From::Client, From::Backend].map(|from| hello.with_length(from, 1000))),
        ("half of a head".to_owned(), either(vec![0x82])),
        ("nothing".to_owned(), either(Vec::new())),
        ("what looks like a request".to_owned(), either(b"GET /other HTTP/1.1\r\nHost: other.test\r\n\r\n".to_vec())),
        ("what looks like a response".to_owned(), either(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec())),
        ("what looks like the end of chunks".to_owned(), either(b"\r\n0\r\n\r\n".to_vec())),
        ("zeros".to_owned(), either(vec![0; 70_000])),
    ]
}

impl Case {
    fn both_finish(name: String, client: Vec<Vec<u8>>, backend: Vec<Vec<u8>>) -> Self {
        Self { name, client, backend, client_end: End::Finishes, backend_end: End::Finishes }
    }

    fn ending(self, client_end: End, backend_end: End) -> Self {
        let name = format!("{}; the client {client_end:?}, the backend {backend_end:?}", self.name);
        Self { name, client_end, backend_end, ..self }
    }
}

fn pieces(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    bytes.chunks(size.max(1)).map(<[u8]>::to_vec).collect()
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let said = [lengths(), control(), reserved(), fragments(), texts(), closes()].into_iter().flatten();
    let bytes = |said: &Said, from| said.frames.iter().map(|frame| frame.bytes(from)).collect::<Vec<_>>();
    let mut all: Vec<Case> = said
        .map(|said| Case::both_finish(said.name.clone(), bytes(&said, From::Client), bytes(&said, From::Backend)))
        .collect();
    all.extend(
        malformed().into_iter().map(|(name, [client, backend])| Case::both_finish(name, vec![client], vec![backend])),
    );

    // Cut where no frame ends, down to single bytes.
    let talk: Vec<Frame> =
        [fragments(), control(), closes()].into_iter().flatten().flat_map(|said| said.frames).collect();
    let talk: Vec<Frame> = talk.into_iter().filter(|frame| frame.payload.len() < 100).collect();
    let flat = |from| talk.iter().flat_map(|frame| frame.bytes(from)).collect::<Vec<u8>>();
    let (mut client, mut backend) = (flat(From::Client), flat(From::Backend));
    // As many pieces as one end may have under way before the other has taken any.
    client.truncate(CUT);
    backend.truncate(CUT);
    for size in [1, 2, 3, 7, 64, 1460, client.len()] {
        all.push(Case::both_finish(format!("cut into {size}"), pieces(&client, size), pieces(&backend, size)));
    }
    let large = [From::Client, From::Backend].map(|from| vec![Frame::new(BINARY, filling(LARGEST)).bytes(from)]);
    let [client, backend] = large;
    all.push(Case::both_finish("the largest".to_owned(), client.clone(), backend.clone()));
    all.push(Case::both_finish("the largest to the backend".to_owned(), client, Vec::new()));
    all.push(Case::both_finish("the largest to the client".to_owned(), Vec::new(), backend));

    // Who goes first, and how, with little and much under way.
    for length in [0, 1, 300_000] {
        let [client, backend] =
            [From::Client, From::Backend].map(|from| vec![Frame::new(BINARY, filling(length)).bytes(from)]);
        let case = Case::both_finish(format!("{length} each way"), client, backend);
        use End::{Finishes, Follows, Resets};
        for (client_end, backend_end) in
            [(Finishes, Follows), (Follows, Finishes), (Resets, Follows), (Follows, Resets), (Resets, Resets)]
        {
            all.push(case.clone().ending(client_end, backend_end));
        }
    }
    all
}
