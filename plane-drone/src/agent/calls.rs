//! Calls for announcements: which are to be answered, and which were. A lease tells the latter, since one controller
//! reads an announcement and all read leases.

use super::Agent;
use crate::host::LiveBackend;

impl Agent {
    /// Has the drone register and announce itself again.
    pub(crate) fn report_anew(&self) {
        self.report.notify_one();
    }

    pub(crate) fn note_call(&self, call: Option<String>) {
        let mut life = self.life();
        if let Some(call) = call {
            if life.answers.contains(&call) || life.calls.contains(&call) {
                return;
            }
            life.calls.push(call);
        }
        drop(life);
        self.report_anew();
    }

    /// What runs here, to be announced. What is begun later is not told by that: where it answers a call, locks may be
    /// granted on it.
    pub(crate) fn gather(&self, answers: bool) -> Vec<LiveBackend> {
        if answers {
            self.life().announced += 1;
        }
        self.host.live()
    }

    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.life().calls)
    }

    pub(crate) fn add_answers(&self, calls: Vec<String>, most: usize) {
        let mut life = self.life();
        life.answers.extend(calls);
        let old = life.answers.len().saturating_sub(most);
        life.answers.drain(..old);
    }

    pub(crate) fn answers(&self) -> Vec<String> {
        self.life().answers.clone()
    }
}
