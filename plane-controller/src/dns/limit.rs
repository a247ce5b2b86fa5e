//! A limit to the answers that one network gets over UDP, where anybody can write anybody's address on a question: an
//! amplifier of little use to who would flood somebody else.
//!
//! Every second answer above the limit says, in a few bytes, that the question is to be asked over TCP, whose addresses
//! cannot be made up: who really asks is answered all the same.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How many networks are told apart at once. Two that fall on the same place take it from each other in turns.
const PLACES: usize = 1 << 16;
/// In so many parts the places are kept, so that sockets seldom wait for each other.
const PARTS: usize = 64;
/// What a network may have saved up: so much time's answers.
const BURST: Duration = Duration::from_secs(1);

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is sent.
    Answer,
    /// The client is told to ask over TCP.
    AskOverTcp,
    /// Nothing is sent.
    Nothing,
}

/// Counts the answers to each network.
#[derive(Debug)]
pub(super) struct Limiter {
    /// What one answer takes of a network's time.
    each: Duration,
    parts: Box<[Mutex<Box<[Place]>>]>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    network: Network,
    /// Up to when its answers have used its time.
    used_to: Duration,
    /// How many answers were above the limit.
    above: u32,
}

/// The first 24 bits of an address of version 4, the first 56 of one of version 6: what one customer has, about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Network {
    #[default]
    None,
    V4([u8; 3]),
    V6([u8; 7]),
}

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => address.octets().first_chunk().map_or(Self::None, |first| Self::V4(*first)),
            IpAddr::V6(address) => address.octets().first_chunk().map_or(Self::None, |first| Self::V6(*first)),
        }
    }
}

impl Limiter {
    /// Lets each network have so many answers a second.
    pub(super) fn new(per_sec: u32) -> Self {
        let each = Duration::from_secs(1) / per_sec.max(1);
        let parts = (0..PARTS).map(|_| Mutex::new(vec![Place::default(); PLACES / PARTS].into())).collect();
        Self { each, parts, hasher: RandomState::new() }
    }

    /// Judges an answer to `client` at the time `now`, which goes back by no more than the time that an answer takes.
    pub(super) fn judge(&self, client: IpAddr, now: Duration) -> Verdict {
        let network = Network::of(client);
        let place = usize::try_from(self.hasher.hash_one(network)).unwrap_or_default() % PLACES;
        let Some(part) = self.parts.get(place % PARTS) else { return Verdict::Answer };
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = part.get_mut(place / PARTS) else { return Verdict::Answer };
        if place.network != network {
            *place = Place { network, ..Place::default() };
        }
        // Time that was not used is lost, but for the burst.
        let used_to = place.used_to.max(now) + self.each;
        if used_to <= now + BURST {
            place.used_to = used_to;
            return Verdict::Answer;
        }
        place.above = place.above.wrapping_add(1);
        if place.above.is_multiple_of(2) { Verdict::AskOverTcp } else { Verdict::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(limiter: &Limiter, client: &str, millis: u64, times: usize) -> [usize; 3] {
        let (client, now) = (client.parse().unwrap(), Duration::from_millis(millis));
        let mut counts = [0; 3];
        for _ in 0..times {
            match limiter.judge(client, now) {
                Verdict::Answer => counts[0] += 1,
                Verdict::AskOverTcp => counts[1] += 1,
                Verdict::Nothing => counts[2] += 1,
            }
        }
        counts
    }

    #[test]
    fn a_network_gets_its_share_and_every_second_answer_above_it_points_to_tcp() {
        let limiter = Limiter::new(100);
        assert_eq!(judge(&limiter, "192.0.2.1", 0, 140), [100, 20, 20]);
        // Others of its network share with it, however they are written; other networks do not.
        assert_eq!(judge(&limiter, "192.0.2.200", 0, 2), [0, 1, 1]);
        assert_eq!(judge(&limiter, "::ffff:192.0.2.7", 0, 2), [0, 1, 1]);
        assert_eq!(judge(&limiter, "192.0.3.1", 0, 10), [10, 0, 0]);
        assert_eq!(judge(&limiter, "2001:db8:0:aa::1", 0, 100), [100, 0, 0]);
        assert_eq!(judge(&limiter, "2001:db8:0:ab::1", 0, 2), [0, 1, 1]);
        assert_eq!(judge(&limiter, "2001:db8:0:1aa::1", 0, 10), [10, 0, 0]);
        // A tenth of a second later there is a tenth of its share, after a long time no more than one.
        assert_eq!(judge(&limiter, "192.0.2.1", 100, 12), [10, 1, 1]);
        assert_eq!(judge(&limiter, "192.0.2.1", 60_000, 102), [100, 1, 1]);
    }
}
