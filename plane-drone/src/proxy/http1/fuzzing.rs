//! What must be true of any bytes that HTTP/1.1 is read from. Each panics where it is not.

use super::{
    Framing, HeadLimits,
    chunk::{self, Decoder},
    field::{Known, is_named},
    head::{self, Form, RequestHead, Space},
    malformed::Malformed,
    response::{self, ResponseHead},
    scan::Scan,
    write::{After, Answering, Ours, put_interim, put_request, put_response},
};
use hyper::{body::Body, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{cell::RefCell, convert::Infallible, ops::Range, rc::Rc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const LIMITS: HeadLimits = HeadLimits { bytes: 8192, fields: 100, line_bytes: 4096 };
/// A head as it was written anew may be longer than the one that it was made of.
const WRITTEN: HeadLimits = HeadLimits { bytes: 32_768, fields: 200, line_bytes: 8192 };
/// The longest body that hyper knows of, in bytes; it keeps two numbers for itself.
const LONGEST_OF_HYPER: u64 = u64::MAX - 2;

/// A field, its name in lower case.
type Seen = Vec<(String, Vec<u8>)>;

/// The head of a request: what comes of it does not depend on the pieces that it comes in, and what goes on means the
/// same to us and to hyper as what came.
pub fn request_head(data: &[u8]) {
    let (mut scan, mut space) = (Scan::default(), Space::new());
    let whole = head::parse(data, &mut scan, &mut space, LIMITS);
    let pieces = in_pieces(data, |bytes, scan| {
        let mut space = Space::new();
        Ok(head::parse(bytes, scan, &mut space, LIMITS)?.map(|head| (head.length, head.framing)))
    });
    assert_eq!(pieces, whole.map(|head| head.map(|head| (head.length, head.framing))));
    let Ok(Some(head)) = whole else { return };
    // Refused before anything is written.
    if head.form == Form::Authority {
        return;
    }
    let (mut out, protocols) = (Vec::new(), head.protocols());
    let ours = Ours { path: head.path, token: None, protocols: protocols.as_deref() };
    put_request(&mut out, &head, &ours, |_| {});
    let (mut scan, mut space) = (Scan::default(), Space::new());
    let Ok(Some(again)) = head::parse(&out, &mut scan, &mut space, WRITTEN) else {
        panic!("what was written is not taken: {}", out.escape_ascii());
    };
    assert_eq!(again.length, out.len(), "one head, not two");
    let path = format!("{}{}", if head.path.starts_with('/') || head.path == "*" { "" } else { "/" }, head.path);
    assert_eq!((again.method, again.path, again.authority), (head.method, path.as_str(), head.authority));
    assert_eq!((again.framing, again.upgrade), (head.framing, head.upgrade));
    assert_eq!(passed_on(again.fields), passed_on_of(&head));
    let hypers = hypers_request(&out);
    if head.framing == Framing::Length(u64::MAX) || head.framing == Framing::Length(u64::MAX - 1) {
        return;
    }
    let ours = OfRequest {
        line: format!("{} {path}", head.method),
        hosts: vec![head.authority.as_bytes().to_vec()],
        framing: head.framing,
        fields: sorted(passed_on_of(&head)),
    };
    assert_eq!(hypers, Some(ours), "{}", out.escape_ascii());
}

/// The head of a response. As with requests; the first byte says what the request was.
pub fn response_head(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let to_head = first & 1 == 1;
    let (mut scan, mut space) = (Scan::default(), Space::new());
    let whole = response::parse(data, &mut scan, &mut space, LIMITS, to_head);
    let pieces = in_pieces(data, |bytes, scan| {
        let mut space = Space::new();
        Ok(response::parse(bytes, scan, &mut space, LIMITS, to_head)?.map(|head| (head.length, head.framing)))
    });
    assert_eq!(pieces, whole.map(|head| head.map(|head| (head.length, head.framing))));
    let Ok(Some(head)) = whole else { return };
    let after = if first & 2 == 2 { After::Closes } else { After::GoesOn };
    let framing = match head.framing {
        Framing::UntilClose if first & 4 == 4 => Framing::Chunked,
        framing => framing,
    };
    let mut out = Vec::new();
    if head.is_interim() {
        put_interim(&mut out, &head);
    } else {
        let date = "Thu, 01 Jan 1970 00:00:00 GMT";
        put_response(&mut out, &head, &Answering { backend: Some("b"), framing, after, date });
    }
    let (mut scan, mut space) = (Scan::default(), Space::new());
    let Ok(Some(again)) = response::parse(&out, &mut scan, &mut space, WRITTEN, to_head) else {
        panic!("what was written is not taken: {}", out.escape_ascii());
    };
    assert_eq!(again.length, out.len(), "one head, not two");
    assert_eq!((again.status, again.reason, again.upgrade), (head.status, head.reason, head.upgrade));
    let expected = if head.is_interim() { Framing::None } else { framing };
    assert_eq!((again.framing, again.is_interim()), (expected, head.is_interim()));
    let names_backend = again.fields.iter().filter(|field| Known::of(field.name) == Known::BackendId).count();
    assert_eq!(names_backend, usize::from(!head.is_interim()));
    assert!(!again.options.names_others, "fields of one connection go on");
    let length = match (framing, head.declared_length) {
        (Framing::Length(length), _) | (Framing::None, Some(length)) if !head.is_interim() => Some(length),
        _ => None,
    };
    assert_eq!(again.declared_length, length);
    let is_for_hyper = length.is_none_or(|length| length <= LONGEST_OF_HYPER);
    if !head.is_interim() && head.status != 101 && is_for_hyper {
        assert_eq!(hypers_response(&out, to_head), Some(of_response(&again)), "{}", out.escape_ascii());
    }
}

/// Chunks: what comes of them does not depend on the pieces that they come in, and a body that is taken is one to a slow
/// reader too, and the same one. The first byte says whose body it is, the second how long its pieces are.
pub fn chunks(data: &[u8]) {
    let [first, second, body @ ..] = data else { return };
    let pads = first & 1 == 1;
    let whole = decoded(body, pads, body.len().max(1));
    assert_eq!(decoded(body, pads, usize::from(*second) % 16 + 1), whole);
    match slowly(body, pads) {
        Some(slow) => assert_eq!(whole, Ok(Some(slow)), "{}", body.escape_ascii()),
        None => assert!(!matches!(whole, Ok(Some(_))), "taken for whole: {}", body.escape_ascii()),
    }
    let Ok(Some(body)) = whole else { return };
    let mut again = Vec::new();
    for piece in body.data.chunks(usize::from(*second) + 1) {
        let mut line = [0; chunk::SIZE_LINE_MAX];
        let start = chunk::put_size(&mut line, piece.len());
        again.extend([line.get(start..).unwrap_or_default(), piece, chunk::CHUNK_END].concat());
    }
    again.extend([chunk::LAST_CHUNK, &body.trailers, b"\r\n"].concat());
    let length = again.len();
    assert_eq!(decoded(&again, false, length), Ok(Some(Chunked { consumed: length, ..body })));
}

/// What hyper and we see in a request.
#[derive(Debug, PartialEq, Eq)]
struct OfRequest {
    line: String,
    hosts: Vec<Vec<u8>>,
    framing: Framing,
    fields: Seen,
}

/// The same of a response.
#[derive(Debug, PartialEq, Eq)]
struct OfResponse {
    status: u16,
    /// Of its body; `None` where none is said, or there is none.
    length: Option<u64>,
    fields: Seen,
}

/// A whole chunked body.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chunked {
    data: Vec<u8>,
    consumed: usize,
    trailers: Vec<u8>,
}

/// What comes of a head that comes in pieces, the first outcome that is one.
fn in_pieces<T>(
    data: &[u8],
    mut parse: impl FnMut(&[u8], &mut Scan) -> Result<Option<T>, Malformed>,
) -> Result<Option<T>, Malformed> {
    let (mut scan, mut end, mut piece) = (Scan::default(), 0, 1);
    while end < data.len() {
        end = (end + piece).min(data.len());
        piece = piece % 13 + 3;
        match parse(data.get(..end).unwrap_or_default(), &mut scan) {
            Ok(None) => {}
            outcome => return outcome,
        }
    }
    Ok(None)
}

/// What is not about one connection, and not rewritten.
fn passed_on(fields: &[super::field::Field<'_>]) -> Seen {
    let others = fields.iter().filter(|field| {
        matches!(Known::of(field.name), Known::Other | Known::Date | Known::Trailer | Known::BackendId)
    });
    others.map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect()
}

fn passed_on_of(head: &RequestHead<'_, '_>) -> Seen {
    passed_on(head.fields).into_iter().filter(|(name, _)| !is_named(head.fields, name)).collect()
}

/// Of different names the order means nothing (RFC 9110, section 5.3).
fn sorted(mut fields: Seen) -> Seen {
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

fn seen(fields: &hyper::HeaderMap, keeps: impl Fn(&str) -> bool) -> Seen {
    let fields = fields.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    sorted(fields.filter(|(name, _)| keeps(name)).collect())
}

fn is_passed_on(name: &str) -> bool {
    matches!(Known::of(name), Known::Other | Known::Date | Known::Trailer | Known::BackendId)
}

fn alone<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = match tokio::runtime::Builder::new_current_thread().build() {
            Ok(runtime) => runtime,
            Err(error) => panic!("no runtime: {error}"),
        };
    }
    RUNTIME.with(|runtime| tokio::task::LocalSet::new().block_on(runtime, future))
}

/// The one request that hyper sees in these bytes.
fn hypers_request(bytes: &[u8]) -> Option<OfRequest> {
    let all = Rc::new(RefCell::new(Vec::new()));
    let noted = all.clone();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let body = request.body().size_hint();
        let framing = match (body.exact(), request.headers().contains_key("content-length")) {
            (None, _) => Framing::Chunked,
            (Some(0), false) => Framing::None,
            (Some(length), _) => Framing::Length(length),
        };
        noted.borrow_mut().push(OfRequest {
            line: format!("{} {path}", request.method()),
            hosts: request.headers().get_all("host").iter().map(|host| host.as_bytes().to_vec()).collect(),
            framing,
            fields: seen(request.headers(), is_passed_on),
        });
        std::future::ready(Ok::<_, Infallible>(hyper::Response::new(String::new())))
    });
    alone(async {
        let (mut client, server) = duplex(1 << 16);
        let mut builder = hyper::server::conn::http1::Builder::new();
        let serving =
            builder.half_close(true).max_headers(super::FIELDS_MAX).serve_connection(TokioIo::new(server), service);
        let asking = async {
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut Vec::new()).await;
        };
        let _ = tokio::join!(serving, asking);
    });
    let mut all = all.take();
    let one = all.pop();
    assert!(all.is_empty(), "hyper sees several requests");
    one
}

fn of_response(head: &ResponseHead<'_, '_>) -> OfResponse {
    let fields = head.fields.iter().filter(|field| is_passed_on(field.name));
    let fields = fields.map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect();
    let length = match head.framing {
        Framing::Length(length) => Some(length),
        Framing::None => Some(0),
        Framing::Chunked | Framing::UntilClose => None,
    };
    OfResponse { status: head.status, length, fields: sorted(fields) }
}

/// The response that hyper sees in these bytes.
fn hypers_response(bytes: &[u8], to_head: bool) -> Option<OfResponse> {
    alone(async {
        let (client, mut server) = duplex(1 << 16);
        let mut builder = hyper::client::conn::http1::Builder::new();
        let (mut sender, connection) =
            builder.max_headers(super::FIELDS_MAX).handshake(TokioIo::new(client)).await.ok()?;
        let method = if to_head { "HEAD" } else { "GET" };
        let request = hyper::Request::builder().method(method).uri("/").body(String::new()).ok()?;
        let answering = async {
            let _ = server.read(&mut [0; 1024]).await;
            let _ = server.write_all(bytes).await;
            let _ = server.shutdown().await;
            let _ = server.read_to_end(&mut Vec::new()).await;
        };
        let asking = async move {
            let response = sender.send_request(request).await.ok()?;
            Some(OfResponse {
                status: response.status().as_u16(),
                length: response.body().size_hint().exact(),
                fields: seen(response.headers(), is_passed_on),
            })
        };
        tokio::join!(asking, connection, answering).0
    })
}

/// What our decoder makes of a body in pieces of one size; `None` where it is not complete.
fn decoded(body: &[u8], pads: bool, piece: usize) -> Result<Option<Chunked>, Malformed> {
    let mut decoder = Decoder::new();
    if pads {
        decoder.allow_padding();
    }
    let (mut data, mut consumed) = (Vec::new(), 0);
    for piece in body.chunks(piece) {
        let mut bytes = piece.to_vec();
        let taken = decoder.take(&mut bytes)?;
        data.extend_from_slice(bytes.get(taken.data).unwrap_or_default());
        consumed += taken.consumed;
        if decoder.is_done() {
            return Ok(Some(Chunked { data, consumed, trailers: decoder.trailers().to_vec() }));
        }
        assert_eq!(taken.consumed, piece.len(), "bytes are left though the body goes on");
    }
    Ok(None)
}

/// The same by the grammar of RFC 9112, section 7.1, line after line, without limits that bodies of this length could
/// pass; `None` where it is no whole body.
fn slowly(body: &[u8], pads: bool) -> Option<Chunked> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line = line(body, &mut at)?;
        let text = body.get(line)?;
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, rest) = text.split_at_checked(digits)?;
        if !(1..=16).contains(&digits) || !is_extension(rest, pads) {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?;
        data.extend_from_slice(body.get(at..end)?);
        (body.get(end..end + 2)? == b"\r\n").then_some(())?;
        at = end + 2;
    }
    let start = at;
    loop {
        let line = line(body, &mut at)?;
        let text = body.get(line.clone())?;
        if text.is_empty() {
            let trailers = body.get(start..line.start)?.to_vec();
            let fields = trailers.iter().filter(|byte| **byte == b'\n').count();
            // The limits, which whole lines can pass.
            let fits = fields <= chunk::TRAILERS_MAX;
            return fits.then_some(Chunked { data, consumed: at, trailers });
        }
        let colon = text.iter().position(|byte| *byte == b':')?;
        let (name, value) = text.split_at_checked(colon)?;
        let in_value = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        (super::scan::is_token(name) && value.iter().all(in_value)).then_some(())?;
    }
}

/// The next line, which ends with the first LF, and must end with CRLF.
fn line(body: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let start = *at;
    let end = start + body.get(start..)?.iter().position(|byte| *byte == b'\n')?;
    *at = end + 1;
    (end > start && body.get(end - 1) == Some(&b'\r')).then(|| start..end - 1)
}

/// What may stand behind a size.
fn is_extension(rest: &[u8], pads: bool) -> bool {
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match rest.get(blanks..) {
        _ if pads && blanks > usize::from(chunk::PADDING_BYTES) => false,
        None | Some([]) => blanks == 0 || pads,
        Some([b';', text @ ..]) => !text.iter().any(|byte| matches!(byte, 0..=0x08 | 0x0a..=0x1f | 0x7f)),
        Some(_) => false,
    }
}
