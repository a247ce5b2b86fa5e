//! The date as messages carry it (RFC 9110, section 5.6.7), written anew once a second.

use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use std::cell::RefCell;

/// How long a date is good, in milliseconds.
const GOOD: u64 = 1000;

thread_local! {
    static DATE: RefCell<Option<(u64, String)>> = const { RefCell::new(None) };
}

/// Hands the date in; `now` is what the thread's coarse clock shows, in milliseconds.
pub(in crate::proxy) fn with_date<T>(now: u64, look: impl FnOnce(&str) -> T) -> T {
    DATE.with_borrow_mut(|kept| {
        let written = match kept.take() {
            Some((at, text)) if now < at.saturating_add(GOOD) => (at, text),
            _ => (now, written(Timestamp::now())),
        };
        look(&kept.insert(written).1)
    })
}

fn written(time: Timestamp) -> String {
    // Years beyond 9999 have no such date.
    DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_fields_have_them() {
        assert_eq!(written(Timestamp::from_second(784_111_777).unwrap()), "Sun, 06 Nov 1994 08:49:37 GMT");
        let (first, same) = (with_date(5, str::to_owned), with_date(900, str::to_owned));
        assert_eq!(first, same);
    }
}
