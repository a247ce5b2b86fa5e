//! Where a head ends. A head that is there as a whole is read in one pass; one that comes in pieces is judged line by
//! line as it comes, each byte once, so that a client that sends a byte at a time costs no more than any other.
//!
//! Both ways lead to the same: the line-by-line way is what decides, and the pass over the whole is right where it finds
//! nothing wrong.

use super::{FIELDS_MAX, HeadLimits, malformed::Malformed};
use httparse::{EMPTY_HEADER, Header, Status, parse_headers};

/// CRLF.
const LINE_END: usize = 2;

/// What a head begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request line.
    Request,
    /// A status line.
    Response,
}

/// How far a head has been looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// The start of the first line that is not complete, from the start of the head.
    line: usize,
    /// Where to go on within that line.
    seen: usize,
    /// Lines that are complete, without empty ones before the first.
    lines: usize,
}

impl Scan {
    /// Whether nothing has been looked at yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.seen == 0
    }

    /// Goes on; gives the length of the head once it is complete. `bytes` begin with what was there before.
    ///
    /// # Errors
    /// Where a complete line is malformed, or the limits are passed.
    pub(super) fn advance(&mut self, bytes: &[u8], kind: Kind, limits: HeadLimits) -> Result<Option<usize>, Malformed> {
        let bytes = bytes.get(..limits.bytes).unwrap_or(bytes);
        while let Some(at) = memchr::memchr(b'\n', bytes.get(self.seen..).unwrap_or_default()) {
            let next = self.seen + at + 1;
            let line = bytes.get(self.line..next).unwrap_or_default();
            if self.lines == 0 && line.len() > limits.line_bytes.saturating_add(LINE_END) {
                return Err(Malformed::LineTooLong);
            }
            let Some(text) = line.strip_suffix(b"\r\n") else { return Err(Malformed::BareLf) };
            (self.line, self.seen) = (next, next);
            match (self.lines, text.is_empty()) {
                // RFC 9112, section 2.2: empty lines before a request are passed over.
                (0, true) if kind == Kind::Request => continue,
                (0, true) => return Err(Malformed::StatusLine),
                (0, false) => check_first(kind, line)?,
                (_, true) => return Ok(Some(next)),
                (fields, false) if fields > limits.fields.min(FIELDS_MAX) => return Err(Malformed::TooManyFields),
                (_, false) => check_field(line)?,
            }
            self.lines += 1;
        }
        self.seen = bytes.len();
        if self.lines == 0 && bytes.len() - self.line >= limits.line_bytes.saturating_add(LINE_END) {
            return Err(Malformed::LineTooLong);
        }
        if bytes.len() >= limits.bytes { Err(Malformed::HeadTooLong) } else { Ok(None) }
    }
}

/// Whether no LF stands alone, in a head in which no CR does.
pub(super) fn has_no_bare_lf(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).count() == memchr::memchr_iter(b'\r', head).count()
}

/// Judges a first line, its end included.
fn check_first(kind: Kind, line: &[u8]) -> Result<(), Malformed> {
    let parsed = match kind {
        Kind::Request => httparse::Request::new(&mut []).parse(line),
        Kind::Response => httparse::Response::new(&mut []).parse(line),
    };
    match parsed {
        Ok(Status::Partial) => Ok(()),
        Ok(Status::Complete(_)) | Err(_) => Err(why_first(kind, line)),
    }
}

fn why_first(kind: Kind, line: &[u8]) -> Malformed {
    if let Some(stray) = stray(line) {
        return stray;
    }
    let version = |word: Option<&[u8]>| {
        word.is_some_and(|word| {
            matches!(word, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() && word != b"HTTP/1.0" && word != b"HTTP/1.1")
        })
    };
    let mut words = line.trim_ascii_end().split(|byte| *byte == b' ');
    let (other, else_wrong) = match kind {
        Kind::Request => (version(words.nth(2)) && words.next().is_none(), Malformed::RequestLine),
        Kind::Response => (version(words.next()), Malformed::StatusLine),
    };
    if other { Malformed::Version } else { else_wrong }
}

/// Judges the line of a field, its end included.
pub(super) fn check_field(line: &[u8]) -> Result<(), Malformed> {
    let mut field: [Header<'_>; 1] = [EMPTY_HEADER];
    match parse_headers(line, &mut field) {
        Ok(Status::Partial) => Ok(()),
        Ok(Status::Complete(_)) | Err(_) => Err(why_field(line)),
    }
}

fn why_field(line: &[u8]) -> Malformed {
    if let Some(stray) = stray(line) {
        return stray;
    }
    if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        return Malformed::ObsFold;
    }
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    match name {
        [] => Malformed::FieldName,
        name if name.len() == line.len() => Malformed::FieldName,
        [token @ .., b' ' | b'\t'] if is_token(token.trim_ascii_end()) => Malformed::SpaceBeforeColon,
        name if is_token(name) => Malformed::FieldValue,
        _ => Malformed::FieldName,
    }
}

fn stray(line: &[u8]) -> Option<Malformed> {
    let text = line.strip_suffix(b"\r\n").unwrap_or(line);
    match text.iter().find(|byte| matches!(byte, b'\0' | b'\r')) {
        Some(b'\0') => Some(Malformed::Nul),
        Some(_) => Some(Malformed::BareCr),
        None => None,
    }
}

/// Whether this is a token (RFC 9110, section 5.6.2).
pub(super) fn is_token(word: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 200, fields: 3, line_bytes: 30 };

    type Outcome = Result<Option<usize>, Malformed>;

    /// What comes of a head that comes byte by byte, and after how many bytes.
    fn scanned(kind: Kind, head: &[u8]) -> (usize, Outcome) {
        let mut scan = Scan::default();
        let steps = (1..=head.len()).map(|end| (end, scan.advance(&head[..end], kind, LIMITS)));
        steps.into_iter().find(|(_, outcome)| *outcome != Ok(None)).unwrap_or((head.len(), Ok(None)))
    }

    #[test]
    fn a_line_is_judged_once_it_is_there() {
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(40));
        let wide = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(300));
        let table: [(&[u8], usize, Outcome); 17] = [
            (b"GET / HTTP/1.1\r\nA: b\r\n\r\nmore", 24, Ok(Some(24))),
            (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", 22, Ok(Some(22))),
            (b"GET / HTTP/1.1\r\nA: b\r\n", 22, Ok(None)),
            (b"GET / HTTP/1.1\n\r\n", 15, Err(Malformed::BareLf)),
            (b"\nGET / HTTP/1.1\r\n\r\n", 1, Err(Malformed::BareLf)),
            (b"GET / HTTP/1.1\r\nA: b\n\r\n", 21, Err(Malformed::BareLf)),
            (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", 24, Err(Malformed::BareCr)),
            (b"GET / HTTP/1.1\r\nA: \0\r\n\r\n", 22, Err(Malformed::Nul)),
            (b"GET / HTTP/1.1\r\nA: \x01\r\n\r\n", 22, Err(Malformed::FieldValue)),
            (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 23, Err(Malformed::SpaceBeforeColon)),
            (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 26, Err(Malformed::ObsFold)),
            (b"GET / HTTP/1.1\r\n: b\r\n\r\n", 21, Err(Malformed::FieldName)),
            (b"GET / HTTP/1.1\r\nA\r\n\r\n", 19, Err(Malformed::FieldName)),
            (b"GET / HTTP/1.1\r\nA: 1\r\nB:2\r\nC:3\r\nD:4\r\n\r\n", 37, Err(Malformed::TooManyFields)),
            (b"GET /\r\n", 7, Err(Malformed::RequestLine)),
            (long.as_bytes(), 32, Err(Malformed::LineTooLong)),
            (wide.as_bytes(), 200, Err(Malformed::HeadTooLong)),
        ];
        for (head, end, outcome) in table {
            assert_eq!(scanned(Kind::Request, head), (end, outcome), "{:?}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn versions_are_told_from_other_faults() {
        let table = [
            (Kind::Request, "GET / HTTP/2.0\r\n", Malformed::Version),
            (Kind::Request, "PRI * HTTP/2.0\r\n", Malformed::Version),
            (Kind::Request, "GET / HTTP/1.2\r\n", Malformed::Version),
            (Kind::Request, "GET / http/1.1\r\n", Malformed::RequestLine),
            (Kind::Request, "GET / HTTP/1.1 \r\n", Malformed::RequestLine),
            (Kind::Request, "GET  / HTTP/1.1\r\n", Malformed::RequestLine),
            (Kind::Request, "GET\t/ HTTP/1.1\r\n", Malformed::RequestLine),
            (Kind::Request, " GET / HTTP/1.1\r\n", Malformed::RequestLine),
            (Kind::Request, "G(T / HTTP/1.1\r\n", Malformed::RequestLine),
            (Kind::Request, "GET / a HTTP/1.1\r\n", Malformed::RequestLine),
            (Kind::Response, "HTTP/2.0 200 OK\r\n", Malformed::Version),
            (Kind::Response, "HTTP/1.1 20 OK\r\n", Malformed::StatusLine),
            (Kind::Response, "\r\n", Malformed::StatusLine),
            (Kind::Response, "SSH-2.0-x\r\n", Malformed::StatusLine),
        ];
        for (kind, line, why) in table {
            assert_eq!(scanned(kind, line.as_bytes()).1, Err(why), "{line:?}");
        }
        assert_eq!(scanned(Kind::Response, b"HTTP/1.1 200 OK\r\n\r\n").1, Ok(Some(19)));
        assert_eq!(scanned(Kind::Response, b"HTTP/1.1 200 \r\n\r\n").1, Ok(Some(17)));
    }
}
