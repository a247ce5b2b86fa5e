//! HTTP/1.1 by hand (RFC 9112): what is read is judged strictly, and what goes on is written anew, line by line, never
//! copied as it came.
//!
//! `scan` finds where a head ends, `head` and `response` say what it means, `field` knows the fields that matter here,
//! `chunk` takes bodies apart, `trailer` what follows them, `write` writes heads, and `malformed` names what is refused.
//! All of these are pure: they see bytes, never a socket.
//!
//! A connection is `serve`d: its heads are read, `decide` says what becomes of each request, and an `exchange` carries a
//! request to its backend, through a socket of the `pool`, and the answer back, both at once. `body` passes bodies from
//! one framing to another within the buffers that they came in, `outgoing` is what waits to be written, `own` is what we
//! answer ourselves, `client` is how requests over HTTP/2 are sent on, `date` is what time it is, `pace` ends what takes
//! too long, and `cut` what must not look whole.

mod body;
mod chunk;
mod client;
mod cut;
mod date;
mod decide;
mod exchange;
mod field;
#[cfg(any(fuzzing, test))]
pub(super) mod fuzzing;
mod head;
mod malformed;
#[cfg(test)]
mod oracle;
mod outgoing;
mod own;
mod pace;
mod response;
mod scan;
mod serve;
#[cfg(test)]
mod tests;
mod trailer;
mod write;

pub(super) use client::Call;
pub(super) use cut::Cut;
pub(super) use date::with_date;
pub(super) use field::is_authority;
pub(super) use own::last_word;
pub(super) use serve::serve;

/// The most fields that a head may have; no more can be configured, and no answer may have more.
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
