//! What is left to chance, drawn from the seed.

use plane_core::chance::Chance;
use std::time::Duration;

/// The dice of one run.
#[derive(Debug, Clone)]
pub(super) struct Dice(Chance);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        // Neighbouring seeds are to have nothing in common.
        Self(Chance::seeded(Chance::seeded(seed).number()))
    }

    pub(super) fn number(&self) -> u64 {
        self.0.number()
    }

    /// A number below `bound`.
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// True in so many of a million cases. Where that is none, nothing is drawn.
    pub(super) fn hit(&self, per_million: u64) -> bool {
        per_million > 0 && self.below(1_000_000) < per_million
    }

    /// A time between two numbers of milliseconds, in steps of a microsecond.
    pub(super) fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_micros(least * 1000 + self.below((most - least) * 1000 + 1))
    }

    /// One of several.
    pub(super) fn one_of<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        all.get(usize::try_from(self.below(all.len() as u64)).unwrap_or(0))
    }

    /// Puts things into another order.
    pub(super) fn shuffle<T>(&self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap_or(0);
            all.swap(last, other);
        }
    }
}
