//! Whether a request may go on, and to which backend: its address, the routes, the backend's token, and whether it has to
//! wait. The same for every way that requests come in.

use super::{
    auth::{self, Verdict},
    passage::Passage,
    refusal::Refusal,
    request::Scheme,
    timers::{Look, after},
    upstream::Upstream,
    waiting,
    worker::{Stage, Worker},
};
use crate::{
    config::proxy::SameSite,
    route::{Found, Waiting, target, target::Target},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use plane_core::id::BearerToken;
use std::{pin::pin, rc::Rc, sync::Arc};

/// What of a request decides where it goes.
pub(super) struct Asked<'a, 'h> {
    /// The host, maybe with a port.
    pub(super) host: &'a str,
    /// The path and query.
    pub(super) path: &'a str,
    /// How the client asks.
    pub(super) scheme: Scheme,
    /// What its tokens are worth for a backend.
    pub(super) credentials: &'h dyn Fn(&BearerToken) -> Verdict,
    /// Whether a person would see a page that waits.
    pub(super) is_for_page: &'h dyn Fn() -> bool,
}

/// A request that may go on.
#[derive(Debug)]
pub(super) struct Admitted<'a> {
    /// Where it goes.
    pub(super) upstream: Upstream,
    /// The path and query that the backend is asked for; may lack its first `/`.
    pub(super) path: &'a str,
    /// What stands before that path for the client.
    pub(super) prefix: &'a str,
    /// The backend's token, which it does not get to see.
    pub(super) token: Option<BearerToken>,
}

/// What comes of a request.
#[derive(Debug)]
pub(super) enum Admission<'a> {
    /// It goes on.
    Passes(Admitted<'a>),
    /// It is answered here.
    Answered(Response<Full<Bytes>>),
}

/// Decides on a request. From then on its backend counts as in use, until the passage ends.
pub(super) async fn admit<'a>(passage: &Rc<Passage>, asked: &Asked<'a, '_>) -> Result<Admission<'a>, Refusal> {
    let shared = &passage.worker().shared;
    let Some(target) = target::find(&shared.cluster, asked.host, asked.path, shared.by_path) else {
        return pass_through(passage.worker(), asked, Refusal::WrongHost);
    };
    let mut was_held = false;
    loop {
        let found = shared.routes.find(&target.backend);
        if !matches!(found, Found::Unknown) {
            passage.record.backend(&target.backend);
        }
        match found {
            Found::Unknown => return pass_through(passage.worker(), asked, Refusal::Unknown),
            Found::Ended if was_held => return Err(Refusal::Broken),
            Found::Ended => return Err(Refusal::Ended),
            Found::Fenced => return Err(Refusal::NotYet),
            Found::Waiting(waiting) => {
                if let Some(answer) = check(asked, &target, waiting.token.as_ref(), shared.same_site)? {
                    return Ok(Admission::Answered(answer));
                }
                if shared.waiting_page && (asked.is_for_page)() {
                    passage.record.refused(Refusal::NotYet);
                    return Ok(Admission::Answered(waiting::page().into_response(false)));
                }
                Box::pin(hold(passage.worker(), &waiting)).await?;
                was_held = true;
            }
            Found::Open(route) => {
                if let Some(answer) = check(asked, &target, route.token.as_ref(), shared.same_site)? {
                    return Ok(Admission::Answered(answer));
                }
                passage.enter(route.activity.enter().ok_or(Refusal::Ended)?);
                let Target { path, prefix, .. } = target;
                return Ok(Admission::Passes(Admitted {
                    upstream: route.upstream.clone(),
                    path,
                    prefix,
                    token: route.token.clone(),
                }));
            }
        }
    }
}

/// Holds a request until its backend answers, or has ended. Its body stays unread.
async fn hold(worker: &Worker, waiting: &Arc<Waiting>) -> Result<(), Refusal> {
    let limits = &worker.shared.limits;
    let _held = waiting.hold(limits.held).ok_or(Refusal::Overloaded)?;
    let until = after(worker.timers.clock().now(), limits.start);
    let look = |now| match worker.stage() {
        Stage::Serving if now < until => Look::Again(until),
        Stage::Serving => Look::Over(Refusal::NotYet),
        Stage::Draining | Stage::Closing => Look::Over(Refusal::Draining),
    };
    worker.timers.limit(pin!(waiting.settled()), look).await
}

fn pass_through<'a>(worker: &Worker, asked: &Asked<'a, '_>, otherwise: Refusal) -> Result<Admission<'a>, Refusal> {
    let upstream = worker.shared.passthrough.clone().ok_or(otherwise)?;
    Ok(Admission::Passes(Admitted { upstream, path: asked.path, prefix: "", token: None }))
}

/// Checks a request against a backend's token. `Some` where that answers it.
fn check(
    asked: &Asked<'_, '_>,
    target: &Target<'_>,
    token: Option<&BearerToken>,
    same_site: SameSite,
) -> Result<Option<Response<Full<Bytes>>>, Refusal> {
    let Some(token) = token else { return Ok(None) };
    if let Some(entered) = auth::enter(target, token, asked.scheme, same_site) {
        return entered.map(|page| Some(page.into_response(false)));
    }
    match (asked.credentials)(token) {
        Verdict::Right => Ok(None),
        Verdict::Missing => Err(Refusal::Unauthorized),
        Verdict::Wrong => Err(Refusal::Forbidden),
    }
}
