//! The heads of an answer: interim ones and the final one.

use super::{Exchange, Stage};
use crate::proxy::{
    buffer::Buffer,
    hints::INTERIM_BYTES,
    http1::{
        Framing, HeadLimits, Version,
        body::Body,
        date::with_date,
        field::members,
        head::Space,
        malformed::Malformed,
        pace::Pace,
        response,
        scan::Scan,
        write::{After, Answering, put_interim, put_response},
    },
};
use std::ops::Range;

/// What the head of a response may be large.
pub(in crate::proxy::http1) const RESPONSE_LIMITS: HeadLimits =
    HeadLimits { bytes: 64 * 1024, fields: 256, line_bytes: 8 * 1024 };

impl Exchange<'_> {
    /// Reads heads, until that of the final response; gives how many bytes after it are at hand.
    pub(super) fn take_heads(
        &mut self,
        pace: &Pace,
        buffer: &mut Buffer,
        read: Range<usize>,
    ) -> Result<Option<usize>, Malformed> {
        let down = &mut *self.down;
        let new = buffer.get(read).unwrap_or_default();
        let kept = if down.head.is_empty() {
            None
        } else {
            down.head.extend_from_slice(new);
            Some(std::mem::take(&mut down.head))
        };
        let mut bytes = kept.as_deref().unwrap_or(new);
        loop {
            let mut space = Space::new();
            let parsed = response::parse(bytes, &mut down.scan, &mut space, RESPONSE_LIMITS, self.asks.is_head)?;
            let Some(head) = parsed else {
                down.head = bytes.to_vec();
                return Ok(None);
            };
            bytes = bytes.get(head.length..).unwrap_or_default();
            down.scan = Scan::default();
            if !head.is_interim() {
                self.begin_answer(pace, &head)?;
                return Ok(Some(bytes.len()));
            }
            down.interim_bytes += head.length;
            if !self.passage.hints().came(self.passage.now()) || down.interim_bytes > INTERIM_BYTES {
                return Err(Malformed::Interims);
            }
            // 100 was said by us, or nobody asked for it.
            if head.status != 100 && self.asks.version == Version::Http11 {
                put_interim(&mut down.out.before, &head);
            }
        }
    }

    fn begin_answer(&mut self, pace: &Pace, head: &response::ResponseHead<'_, '_>) -> Result<(), Malformed> {
        let down = &mut *self.down;
        if head.status == 101 {
            let asked = self.asks.upgrade.as_deref().zip(head.upgrade);
            let is_due = asked.is_some_and(|(asked, given)| is_among(given, asked));
            // What the backend has not got of the request would be lost.
            if !is_due || !self.up.body.is_done() || !self.up.out.is_empty() {
                return Err(Malformed::Upgrade);
            }
        }
        let framing = match (head.framing, self.asks.version) {
            (framing @ (Framing::None | Framing::Length(_)), _) => framing,
            (Framing::Chunked | Framing::UntilClose, Version::Http11) => Framing::Chunked,
            (Framing::Chunked | Framing::UntilClose, Version::Http10) => Framing::UntilClose,
        };
        // An answer of a known length to a request that is not complete mostly is its refusal.
        let is_early = !self.up.body.is_done();
        let refuses = is_early && matches!(head.framing, Framing::None | Framing::Length(_));
        let after = self.asks.after(pace.is_ending() || framing == Framing::UntilClose || refuses);
        let backend = self.upstream.name().and_then(|name| name.to_str().ok());
        down.head_at = down.out.before.len();
        with_date(self.passage.now(), |date| {
            put_response(&mut down.out.before, head, &Answering { backend, framing, after, date });
        });
        if is_early || !self.up.out.is_empty() {
            pace.awaits_body();
        } else {
            pace.awaits_nothing();
        }
        pace.set_open_ended(framing == Framing::UntilClose);
        self.passage.record.status(head.status);
        down.closes = after == After::Closes;
        down.is_reusable = head.is_persistent;
        down.body = Body::of_response(head.framing, framing);
        down.stage = match head.status {
            101 => Stage::Switching(Vec::new()),
            _ => Stage::Body,
        };
        Ok(())
    }
}

/// Whether a list names something, and only what another has.
fn is_among(given: &[u8], asked: &[u8]) -> bool {
    let is_asked = |one: &[u8]| members(asked).any(|each| each.eq_ignore_ascii_case(one));
    members(given).next().is_some() && members(given).all(is_asked)
}
