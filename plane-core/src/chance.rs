//! Chance: ids that act as secrets, and ties that are broken at random.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use uuid::Uuid;

/// Where random numbers come from. Clones draw from the same source.
#[derive(Clone, Default)]
pub struct Chance(Option<Arc<AtomicU64>>);

impl Chance {
    /// The operating system's source, which nobody can foresee.
    pub fn system() -> Self {
        Self(None)
    }

    /// A sequence that is the same for the same seed: for simulations only, ids drawn from it are no secrets.
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(seed))))
    }

    /// A random UUID, version 4.
    pub fn uuid(&self) -> Uuid {
        match &self.0 {
            None => Uuid::new_v4(),
            Some(_) => Uuid::from_u64_pair(self.number(), self.number()),
        }
    }

    /// Any number.
    pub fn number(&self) -> u64 {
        match &self.0 {
            None => Uuid::new_v4().as_u64_pair().0 ^ Uuid::new_v4().as_u64_pair().1,
            // SplitMix64 (Steele, Lea, Flood 2014).
            Some(state) => {
                let mut z =
                    state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        }
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.number().checked_rem(bound).unwrap_or(0)
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Chance(seeded)" } else { "Chance(system)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_tells_the_sequence() {
        let (one, same, other) = (Chance::seeded(7), Chance::seeded(7), Chance::seeded(8));
        let drawn: Vec<u64> = (0..9).map(|_| one.number()).collect();
        assert_eq!(drawn, (0..9).map(|_| same.number()).collect::<Vec<_>>());
        assert_ne!(drawn[0], other.number());
        assert_eq!(one.below(0), 0);
    }
}
