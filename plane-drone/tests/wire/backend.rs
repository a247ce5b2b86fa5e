//! Backends of the tests. Each takes requests strictly, tells afterwards what it saw, and answers in a way that shows
//! which request an answer belongs to; one request may be answered with bytes of the test's.

use super::grammar::{Fault, Fields, Wire, is_token};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::net::{TcpListener, TcpStream};

/// The path that is answered with the bytes of the test's.
pub(crate) const HOSTILE: &str = "/hostile";
/// The field of an answer that says what was asked: method, target and the body's length.
pub(crate) const ANSWERS: &str = "x-answers";

/// A request that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
}

impl Request {
    /// What its answer says that it answers.
    pub(crate) fn label(&self) -> String {
        format!("{} {} {}", self.method, self.target, self.body.len())
    }
}

/// What a backend saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A whole request.
    Request(Box<Request>),
    /// A request that began and did not come to its end before its connection did.
    Cut(String),
    /// Something that is no request by RFC 9112.
    Violation(String),
}

impl Event {
    /// Whether it is a whole request for a target.
    pub(crate) fn is_for(&self, target: &str) -> bool {
        matches!(self, Self::Request(request) if request.target == target)
    }
}

/// What is done after the bytes of the test's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The connection is closed.
    Close,
    /// It stays, and goes on with requests.
    Stay,
}

/// The answer to a request for [`HOSTILE`].
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) bytes: Vec<u8>,
    /// How often the bytes are sent at most.
    pub(crate) times: usize,
    pub(crate) after: After,
}

/// A backend, as long as the test runs.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    events: Mutex<Vec<Event>>,
    /// Requests that have begun and have not come to an end.
    under_way: AtomicUsize,
}

impl Backend {
    pub(crate) async fn start(script: Option<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let (seen, script) = (backend.seen.clone(), script.map(Arc::new));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, seen.clone(), script.clone()));
            }
        });
        backend
    }

    /// What it saw until now.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.seen.events.lock().unwrap().clone()
    }

    /// Whether a request has begun and not come to an end.
    pub(crate) fn is_reading(&self) -> bool {
        self.seen.under_way.load(Ordering::SeqCst) > 0
    }
}

async fn serve(stream: TcpStream, seen: Arc<Seen>, script: Option<Arc<Script>>) {
    let _ = stream.set_nodelay(true);
    let mut wire = Wire::new(stream, None);
    let tell = |event| {
        seen.events.lock().unwrap().push(event);
        seen.under_way.fetch_sub(1, Ordering::SeqCst);
    };
    loop {
        if wire.unread().is_empty() && wire.more().await.is_err() {
            return;
        }
        seen.under_way.fetch_add(1, Ordering::SeqCst);
        let mut begun = String::new();
        let request = match request(&mut wire, &mut begun).await {
            Ok(request) => request,
            Err(Fault::Broken(what)) => return tell(Event::Violation(what)),
            Err(Fault::Ended | Fault::Silent) => {
                let rest = wire.unread().escape_ascii();
                return tell(Event::Cut(format!("{begun}{rest}")));
            }
        };
        if !wire.unread().is_empty() {
            tell(Event::Violation(format!("bytes behind a request: {}", wire.unread().escape_ascii())));
            return;
        }
        let asked_for = request.target.clone();
        let answer = answer(&request);
        tell(Event::Request(Box::new(request)));
        match script.as_deref().filter(|_| asked_for == HOSTILE) {
            None => {
                if wire.send(&answer).await.is_err() {
                    return;
                }
            }
            Some(script) => {
                for _ in 0..script.times {
                    if wire.send(&script.bytes).await.is_err() {
                        return;
                    }
                }
                if script.after == After::Close {
                    return;
                }
            }
        }
    }
}

fn answer(request: &Request) -> Vec<u8> {
    let label = request.label();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Answers: {label}\r\n\r\n", label.len());
    let body = if request.method == "HEAD" { "" } else { &label };
    format!("{head}{body}").into_bytes()
}

async fn request(wire: &mut Wire, begun: &mut String) -> Result<Request, Fault> {
    let line = wire.line().await?;
    *begun = format!("{} … ", line.escape_ascii());
    let text = String::from_utf8(line).map_err(|error| Fault::Broken(format!("a request line: {error}")))?;
    let parts: Vec<_> = text.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err(Fault::Broken(format!("a request line: {text}"))) };
    let proper = target.starts_with('/') || (target == "*" && method == "OPTIONS");
    if !is_token(method.as_bytes()) || !proper || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::Broken(format!("a request line: {text}")));
    }
    let fields = wire.fields().await?;
    check(&fields)?;
    let (mut body, mut trailers) = (Vec::new(), Fields::default());
    match (fields.length()?, fields.chunked()?) {
        (Some(_), true) => return Err(Fault::Broken("both Content-Length and Transfer-Encoding".to_owned())),
        (Some(length), false) => body = wire.exactly(length).await.map_err(|(fault, _)| fault)?,
        (None, true) => trailers = wire.chunked(&mut body).await?,
        (None, false) => {}
    }
    for name in ["content-length", "transfer-encoding", "host", "authorization", "cookie", "connection"] {
        if trailers.has(name) {
            return Err(Fault::Broken(format!("{name} in the trailers")));
        }
    }
    Ok(Request { method: method.to_owned(), target: target.to_owned(), fields, body, trailers })
}

/// What must not come through a proxy (RFC 9110, section 7.6.1), and the one Host (RFC 9112, section 3.2).
fn check(fields: &Fields) -> Result<(), Fault> {
    let fault = |what: String| Err(Fault::Broken(what));
    if fields.all("host").count() != 1 {
        return fault(format!("not one Host: {:?}", fields.text("host")));
    }
    for name in ["keep-alive", "proxy-connection", "expect"] {
        if fields.has(name) {
            return fault(format!("{name} came through: {:?}", fields.text(name)));
        }
    }
    for (name, known) in [
        ("te", &["trailers"][..]),
        ("connection", &["keep-alive", "close", "upgrade", "te"]),
        ("upgrade", &["websocket", "a/1, b"]),
    ] {
        for value in fields.text(name) {
            if !known.contains(&value.to_ascii_lowercase().as_str()) {
                return fault(format!("{name} came through: {value}"));
            }
        }
    }
    Ok(())
}
