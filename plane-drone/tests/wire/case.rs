//! What is sent to the proxy, and what may come of it. Whether it did is decided by a pure function.

use super::{
    backend::{Event, Request},
    client::Reply,
    grammar::Fields,
    setting::Http1,
};

/// Stands in a case's bytes for the host of its backend.
const HOST: &str = "{h}";
/// What is asked for after a case, on the same connection.
pub(crate) const NEXT: &str = "/next";
/// A path that only requests ask for which no strict reader sees.
const HIDDEN: &str = "/smuggled";

/// What has to come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The connection goes on with the next request.
    GoesOn,
    /// The connection is closed in good order.
    Closes,
    /// One answer with such a status, then the connection is closed; the backend sees nothing of it.
    Refused(Vec<u16>),
    /// One answer with such a status, from the proxy itself: the request was understood, so that the connection may go
    /// on. The backend sees nothing of it.
    Turned(Vec<u16>),
    /// A head that was right, then a body that is not: one answer with such a status, then the connection is closed. The
    /// backend may have seen it begin, but no end.
    BodyRefused(Vec<u16>),
    /// The client gives up in the middle: no success, the connection is closed, and the backend sees no end.
    Abandoned,
}

/// How many requests are answered by the backend, and what becomes of what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    passed: usize,
    then: Outcome,
}

type Check = fn(&[Request], &[Reply]) -> bool;

/// Bytes of a client's.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    template: Vec<u8>,
    /// The methods of its requests, as far as they are not GET.
    pub(crate) methods: Vec<&'static str>,
    /// Whether the client says that nothing more comes, instead of asking for [`NEXT`].
    pub(crate) finishes: bool,
    expected: Vec<Expected>,
    of_hyper: Vec<Expected>,
    check: Option<Check>,
    /// The target of its first request as the backend has to see it.
    target: Option<String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) replies: Vec<Reply>,
    /// Whether the connection was closed.
    pub(crate) closed: bool,
    pub(crate) events: Vec<Event>,
}

pub(crate) fn case(name: impl Into<String>, bytes: impl AsRef<[u8]>) -> Case {
    Case {
        name: name.into(),
        template: bytes.as_ref().to_vec(),
        methods: Vec::new(),
        finishes: false,
        expected: Vec::new(),
        of_hyper: Vec::new(),
        check: None,
        target: None,
    }
}

impl Case {
    fn or(mut self, passed: usize, then: Outcome) -> Self {
        self.expected.push(Expected { passed, then });
        self
    }

    /// `passed` requests reach the backend and are answered, and the connection goes on.
    pub(crate) fn passes(self, passed: usize) -> Self {
        self.or(passed, Outcome::GoesOn)
    }

    /// The same, and the connection is closed.
    pub(crate) fn passes_and_closes(self, passed: usize) -> Self {
        self.or(passed, Outcome::Closes)
    }

    pub(crate) fn refused(self, statuses: &[u16]) -> Self {
        self.refused_after(0, statuses)
    }

    pub(crate) fn refused_after(self, passed: usize, statuses: &[u16]) -> Self {
        self.or(passed, Outcome::Refused(statuses.to_vec()))
    }

    pub(crate) fn turned(self, statuses: &[u16]) -> Self {
        self.or(0, Outcome::Turned(statuses.to_vec()))
    }

    pub(crate) fn body_refused(self, statuses: &[u16]) -> Self {
        self.or(0, Outcome::BodyRefused(statuses.to_vec()))
    }

    pub(crate) fn abandoned(mut self) -> Self {
        self.finishes = true;
        self.or(0, Outcome::Abandoned)
    }

    /// The connection is closed without a word.
    pub(crate) fn dropped(self) -> Self {
        self.or(0, Outcome::Abandoned)
    }

    /// What hyper may make of it besides, and the rule that allows that.
    pub(crate) fn hyper_may(mut self, allowed: fn(Self) -> Self, _rule: &'static str) -> Self {
        let before = self.expected.len();
        self = allowed(self);
        self.of_hyper = self.expected.split_off(before);
        self
    }

    pub(crate) fn methods(mut self, methods: &[&'static str]) -> Self {
        self.methods = methods.to_vec();
        self
    }

    /// What has to be true of the requests as the backend saw them and the answers, the next one included.
    pub(crate) fn seen(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// What the backend has to see as the target of the first request.
    pub(crate) fn arrives_at(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// The bytes, for a backend of this host.
    pub(crate) fn bytes(&self, host: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.template.len());
        let mut rest = self.template.as_slice();
        while let Some(at) = rest.windows(HOST.len()).position(|window| window == HOST.as_bytes()) {
            bytes.extend(&rest[..at]);
            bytes.extend(host.as_bytes());
            rest = &rest[at + HOST.len()..];
        }
        bytes.extend(rest);
        bytes
    }

    fn arrived_well(&self, observed: &Observed) -> bool {
        let requests = observed.requests();
        let at_target =
            self.target.as_ref().is_none_or(|target| requests.first().is_some_and(|first| first.target == *target));
        at_target && self.check.is_none_or(|check| check(&requests, &observed.replies))
    }

    /// Says what is wrong, if nothing that is allowed has come of it.
    pub(crate) fn judge(&self, http1: Http1, observed: &Observed) -> Result<(), String> {
        always(observed)?;
        let hypers: &[Expected] = if http1 == Http1::Hyper { &self.of_hyper } else { &[] };
        let mut faults = Vec::new();
        for expected in self.expected.iter().chain(hypers) {
            match expected.judge(http1, observed) {
                Ok(()) => {
                    let passed = matches!(expected.then, Outcome::GoesOn | Outcome::Closes);
                    return if !passed || self.arrived_well(observed) {
                        Ok(())
                    } else {
                        Err(format!("not as it should arrive: {observed:?}"))
                    };
                }
                Err(fault) => faults.push(format!("{expected:?}: {fault}")),
            }
        }
        Err(format!("{}\n    saw {}", faults.join("; or "), observed.brief()))
    }
}

/// What is true whatever comes of a case.
fn always(observed: &Observed) -> Result<(), String> {
    for event in &observed.events {
        match event {
            Event::Violation(what) => return Err(format!("the backend got {what}")),
            Event::Request(request) if request.target.contains(HIDDEN) => return Err("smuggled".to_owned()),
            Event::Request(_) | Event::Cut(_) => {}
        }
    }
    let passed: Vec<_> = observed.replies.iter().filter_map(Reply::answers).collect();
    let asked: Vec<_> = observed.requests().iter().map(Request::label).collect();
    if passed != asked { Err(format!("asked {asked:?}, answered {passed:?}")) } else { Ok(()) }
}

impl Observed {
    fn requests(&self) -> Vec<Request> {
        let requests = self.events.iter().filter_map(|event| match event {
            Event::Request(request) => Some(Request::clone(request)),
            Event::Cut(_) | Event::Violation(_) => None,
        });
        requests.collect()
    }

    /// What was passed on and what came of it, as far as it means something: how a body is framed and how a connection is
    /// kept are each reader's own, and trailers may be dropped (RFC 9110, section 6.5.1), which hyper does.
    pub(crate) fn meaning(&self) -> Vec<String> {
        let own = ["content-length", "transfer-encoding", "connection", "te"];
        let seen = self.requests().into_iter().map(|request| {
            let named = request.fields.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
            let mut fields: Vec<_> = named.filter(|(name, _)| !own.contains(&name.as_str())).collect();
            // Of fields of different names the order means nothing (RFC 9110, section 5.3).
            fields.sort_by(|one, other| one.0.cmp(&other.0));
            let fields = Fields(fields);
            format!("{} {} {fields:?} {}", request.method, request.target, request.body.escape_ascii())
        });
        seen.chain(self.replies.iter().filter(|reply| reply.status < 400).map(|reply| reply.status.to_string()))
            .collect()
    }

    fn brief(&self) -> String {
        let replies: Vec<_> = self.replies.iter().map(|reply| (reply.status, reply.answers(), reply.whole)).collect();
        format!("{replies:?}, closed: {}, {:?}", self.closed, self.events)
    }
}

impl Expected {
    fn judge(&self, http1: Http1, observed: &Observed) -> Result<(), String> {
        let Observed { replies, closed, events } = observed;
        let requests = observed.requests();
        let cuts = events.len() - requests.len();
        let is_next = |request: &Request| request.target == NEXT;
        let went_on = requests.last().is_some_and(is_next) && !closed;
        let own = requests.len() - usize::from(went_on);
        let demand = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        demand(own == self.passed, "another number of requests")?;
        demand(replies.iter().take(self.passed).all(|reply| reply.status == 200 && reply.whole), "not all 200")?;
        let refusal = || match &replies[self.passed.min(replies.len())..] {
            [refusal] => Ok(refusal),
            others => Err(format!("{} answers where one is due", others.len())),
        };
        match &self.then {
            Outcome::GoesOn => demand(went_on && cuts == 0, "the connection does not go on"),
            Outcome::Closes => demand(*closed && cuts == 0 && replies.len() == self.passed, "no good end"),
            Outcome::Refused(statuses) => {
                demand(is_one_of(refusal()?, statuses, http1), "another status")?;
                demand(says_close(refusal()?), "a refusal that does not say that it closes")?;
                demand(*closed && cuts == 0 && !went_on, "it does not end there")
            }
            Outcome::Turned(statuses) => {
                let first = replies.first().ok_or("no answer")?;
                demand(is_one_of(first, statuses, http1), "another status")?;
                demand(replies.len() == 1 + usize::from(went_on), "answers to something else")?;
                demand((*closed || went_on) && cuts == 0, "neither closed nor going on")
            }
            Outcome::BodyRefused(statuses) => {
                demand(is_one_of(refusal()?, statuses, http1), "another status")?;
                demand(*closed && cuts <= 1 && !went_on, "it does not end there")
            }
            Outcome::Abandoned => {
                demand(replies.iter().all(|reply| reply.status >= 400), "success")?;
                demand(*closed && cuts <= 1, "it does not end there")
            }
        }
    }
}

/// hyper answers what it cannot read before Plane sees it, with 400 whatever the reason.
fn is_one_of(reply: &Reply, statuses: &[u16], http1: Http1) -> bool {
    let by_library = http1 == Http1::Hyper && reply.status == 400 && reply.body.is_empty();
    reply.whole && (statuses.contains(&reply.status) || by_library)
}

fn says_close(reply: &Reply) -> bool {
    reply.minor == 0 || reply.fields.text("connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
}
