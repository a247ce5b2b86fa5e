//! The answer of a backend.

use super::CallError;
use crate::proxy::{
    buffer::Buffer,
    hints::INTERIM_BYTES,
    http1::{
        Framing,
        body::Body,
        exchange::{RESPONSE_LIMITS, read},
        field::Field,
        head::Space,
        malformed::Malformed,
        response::{self, ResponseHead},
        scan::Scan,
        trailer::forwardable,
    },
    http2::Interims,
    passage::Passage,
    request,
};
use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    body::Frame,
    header::{HeaderName, HeaderValue},
};
use std::{
    ops::Range,
    task::{Context, Poll, ready},
};
use tokio::net::TcpStream;

/// Pieces that are not larger are copied, so that a buffer is free again at once, in bytes.
const COPIED: usize = 8 * 1024;
/// What is read of a body at once, in bytes: about what is buffered for a client that does not take it.
const READ: usize = 32 * 1024;

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Down {
    is_to_head: bool,
    was_heard: bool,
    /// What there is of a head that is not complete.
    head: Vec<u8>,
    scan: Scan,
    /// What interim answers had so far, in bytes.
    interim_bytes: usize,
    body: Body,
    /// How much of it is to come, in bytes, where that was said.
    left: Option<u64>,
    trailers: Option<HeaderMap>,
    /// What was read and is not looked at.
    input: Option<(Buffer, Range<usize>)>,
    is_persistent: bool,
}

impl Down {
    pub(super) fn new(is_to_head: bool) -> Self {
        Self {
            is_to_head,
            was_heard: false,
            head: Vec::new(),
            scan: Scan::default(),
            interim_bytes: 0,
            body: Body::new(Framing::UntilClose, Framing::UntilClose),
            left: None,
            trailers: None,
            input: None,
            is_persistent: false,
        }
    }

    /// Whether the backend said anything.
    pub(super) fn was_heard(&self) -> bool {
        self.was_heard
    }

    /// Whether all of it was given.
    pub(super) fn is_done(&self) -> bool {
        self.body.is_done() && self.trailers.is_none()
    }

    /// Whether another request may follow on the connection.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_persistent && self.body.is_done() && self.input.is_none()
    }

    /// How much of its body is to come, in bytes, where that was said.
    pub(super) fn left(&self) -> Option<u64> {
        self.left
    }

    /// What was read beyond the head.
    pub(super) fn take_input(&mut self) -> Bytes {
        self.input.take().map_or_else(Bytes::new, |(buffer, range)| piece(buffer, range))
    }

    /// Reads until the head of the final answer is there; interim ones are handed on before.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        passage: &Passage,
        interims: &Interims,
    ) -> Poll<Result<Response<()>, CallError>> {
        loop {
            let mut buffer = Buffer::take();
            let room = 0..buffer.len();
            let Ok(new) = ready!(read(cx, from, &mut buffer, room)) else {
                return Poll::Ready(Err(CallError::Closed));
            };
            self.was_heard = true;
            let bytes = buffer.get(new.clone()).unwrap_or_default();
            if let Some((response, rest)) = self.take_heads(bytes, passage, interims)? {
                self.input = (rest > 0).then(|| (buffer, new.end - rest..new.end));
                return Poll::Ready(Ok(response));
            }
        }
    }

    /// Reads heads, until that of the final answer; gives how many bytes after it are at hand.
    fn take_heads(
        &mut self,
        new: &[u8],
        passage: &Passage,
        interims: &Interims,
    ) -> Result<Option<(Response<()>, usize)>, Malformed> {
        let kept = if self.head.is_empty() {
            None
        } else {
            self.head.extend_from_slice(new);
            Some(std::mem::take(&mut self.head))
        };
        let mut bytes = kept.as_deref().unwrap_or(new);
        loop {
            let mut space = Space::new();
            let parsed = response::parse(bytes, &mut self.scan, &mut space, RESPONSE_LIMITS, self.is_to_head)?;
            let Some(head) = parsed else {
                self.head = bytes.to_vec();
                return Ok(None);
            };
            let (this, rest) = bytes.split_at_checked(head.length).unwrap_or((bytes, &[]));
            self.scan = Scan::default();
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| Malformed::Status)?;
            *response.headers_mut() = fields_of(this, head.fields)?;
            if !head.is_interim() {
                self.begin_body(&head);
                return Ok(Some((response, rest.len())));
            }
            self.interim_bytes += head.length;
            if !passage.hints().came(passage.now()) || self.interim_bytes > INTERIM_BYTES {
                return Err(Malformed::Interims);
            }
            // 100 is said where a body is waited for: the backend was not asked for it.
            if head.status != 100 {
                request::clean_interim(response.headers_mut());
                interims.say(response);
            }
            bytes = rest;
        }
    }

    fn begin_body(&mut self, head: &ResponseHead<'_, '_>) {
        self.body = Body::of_response(head.framing, Framing::UntilClose);
        self.left = match head.framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        };
        self.is_persistent = head.is_persistent;
    }

    /// The next piece of the body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        while !self.body.is_done() {
            let (mut buffer, new) = match self.input.take() {
                Some(input) => input,
                None => {
                    let mut buffer = Buffer::take();
                    let room = 0..buffer.len().min(READ);
                    match ready!(read(cx, from, &mut buffer, room)) {
                        Ok(new) => (buffer, new),
                        Err(is_end) if is_end && self.body.close(&mut Vec::new()) => {
                            self.is_persistent = false;
                            break;
                        }
                        Err(_) => return Poll::Ready(Some(Err(CallError::Closed))),
                    }
                }
            };
            let passed = self.body.pass(&mut buffer, new.clone(), &mut Vec::new()).map_err(CallError::Malformed)?;
            // Nobody has asked for more yet.
            self.is_persistent &= passed.consumed == new.len();
            self.left = self.left.map(|left| left.saturating_sub(passed.data as u64));
            if self.body.is_done() {
                self.trailers = forwardable(self.body.trailers());
            }
            if passed.data > 0 {
                return Poll::Ready(Some(Ok(Frame::data(piece(buffer, passed.range)))));
            }
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

/// A piece of a body on its way, and the buffer that it lies in.
struct Held(Buffer, Range<usize>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.get(self.1.clone()).unwrap_or_default()
    }
}

fn piece(buffer: Buffer, range: Range<usize>) -> Bytes {
    match range.len() {
        0..=COPIED => Bytes::copy_from_slice(buffer.get(range).unwrap_or_default()),
        _ => Bytes::from_owner(Held(buffer, range)),
    }
}

/// Fields of a head as the `http` library has them, all within one copy of the head.
fn fields_of(head: &[u8], fields: &[Field<'_>]) -> Result<HeaderMap, Malformed> {
    let (copy, mut map) = (Bytes::copy_from_slice(head), HeaderMap::with_capacity(fields.len() + 2));
    let begin = head.as_ptr().addr();
    for Field { name, value } in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Malformed::FieldName)?;
        let at = value.as_ptr().addr().wrapping_sub(begin);
        let value = match copy.get(at..at.wrapping_add(value.len())) {
            Some(_) => HeaderValue::from_maybe_shared(copy.slice(at..at + value.len())),
            None => HeaderValue::from_bytes(value),
        };
        map.append(name, value.map_err(|_| Malformed::FieldValue)?);
    }
    Ok(map)
}
