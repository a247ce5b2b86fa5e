//! HTTP/1.1 by hand (RFC 9112): what is read is judged strictly, and what goes on is written anew, line by line, never
//! copied as it came.
//!
//! `scan` finds where a head ends, `head` and `response` say what it means, `field` knows the fields that matter here,
//! `chunk` takes bodies apart, `trailer` what follows them, `write` writes heads, and `malformed` names what is refused.
//! All of these are pure: they see bytes, never a socket.

mod chunk;
mod field;
mod head;
mod malformed;
#[cfg(test)]
mod oracle;
mod response;
mod scan;
mod secret;
mod trailer;
mod write;

/// The most fields that a head may have; a configured limit beyond it does not count.
pub(super) const FIELDS_MAX: usize = 256;

/// What a head may be large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadLimits {
    /// All of it, in bytes.
    pub(super) bytes: usize,
    /// Its fields.
    pub(super) fields: usize,
    /// Its first line, in bytes, without the line's end.
    pub(super) line_bytes: usize,
}

/// A minor version of HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.0 (RFC 1945).
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Where a body ends (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// Where its chunks say.
    Chunked,
    /// Where its connection is closed; responses only.
    UntilClose,
}
