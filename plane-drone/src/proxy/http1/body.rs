//! Bodies from one framing to another, within the buffers that they came in.

use super::{
    Framing,
    chunk::{CHUNK_END, Decoder, LAST_CHUNK, SIZE_LINE_MAX, Taken, put_size},
    malformed::Malformed,
    trailer::put_forwardable,
};
use std::ops::Range;

/// Bytes that must be free before what is passed on, and after it.
pub(super) const ROOM_BEFORE: usize = SIZE_LINE_MAX;
pub(super) const ROOM_AFTER: usize = CHUNK_END.len() + LAST_CHUNK.len() + CHUNK_END.len();

/// How a body is read.
#[derive(Debug)]
enum Reader {
    Length(u64),
    Chunked(Decoder),
    UntilClose { ended: bool },
}

/// A body on its way.
#[derive(Debug)]
pub(super) struct Body {
    reader: Reader,
    to_chunks: bool,
}

/// What came of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passed {
    /// Where what goes on lies.
    pub(super) range: Range<usize>,
    /// How many bytes of it are the body's own.
    pub(super) data: usize,
    /// How many bytes were read; those after them are not the body's.
    pub(super) consumed: usize,
}

impl Body {
    /// At its start.
    pub(super) fn new(from: Framing, to: Framing) -> Self {
        let reader = match from {
            Framing::None => Reader::Length(0),
            Framing::Length(length) => Reader::Length(length),
            Framing::Chunked => Reader::Chunked(Decoder::new()),
            Framing::UntilClose => Reader::UntilClose { ended: false },
        };
        Self { reader, to_chunks: to == Framing::Chunked }
    }

    /// A backend's, at its start: it may be written as servers of old do.
    pub(super) fn of_response(from: Framing, to: Framing) -> Self {
        let mut body = Self::new(from, to);
        if let Reader::Chunked(decoder) = &mut body.reader {
            decoder.allow_padding();
        }
        body
    }

    /// Whether all of it was read.
    pub(super) fn is_done(&self) -> bool {
        match &self.reader {
            Reader::Length(left) => *left == 0,
            Reader::Chunked(decoder) => decoder.is_done(),
            Reader::UntilClose { ended } => *ended,
        }
    }

    /// Passes on what was read into a range of a buffer, around which there is room; `after` gets what follows and has no
    /// place there.
    ///
    /// # Errors
    /// Where chunks are malformed.
    pub(super) fn pass(
        &mut self,
        buffer: &mut [u8],
        read: Range<usize>,
        after: &mut Vec<u8>,
    ) -> Result<Passed, Malformed> {
        let start = read.start;
        let bytes = buffer.get_mut(read).unwrap_or_default();
        let taken = match &mut self.reader {
            Reader::Length(left) => {
                let there = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= there as u64;
                Taken { data: 0..there, consumed: there }
            }
            Reader::Chunked(decoder) => decoder.take(bytes)?,
            Reader::UntilClose { .. } => Taken { data: 0..bytes.len(), consumed: bytes.len() },
        };
        let (mut range, data) = (start + taken.data.start..start + taken.data.end, taken.data.len());
        if self.to_chunks && data > 0 {
            range.start = put_size(buffer.get_mut(..range.start).unwrap_or_default(), data);
            range.end = append(buffer, range.end, CHUNK_END);
        }
        if self.to_chunks && self.is_done() {
            match &self.reader {
                Reader::Chunked(decoder) if !decoder.trailers().is_empty() => self.put_end(after),
                // Without data of this body before it there may be no place: what was read may be the next request.
                _ if data == 0 => self.put_end(after),
                _ => {
                    range.end = append(buffer, range.end, LAST_CHUNK);
                    range.end = append(buffer, range.end, CHUNK_END);
                }
            }
        }
        Ok(Passed { range, data, consumed: taken.consumed })
    }

    /// The connection was closed. True where that is the body's end; `after` gets what tells of it.
    pub(super) fn close(&mut self, after: &mut Vec<u8>) -> bool {
        let Reader::UntilClose { ended } = &mut self.reader else { return self.is_done() };
        *ended = true;
        if self.to_chunks {
            self.put_end(after);
        }
        true
    }

    /// The lines that came behind it, where it has chunks; all, once it is done.
    pub(super) fn trailers(&self) -> &[u8] {
        match &self.reader {
            Reader::Chunked(decoder) => decoder.trailers(),
            Reader::Length(_) | Reader::UntilClose { .. } => &[],
        }
    }

    fn put_end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(LAST_CHUNK);
        if let Reader::Chunked(decoder) = &self.reader {
            put_forwardable(decoder.trailers(), out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn append(buffer: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    if let Some(room) = buffer.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
    at + bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What goes on of a body that comes in pieces of a size, and what of it was not the body's.
    fn passed(from: Framing, to: Framing, body: &[u8], piece: usize) -> Result<(String, usize), Malformed> {
        let (mut passing, mut out, mut rest) = (Body::new(from, to), Vec::new(), 0);
        for part in body.chunks(piece) {
            let mut buffer = vec![0; ROOM_BEFORE + part.len() + ROOM_AFTER];
            let read = ROOM_BEFORE..ROOM_BEFORE + part.len();
            buffer[read.clone()].copy_from_slice(part);
            let (mut after, done) = (Vec::new(), passing.is_done());
            let passed = if done { None } else { Some(passing.pass(&mut buffer, read, &mut after)?) };
            rest += part.len() - passed.as_ref().map_or(0, |passed| passed.consumed);
            out.extend_from_slice(passed.map_or(&[], |passed| &buffer[passed.range]));
            out.extend(after);
        }
        if !passing.is_done() {
            let mut after = Vec::new();
            out.extend_from_slice(if passing.close(&mut after) { b"" } else { b"!" });
            out.extend(after);
        }
        Ok((String::from_utf8_lossy(&out).into_owned(), rest))
    }

    #[test]
    fn framings_are_changed() {
        let chunks = "3;x\r\nabc\r\n0002\r\nde\r\n0\r\n\r\nGET";
        let table = [
            (Framing::Length(3), Framing::Length(3), "abcde", "abc", 2),
            (Framing::Length(5), Framing::Length(5), "abc", "abc!", 0),
            (Framing::UntilClose, Framing::UntilClose, "abc", "abc", 0),
            (Framing::UntilClose, Framing::Chunked, "abc", "3\r\nabc\r\n0\r\n\r\n", 0),
            (Framing::Chunked, Framing::Chunked, chunks, "5\r\nabcde\r\n0\r\n\r\n", 3),
            (Framing::Chunked, Framing::UntilClose, chunks, "abcde", 3),
            (Framing::Chunked, Framing::Chunked, "0\r\n\r\n", "0\r\n\r\n", 0),
            (Framing::Chunked, Framing::Chunked, "3\r\nab", "2\r\nab\r\n!", 0),
            (
                Framing::Chunked,
                Framing::Chunked,
                "1\r\na\r\n0\r\nx: 1\r\nhost: h\r\n\r\n",
                "1\r\na\r\n0\r\nx: 1\r\n\r\n",
                0,
            ),
        ];
        for (from, to, body, out, rest) in table {
            assert_eq!(passed(from, to, body.as_bytes(), 100), Ok((out.to_owned(), rest)), "{body:?}");
        }
        assert!(passed(Framing::Chunked, Framing::Chunked, b"3\r\nabcd", 100).is_err());
    }

    #[test]
    fn what_follows_a_body_stays_as_it_came_wherever_it_is_cut() {
        let (body, next) = ("3\r\nabc\r\n0\r\n\r\n", "GET /next HTTP/1.1\r\n");
        let whole = format!("{body}{next}");
        for cut in 1..body.len() {
            let mut passing = Body::new(Framing::Chunked, Framing::Chunked);
            let (mut out, mut rest) = (Vec::new(), Vec::new());
            for part in [&whole.as_bytes()[..cut], &whole.as_bytes()[cut..]] {
                let read = ROOM_BEFORE..ROOM_BEFORE + part.len();
                let mut buffer = vec![0; read.end + ROOM_AFTER];
                buffer[read.clone()].copy_from_slice(part);
                let mut after = Vec::new();
                let passed = passing.pass(&mut buffer, read.clone(), &mut after).unwrap();
                rest.extend_from_slice(&buffer[read.start + passed.consumed..read.end]);
                out.extend_from_slice(&buffer[passed.range]);
                out.extend(after);
            }
            assert_eq!(String::from_utf8_lossy(&rest), next, "cut at {cut}");
            let (plain, _) = passed(Framing::Chunked, Framing::UntilClose, &out, 100).unwrap();
            assert_eq!(plain, "abc", "cut at {cut}");
        }
    }

    #[test]
    fn sizes_are_padded_in_responses_only() {
        for (mut body, taken) in [
            (Body::new(Framing::Chunked, Framing::UntilClose), false),
            (Body::of_response(Framing::Chunked, Framing::UntilClose), true),
        ] {
            let mut bytes = b"3  \r\nabc\r\n0 \r\n\r\n".to_vec();
            let all = 0..bytes.len();
            let passed = body.pass(&mut bytes, all, &mut Vec::new());
            assert_eq!((passed.is_ok(), body.is_done()), (taken, taken));
        }
    }

    proptest! {
        #[test]
        fn chunks_mean_the_same_however_they_come(
            data in proptest::collection::vec("[a-z]{1,40}", 0..5),
            piece in 1_usize..60,
        ) {
            let chunks: String = data.iter().map(|part| format!("{:X}\r\n{part}\r\n", part.len())).collect();
            let (once, _) = passed(Framing::Chunked, Framing::Chunked, format!("{chunks}0\r\n\r\n").as_bytes(), piece).unwrap();
            let (plain, rest) = passed(Framing::Chunked, Framing::UntilClose, once.as_bytes(), piece).unwrap();
            prop_assert_eq!((plain, rest), (data.concat(), 0));
        }
    }
}
