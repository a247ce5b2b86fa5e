//! What we answer ourselves, as HTTP/1.1 has it.

use super::{
    Framing,
    date::with_date,
    write::{After, put, put_field, put_framing, put_status},
};
use crate::proxy::refusal::Refusal;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::{Response, header};

/// Writes a whole response. One to HEAD keeps its length and loses its body.
pub(super) fn put_own(out: &mut Vec<u8>, response: Response<Full<Bytes>>, is_head: bool, after: After, now: u64) {
    let (head, body) = response.into_parts();
    // It is all there.
    let body = body.collect().now_or_never().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    put_status(out, head.status.as_u16(), head.status.canonical_reason().unwrap_or_default());
    for (name, value) in &head.headers {
        put_field(out, name.as_str(), value.as_bytes());
    }
    if !head.headers.contains_key(header::CONTENT_LENGTH) {
        put_framing(out, Framing::Length(body.len() as u64));
    }
    with_date(now, |date| put(out, &["date: ", date, "\r\n"]));
    put(
        out,
        &[match after {
            After::GoesOn => "\r\n",
            After::SaidToGoOn => "connection: keep-alive\r\n\r\n",
            After::Closes => "connection: close\r\n\r\n",
        }],
    );
    if !is_head {
        out.extend_from_slice(&body);
    }
}

/// What a connection ends with that is not served any further.
pub(in crate::proxy) fn last_word(refusal: Refusal, now: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_own(&mut out, refusal.into_response(), false, After::Closes, now);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_whole_response() {
        for (is_head, after) in [(false, After::Closes), (true, After::GoesOn)] {
            let mut out = Vec::new();
            put_own(&mut out, Refusal::Ended.into_response_for(None, is_head), is_head, after, 0);
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 410 Gone\r\n") && head.contains("\r\ndate: "), "{head}");
            assert_eq!(head.contains("connection: close"), after == After::Closes);
            let length: usize = head.split_once("content-length: ").unwrap().1.lines().next().unwrap().parse().unwrap();
            assert_eq!(body.len(), if is_head { 0 } else { length });
            assert!(length > 0);
        }
    }
}
