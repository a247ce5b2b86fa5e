//! The two kinds of entries that nearly all of a log consists of, letter by letter as Plane writes them: a state without
//! a reason, and an assignment without a token, a lock and limits. They are read in one go; whatever differs is left to a
//! parser of JSON.

use super::BackendText;
use crate::message::{
    backend::BackendState,
    state::{Assignment, BackendMessage, ReachedState},
};

/// The most digits of a number that fits [`crate::message::state::Millis`] in any case.
const MOST_DIGITS: usize = 18;

/// Reads an entry; `None` where it is not one of these.
pub(super) fn read(payload: &[u8]) -> Option<BackendText<'_>> {
    let mut rest = Rest(payload);
    rest.skip(br#"{"cluster":""#)?;
    let cluster = rest.text()?;
    rest.skip(br#","BackendMessage":{"backend":""#)?;
    let backend = rest.text()?;
    let message = match rest.skip(br#","State":{"state":""#) {
        Some(()) => {
            let name = rest.text()?;
            let state = BackendState::ALL.into_iter().find(|state| state.as_str() == name)?;
            rest.skip(br#","timestamp":"#)?;
            let timestamp = rest.number()?;
            BackendMessage::State(ReachedState { state, timestamp, reason: None, exit_code: None })
        }
        None => {
            rest.skip(br#","Assignment":{"drone":""#)?;
            let drone = rest.text()?.parse().ok()?;
            rest.skip(br#","bearer_token":null,"lock_assignment":null"#)?;
            let accepted = rest.skip(br#","accepted":true"#).is_some();
            BackendMessage::Assignment(Assignment { accepted, ..Assignment::to(drone, None) })
        }
    };
    (rest.0 == b"}}}").then_some(BackendText { cluster, backend, message })
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn skip(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// A text and the quote behind it. None has to be unescaped: names have no characters that would be.
    fn text(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|byte| *byte == b'"')?;
        let (text, behind) = self.0.split_at_checked(end)?;
        self.0 = behind.get(1..)?;
        let plain = text.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\');
        if plain { std::str::from_utf8(text).ok() } else { None }
    }

    /// A whole number of a few digits, without a sign and without zeros before it.
    fn number(&mut self) -> Option<i64> {
        let end = self.0.iter().position(|byte| !byte.is_ascii_digit())?;
        let (digits, behind) = self.0.split_at_checked(end)?;
        let written = digits == b"0" || digits.first().is_some_and(|first| *first != b'0');
        if !written || digits.len() > MOST_DIGITS {
            return None;
        }
        self.0 = behind;
        Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(message: BackendMessage) -> Vec<u8> {
        use crate::message::state::StateEntry;
        let entry = StateEntry::backend("plane.test".parse().unwrap(), "b-1".parse().unwrap(), message);
        serde_json::to_vec(&entry).unwrap()
    }

    fn reached(state: BackendState, timestamp: i64) -> BackendMessage {
        BackendMessage::State(ReachedState { state, timestamp, reason: None, exit_code: None })
    }

    fn assigned(accepted: bool) -> Assignment {
        Assignment { accepted, ..Assignment::to("d_1".parse().unwrap(), None) }
    }

    #[test]
    fn what_plane_writes_most_is_read() {
        let states = BackendState::ALL.map(|state| reached(state, 1_700_000_000_123));
        let assignments = [true, false].map(|accepted| BackendMessage::Assignment(assigned(accepted)));
        for message in states.into_iter().chain(assignments).chain([reached(BackendState::Ready, 0)]) {
            let payload = written(message.clone());
            let read = read(&payload).unwrap_or_else(|| panic!("{message:?}"));
            assert_eq!((read.cluster, read.backend, read.message), ("plane.test", "b-1", message));
        }
    }

    #[test]
    fn all_else_is_left_to_the_parser() {
        let explained = ReachedState {
            reason: Some("out of memory".to_owned()),
            ..ReachedState { state: BackendState::Failed, timestamp: 1, reason: None, exit_code: Some(137) }
        };
        let others = [
            written(BackendMessage::State(explained)),
            written(reached(BackendState::Ready, -1)),
            written(BackendMessage::Assignment(Assignment { withdrawn: true, ..assigned(false) })),
            written(BackendMessage::Assignment(Assignment { memory_bytes: Some(1), ..assigned(true) })),
            written(BackendMessage::Assignment(Assignment::to(
                "d".parse().unwrap(),
                Some(crate::id::BearerToken::drawn(&crate::chance::Chance::system())),
            ))),
        ];
        for payload in others {
            assert!(read(&payload).is_none(), "{}", String::from_utf8_lossy(&payload));
        }
        let usual = String::from_utf8(written(reached(BackendState::Ready, 15))).unwrap();
        for (from, to) in [
            ("15", "015"),
            ("15", "1.5"),
            ("15", "1234567890123456789"),
            ("plane.test", "\\u0070lane.test"),
            ("\":", "\" :"),
            ("}}}", "}}} "),
            ("}}}", "}},\"DroneMessage\":null}"),
            ("Ready", "Odd"),
        ] {
            assert!(read(usual.replacen(from, to, 1).as_bytes()).is_none(), "{from} {to}");
        }
        for end in 0..usual.len() {
            assert!(read(&usual.as_bytes()[..end]).is_none(), "{end}");
        }
    }
}
