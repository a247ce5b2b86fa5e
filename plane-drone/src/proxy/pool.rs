//! Connections to backends that wait for their next request: per data thread and backend, the newest first.

use super::{
    timers::millis,
    upstream::{Upstream, Way},
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::Weak,
    time::Duration,
};

/// How long a connection is kept that nobody uses. Many servers close theirs sooner, which is noticed.
const IDLE_KEPT: Duration = Duration::from_secs(30);
/// How many are kept for one backend. As many as there may be requests: those beyond would be opened and closed for
/// each request, which uses up the ports of the machine.
const KEPT: usize = 4096;

/// How a connection is that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// It takes a request.
    Ready,
    /// It will.
    Busy,
    /// Its backend closed it, or said what nobody asked for.
    Gone,
}

/// What can be kept.
pub(super) trait Kept {
    /// How it is.
    fn condition(&self) -> Condition;
}

#[derive(Debug)]
struct Idle<T> {
    link: T,
    since: u64,
}

#[derive(Debug)]
struct Pool<T> {
    way: Weak<Way>,
    idle: Vec<Idle<T>>,
}

/// The idle connections of one data thread.
#[derive(Debug)]
pub(super) struct Pools<T> {
    pools: RefCell<BTreeMap<usize, Pool<T>>>,
    closed: Cell<bool>,
}

impl<T> Default for Pools<T> {
    fn default() -> Self {
        Self { pools: RefCell::default(), closed: Cell::new(false) }
    }
}

impl<T: Kept> Pools<T> {
    /// A connection that takes a request now.
    pub(super) fn take(&self, upstream: &Upstream) -> Option<T> {
        let mut pools = self.pools.borrow_mut();
        let idle = &mut pools.get_mut(&upstream.key())?.idle;
        for place in (0..idle.len()).rev() {
            match idle[place].link.condition() {
                Condition::Ready => return Some(idle.remove(place).link),
                Condition::Busy => {}
                Condition::Gone => drop(idle.remove(place)),
            }
        }
        None
    }

    /// Keeps a connection whose last answer is complete.
    pub(super) fn give_back(&self, upstream: &Upstream, link: T, now: u64) {
        if self.closed.get() {
            return;
        }
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(upstream.key()).or_insert_with(|| Pool { way: upstream.downgrade(), idle: Vec::new() });
        if pool.idle.len() < KEPT {
            pool.idle.push(Idle { link, since: now });
        }
    }

    /// Closes what is too old, was closed by its backend, or whose backend has ended.
    pub(super) fn sweep(&self, now: u64) {
        let oldest = now.saturating_sub(millis(IDLE_KEPT));
        self.pools.borrow_mut().retain(|_, pool| {
            pool.idle.retain(|idle| idle.since >= oldest && idle.link.condition() != Condition::Gone);
            pool.way.strong_count() > 0
        });
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        self.pools.borrow_mut().clear();
    }

    /// Closes all, and keeps none any more.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    /// One that lives for as long as it is kept.
    #[derive(Debug)]
    struct Link(Rc<Cell<Condition>>);

    impl Kept for Link {
        fn condition(&self) -> Condition {
            self.0.get()
        }
    }

    fn upstream() -> Upstream {
        Upstream::new(([127, 0, 0, 1], 1).into(), None)
    }

    fn link() -> (Rc<Cell<Condition>>, Link) {
        let condition = Rc::new(Cell::new(Condition::Ready));
        (condition.clone(), Link(condition))
    }

    #[test]
    fn no_more_are_kept_for_one_backend_than_there_is_room_for() {
        let (pools, one, other, (alive, _)) = (Pools::default(), upstream(), upstream(), link());
        for _ in 0..KEPT + 10 {
            pools.give_back(&one, Link(alive.clone()), 0);
        }
        pools.give_back(&other, Link(alive.clone()), 0);
        assert_eq!(Rc::strong_count(&alive), 1 + KEPT + 1);
        pools.sweep(millis(IDLE_KEPT));
        assert_eq!(Rc::strong_count(&alive), 1 + KEPT + 1);
        drop(other);
        pools.sweep(millis(IDLE_KEPT));
        assert_eq!(Rc::strong_count(&alive), 1 + KEPT, "the other backend has ended");
        pools.sweep(millis(IDLE_KEPT) + 1);
        assert_eq!(Rc::strong_count(&alive), 1, "they are too old");
    }

    #[test]
    fn the_newest_that_is_ready_is_taken() {
        let (pools, upstream, (old, oldest), (gone, closed), (busy, newest)) =
            (Pools::default(), upstream(), link(), link(), link());
        for link in [oldest, closed, newest] {
            pools.give_back(&upstream, link, 0);
        }
        gone.set(Condition::Gone);
        busy.set(Condition::Busy);
        let taken = pools.take(&upstream).unwrap();
        assert!(Rc::ptr_eq(&taken.0, &old));
        assert_eq!((Rc::strong_count(&gone), Rc::strong_count(&busy)), (1, 2));
        assert!(pools.take(&upstream).is_none());
        busy.set(Condition::Ready);
        assert!(pools.take(&upstream).is_some());
        pools.close();
        pools.give_back(&upstream, taken, 0);
        assert!(pools.take(&upstream).is_none(), "nothing is kept while the drone stops");
    }
}
