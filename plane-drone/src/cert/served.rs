//! What the proxy serves now. Handshakes read it without waiting; a new pair takes the place of the old one at once,
//! and connections that are open are not touched.

use super::pair::Pair;
use arc_swap::ArcSwapOption;
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use tokio::sync::watch;

/// The pair that is served. Clones speak of the same one.
#[derive(Debug, Clone)]
pub struct Served(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    now: ArcSwapOption<Pair>,
    /// A pair that the disk has not taken.
    unwritten: ArcSwapOption<Pair>,
    changes: watch::Sender<Option<Arc<Pair>>>,
}

impl Default for Served {
    fn default() -> Self {
        Self(Arc::new(Inner {
            now: ArcSwapOption::empty(),
            unwritten: ArcSwapOption::empty(),
            changes: watch::Sender::new(None),
        }))
    }
}

impl Served {
    /// The pair; `None` before the first one.
    pub fn current(&self) -> Option<Arc<Pair>> {
        self.0.now.load_full()
    }

    /// Whether there is a pair.
    pub fn is_there(&self) -> bool {
        self.0.now.load().is_some()
    }

    /// Serves this pair from now on. False where it is served already.
    pub fn install(&self, pair: impl Into<Arc<Pair>>) -> bool {
        let pair = pair.into();
        self.0.changes.send_if_modified(|current| {
            if current.as_ref() == Some(&pair) {
                return false;
            }
            self.0.now.store(Some(pair.clone()));
            *current = Some(pair);
            true
        })
    }

    /// A pair that the disk has not taken yet.
    pub(super) fn unwritten(&self) -> Option<Arc<Pair>> {
        self.0.unwritten.load_full()
    }

    /// Says which pair the disk has not taken.
    pub(super) fn set_unwritten(&self, pair: Option<Arc<Pair>>) {
        self.0.unwritten.store(pair);
    }

    /// Tells of each new pair.
    pub fn changed(&self) -> watch::Receiver<Option<Arc<Pair>>> {
        self.0.changes.subscribe()
    }

    /// Resolves once there is a pair.
    pub async fn first(&self) {
        // The sender lives in here.
        let _ = self.changed().wait_for(Option::is_some).await;
    }

    /// What a handshake needs.
    pub(crate) fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.0.now.load().as_ref().map(|pair| pair.certified())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::testing;

    #[tokio::test]
    async fn a_pair_is_told_once_and_served_until_another_comes() {
        let served = Served::default();
        let mut changed = served.clone().changed();
        assert!(!served.is_there() && served.certified().is_none());
        let first = testing::pair("plane.test");
        let again = Pair::parse(first.key_pem(), first.chain_pem()).unwrap();
        assert!(served.install(first));
        changed.changed().await.unwrap();
        assert!(!served.install(again));
        assert!(!changed.has_changed().unwrap());
        let before = served.current().unwrap();
        assert!(served.install(testing::pair("plane.test")));
        assert_ne!(served.current().unwrap(), before);
        assert_eq!(changed.borrow_and_update().clone(), served.current());
    }
}
