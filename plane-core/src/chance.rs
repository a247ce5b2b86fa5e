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
#[derive(Clone)]
pub struct Chance {
    /// Numbers that nobody has to guess: they are drawn often, and the operating system's are dear.
    state: Arc<AtomicU64>,
    seeded: bool,
}

impl Chance {
    /// Ids from the operating system's source, which nobody can foresee; numbers from a seed that it gave.
    pub fn system() -> Self {
        let seed = Uuid::new_v4().as_u64_pair();
        Self { state: Arc::new(AtomicU64::new(seed.0 ^ seed.1)), seeded: false }
    }

    /// A sequence that is the same for the same seed: for simulations only, ids drawn from it are no secrets.
    pub fn seeded(seed: u64) -> Self {
        Self { state: Arc::new(AtomicU64::new(seed)), seeded: true }
    }

    /// A random UUID, version 4.
    pub fn uuid(&self) -> Uuid {
        match self.seeded {
            false => Uuid::new_v4(),
            true => Uuid::from_u64_pair(self.number(), self.number()),
        }
    }

    /// Any number; it is no secret. SplitMix64 (Steele, Lea, Flood 2014).
    pub fn number(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.number().checked_rem(bound).unwrap_or(0)
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.seeded { "Chance(seeded)" } else { "Chance(system)" })
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
