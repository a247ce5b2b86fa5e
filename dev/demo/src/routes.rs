//! What each path answers. The paths are made for tests; `/` is made for people.
//!
//! | path | answer |
//! |---|---|
//! | `/` | the page (status `DEMO_STATUS`) |
//! | `/room` | the page's WebSocket |
//! | `/ws` | a WebSocket that echoes text and binary messages |
//! | `/echo` | the request's body, as it comes in |
//! | `/sink` | how many bytes the request's body has, once it is there |
//! | `/env` | the environment, a JSON object |
//! | `/headers` | the request's fields, a JSON object; repeated ones joined by `, ` |
//! | `/request` | `{"method", "uri", "version"}` as received |
//! | `/file?path=P` | a file of the container, 404 where there is none |
//! | `/bytes?n=N` | N bytes with a length; byte i is `i % 251` |
//! | `/slow?chunks=N&ms=M` | N lines `chunk 1` …, the first at once, then one every M ms |
//! | `/cut?n=N&of=M` | promises M bytes, sends N, breaks the connection |
//! | `/status?code=N` | that status |
//! | `/log?lines=N` | writes N lines to stdout and N to stderr |
//! | `/exit?code=N` | exits at once, with no answer |
//! | `/hang` | never answers |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use std::{future, io};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::room::{self, Room};
use crate::socket;

const PAGE: &str = include_str!("page.html");

/// 256 times the pattern of `/bytes`, so that whole chunks follow each other without a seam.
static PATTERN: [u8; 251 * 256] = {
    let mut pattern = [0; 251 * 256];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = (at % 251) as u8;
        at += 1;
    }
    pattern
};

/// Any body that is answered with.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Answers one request.
pub(crate) async fn answer(
    request: Request<Incoming>,
    room: Arc<Room>,
    status: u16,
) -> Result<Response<Body>, Infallible> {
    let query = Query(request.uri().query().unwrap_or_default().to_owned());
    Ok(match request.uri().path() {
        "/" => page(status),
        "/room" => socket::upgrade(request, move |socket| room::join(room, socket)),
        "/ws" => socket::upgrade(request, socket::echo),
        "/echo" => echo(request),
        "/sink" => sink(request).await,
        "/env" => json_answer(&environment()),
        "/headers" => json_answer(&fields(request.headers())),
        "/request" => json_answer(&json!({
            "method": request.method().as_str(),
            "uri": request.uri().to_string(),
            "version": format!("{:?}", request.version()),
        })),
        "/file" => file(query.text("path").unwrap_or_default()),
        "/bytes" => sized(query.number("n", 0), pattern(query.number("n", 0))),
        "/slow" => unsized_stream(slow(query.number("chunks", 10), query.number("ms", 100))),
        "/cut" => cut(query.number("n", 1), query.number("of", 1024)),
        "/status" => text(status_of(query.number("code", 200)), "as you wish\n"),
        "/log" => {
            crate::write_lines(u32::try_from(query.number("lines", 1)).unwrap_or(u32::MAX));
            text(StatusCode::OK, "written\n")
        }
        "/exit" => std::process::exit(i32::try_from(query.number("code", 0)).unwrap_or(1)),
        "/hang" => future::pending().await,
        _ => text(StatusCode::NOT_FOUND, "no such path\n"),
    })
}

/// A short answer in plain text.
pub(crate) fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    with_status(status, Empty::new().map_err(|never| match never {}).boxed())
}

fn page(status: u16) -> Response<Body> {
    let mut answer =
        typed(status_of(u64::from(status)), "text/html; charset=utf-8", Bytes::from_static(PAGE.as_bytes()));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let mut answer = with_status(StatusCode::OK, request.into_body().map_err(io::Error::other).boxed());
    if let Some(kind) = kind {
        answer.headers_mut().insert(CONTENT_TYPE, kind);
    }
    answer
}

async fn sink(request: Request<Incoming>) -> Response<Body> {
    let (mut body, mut bytes) = (request.into_body(), 0);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => return text(StatusCode::BAD_REQUEST, "the body broke off\n"),
        }
    }
    typed(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from(bytes.to_string()))
}

fn file(path: &str) -> Response<Body> {
    match std::fs::read(path) {
        Ok(content) => typed(StatusCode::OK, "application/octet-stream", content.into()),
        Err(_) => text(StatusCode::NOT_FOUND, "no such file\n"),
    }
}

fn cut(sent: u64, promised: u64) -> Response<Body> {
    let broken = stream::once(async {
        // hyper flushes what it has when a body pauses, and drops it when a body fails.
        tokio::task::yield_now().await;
        Err(io::Error::other("cut, as asked"))
    });
    sized(promised, futures_util::StreamExt::chain(pattern(sent), broken))
}

fn environment() -> Value {
    // Lossy, because a variable need not be text and this must not fail.
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), Value::from(value.to_string_lossy())))
        .collect::<serde_json::Map<String, Value>>()
        .into()
}

fn fields(headers: &HeaderMap) -> Value {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        joined
            .entry(name.as_str())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    json!(joined)
}

fn pattern(total: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + Unpin + 'static {
    let chunk = PATTERN.len() as u64;
    stream::iter((0..total.div_ceil(chunk)).map(move |index| {
        let length = usize::try_from((total - index * chunk).min(chunk)).unwrap_or_default();
        Ok(Bytes::from_static(&PATTERN[..length]))
    }))
}

fn slow(chunks: u64, pause_ms: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
    stream::unfold(1, move |number| async move {
        if number > chunks {
            return None;
        }
        if number > 1 {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        Some((Ok(Bytes::from(format!("chunk {number}\n"))), number + 1))
    })
}

fn sized(length: u64, chunks: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static) -> Response<Body> {
    let mut answer = unsized_stream(chunks);
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    answer
}

fn unsized_stream(chunks: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static) -> Response<Body> {
    let frames = futures_util::TryStreamExt::map_ok(chunks, Frame::data);
    with_status(StatusCode::OK, StreamBody::new(frames).boxed())
}

fn json_answer(value: &Value) -> Response<Body> {
    typed(StatusCode::OK, "application/json", Bytes::from(value.to_string()))
}

fn typed(status: StatusCode, kind: &'static str, content: Bytes) -> Response<Body> {
    let mut answer = with_status(status, Full::new(content).map_err(|never| match never {}).boxed());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn with_status(status: StatusCode, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

fn status_of(code: u64) -> StatusCode {
    let code = u16::try_from(code).unwrap_or_default();
    // hyper refuses to send 1xx as an answer.
    StatusCode::from_u16(code).ok().filter(|status| !status.is_informational()).unwrap_or(StatusCode::BAD_REQUEST)
}

/// The query, for keys and values that need no decoding.
struct Query(String);

impl Query {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    fn number(&self, key: &str, default: u64) -> u64 {
        self.text(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }
}
