//! What became of a request, for the access log and the counters.

use super::refusal::Refusal;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its backend answered, to the last byte.
    Passed,
    /// The client left before that.
    ClientGone,
    /// The proxy answered itself, or broke the backend's answer off.
    Refused(Refusal),
}

impl Outcome {
    /// The names of all outcomes, each once: [`Self::place`] leads here.
    pub(super) const CODES: [&'static str; 22] = [
        "passed",
        "client_gone",
        "malformed",
        "unauthorized",
        "forbidden",
        "unknown_backend",
        "method_not_allowed",
        "request_timeout",
        "ended",
        "body_too_large",
        "target_too_long",
        "wrong_host",
        "header_too_large",
        "not_implemented",
        "backend_failed",
        "starting",
        "overloaded",
        "draining",
        "no_certificate",
        "backend_timeout",
        "version_not_supported",
        "expectation_failed",
    ];

    /// Its name: `passed`, `client_gone`, or the code of the refusal.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::ClientGone => "client_gone",
            Self::Refused(refusal) => refusal.code(),
        }
    }

    /// Where its name is in [`Self::CODES`].
    pub(super) fn place(self) -> usize {
        let refused = match self {
            Self::Passed => return 0,
            Self::ClientGone => return 1,
            Self::Refused(refusal) => refusal,
        };
        match refused {
            Refusal::Malformed | Refusal::BadAddress => 2,
            Refusal::Unauthorized => 3,
            Refusal::Forbidden => 4,
            Refusal::Unknown => 5,
            Refusal::MethodNotAllowed => 6,
            Refusal::TooSlow => 7,
            Refusal::Ended => 8,
            Refusal::TooLarge => 9,
            Refusal::TargetTooLong => 10,
            Refusal::WrongHost => 11,
            Refusal::HeaderTooLarge => 12,
            Refusal::NotImplemented => 13,
            Refusal::Broken => 14,
            Refusal::NotYet => 15,
            Refusal::Overloaded => 16,
            Refusal::Draining => 17,
            Refusal::NoCertificate => 18,
            Refusal::NoAnswer => 19,
            Refusal::BadVersion => 20,
            Refusal::ExpectationFailed => 21,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_at_the_place_of_its_name() {
        let refused = Refusal::ALL.map(Outcome::Refused);
        for outcome in refused.into_iter().chain([Outcome::Passed, Outcome::ClientGone]) {
            assert_eq!(Outcome::CODES[outcome.place()], outcome.code());
        }
    }
}
