//! Interim answers (RFC 9110, section 15.2) on their way to the stream that waits for the final one.

use hyper::{HeaderMap, Response, StatusCode};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    task::Context,
    task::Waker,
};

/// Interim answers to one request; more are no hints any more, and are not handed on.
const INTERIMS_MAX: usize = 32;

/// Those of one request. The hyper library calls whoever takes them from anywhere; one thread uses this.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Interims(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    heads: VecDeque<Response<()>>,
    said: usize,
    waker: Option<Waker>,
}

impl Interims {
    /// Has the client get one, with fields that are fit for it.
    pub(in crate::proxy) fn say(&self, status: StatusCode, fields: HeaderMap) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.said == INTERIMS_MAX {
            return;
        }
        waiting.said += 1;
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = fields;
        waiting.heads.push_back(head);
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }

    /// The next one; where there is none, whoever asks is woken for it.
    pub(super) fn next(&self, cx: &Context<'_>) -> Option<Response<()>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = waiting.heads.pop_front();
        if next.is_none() && !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting.waker = Some(cx.waker().clone());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_so_many_are_handed_on() {
        let interims = Interims::default();
        let cx = Context::from_waker(Waker::noop());
        for _ in 0..INTERIMS_MAX + 5 {
            interims.say(StatusCode::EARLY_HINTS, HeaderMap::new());
        }
        let handed = std::iter::from_fn(|| interims.next(&cx)).count();
        assert_eq!(handed, INTERIMS_MAX);
        interims.say(StatusCode::EARLY_HINTS, HeaderMap::new());
        assert!(interims.next(&cx).is_none());
    }
}
