//! A simulated stream: messages in order, the newest of each subject or all, and the loss of its tail.

use jiff::Timestamp;
use plane_core::nats::{From, Stored, StreamInfo};
use std::collections::{BTreeMap, VecDeque};

/// How many superseded messages may still be on the disk.
const ON_DISK: usize = 4096;

/// Why a message was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no such stream.
    NoStream,
    /// The subject's last message has another sequence.
    WrongSequence,
}

/// A stream as its server has it.
#[derive(Debug)]
pub(super) struct Stream {
    created: Timestamp,
    newest_only: bool,
    messages: BTreeMap<u64, Stored>,
    by_subject: BTreeMap<String, u64>,
    superseded: VecDeque<Stored>,
    last_sequence: u64,
}

/// Whether a subject matches a pattern with `*` and `>`.
pub(super) fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => return false,
        }
    }
}

impl Stream {
    pub(super) fn new(created: Timestamp, newest_only: bool) -> Self {
        Self {
            created,
            newest_only,
            messages: BTreeMap::new(),
            by_subject: BTreeMap::new(),
            superseded: VecDeque::new(),
            last_sequence: 0,
        }
    }

    /// Takes a message.
    pub(super) fn store(
        &mut self,
        subject: &str,
        payload: &bytes::Bytes,
        expected: Option<u64>,
        time: Timestamp,
    ) -> Result<Stored, Refused> {
        let last = self.by_subject.get(subject).copied();
        if expected.is_some_and(|expected| expected != last.unwrap_or(0)) {
            return Err(Refused::WrongSequence);
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        let message = Stored { subject: subject.to_owned(), sequence, time, payload: payload.clone() };
        if let Some(before) = last.filter(|_| self.newest_only).and_then(|before| self.messages.remove(&before)) {
            self.superseded.push_back(before);
            if self.superseded.len() > ON_DISK {
                self.superseded.pop_front();
            }
        }
        self.messages.insert(sequence, message.clone());
        self.by_subject.insert(subject.to_owned(), sequence);
        Ok(message)
    }

    /// The newest message of all that match.
    pub(super) fn last(&self, pattern: &str) -> Option<&Stored> {
        if !pattern.contains(['*', '>']) {
            return self.messages.get(self.by_subject.get(pattern)?);
        }
        self.messages.values().rev().find(|message| matches(pattern, &message.subject))
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&Stored> {
        self.messages.get(&sequence)
    }

    /// What a reader is given that begins now.
    pub(super) fn read(&self, pattern: &str, from: From) -> Vec<Stored> {
        let wanted = |message: &&Stored| matches(pattern, &message.subject);
        match from {
            From::After(after) => {
                let after = after.min(self.last_sequence);
                self.messages.range(after + 1..).map(|(_, message)| message).filter(wanted).cloned().collect()
            }
            From::LastPerSubject => {
                let newest = |message: &&Stored| self.by_subject.get(&message.subject) == Some(&message.sequence);
                self.messages.values().filter(newest).filter(wanted).cloned().collect()
            }
        }
    }

    pub(super) fn info(&self) -> StreamInfo {
        StreamInfo {
            created: self.created,
            messages: self.messages.len() as u64,
            bytes: 0,
            first_sequence: self.messages.first_key_value().map_or(0, |(first, _)| *first),
            last_sequence: self.last_sequence,
            replicas: 1,
        }
    }

    pub(super) fn delete(&mut self, sequence: u64) {
        let Some(message) = self.messages.remove(&sequence) else { return };
        if self.by_subject.get(&message.subject) == Some(&sequence) {
            self.by_subject.remove(&message.subject);
            let before = self.messages.values().rev().find(|other| other.subject == message.subject);
            if let Some((subject, before)) = before.map(|before| (before.subject.clone(), before.sequence)) {
                self.by_subject.insert(subject, before);
            }
        }
    }

    pub(super) fn purge(&mut self, subject: &str, up_to: u64) {
        let doomed: Vec<u64> = self
            .messages
            .range(..=up_to)
            .filter(|(_, message)| message.subject == subject)
            .map(|(at, _)| *at)
            .collect();
        doomed.into_iter().for_each(|sequence| self.delete(sequence));
    }

    /// Loses what came after `time`. What that had superseded is there again, where `restored` says so.
    pub(super) fn lose_after(&mut self, time: Timestamp, restored: impl Fn() -> bool) -> u64 {
        let before = self.last_sequence;
        let kept = |message: &Stored| message.time <= time;
        let newest = self.messages.values().chain(&self.superseded).filter(|message| kept(message));
        self.last_sequence = newest.map(|message| message.sequence).max().unwrap_or(0);
        let lost = self.messages.split_off(&(self.last_sequence + 1));
        self.superseded.retain(kept);
        let mut again: BTreeMap<String, Stored> = BTreeMap::new();
        for message in lost.into_values() {
            self.by_subject.remove(&message.subject);
            let older = self.superseded.iter().rev().find(|older| older.subject == message.subject);
            if let Some(older) = older.filter(|_| restored()) {
                again.insert(message.subject, older.clone());
            }
        }
        for message in again.into_values() {
            self.messages.insert(message.sequence, message);
        }
        for message in self.messages.values() {
            self.by_subject.insert(message.subject.clone(), message.sequence);
        }
        before - self.last_sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn patterns_match_as_in_nats() {
        assert!(matches("a.*.c", "a.b.c") && matches("a.>", "a.b.c") && matches("a.b", "a.b"));
        assert!(!matches("a.*", "a.b.c") && !matches("a.>", "a") && !matches("a.b", "a.b.c"));
    }

    #[test]
    fn a_lost_tail_brings_back_what_it_had_superseded() {
        let mut stream = Stream::new(at(0), true);
        for (second, subject) in [(1, "x"), (2, "y"), (3, "x")] {
            stream.store(subject, &bytes::Bytes::new(), None, at(second)).unwrap();
        }
        assert_eq!(stream.store("x", &bytes::Bytes::new(), Some(1), at(3)).unwrap_err(), Refused::WrongSequence);
        assert_eq!(stream.lose_after(at(2), || true), 1);
        assert_eq!(stream.last("x").map(|message| message.sequence), Some(1));
        assert_eq!(stream.store("z", &bytes::Bytes::new(), Some(0), at(4)).unwrap().sequence, 3);
    }
}
