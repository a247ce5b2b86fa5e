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
    /// The sequences of each subject's messages, oldest first.
    by_subject: BTreeMap<String, Vec<u64>>,
    superseded: VecDeque<Stored>,
    last_sequence: u64,
    bytes: u64,
}

/// What a message counts for, in bytes.
fn size(message: &Stored) -> u64 {
    (message.subject.len() + message.payload.len()) as u64
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
            bytes: 0,
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
        let last = self.newest_of(subject);
        if expected.is_some_and(|expected| expected != last.unwrap_or(0)) {
            return Err(Refused::WrongSequence);
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        let message = Stored { subject: subject.to_owned(), sequence, time, payload: payload.clone() };
        if let Some(before) = last.filter(|_| self.newest_only).and_then(|before| self.take(before)) {
            self.superseded.push_back(before);
            if self.superseded.len() > ON_DISK {
                self.superseded.pop_front();
            }
        }
        self.put(message.clone());
        Ok(message)
    }

    fn newest_of(&self, subject: &str) -> Option<u64> {
        self.by_subject.get(subject)?.last().copied()
    }

    /// Puts a message where its sequence has it.
    fn put(&mut self, message: Stored) {
        let sequences = match self.by_subject.get_mut(&message.subject) {
            Some(sequences) => sequences,
            None => self.by_subject.entry(message.subject.clone()).or_default(),
        };
        if let Err(place) = sequences.binary_search(&message.sequence) {
            sequences.insert(place, message.sequence);
        }
        self.bytes += size(&message);
        self.messages.insert(message.sequence, message);
    }

    /// Takes a message away.
    fn take(&mut self, sequence: u64) -> Option<Stored> {
        let message = self.messages.remove(&sequence)?;
        self.bytes -= size(&message);
        if let Some(sequences) = self.by_subject.get_mut(&message.subject) {
            sequences.retain(|known| *known != sequence);
            if sequences.is_empty() {
                self.by_subject.remove(&message.subject);
            }
        }
        Some(message)
    }

    /// The newest message of all that match.
    pub(super) fn last(&self, pattern: &str) -> Option<&Stored> {
        let Some(wildcard) = pattern.find(['*', '>']) else { return self.messages.get(&self.newest_of(pattern)?) };
        let newest = self.messages.last_key_value().map(|(_, message)| message);
        if newest.is_some_and(|message| matches(pattern, &message.subject)) {
            return newest;
        }
        let before = pattern.get(..wildcard).unwrap_or_default();
        let near = self.by_subject.range(before.to_owned()..).take_while(|(subject, _)| subject.starts_with(before));
        let newest =
            near.filter(|(subject, _)| matches(pattern, subject)).filter_map(|(_, sequences)| sequences.last());
        self.messages.get(newest.max()?)
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
                let newest = |message: &&Stored| self.newest_of(&message.subject) == Some(message.sequence);
                self.messages.values().filter(newest).filter(wanted).cloned().collect()
            }
        }
    }

    pub(super) fn info(&self) -> StreamInfo {
        StreamInfo {
            created: self.created,
            messages: self.messages.len() as u64,
            bytes: self.bytes,
            first_sequence: self.messages.first_key_value().map_or(0, |(first, _)| *first),
            last_sequence: self.last_sequence,
            replicas: 1,
            cluster: None,
        }
    }

    /// Whether anything is in it that is as old.
    pub(super) fn has_before(&self, time: Timestamp) -> bool {
        self.messages.first_key_value().is_some_and(|(_, oldest)| oldest.time <= time)
    }

    pub(super) fn purge(&mut self, subject: &str, up_to: u64) {
        let sequences = self.by_subject.get(subject).map_or(&[][..], Vec::as_slice);
        let doomed: Vec<u64> = sequences.iter().copied().filter(|sequence| *sequence <= up_to).collect();
        doomed.into_iter().for_each(|sequence| drop(self.take(sequence)));
    }

    /// Loses what came after `time`. What that had superseded is there again, where `restored` says so.
    pub(super) fn lose_after(&mut self, time: Timestamp, restored: impl Fn() -> bool) -> u64 {
        let before = self.last_sequence;
        let kept = |message: &Stored| message.time <= time;
        let newest = self.messages.values().chain(&self.superseded).filter(|message| kept(message));
        self.last_sequence = newest.map(|message| message.sequence).max().unwrap_or(0);
        let lost: Vec<u64> = self.messages.range(self.last_sequence + 1..).map(|(sequence, _)| *sequence).collect();
        self.superseded.retain(kept);
        let mut again: BTreeMap<String, Stored> = BTreeMap::new();
        for message in lost.into_iter().filter_map(|sequence| self.take(sequence)).collect::<Vec<_>>() {
            let older = self.superseded.iter().rev().find(|older| older.subject == message.subject);
            if let Some(older) = older.filter(|_| restored()) {
                again.insert(message.subject, older.clone());
            }
        }
        again.into_values().for_each(|message| self.put(message));
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
    fn the_newest_of_all_that_match_is_found_and_a_purge_takes_what_is_up_to_a_sequence() {
        let mut stream = Stream::new(at(0), false);
        for subject in ["a.x", "b.x", "a.y", "a.x", "b.x"] {
            stream.store(subject, &bytes::Bytes::from_static(b"12"), None, at(1)).unwrap();
        }
        let last = |stream: &Stream, pattern: &str| stream.last(pattern).map(|message| message.sequence);
        assert_eq!((last(&stream, "a.*"), last(&stream, "a.y"), last(&stream, "c.>")), (Some(4), Some(3), None));
        assert_eq!(last(&stream, ">"), Some(5));
        stream.purge("a.x", 3);
        assert_eq!((stream.get(1).is_none(), last(&stream, "a.x")), (true, Some(4)));
        stream.purge("a.x", 4);
        assert_eq!((last(&stream, "a.x"), last(&stream, "a.*")), (None, Some(3)));
        assert_eq!((stream.info().messages, stream.info().bytes), (3, 15));
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
