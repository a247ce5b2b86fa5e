//! What stands where a drone's lease is, and whose it is.

use plane_core::{
    chance::Chance,
    message::state::{DroneEntry, DroneMessage, EntryBody, Millis, StateEntry},
    nats::Stored,
};
use std::{fmt, time::Duration};

/// A process of a drone: what it remembers, and which of those that have remembered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    memory: String,
    process: String,
}

impl Instance {
    /// A new process with this memory.
    pub(crate) fn begun(memory: String, chance: &Chance) -> Self {
        Self { memory, process: chance.uuid().simple().to_string() }
    }

    /// An instance as entries name it; `None` where none of ours is named so.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (memory, process) = text.split_once('.')?;
        Some(Self { memory: memory.to_owned(), process: process.to_owned() })
    }

    /// The name of the process.
    pub(crate) fn process(&self) -> &str {
        &self.process
    }

    /// Whether the other process has, or had, the same memory, or a copy of it.
    pub(crate) fn remembers_with(&self, other: &Self) -> bool {
        self.memory == other.memory
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.memory, self.process)
    }
}

/// Whose a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Nobody's, or one that controllers wrote.
    Nobodys,
    /// This process's.
    Own,
    /// That of an earlier process with this memory.
    Earlier,
    /// The drone was given up.
    Lost,
    /// That of a process which this one's memory does not know: it has another memory, or a copy of this one.
    Anothers {
        /// Whether it is a copy.
        copied: bool,
    },
}

/// A lease as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The sequence of the entry.
    pub(super) sequence: u64,
    /// The time that its writer gave it; none where it is not readable.
    pub(super) timestamp: Option<Millis>,
    /// Whose it is.
    pub(super) whose: Whose,
}

/// Says whose an entry is. `before` names the processes that this memory was held by before `own`; where it names none,
/// the memory is older than such names.
pub(super) fn judge(stored: &Stored, own: &Instance, before: &[String]) -> Found {
    let entry = serde_json::from_slice::<StateEntry>(&stored.payload).ok();
    let lease = entry.and_then(|entry| match entry.body {
        EntryBody::DroneMessage(entry) => Some(entry),
        EntryBody::BackendMessage(_) | EntryBody::LockMessage(_) | EntryBody::AcmeMessage(_) => None,
    });
    let timestamp = lease.as_ref().and_then(|lease| match lease.message {
        DroneMessage::KeepAlive { timestamp } => Some(timestamp),
        DroneMessage::Metadata { .. } | DroneMessage::State { .. } => None,
    });
    let whose = match lease {
        Some(DroneEntry { lost: true, .. }) => Whose::Lost,
        Some(DroneEntry { instance: Some(name), .. }) => match Instance::read(&name) {
            Some(instance) if instance == *own => Whose::Own,
            Some(instance) if instance.remembers_with(own) => {
                match before.is_empty() || before.contains(&instance.process) {
                    true => Whose::Earlier,
                    false => Whose::Anothers { copied: true },
                }
            }
            Some(_) | None => Whose::Anothers { copied: false },
        },
        Some(DroneEntry { instance: None, .. }) | None => Whose::Nobodys,
    };
    Found { sequence: stored.sequence, timestamp, whose }
}

/// The lease of another process, watched at the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Other {
    sequence: u64,
    /// When it was read first, on the boot clock. It was written before, so the other's contact ends no later than a
    /// fencing time from then, unless it is renewed.
    seen: Duration,
}

impl Other {
    pub(super) fn seen(sequence: u64, now: Duration) -> Self {
        Self { sequence, seen: now }
    }

    /// Whether that process may serve what it holds locks with, as its lease is now; `None` where that is not known yet.
    pub(super) fn serves(&self, sequence: u64, now: Duration, fence: Duration) -> Option<bool> {
        let renewed = sequence != self.sequence;
        (renewed || now.saturating_sub(self.seen) >= fence).then_some(renewed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use plane_core::message::state::Lease;

    fn named(name: Option<&str>, lost: bool) -> Stored {
        let lease = Lease { instance: name.map(str::to_owned), lost, ..Lease::default() };
        let entry = StateEntry::lease("plane.test".parse().unwrap(), "d".parse().unwrap(), 5, lease);
        let payload = serde_json::to_vec(&entry).unwrap().into();
        Stored { subject: entry.subject(), sequence: 7, time: Timestamp::UNIX_EPOCH, payload }
    }

    #[test]
    fn a_lease_is_that_of_whom_it_names() {
        let own = Instance::read("memory.c").unwrap();
        let whose = |name, lost| judge(&named(name, lost), &own, &["a".to_owned(), "b".to_owned()]).whose;
        assert_eq!(whose(None, false), Whose::Nobodys);
        assert_eq!(whose(Some("memory.c"), false), Whose::Own);
        assert_eq!(whose(Some("memory.a"), false), Whose::Earlier);
        assert_eq!(whose(Some("memory.d"), false), Whose::Anothers { copied: true });
        assert_eq!(whose(Some("other.a"), false), Whose::Anothers { copied: false });
        assert_eq!(whose(Some("unknown"), false), Whose::Anothers { copied: false });
        assert_eq!(whose(Some("other.a"), true), Whose::Lost);
        // A memory that does not know yet who had it.
        assert_eq!(judge(&named(Some("memory.d"), false), &own, &[]).whose, Whose::Earlier);
        assert_eq!(judge(&named(None, false), &own, &[]).timestamp, Some(5));
    }

    #[test]
    fn another_drones_lease_is_watched_for_the_whole_fencing_time_from_when_it_was_read() {
        let (fence, second) = (Duration::from_secs(45), Duration::from_secs(1));
        // It could be read only long after the start: that time does not count.
        let other = Other::seen(7, Duration::from_secs(600));
        assert_eq!(other.serves(7, other.seen, fence), None);
        assert_eq!(other.serves(7, other.seen + fence - second, fence), None);
        assert_eq!(other.serves(7, other.seen + fence, fence), Some(false));
        assert_eq!(other.serves(8, other.seen + second, fence), Some(true));
        assert_eq!(other.serves(8, other.seen + fence, fence), Some(true));
    }
}
