//! Chunks (RFC 9112, section 7.1): taken apart strictly, within the buffer that they came in, and put together anew, so
//! that neither sizes as they were written nor extensions go on.

use super::{malformed::Malformed, scan::check_field};
use std::ops::Range;

/// What extensions may come to in one body, in bytes: they are read, and mean nothing here.
const EXTENSIONS_BYTES: usize = 16 * 1024;
/// White space that may pad one size, in bytes. It is no extension: every chunk may have it.
pub(super) const PADDING_BYTES: u8 = 32;
/// What the trailer section of a body may come to, in bytes, and in fields.
const TRAILERS_BYTES: usize = 8 * 1024;
pub(super) const TRAILERS_MAX: usize = 64;
/// Digits of a size that are read, zeros before it included.
const SIZE_DIGITS: u8 = 16;

/// The most bytes that stand before a chunk's data: its size and CRLF.
pub(super) const SIZE_LINE_MAX: usize = SIZE_DIGITS as usize + 2;
/// What stands after a chunk's data.
pub(super) const CHUNK_END: &[u8] = b"\r\n";
/// What stands after the last chunk and before the trailers, after which there is an empty line.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Within a size, of which so many digits are there.
    Size { size: u64, digits: u8 },
    /// After white space behind a size, which only an extension follows.
    Space { size: u64 },
    /// Within white space that pads a size, of which so many bytes are there.
    Padding { size: u64, bytes: u8 },
    /// Within extensions.
    Extension { size: u64 },
    /// At the LF after a size.
    SizeEnd { size: u64 },
    /// Within data.
    Data { left: u64 },
    /// At the CR after data.
    DataEnd,
    /// At the LF after that.
    DataEndLf,
    /// Within the trailer section.
    Trailers,
    /// After it all.
    Done,
}

/// Takes a chunked body apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decoder {
    state: State,
    /// White space may pad sizes.
    pads: bool,
    extensions: usize,
    /// The trailer section so far, and where its last line begins.
    trailers: Vec<u8>,
    line: usize,
    fields: usize,
}

/// What was found in some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// Where the data lies now, in one piece.
    pub(super) data: Range<usize>,
    /// How many bytes were read. All, unless the body ended before.
    pub(super) consumed: usize,
}

impl Decoder {
    /// At the start of a body.
    pub(super) fn new() -> Self {
        let state = State::Size { size: 0, digits: 0 };
        Self { state, pads: false, extensions: 0, trailers: Vec::new(), line: 0, fields: 0 }
    }

    /// Takes sizes that white space pads: servers of old write them so. Not for requests: who reads them otherwise than
    /// us is deceived.
    pub(super) fn allow_padding(&mut self) {
        self.pads = true;
    }

    /// Whether the body is complete.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The lines of the trailer section, each with its end; empty where there are none. All, once the body is complete.
    pub(super) fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Reads on. What of `bytes` is data is moved together to one range of it; the rest of what was read is rubble then.
    ///
    /// # Errors
    /// Where this is no chunked body, or too much of it is not data.
    pub(super) fn take(&mut self, bytes: &mut [u8]) -> Result<Taken, Malformed> {
        let (mut at, mut data) = (0, 0..0);
        while self.state != State::Done {
            if let State::Data { left } = self.state {
                let there = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                if there == 0 {
                    break;
                }
                data = gather(bytes, data, at..at + there);
                at += there;
                let left = left - there as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data { left } };
                continue;
            }
            let Some(byte) = bytes.get(at) else { break };
            self.state = self.step(*byte)?;
            at += 1;
        }
        Ok(Taken { data, consumed: at })
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        match (self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed::ChunkSize)?;
                if digits == SIZE_DIGITS {
                    return Err(Malformed::ChunkSize);
                }
                Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
            (State::Size { digits: 0, .. }, _) => Err(Malformed::ChunkSize),
            (State::Size { size, .. } | State::Extension { size }, b'\r') => Ok(State::SizeEnd { size }),
            (State::Size { size, .. } | State::Space { size } | State::Padding { size, .. }, b';') => {
                self.extend(State::Extension { size })
            }
            (State::Size { size, .. }, b' ' | b'\t') if self.pads => Ok(State::Padding { size, bytes: 1 }),
            (State::Padding { size, bytes }, b' ' | b'\t') if bytes < PADDING_BYTES => {
                Ok(State::Padding { size, bytes: bytes + 1 })
            }
            (State::Padding { size, .. }, b'\r') => Ok(State::SizeEnd { size }),
            (State::Size { size, .. } | State::Space { size }, b' ' | b'\t') => self.extend(State::Space { size }),
            (State::Size { .. }, _) => Err(Malformed::ChunkSize),
            (State::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => self.extend(State::Extension { size }),
            (State::Space { .. } | State::Padding { .. } | State::Extension { .. }, _) => {
                Err(Malformed::ChunkExtension)
            }
            (State::SizeEnd { size: 0 }, b'\n') => Ok(State::Trailers),
            (State::SizeEnd { size }, b'\n') => Ok(State::Data { left: size }),
            (State::SizeEnd { .. }, _) => Err(Malformed::BareCr),
            (State::DataEnd, b'\r') => Ok(State::DataEndLf),
            (State::DataEndLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::DataEnd | State::DataEndLf, _) => Err(Malformed::ChunkEnd),
            (State::Trailers, _) => self.trail(byte),
            (State::Data { .. } | State::Done, _) => Ok(self.state),
        }
    }

    fn extend(&mut self, state: State) -> Result<State, Malformed> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS_BYTES { Err(Malformed::ChunkExtension) } else { Ok(state) }
    }

    fn trail(&mut self, byte: u8) -> Result<State, Malformed> {
        self.trailers.push(byte);
        if self.trailers.len() > TRAILERS_BYTES {
            return Err(Malformed::TrailersTooLong);
        }
        if byte != b'\n' {
            return Ok(State::Trailers);
        }
        match self.trailers.get(self.line..).unwrap_or_default() {
            b"\r\n" => {
                self.trailers.truncate(self.line);
                return Ok(State::Done);
            }
            line if line.ends_with(b"\r\n") => check_field(line)?,
            _ => return Err(Malformed::BareLf),
        }
        (self.line, self.fields) = (self.trailers.len(), self.fields + 1);
        if self.fields > TRAILERS_MAX { Err(Malformed::TrailersTooLong) } else { Ok(State::Trailers) }
    }
}

/// Moves `more` to the end of `data`, unless it is the first piece: most reads are of one.
fn gather(bytes: &mut [u8], data: Range<usize>, more: Range<usize>) -> Range<usize> {
    if data.is_empty() {
        return more;
    }
    let end = data.end + more.len();
    bytes.copy_within(more, data.end);
    data.start..end
}

/// Writes the line that stands before `size` bytes of data, so that it ends where they start; gives where it starts.
/// Zero has no such line, since that would end the body.
pub(super) fn put_size(before: &mut [u8], size: usize) -> usize {
    let mut at = before.len();
    let mut put = |byte: u8| {
        at = at.saturating_sub(1);
        if let Some(place) = before.get_mut(at) {
            *place = byte;
        }
    };
    put(b'\n');
    put(b'\r');
    let mut left = size;
    while left > 0 {
        put(b"0123456789abcdef".get(left & 15).copied().unwrap_or_default());
        left >>= 4;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Outcome = (Vec<u8>, usize, bool, Vec<u8>);

    /// What comes of a body that comes in such pieces: its data, what was read, whether that is all, its trailers.
    fn decoded(body: &[u8], pieces: &[usize]) -> Result<Outcome, Malformed> {
        let (mut decoder, mut data, mut at) = (Decoder::new(), Vec::new(), 0);
        for piece in pieces.iter().copied().chain([body.len()]) {
            let end = (at + piece).min(body.len());
            let mut bytes = body[at..end].to_vec();
            let taken = decoder.take(&mut bytes)?;
            data.extend_from_slice(&bytes[taken.data]);
            at += taken.consumed;
            assert!(decoder.is_done() || at == end);
        }
        Ok((data, at, decoder.is_done(), decoder.trailers().to_vec()))
    }

    #[test]
    fn chunks_are_taken_apart() {
        let table: [(&str, &str, usize, &str); 7] = [
            ("5\r\nhello\r\n0\r\n\r\n", "hello", 15, ""),
            ("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET", "hello world", 26, ""),
            ("0\r\n\r\n", "", 5, ""),
            ("000000000000000A\r\n0123456789\r\n000\r\n\r\n", "0123456789", 37, ""),
            ("1;a=b;c=\"d e\"\r\nx\r\n0;z\r\n\r\n", "x", 25, ""),
            ("1 \t;a\r\nx\r\n0\r\n\r\n", "x", 15, ""),
            ("1\r\nx\r\n0\r\nA: b\r\nC:d \r\n\r\nmore", "x", 23, "A: b\r\nC:d \r\n"),
        ];
        for (body, data, consumed, trailers) in table {
            let wanted = (data.as_bytes().to_vec(), consumed, true, trailers.as_bytes().to_vec());
            assert_eq!(decoded(body.as_bytes(), &[]), Ok(wanted), "{body:?}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(EXTENSIONS_BYTES));
        let wide = format!("0\r\nA: {}\r\n\r\n", "a".repeat(TRAILERS_BYTES));
        let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(TRAILERS_MAX + 1));
        let table = [
            ("\r\n", Malformed::ChunkSize),
            ("x\r\n", Malformed::ChunkSize),
            ("-1\r\n", Malformed::ChunkSize),
            ("+1\r\nx\r\n", Malformed::ChunkSize),
            ("0x1\r\nx\r\n", Malformed::ChunkSize),
            (" 1\r\nx\r\n", Malformed::ChunkSize),
            ("1_0\r\n", Malformed::ChunkSize),
            ("00000000000000001\r\nx", Malformed::ChunkSize),
            ("10000000000000000\r\nx", Malformed::ChunkSize),
            ("1\nx\r\n0\r\n\r\n", Malformed::ChunkSize),
            (";a\r\nx\r\n", Malformed::ChunkSize),
            ("1 \r\nx\r\n", Malformed::ChunkExtension),
            ("1 a\r\nx\r\n", Malformed::ChunkExtension),
            ("1;a\nx\r\n0\r\n\r\n", Malformed::ChunkExtension),
            ("1;\0\r\nx\r\n", Malformed::ChunkExtension),
            ("1\rx\r\n", Malformed::BareCr),
            ("1;a\rb\r\nx\r\n", Malformed::BareCr),
            ("1\r\nxy\r\n", Malformed::ChunkEnd),
            ("1\r\nx\n0\r\n\r\n", Malformed::ChunkEnd),
            ("1\r\nx\r0", Malformed::ChunkEnd),
            ("2\r\nx\r\n0\r\n\r\n", Malformed::ChunkEnd),
            ("0\r\n\n", Malformed::BareLf),
            ("0\r\nA: b\n\r\n", Malformed::BareLf),
            ("0\r\nA : b\r\n\r\n", Malformed::SpaceBeforeColon),
            ("0\r\nA: b\r\n c\r\n\r\n", Malformed::ObsFold),
            ("0\r\nGET / HTTP/1.1\r\n\r\n", Malformed::FieldName),
            (&long, Malformed::ChunkExtension),
            (&wide, Malformed::TrailersTooLong),
            (&many, Malformed::TrailersTooLong),
        ];
        for (body, why) in table {
            assert_eq!(decoded(body.as_bytes(), &[]), Err(why), "{body:?}");
            assert_eq!(decoded(body.as_bytes(), &vec![1; body.len()]), Err(why), "{body:?} byte by byte");
        }
    }

    #[test]
    fn sizes_of_answers_may_be_padded_in_every_chunk() {
        let chunks = 10_000;
        let mut decoder = Decoder::new();
        decoder.allow_padding();
        let mut body = [b"1 \t   \r\nx\r\n".repeat(chunks), b"0  ;a\r\n\r\n".to_vec()].concat();
        let length = body.len();
        let taken = decoder.take(&mut body).unwrap();
        assert_eq!((taken.data.len(), taken.consumed, decoder.is_done()), (chunks, length, true));
        let mut decoder = Decoder::new();
        decoder.allow_padding();
        let mut wide = format!("1{}\r\n", " ".repeat(usize::from(PADDING_BYTES) + 1)).into_bytes();
        assert_eq!(decoder.take(&mut wide), Err(Malformed::ChunkExtension));
    }

    /// A body that is what we would write of these pieces.
    fn encoded(pieces: &[Vec<u8>]) -> Vec<u8> {
        let mut body = Vec::new();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            let mut room = [0; SIZE_LINE_MAX];
            let at = put_size(&mut room, piece.len());
            body.extend([&room[at..], piece, CHUNK_END].concat());
        }
        [&body, LAST_CHUNK, b"\r\n"].concat()
    }

    #[test]
    fn sizes_have_no_zeros_before_them() {
        for (size, line) in [(1, "1\r\n"), (255, "ff\r\n"), (65536, "10000\r\n"), (usize::MAX, "ffffffffffffffff\r\n")]
        {
            let mut room = [b'.'; SIZE_LINE_MAX];
            let at = put_size(&mut room, size);
            assert_eq!(&room[at..], line.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn what_is_put_together_is_taken_apart(
            data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            pieces in proptest::collection::vec(0_usize..50, 0..30),
        ) {
            let body = encoded(&data);
            prop_assert_eq!(decoded(&body, &pieces), Ok((data.concat(), body.len(), true, Vec::new())));
        }

        #[test]
        fn bytes_may_come_in_any_pieces(
            body in "([0-3]{1,2}(;[a-z]{0,3})?\r?\n?[a-z]{0,3}\r\n){0,5}0?\r\n(a: ?b\r\n){0,2}\r?\n[a-z]{0,3}",
            pieces in proptest::collection::vec(0_usize..9, 0..30),
        ) {
            prop_assert_eq!(decoded(body.as_bytes(), &pieces), decoded(body.as_bytes(), &[]));
        }

        #[test]
        fn any_bytes_are_read(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decoded(&body, &[]);
        }
    }
}
