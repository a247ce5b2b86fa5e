//! A request on its way to a backend.

use super::CallError;
use crate::proxy::{
    http1::{
        Framing,
        chunk::{CHUNK_END, LAST_CHUNK},
        write::{put, put_field},
    },
    passage::Sent,
};
use bytes::{Buf, Bytes};
use hyper::{
    HeaderMap,
    body::{Body, Frame},
};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{io::AsyncWrite, net::TcpStream};

/// Pieces that are not larger are copied behind what waits already, and so much may wait, in bytes.
const COPIED: usize = 4 * 1024;

/// A request on its way.
#[derive(Debug)]
pub(super) struct Up {
    /// What goes first: the head, while no body has followed it.
    first: Vec<u8>,
    piece: Bytes,
    last: &'static [u8],
    /// How much of `first` is written.
    written: usize,
    body: Option<Sent>,
    is_chunked: bool,
    is_broken: bool,
}

impl Up {
    /// With its head, which says where its body ends.
    pub(super) fn new(head: Vec<u8>, framing: Framing, body: Sent) -> Self {
        Self {
            first: head,
            piece: Bytes::new(),
            last: &[],
            written: 0,
            is_chunked: framing == Framing::Chunked,
            body: (!body.is_end_stream()).then_some(body),
            is_broken: false,
        }
    }

    /// Back to the start, for another connection; only of a request without a body.
    pub(super) fn restart(&mut self) {
        self.written = 0;
        self.is_broken = false;
    }

    /// Whether the backend has all of it.
    pub(super) fn is_done(&self) -> bool {
        self.body.is_none() && self.is_written() && !self.is_broken
    }

    fn is_written(&self) -> bool {
        self.written == self.first.len() && self.piece.is_empty() && self.last.is_empty()
    }

    /// Moves what can be moved. A backend that takes nothing any more may have answered before.
    ///
    /// # Errors
    /// Where the request breaks off.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, to: &mut TcpStream) -> Result<(), CallError> {
        while !self.is_broken {
            self.fill(cx)?;
            if self.is_written() {
                break;
            }
            match self.poll_write(cx, to) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.is_broken = true;
                    // Nobody waits for the client any more.
                    self.body = None;
                }
            }
        }
        Ok(())
    }

    /// Takes what the client has sent, as far as there is room.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), CallError> {
        while self.piece.is_empty() && self.last.is_empty() && self.first.len() - self.written < COPIED {
            let Some(body) = &mut self.body else { break };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else { break };
            if self.is_written() {
                self.first.clear();
                self.written = 0;
            }
            match frame.transpose().map_err(|_| CallError::Request)?.map(Frame::into_data) {
                Some(Ok(piece)) => self.put_piece(piece),
                Some(Err(frame)) => self.end(frame.into_trailers().ok()),
                None => self.end(None),
            }
        }
        Ok(())
    }

    fn put_piece(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        if self.is_chunked {
            put(&mut self.first, &[&format!("{:x}\r\n", piece.len())]);
        }
        let end = if self.is_chunked { CHUNK_END } else { &[] };
        if piece.len() > COPIED {
            (self.piece, self.last) = (piece, end);
        } else {
            self.first.extend_from_slice(&piece);
            self.first.extend_from_slice(end);
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        self.body = None;
        if self.is_chunked {
            self.first.extend_from_slice(LAST_CHUNK);
            for (name, value) in trailers.iter().flatten() {
                put_field(&mut self.first, name.as_str(), value.as_bytes());
            }
            self.first.extend_from_slice(CHUNK_END);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut TcpStream) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let first = self.first.get(self.written..).unwrap_or_default();
            let bytes = match self.piece.is_empty() && self.last.is_empty() {
                true => ready!(Pin::new(&mut *to).poll_write(cx, first))?,
                false => {
                    let parts = [IoSlice::new(first), IoSlice::new(&self.piece), IoSlice::new(self.last)];
                    ready!(Pin::new(&mut *to).poll_write_vectored(cx, &parts))?
                }
            };
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_first = bytes.min(first.len());
            self.written += of_first;
            let of_piece = (bytes - of_first).min(self.piece.len());
            self.piece.advance(of_piece);
            self.last = self.last.get(bytes - of_first - of_piece..).unwrap_or_default();
        }
        Poll::Ready(Ok(()))
    }
}
