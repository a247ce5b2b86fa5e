//! One request, from its head to a response's: admitted, sent to its backend, and answered. HTTP/1.1 and HTTP/2 as the
//! hyper library speaks them.

use super::{
    admission::{Admission, Admitted, Asked, admit},
    auth,
    connection::Seat,
    origin::{Claims, Origin},
    passage::{Answer, Passage, Received, Sent},
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
use std::{pin::pin, rc::Rc};

/// What stands in the first line of a request besides method and target, in bytes: two spaces and the version.
const FIRST_LINE_REST: usize = "  HTTP/1.1".len();
/// The protocol that may be asked for with an extended CONNECT.
const WEBSOCKET: &str = "websocket";

/// Answers a request, in one way or another.
pub(super) async fn answer(seat: &Rc<Seat>, request: Request<Incoming>) -> Response<Answer> {
    let passage = Passage::begin(seat);
    let is_head = request.method() == Method::HEAD;
    let accept = request.headers().get(header::ACCEPT).cloned();
    match pass(&passage, seat, request).await {
        Ok(response) => response,
        Err(refusal) => {
            let refusal = passage.broken().unwrap_or(refusal);
            let accept = accept.as_ref().map(text);
            refusal.into_response_for(accept, is_head).map(|body| Answer::Own { body, _passage: Some(passage) })
        }
    }
}

async fn pass(
    passage: &Rc<Passage>,
    seat: &Rc<Seat>,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    let upgrade = wanted_upgrade(&request)?;
    let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
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
    let origin = origin(seat, &head.headers);
    let credentials = |token: &_| auth::check(&head.headers, token);
    let field = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_for_page = || waiting::is_for(head.method.as_str(), field("accept"), field("sec-fetch-mode"));
    let asked =
        Asked { host: text(&host), path, scheme: origin.scheme, credentials: &credentials, is_for_page: &is_for_page };
    let admitted = match admit(passage, &asked).await? {
        Admission::Passes(admitted) => admitted,
        Admission::Answered(response) => {
            return Ok(response.map(|body| Answer::Own { body, _passage: Some(passage.clone()) }));
        }
    };
    let seen = request::Seen { host: &host, path: admitted.path, prefix: admitted.prefix, origin: &origin };
    if let Some(token) = &admitted.token {
        request::keep_secret(&mut head.headers, token);
    }
    request::rewrite(&mut head, &seen, upgrade.as_ref(), &worker.shared.chance)?;
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
fn wanted_upgrade(request: &Request<Incoming>) -> Result<Option<Upgrade>, Refusal> {
    if request.method() == Method::CONNECT {
        return match request.extensions().get::<Protocol>() {
            Some(protocol) if protocol.as_str() == WEBSOCKET => Ok(Some(Upgrade::Connect)),
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
    head: Parts,
    body: Incoming,
    upgrade: Option<(OnUpgrade, Upgrade)>,
) -> Result<Response<Answer>, Refusal> {
    let (worker, upstream) = (passage.worker(), &admitted.upstream);
    // What follows an extended CONNECT belongs to the tunnel.
    let body = match &upgrade {
        Some((_, Upgrade::Connect)) => Sent::empty(passage.clone()),
        _ => Sent::new(body, passage.clone()),
    };
    let sending = pin!(upstream.send(worker, Request::from_parts(head, body)));
    let (mut response, link) = worker.timers.limit(sending, |now| passage.look(now)).await??;
    strict::response(response.headers())?;
    let Some((client_side, upgrade)) = upgrade else {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::Broken);
        }
        request::clean_response(response.headers_mut(), upstream.name());
        return Ok(response.map(|body| Answer::Theirs(Received::new(body, passage.clone(), upstream, link))));
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // A success would tell a client with HTTP/2 that there is a tunnel.
        if upgrade == Upgrade::Connect && response.status().is_success() {
            return Err(Refusal::Broken);
        }
        request::clean_response(response.headers_mut(), upstream.name());
        return Ok(response.map(|body| Answer::Theirs(Received::new(body, passage.clone(), upstream, link))));
    }
    let backend_side = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    request::clean_upgrade_response(&mut head.status, &mut head.headers, upstream.name(), &upgrade);
    worker.spawn("tunnel", run_tunnel(passage.clone(), client_side, backend_side, link));
    Ok(Response::from_parts(head, Answer::Own { body: Full::default(), _passage: None }))
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
