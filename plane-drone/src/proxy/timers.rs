//! Time-outs without a timer each. A data thread looks at a coarse clock a few times a second and wakes what is due;
//! what waits says after each look when it wants the next one. Precise to [`TICK`], which time-outs of seconds allow.

use slab::Slab;
use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::Instant;

/// How precise the coarse clock is.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// Milliseconds since a data thread began, as of its last tick. Others may read it without asking the thread.
#[derive(Debug, Clone, Default)]
pub(super) struct CoarseClock(Arc<AtomicU64>);

impl CoarseClock {
    /// What it shows, in milliseconds.
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Has it show another time.
    #[cfg(test)]
    pub(super) fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }
}

/// A duration as the coarse clock counts, in milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When so long has passed since the clock showed `stamp`, which may be a tick ago.
pub(super) fn after(stamp: u64, limit: Duration) -> u64 {
    stamp.saturating_add(millis(limit.saturating_add(TICK)))
}

/// What a look at the clock found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look<E> {
    /// Nothing yet; look again at this time, in milliseconds of the coarse clock.
    Again(u64),
    /// It took too long.
    Over(E),
}

/// What waits in one data thread.
#[derive(Debug)]
pub(super) struct Timers {
    began: Instant,
    clock: CoarseClock,
    waiting: RefCell<Slab<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    due: u64,
    waker: Waker,
}

impl Timers {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), clock: CoarseClock::default(), waiting: RefCell::default() }
    }

    pub(super) fn clock(&self) -> &CoarseClock {
        &self.clock
    }

    /// Sets the clock, and wakes what is due.
    pub(super) fn tick(&self) {
        let now = millis(self.began.elapsed());
        self.clock.0.store(now, Ordering::Relaxed);
        for (_, waiting) in &*self.waiting.borrow() {
            if waiting.due <= now {
                waiting.waker.wake_by_ref();
            }
        }
    }

    /// Has everything look anew.
    pub(super) fn wake_all(&self) {
        for (_, waiting) in &*self.waiting.borrow() {
            waiting.waker.wake_by_ref();
        }
    }

    /// Runs a future for as long as `look` allows. It is asked whenever the future was polled and is not done, and at
    /// the time that it named.
    pub(super) fn limit<F, L, E>(&self, future: F, look: L) -> Limited<'_, F, L>
    where
        F: Future + Unpin,
        L: FnMut(u64) -> Look<E>,
    {
        Limited { timers: self, future, look, slot: None }
    }

    /// Runs a future for a time.
    pub(super) async fn within<F: Future + Unpin>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let until = after(self.clock.now(), limit);
        let look = |now| if now >= until { Look::Over(()) } else { Look::Again(until) };
        self.limit(future, look).await.ok()
    }

    /// Wakes a task at a time, unless it comes back before. The slot is the task's to keep, and to [`Self::forget`].
    pub(super) fn register(&self, slot: &mut Option<usize>, due: u64, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        match slot.and_then(|slot| waiting.get_mut(slot)) {
            Some(known) => {
                known.due = due;
                if !known.waker.will_wake(waker) {
                    known.waker.clone_from(waker);
                }
            }
            None => *slot = Some(waiting.insert(Waiting { due, waker: waker.clone() })),
        }
    }
}

impl Timers {
    /// Does not wake for a slot any more.
    pub(super) fn forget(&self, slot: &mut Option<usize>) {
        if let Some(slot) = slot.take() {
            self.waiting.borrow_mut().try_remove(slot);
        }
    }
}

/// A future and what limits it.
#[derive(Debug)]
pub(super) struct Limited<'t, F, L> {
    timers: &'t Timers,
    future: F,
    look: L,
    slot: Option<usize>,
}

impl<F, L: Unpin, E> Future for Limited<'_, F, L>
where
    F: Future + Unpin,
    L: FnMut(u64) -> Look<E>,
{
    type Output = Result<F::Output, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(done) = Pin::new(&mut this.future).poll(cx) {
            return Poll::Ready(Ok(done));
        }
        match (this.look)(this.timers.clock.now()) {
            Look::Over(why) => Poll::Ready(Err(why)),
            Look::Again(due) => {
                this.timers.register(&mut this.slot, due, cx.waker());
                Poll::Pending
            }
        }
    }
}

impl<F, L> Drop for Limited<'_, F, L> {
    fn drop(&mut self) {
        self.timers.forget(&mut self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, future::pending, pin::pin, rc::Rc};

    async fn ticking(timers: Rc<Timers>) {
        loop {
            tokio::time::sleep(TICK).await;
            timers.tick();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up_and_leaves_nothing_behind() {
        let timers = Rc::new(Timers::new());
        let began = Instant::now();
        let waiting = pin!(pending::<()>());
        tokio::select! {
            () = ticking(timers.clone()) => {}
            done = timers.within(Duration::from_secs(2), waiting) => assert_eq!(done, None),
        }
        assert!(began.elapsed() >= Duration::from_secs(2) && began.elapsed() <= Duration::from_secs(2) + TICK * 2);
        assert!(timers.waiting.borrow().is_empty());
        assert_eq!(timers.within(Duration::ZERO, pin!(async { 7 })).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn progress_puts_the_end_off() {
        let timers = Rc::new(Timers::new());
        let moved = Rc::new(Cell::new(0));
        let (began, progress, clock) = (Instant::now(), moved.clone(), timers.clone());
        let moving = async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(700)).await;
                progress.set(clock.clock().now());
            }
            pending::<()>().await;
        };
        let look = |now| if now >= moved.get() + 1000 { Look::Over("late") } else { Look::Again(moved.get() + 1000) };
        let moving = pin!(moving);
        tokio::select! {
            () = ticking(timers.clone()) => {}
            done = timers.limit(moving, look) => assert_eq!(done, Err("late")),
        }
        assert!(began.elapsed() >= Duration::from_millis(7500), "{:?}", began.elapsed());
    }
}
