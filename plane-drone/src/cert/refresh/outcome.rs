//! What follows from an order's outcome: pauses, and what is said of it.

use super::{CRASH_PAUSE, Refresher, SAY_AGAIN};
use crate::cert::{
    Pair,
    acme::{AcmeError, Kind, Stage},
    expiry,
    timing::{self, RATE_LIMITED_PAUSE, UNSEEN_PAUSES, UNSEEN_SHORT, UNUSABLE_PAUSE},
};
use std::time::Duration;

/// What was said last and when, so that it is not said all the time.
#[derive(Debug, Default)]
pub(super) struct Voice(Option<(String, Duration)>);

impl Refresher {
    /// Looks at what was just ordered, and gives the pause until there may be another order: a clock that is wrong, or a
    /// life that is too short, must not make one order follow the other.
    pub(super) fn judge(&mut self, pair: &Pair) -> Duration {
        if pair.validity().not_after <= self.clock.wall() {
            let error = "the certificate that the CA has just issued has ended by this machine's clock; set the clock";
            return self.failed(&error, Some(UNUSABLE_PAUSE));
        }
        if timing::due(pair.validity(), None, u64::MAX) <= self.clock.wall() {
            let error = "the certificate that the CA has just issued is to be renewed already; have it issue for longer, and check \
                         this machine's clock";
            return self.failed(&error, Some(timing::after_short(pair.validity())));
        }
        self.rest.set(None);
        Duration::ZERO
    }

    /// Notes an order that failed, and gives the pause until the next one.
    pub(super) fn failed_order(&mut self, error: &AcmeError) -> Duration {
        if error.stage == Stage::Validation {
            self.unseen = self.unseen.saturating_add(1);
        }
        // Where drones share, those of other drones count.
        let unseen = if self.share.is_some() { self.trying.failures.saturating_add(1) } else { self.unseen };
        self.failed(error, least_pause(error.stage, error.kind, unseen))
    }

    /// Notes that an order begins: a process that ends meanwhile, again and again, does not order each time.
    pub(super) fn begin(&self) {
        self.rest.set(Some(timing::later(self.clock.wall(), CRASH_PAUSE)));
    }

    /// Rests as an earlier process was to.
    pub(super) fn recall(&mut self) {
        let left = timing::span(self.clock.wall(), self.rest.get()).min(UNUSABLE_PAUSE);
        if !left.is_zero() {
            let (rest_secs, file) = (left.as_secs(), self.rest.path().display());
            tracing::warn!(rest_secs, %file, "no certificate is ordered for a while, as before the restart; remove the file and restart to have it ordered at once");
            self.trying.until = self.clock.boot() + left;
        }
    }

    /// Notes a failure and says it, and gives the pause until the next try.
    pub(super) fn failed(&mut self, error: &dyn std::fmt::Display, least: Option<Duration>) -> Duration {
        let current = self.usable();
        let left = current.as_ref().and_then(|pair| timing::left(self.clock.wall(), pair.validity()));
        let longest = left.map(timing::longest);
        self.trying.fail(&self.clock, &self.chance, longest);
        if let Some(least) = least {
            self.trying.until = self.trying.until.max(self.clock.boot() + least);
        }
        let pause = self.trying.until.saturating_sub(self.clock.boot());
        let long = least.is_some_and(|least| least >= RATE_LIMITED_PAUSE);
        self.rest.set(long.then(|| timing::later(self.clock.wall(), pause)));
        self.tell_failure(error, pause);
        pause
    }

    pub(super) fn tell_failure(&self, error: &dyn std::fmt::Display, pause: Duration) {
        let current = self.usable();
        let again_secs = pause.as_secs();
        match current {
            Some(pair) => {
                let days_left = expiry::days_left(self.clock.wall(), pair.validity());
                tracing::warn!(%error, days_left, again_secs, "no new certificate; the one that there is stays in service");
            }
            None => tracing::error!(%error, again_secs, "no certificate"),
        }
    }

    /// Says what is waited for, once.
    pub(super) fn say(&mut self, what: &str) {
        if self.waiting.is_news(what, self.clock.boot()) {
            tracing::info!(what, "waiting for a certificate");
        }
    }

    /// Says what stops all orders, once, and again after a while.
    pub(super) fn fault(&mut self, error: &str) {
        if !self.fault.is_news(error, self.clock.boot()) {
            return;
        }
        match self.usable() {
            Some(pair) => {
                let days_left = expiry::days_left(self.clock.wall(), pair.validity());
                tracing::warn!(
                    error,
                    days_left,
                    "the certificate cannot be renewed; the one that there is stays in service"
                );
            }
            None => tracing::error!(error, "no certificate can be had"),
        }
    }
}

/// The shortest pause after an order that failed, where the authority counts such failures, the `unseen`-th in a row
/// where it did not see a challenge.
fn least_pause(stage: Stage, kind: Kind, unseen: u32) -> Option<Duration> {
    let (short, long) = UNSEEN_PAUSES;
    match (kind, stage) {
        (Kind::Unusable, _) => Some(UNUSABLE_PAUSE),
        (Kind::RateLimited, _) => Some(RATE_LIMITED_PAUSE),
        (Kind::BadNonce, _) => None,
        (_, Stage::Validation) => Some(if unseen <= UNSEEN_SHORT { short } else { long }),
        _ => None,
    }
}

impl Voice {
    /// Whether something was not said just now.
    pub(super) fn is_news(&mut self, what: &str, now: Duration) -> bool {
        if self.0.as_ref().is_some_and(|(said, then)| said == what && now.saturating_sub(*then) < SAY_AGAIN) {
            return false;
        }
        self.0 = Some((what.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_authorities_count_are_spaced_out() {
        let secs = |unseen| least_pause(Stage::Validation, Kind::Other, unseen).unwrap().as_secs();
        assert_eq!([1, 2, 3, 99].map(secs), [30, 30, 720, 720]);
        assert_eq!(least_pause(Stage::Issue, Kind::Unusable, 1), Some(UNUSABLE_PAUSE));
        assert_eq!(least_pause(Stage::Order, Kind::RateLimited, 1), Some(RATE_LIMITED_PAUSE));
        assert_eq!(least_pause(Stage::Validation, Kind::BadNonce, 9), None);
        assert_eq!(least_pause(Stage::Reach, Kind::Other, 9), None);
    }

    #[test]
    fn what_stays_so_is_said_once_an_hour() {
        let (mut voice, at) = (Voice::default(), Duration::from_secs);
        assert!(voice.is_news("a", at(0)) && !voice.is_news("a", at(3599)));
        assert!(voice.is_news("a", at(3600)) && voice.is_news("b", at(3601)));
    }
}
