//! What we read, held against what the hyper library reads of the same bytes: whatever we take, it takes as well, and
//! for the same. It may take more.

use super::{
    Framing, HeadLimits,
    chunk::Decoder,
    head::{self, Space},
    response,
    scan::Scan,
};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::{prelude::*, sample::Index};
use std::{cell::RefCell, convert::Infallible, rc::Rc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const LIMITS: HeadLimits = HeadLimits { bytes: 8192, fields: 100, line_bytes: 4096 };

/// A message: what its first line says, its body, its trailers.
type Seen = (String, Vec<u8>, Trailers);
type Trailers = Vec<(String, Vec<u8>)>;

/// A body at the start of `bytes`; `None` where it is not complete. With how long it was.
fn our_body(bytes: &[u8], framing: Framing) -> Option<(Vec<u8>, usize, Trailers)> {
    match framing {
        Framing::None => Some((Vec::new(), 0, Vec::new())),
        Framing::UntilClose => Some((bytes.to_vec(), bytes.len(), Vec::new())),
        Framing::Length(length) => {
            let length = usize::try_from(length).ok()?;
            Some((bytes.get(..length)?.to_vec(), length, Vec::new()))
        }
        Framing::Chunked => {
            let (mut decoder, mut moved) = (Decoder::new(), bytes.to_vec());
            let taken = decoder.take(&mut moved).ok()?;
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let section = [decoder.trailers(), b"\r\n"].concat();
            let httparse::Status::Complete((_, fields)) = httparse::parse_headers(&section, &mut fields).ok()? else {
                return None;
            };
            let trailers = fields.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect();
            decoder.is_done().then(|| (moved[taken.data].to_vec(), taken.consumed, trailers))
        }
    }
}

/// Method and path; a path may lack its slash, and OPTIONS may ask the server itself in two ways.
fn line(method: &str, path: &str) -> String {
    match path {
        "" | "*" => format!("{method} /"),
        path if path.starts_with('/') => format!("{method} {path}"),
        path => format!("{method} /{path}"),
    }
}

fn our_requests(mut bytes: &[u8]) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        let mut space = Space::new();
        let Ok(Some(head)) = head::parse(bytes, &mut Scan::default(), &mut space, LIMITS) else { return all };
        let rest = &bytes[head.length..];
        let Some((body, length, trailers)) = our_body(rest, head.framing) else { return all };
        all.push((line(head.method, head.path), body, trailers));
        if !head.is_persistent() {
            return all;
        }
        bytes = &rest[length..];
    }
}

fn sorted(trailers: Option<&hyper::HeaderMap>) -> Trailers {
    let fields = trailers.into_iter().flatten();
    fields.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

fn alone<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

async fn hypers_requests(bytes: &[u8]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (mut client, server) = duplex(1 << 16);
    let noted = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let noted = noted.clone();
        async move {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let line = line(request.method().as_str(), path);
            if let Ok(body) = request.into_body().collect().await {
                let trailers = sorted(body.trailers());
                noted.borrow_mut().push((line, body.to_bytes().to_vec(), trailers));
            }
            Ok::<_, Infallible>(Response::new(Empty::<&[u8]>::new()))
        }
    });
    let serving =
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
    let asking = async {
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let _ = client.read_to_end(&mut Vec::new()).await;
    };
    let _ = tokio::join!(serving, asking);
    seen.take()
}

fn our_response(bytes: &[u8]) -> Option<Seen> {
    let mut rest = bytes;
    loop {
        let mut space = Space::new();
        let head = response::parse(rest, &mut Scan::default(), &mut space, LIMITS, false).ok()??;
        rest = &rest[head.length..];
        if !head.is_interim() {
            let (body, _, trailers) = our_body(rest, head.framing)?;
            return Some((head.status.to_string(), body, trailers));
        }
    }
}

async fn hypers_response(bytes: &[u8]) -> Option<Seen> {
    let (client, mut server) = duplex(1 << 16);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    let request = Request::get("/").header("host", "h").body(Empty::<&[u8]>::new()).unwrap();
    let answering = async {
        let mut request = vec![0; 1024];
        assert_ne!(server.read(&mut request).await.unwrap(), 0);
        let _ = server.write_all(bytes).await;
        let _ = server.shutdown().await;
        let _ = server.read_to_end(&mut request).await;
    };
    let asking = async move {
        let response = sender.send_request(request).await.ok()?;
        drop(sender);
        let status = response.status().as_u16().to_string();
        let body = response.into_body().collect().await.ok()?;
        let trailers = sorted(body.trailers());
        Some((status, body.to_bytes().to_vec(), trailers))
    };
    tokio::join!(answering, asking, connection).1
}

/// What may say where a body ends, often wrongly, with a body that fits or does not.
fn bodies() -> impl Strategy<Value = String> {
    let chunks = "((1\r\nx|0002;a=b\r\nxy|3 ;q\r\nabc|a\r\n0123456789)\r\n){0,3}0{1,2}\r\n(Sum: 1\r\n){0,2}\r\n";
    prop_oneof![
        4 => Just("\r\n".to_owned()),
        4 => "[a-z]{0,12}".prop_map(|body| format!("Content-Length: {}\r\n\r\n{body}", body.len())),
        4 => chunks.prop_map(|chunks| format!("Transfer-Encoding: chunked\r\n\r\n{chunks}")),
        1 => (0_usize..4, chunks).prop_map(|(length, chunks)| {
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
        }),
        1 => "Content-Length: (\\+1|1, 1|0x1|1\r\nContent-Length: [12]|1 )\r\n\r\nx{0,2}",
        1 => "Transfer-Encoding: (gzip, chunked|identity|chunked, chunked|x|chunked\r\nTransfer-Encoding: chunked)\r\n\r\n0\r\n\r\n",
    ]
}

fn requests() -> impl Strategy<Value = String> {
    let target = "(/|/[a-z]{0,5}(\\?[a-z=&%]{0,5})?|\\*|http://h(:1)?(/[a-z]{0,3})?(\\?q)?)";
    let fields =
        "(Host: h\r\n){0,2}(A: [ -~]{0,6}\r\n){0,2}(Connection: (close|keep-alive|x)\r\n)?(Expect: 100-continue\r\n)?";
    let head = ("(\r\n)?(GET|POST|HEAD|OPTIONS)", target, "HTTP/1\\.[01]", fields, bodies());
    let one = head.prop_map(|(method, target, version, fields, body)| {
        format!("{method} {target} {version}\r\nHost: h\r\n{fields}{body}").replacen(
            "Host: h\r\nHost: h\r\n",
            "Host: h\r\n",
            1,
        )
    });
    proptest::collection::vec(one, 1..4).prop_map(|all| all.concat())
}

fn responses() -> impl Strategy<Value = String> {
    let fields = "(A: [ -~]{0,6}\r\n){0,2}(Connection: (close|keep-alive|x)\r\n)?";
    let interim = "(HTTP/1\\.1 10[023] X\r\n(A: b\r\n)?\r\n){0,2}";
    let head = (interim, "HTTP/1\\.[01] (200|204|304|404|503) [a-z]{0,3}", fields, bodies());
    head.prop_map(|(interim, line, fields, body)| format!("{interim}{line}\r\n{fields}{body}"))
}

/// Bytes of which a few may have been taken out, doubled, or changed.
fn spoiled(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), 0..3, prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), any::<u8>()]);
    (text, proptest::collection::vec(change, 0..3)).prop_map(|(text, changes)| {
        let mut bytes = text.into_bytes();
        for (index, how, byte) in changes {
            let at = index.index(bytes.len());
            match how {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, byte),
                _ => bytes[at] = byte,
            }
            if bytes.is_empty() {
                bytes.push(byte);
            }
        }
        bytes
    })
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_we_take_for_requests_hyper_takes_for_the_same(bytes in spoiled(requests())) {
        let ours = our_requests(&bytes);
        let hypers = alone(hypers_requests(&bytes));
        let both = ours.len().min(hypers.len());
        prop_assert_eq!(&ours[..both], &hypers[..both], "{}", shown(&bytes));
        prop_assert!(ours.len() <= hypers.len(), "we take more: {:?} {}", ours, shown(&bytes));
    }

    #[test]
    fn what_we_take_for_a_response_hyper_takes_for_the_same(bytes in spoiled(responses())) {
        if let Some(ours) = our_response(&bytes) {
            let hypers = alone(hypers_response(&bytes));
            prop_assert_eq!(Some(ours), hypers, "{}", shown(&bytes));
        }
    }
}
