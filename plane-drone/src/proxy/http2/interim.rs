//! Interim answers (RFC 9110, section 15.2) on their way to the stream that waits for the final one.

use hyper::Response;
use std::{cell::RefCell, collections::VecDeque, task::Context, task::Waker};

/// Those of one request. Whoever hands them on bounds how many.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Interims(RefCell<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    heads: VecDeque<Response<()>>,
    waker: Option<Waker>,
}

impl Interims {
    /// Has the client get one, with fields that are fit for it.
    pub(in crate::proxy) fn say(&self, head: Response<()>) {
        let mut waiting = self.0.borrow_mut();
        waiting.heads.push_back(head);
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }

    /// The next one; where there is none, whoever asks is woken for it.
    pub(super) fn next(&self, cx: &Context<'_>) -> Option<Response<()>> {
        let mut waiting = self.0.borrow_mut();
        let next = waiting.heads.pop_front();
        if next.is_none() && !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting.waker = Some(cx.waker().clone());
        }
        next
    }
}
