//! One request, from its head to a response's: admitted, sent to its backend, and answered. HTTP/1.1 and HTTP/2 as the
//! hyper library speaks them.

use super::{
    admission::{Admission, Admitted, Asked, admit},
    auth,
    connection::Seat,
    origin::{Claims, Origin},
    passage::{Answer, Passage, Received, Sent},
    record::Told,
    refusal::Refusal,
    request::{self, Upgrade},
    strict,
    timers::Look,
    upgraded,
    upstream::Link,
    waiting,
    worker::{Stage, Worker},
};
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    ext::Protocol,
    header::{self, HeaderValue},
    http::request::Parts,
    upgrade::OnUpgrade,
};
use plane_core::chance::Chance;
use std::{pin::pin, rc::Rc};

/// What stands in the first line of a request besides method and target, in bytes: two spaces and the version.
const FIRST_LINE_REST: usize = "  HTTP/1.1".len();
/// The protocol that may be asked for with an extended CONNECT.
const WEBSOCKET: &str = "websocket";

/// Answers a request, in one way or another.
pub(super) async fn answer(seat: &Rc<Seat>, request: Request<Incoming>) -> Response<Answer> {
    let passage = Passage::begin(seat);
    note(&passage, &request);
    let is_head = request.method() == Method::HEAD;
    let is_chunked = strict::is_chunked_body(&request);
    let accept = request.headers().get(header::ACCEPT).cloned();
    let mut response = match pass(&passage, seat, request).await {
        Ok(response) => response,
        Err(refusal) => {
            let refusal = passage.broken().unwrap_or(refusal);
            passage.record.refused(refusal);
            let accept = accept.as_ref().map(text);
            let passage = Some(passage.clone());
            refusal.into_response_for(accept, is_head).map(|body| Answer::Own { body, passage })
        }
    };
    if is_chunked && !passage.ended_plainly() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Notes what is told of a request.
pub(super) fn note(passage: &Passage, request: &Request<Incoming>) {
    passage.record.head(passage.seat(), || {
        let uri = request.uri();
        let field = || request.headers().get(header::HOST).map_or("", text);
        Told {
            method: request.method().as_str(),
            host: uri.authority().map_or_else(field, |authority| authority.as_str()),
            path: uri.path_and_query().map_or("", |path| path.as_str()),
            protocol: match request.version() {
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
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    let upgrade = wanted_upgrade(&request, &passage.worker().shared.chance)?;
    let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    let origin = origin(seat, &head.headers);
    passage.record.client(origin.client);
    let worker = passage.worker();
    let limits = &worker.shared.limits;
    if body.size_hint().lower() > limits.body_bytes {
        return Err(Refusal::TooLarge);
    }
    strict::request(&head, limits.header_count)?;
    // What is read of the head while it is rewritten.
    let (uri, host) = (head.uri.clone(), request::host(&head.uri, &head.headers)?);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if path.len() + head.method.as_str().len() + FIRST_LINE_REST > limits.request_line_bytes {
        return Err(Refusal::TargetTooLong);
    }
    let credentials = |token: &_| auth::check(&head.headers, token);
    let field = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_for_page = || waiting::is_for(head.method.as_str(), field("accept"), field("sec-fetch-mode"));
    let asked =
        Asked { host: text(&host), path, scheme: origin.scheme, credentials: &credentials, is_for_page: &is_for_page };
    let admitted = match admit(passage, &asked).await? {
        Admission::Passes(admitted) => admitted,
        Admission::Answered(response) => {
            passage.record.answered(response.status().as_u16());
            return Ok(response.map(|body| Answer::Own { body, passage: Some(passage.clone()) }));
        }
    };
    let seen = request::Seen { host: &host, path: admitted.path, prefix: admitted.prefix, origin: &origin };
    request::keep_secrets(&mut head.headers, admitted.token.as_ref());
    request::rewrite(&mut head, &seen, upgrade.as_ref())?;
    let is_upgrade = client_side.zip(upgrade);
    forward(passage, &admitted, head, body, is_upgrade).await
}

/// Who asks. Fields say something about that only where a trusted proxy stands before this one.
fn origin(seat: &Seat, fields: &HeaderMap) -> Origin {
    let (client, trusted) = (seat.client, &seat.worker.shared.trusted);
    let claims = match trusted.is_empty() {
        true => Claims::default(),
        false => Claims::of(fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))),
    };
    Origin::resolve(client.peer, client.scheme, &claims, trusted)
}

/// A field that was found to be text.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// What a request wants to change to; CONNECT is only taken where it is a WebSocket's.
fn wanted_upgrade(request: &Request<Incoming>, chance: &Chance) -> Result<Option<Upgrade>, Refusal> {
    if request.method() == Method::CONNECT {
        return match request.extensions().get::<Protocol>() {
            Some(protocol) if protocol.as_str() == WEBSOCKET => Ok(Some(Upgrade::connect(chance))),
            Some(_) => Err(Refusal::NotImplemented),
            None => Err(Refusal::MethodNotAllowed),
        };
    }
    Ok(if request.version() == Version::HTTP_11 { Upgrade::asked(request.headers()) } else { None })
}

/// Sends a request to where it belongs, and hands the answer back.
async fn forward(
    passage: &Rc<Passage>,
    admitted: &Admitted<'_>,
    mut head: Parts,
    body: Incoming,
    upgrade: Option<(OnUpgrade, Upgrade)>,
) -> Result<Response<Answer>, Refusal> {
    let (worker, upstream) = (passage.worker(), &admitted.upstream);
    // What follows an extended CONNECT belongs to the tunnel.
    let body = match &upgrade {
        Some((_, Upgrade::Connect { .. })) => Sent::empty(passage.clone()),
        _ => Sent::new(body, passage.clone()),
    };
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        // hyper would take a GET without a length for one without a body.
        head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let sending = pin!(upstream.send(worker, Request::from_parts(head, body)));
    let (mut response, link) = worker.timers.limit(sending, |now| passage.look(now)).await??;
    if passage.is_fenced() {
        return Err(Refusal::NotYet);
    }
    strict::response(response.headers())?;
    passage.record.status(response.status().as_u16());
    let Some((client_side, upgrade)) = upgrade else {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::Broken);
        }
        request::clean_response(response.headers_mut(), upstream.name());
        return Ok(response.map(|body| Answer::Theirs(Received::new(body, passage.clone(), upstream, link))));
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // A success would tell a client with HTTP/2 that there is a tunnel.
        if matches!(upgrade, Upgrade::Connect { .. }) && response.status().is_success() {
            return Err(Refusal::Broken);
        }
        request::clean_response(response.headers_mut(), upstream.name());
        return Ok(response.map(|body| Answer::Theirs(Received::new(body, passage.clone(), upstream, link))));
    }
    let backend_side = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    request::clean_upgrade_response(&mut head.status, &mut head.headers, upstream.name(), &upgrade)?;
    passage.record.status(head.status.as_u16());
    worker.spawn("tunnel", run_tunnel(passage.clone(), client_side, backend_side, link));
    Ok(Response::from_parts(head, Answer::Own { body: Full::default(), passage: None }))
}

async fn run_tunnel(passage: Rc<Passage>, client: OnUpgrade, backend: OnUpgrade, link: Link) {
    let worker: Rc<Worker> = passage.worker().clone();
    let carried = async {
        let (client, backend) = tokio::try_join!(client, backend)?;
        drop(link);
        // A broken connection is how most of these end.
        let _ = upgraded::carry(client, backend, passage).await;
        Ok::<_, hyper::Error>(())
    };
    let look = |_| match worker.stage() {
        Stage::Serving | Stage::Draining => Look::Again(u64::MAX),
        Stage::Closing => Look::Over(()),
    };
    if let Ok(Err(error)) = worker.timers.limit(pin!(carried), look).await {
        tracing::debug!(%error, "an upgrade did not come about");
    }
}
