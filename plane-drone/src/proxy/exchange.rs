//! One request, from its head to a response's: admitted, sent to its backend, and answered. HTTP/2, and HTTP/1.1 as the
//! hyper library reads it.

use super::{
    admission::{Admission, Admitted, Asked, admit},
    auth,
    connection::Seat,
    http1::Call,
    http2::Interims,
    inbound::Inbound,
    origin::{Claims, Origin},
    passage::{Answer, Passage, Received, Sent},
    record::Told,
    refusal::Refusal,
    request::{self, Seen, Upgrade},
    strict,
    theirs::Theirs,
    upgraded::Switched,
    upstream::Upstream,
    waiting,
};
use h2::ext::Protocol;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::Body,
    header::{self, HeaderValue},
    http::request::Parts,
};
use plane_core::chance::Chance;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

/// The protocol that may be asked for with an extended CONNECT.
const WEBSOCKET: &str = "websocket";

/// What a request gets.
#[derive(Debug)]
pub(super) enum Reply {
    /// An answer.
    Whole(Response<Answer>),
    /// The head of an answer, behind which bytes go both ways.
    Switched(Response<()>, Switched),
}

/// A request as it came. In a box: it would be there several times in what waits for its answer.
#[derive(Debug)]
pub(super) struct Came {
    head: Parts,
    body: Inbound,
}

impl Came {
    pub(super) fn new(request: Request<Inbound>) -> Box<Self> {
        let (head, body) = request.into_parts();
        Box::new(Self { head, body })
    }
}

/// Answers a request, in one way or another. Its interim answers go where there is a way for them.
pub(super) async fn answer(seat: &Rc<Seat>, came: Box<Came>, interims: Option<&Rc<Interims>>) -> Reply {
    let passage = Passage::begin(seat);
    note(&passage, &came.head);
    let is_head = came.head.method == Method::HEAD;
    let is_chunked = strict::is_chunked_body(came.head.version, &came.body);
    let is_http2 = came.head.version == Version::HTTP_2;
    let accept = came.head.headers.get(header::ACCEPT).cloned();
    // Whether the client sends its body all the same is not known.
    let mut ends = false;
    let mut reply = match pass(&passage, seat, came, interims).await {
        Ok(reply) => reply,
        Err(refusal) => {
            let refusal = passage.broken().unwrap_or(refusal);
            ends = !is_http2 && refusal == Refusal::ExpectationFailed;
            passage.record.refused(refusal);
            let accept = accept.as_ref().map(text);
            let response = refusal.into_response_for(accept, is_head);
            Reply::Whole(response.map(|body| Answer::Own { body, passage: Some(passage.clone()) }))
        }
    };
    if let Reply::Whole(response) = &mut reply
        && (ends || is_chunked && !passage.ended_plainly())
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// Notes what is told of a request.
pub(super) fn note(passage: &Passage, head: &Parts) {
    passage.record.head(passage.seat(), || {
        let uri = &head.uri;
        let field = || head.headers.get(header::HOST).map_or("", text);
        Told {
            method: head.method.as_str(),
            host: uri.authority().map_or_else(field, |authority| authority.as_str()),
            path: uri.path_and_query().map_or("", |path| path.as_str()),
            protocol: match head.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
        }
    });
}

async fn pass(
    passage: &Rc<Passage>,
    seat: &Rc<Seat>,
    mut came: Box<Came>,
    interims: Option<&Rc<Interims>>,
) -> Result<Reply, Refusal> {
    let Came { head, body } = &mut *came;
    let upgrade = wanted_upgrade(head, &passage.worker().shared.chance)?;
    let origin = origin(seat, &head.headers);
    passage.record.client(origin.client);
    let worker = passage.worker();
    let limits = &worker.shared.limits;
    if body.size_hint().lower() > limits.body_bytes {
        return Err(Refusal::TooLarge);
    }
    strict::request(head, limits.header_count)?;
    // What is read of the head while it is rewritten.
    let (uri, host) = (head.uri.clone(), request::host(&head.uri, &head.headers)?);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if request::line_bytes(&head.method, &uri, head.version) > limits.request_line_bytes {
        return Err(Refusal::TargetTooLong);
    }
    let credentials = |token: &_| auth::check(&head.headers, token);
    let field = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_for_page = || waiting::is_for(head.method.as_str(), field("accept"), field("sec-fetch-mode"));
    let asked =
        Asked { host: text(&host), path, scheme: origin.scheme, credentials: &credentials, is_for_page: &is_for_page };
    let admitted = {
        let mut admitting = pin!(admit(passage, &asked));
        let admitted = poll_fn(|cx| match admitting.as_mut().poll(cx) {
            Poll::Ready(admitted) => Poll::Ready(admitted),
            // Held until the backend is there, if its client waits for that.
            Poll::Pending => body.poll_gone(cx).map(|error| {
                if !error.is_malformed() {
                    passage.record.client_gone();
                }
                Err(Refusal::Malformed)
            }),
        });
        admitted.await?
    };
    // While it was held nobody was to answer it.
    passage.moved();
    let admitted = match admitted {
        Admission::Passes(admitted) => admitted,
        Admission::Answered(response) => {
            passage.record.answered(response.status().as_u16());
            return Ok(Reply::Whole(response.map(|body| Answer::Own { body, passage: Some(passage.clone()) })));
        }
    };
    let seen = Seen { host: &host, path: admitted.path, prefix: admitted.prefix, origin: &origin };
    let way = Way::of(passage, came, &admitted, &seen, upgrade.as_ref(), interims)?;
    forward(passage, &admitted.upstream, way, upgrade).await
}

/// Who asks. Fields say something about that only where a trusted proxy stands before this one.
fn origin(seat: &Seat, fields: &HeaderMap) -> Origin {
    let (client, trusted) = (seat.client, &seat.worker.shared.trusted);
    let claims = match client.may_claim && !trusted.is_empty() {
        false => Claims::default(),
        true => Claims::of(fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))),
    };
    Origin::resolve(client.peer, client.scheme, &claims, trusted)
}

/// A field that was found to be text.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// What a request wants to change to; CONNECT is only taken where it is a WebSocket's.
fn wanted_upgrade(head: &Parts, chance: &Chance) -> Result<Option<Upgrade>, Refusal> {
    if head.method == Method::CONNECT {
        return match head.extensions.get::<Protocol>() {
            Some(protocol) if protocol.as_str() == WEBSOCKET => Ok(Some(Upgrade::connect(chance))),
            Some(_) => Err(Refusal::NotImplemented),
            None => Err(Refusal::MethodNotAllowed),
        };
    }
    Ok(if head.version == Version::HTTP_11 { Upgrade::asked(&head.headers) } else { None })
}

/// A request for a backend.
enum Way<'a> {
    /// As the hyper library sends it.
    Hyper(Box<Request<Sent>>),
    /// By hand, with where its interim answers go.
    ByHand(Box<Call>, &'a Interims),
}

impl<'a> Way<'a> {
    fn of(
        passage: &Rc<Passage>,
        came: Box<Came>,
        admitted: &Admitted<'_>,
        seen: &Seen<'_>,
        upgrade: Option<&Upgrade>,
        interims: Option<&'a Rc<Interims>>,
    ) -> Result<Self, Refusal> {
        let Came { mut head, body } = *came;
        let (body, token) = (Sent::new(body, passage.clone()), admitted.token.as_ref());
        if let Some(interims) = interims {
            return Ok(Self::ByHand(Call::new(&admitted.upstream, &head, body, seen, token, upgrade), interims));
        }
        request::keep_secrets(&mut head.headers, token);
        request::rewrite(&mut head, seen, upgrade)?;
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            // hyper would take a GET without a length for one without a body.
            head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut request = Box::new(Request::from_parts(head, body));
        note_interims(passage, &mut request);
        Ok(Self::Hyper(request))
    }
}

/// Has interim answers to a request noted; hyper has no way to hand them on.
fn note_interims(passage: &Passage, request: &mut Request<Sent>) {
    let (hints, clock) = (passage.hints().clone(), passage.worker().timers.clock().clone());
    hyper::ext::on_informational(request, move |_| {
        hints.came(clock.now());
    });
}

/// Sends a request to where it belongs, and hands the answer back.
async fn forward(
    passage: &Rc<Passage>,
    upstream: &Upstream,
    way: Way<'_>,
    upgrade: Option<Upgrade>,
) -> Result<Reply, Refusal> {
    let worker = passage.worker();
    let sending = pin!(async {
        Ok(match way {
            Way::ByHand(call, interims) => call.send(passage, interims).await?.map(Theirs::Call),
            Way::Hyper(request) => {
                let (response, link) = upstream.send(worker, request).await?;
                response.map(|body| Theirs::Hyper { body, through: Some((upstream.clone(), link)) })
            }
        })
    });
    let mut response = worker.timers.limit(sending, |now| passage.look(now)).await??;
    if passage.is_fenced() {
        return Err(Refusal::NotYet);
    }
    if passage.hints().are_too_many() {
        return Err(Refusal::Broken);
    }
    strict::response(response.headers())?;
    passage.record.status(response.status().as_u16());
    let status = response.status();
    let upgrade = match upgrade {
        Some(upgrade) if status == StatusCode::SWITCHING_PROTOCOLS => upgrade,
        // Nobody asked for it.
        None if status == StatusCode::SWITCHING_PROTOCOLS => return Err(Refusal::Broken),
        // A success would tell a client with HTTP/2 that there is a tunnel.
        Some(Upgrade::Connect { .. }) if status.is_success() => return Err(Refusal::Broken),
        _ => {
            request::clean_response(response.headers_mut(), upstream.name());
            let received = |theirs| Answer::Theirs(Received::new(theirs, passage.clone()));
            return Ok(Reply::Whole(response.map(received)));
        }
    };
    let upgraded = hyper::upgrade::on(&mut response);
    let (mut head, theirs) = response.into_parts();
    request::clean_upgrade_response(&mut head.status, &mut head.headers, upstream.name(), &upgrade)?;
    passage.record.status(head.status.as_u16());
    let backend = theirs.switched(upgraded).ok_or(Refusal::Broken)?;
    Ok(Reply::Switched(Response::from_parts(head, ()), Switched::new(passage.clone(), backend)))
}
