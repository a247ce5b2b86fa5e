//! Calls for announcements: which are to be answered, and which were. A lease tells the latter, since one controller
//! reads an announcement and all read leases. Also what an announcement tells, and what may not change meanwhile.

use super::Agent;
use crate::host::LiveBackend;
use plane_core::message::drone::AnnouncedBackend;

/// Calls that wait for their answer, and calls that a lease tells to have been answered; older ones have been given up,
/// or will be made again.
const KEPT: usize = 8;
/// A call's name may be so long, in bytes: a lease has to hold several.
const LONGEST_NAME: usize = 128;

/// The calls that a drone knows of.
#[derive(Debug, Default)]
pub(super) struct Calls {
    waiting: Vec<String>,
    answered: Vec<String>,
}

impl Calls {
    /// Takes note of a call. False where it is known, or no call of a controller.
    fn note(&mut self, call: String) -> bool {
        if call.len() > LONGEST_NAME || self.answered.contains(&call) || self.waiting.contains(&call) {
            return false;
        }
        self.waiting.push(call);
        keep_newest(&mut self.waiting);
        true
    }

    fn answer(&mut self, calls: Vec<String>) {
        self.answered.extend(calls);
        keep_newest(&mut self.answered);
    }
}

fn keep_newest(calls: &mut Vec<String>) {
    let old = calls.len().saturating_sub(KEPT);
    calls.drain(..old);
}

/// Ends are being announced, for as long as this is kept.
pub(crate) struct Telling<'a>(&'a Agent);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.life().telling.clear();
    }
}

impl Agent {
    /// Has the drone register and announce itself again.
    pub(crate) fn report_anew(&self) {
        self.report.notify_one();
    }

    /// A controller calls: the drone announces itself, once for each name.
    pub(crate) fn note_call(&self, call: Option<String>) {
        if call.is_none_or(|call| self.life().calls.note(call)) {
            self.report_anew();
        }
    }

    /// What runs here, to be announced. What is begun later is not told by that: where it answers a call, locks may be
    /// granted on it.
    pub(crate) fn gather(&self, answers: bool) -> Vec<LiveBackend> {
        if answers {
            self.life().announced += 1;
        }
        self.host.live()
    }

    /// Which of these ends are told, by one announcement at a time. Their ids are not taken again meanwhile: the log would
    /// have the end for that of the next backend. Where the next one is here already, the end was told long since.
    pub(crate) fn tell_ends(&self, mut ended: Vec<AnnouncedBackend>) -> (Vec<AnnouncedBackend>, Telling<'_>) {
        let mut life = self.life();
        ended.retain(|told| !life.deciding.contains_key(&told.backend_id) && !self.host.is_live(&told.backend_id));
        life.telling = ended.iter().map(|told| told.backend_id.clone()).collect();
        drop(life);
        (ended, Telling(self))
    }

    /// The calls that the next announcement answers.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.life().calls.waiting)
    }

    /// An announcement has answered these, and what was answered to it is certain or not.
    pub(crate) fn add_answers(&self, calls: Vec<String>, certain: bool) {
        let mut life = self.life();
        life.calls.answer(calls);
        life.is_certain |= certain;
    }

    /// Whether what runs here has been announced to a controller that knew of nothing that the log may lack, and what
    /// the log gives to others is ended.
    pub(crate) fn is_certain(&self) -> bool {
        self.life().is_certain
    }

    /// The calls that were answered, for the lease.
    pub(crate) fn answers(&self) -> Vec<String> {
        self.life().calls.answered.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_answered_once() {
        let mut calls = Calls::default();
        assert!(calls.note("a".to_owned()));
        assert!(!calls.note("a".to_owned()));
        let waiting = std::mem::take(&mut calls.waiting);
        calls.answer(waiting);
        assert!(!calls.note("a".to_owned()));
        assert_eq!(calls.answered, ["a"]);
    }

    #[test]
    fn however_many_calls_come_a_lease_stays_small() {
        let mut calls = Calls::default();
        assert!(!calls.note("x".repeat(LONGEST_NAME + 1)));
        for number in 0..1000 {
            assert!(calls.note(format!("call {number}")));
        }
        assert_eq!(calls.waiting.len(), KEPT);
        for number in 0..1000 {
            calls.answer(vec![format!("call {number}")]);
        }
        assert_eq!(calls.answered.len(), KEPT);
        assert_eq!(calls.answered.last().map(String::as_str), Some("call 999"));
    }
}
