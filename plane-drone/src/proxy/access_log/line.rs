//! One line of the access log. Pure.

use crate::proxy::outcome::Outcome;
use jiff::Timestamp;
use serde::Serialize;
use std::{net::IpAddr, time::Duration};

/// How much of each text a line has at most, in bytes: what clients send may be long.
const TEXT_BYTES: usize = 2048;
/// The path whose query has a token. It is taken for that wherever it stands in a path, and whatever follows it.
const TOKEN_PATH: &str = "_plane_auth";

/// What a line tells of a request.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Entry<'a> {
    /// When its head was read.
    pub(in crate::proxy) time: Timestamp,
    /// Which backend it was for, where it was for one.
    pub(in crate::proxy) backend: Option<&'a str>,
    /// Its method.
    pub(in crate::proxy) method: &'a str,
    /// The host that it asked, as it came.
    pub(in crate::proxy) host: &'a str,
    /// The path and query that it asked for, as they came.
    pub(in crate::proxy) path: &'a str,
    /// What was spoken, such as `HTTP/1.1`.
    pub(in crate::proxy) protocol: &'static str,
    /// The status of the answer, where it got one.
    pub(in crate::proxy) status: Option<u16>,
    /// What became of it.
    pub(in crate::proxy) outcome: Outcome,
    /// Bytes of its body, or of the upgraded connection from the client.
    pub(in crate::proxy) bytes_in: u64,
    /// Bytes of the answer's body, or of the upgraded connection to the client.
    pub(in crate::proxy) bytes_out: u64,
    /// From the time until its end.
    pub(in crate::proxy) duration: Duration,
    /// Who asked.
    pub(in crate::proxy) client: IpAddr,
}

/// The line, in the order that it is written in.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    outcome: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    client: IpAddr,
}

impl Entry<'_> {
    /// The line, with its end.
    pub(super) fn line(&self) -> Vec<u8> {
        let line = Line {
            time: format!("{:.3}", self.time),
            backend: self.backend,
            method: short(self.method),
            host: short(self.host),
            path: short(without_token(self.path)),
            protocol: self.protocol,
            status: self.status,
            outcome: self.outcome.code(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            // Whole microseconds, so that the line has no more digits than there is to tell.
            duration_ms: self.duration.as_micros() as f64 / 1000.0,
            client: self.client,
        };
        // Texts and numbers can always be written.
        let mut line = serde_json::to_vec(&line).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The path without its query where that has a token.
fn without_token(path: &str) -> &str {
    match path.split_once('?') {
        Some((path, _)) if path.contains(TOKEN_PATH) => path,
        _ => path,
    }
}

fn short(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::refusal::Refusal;
    use proptest::prelude::*;
    use serde_json::Value;

    fn entry<'a>(path: &'a str) -> Entry<'a> {
        Entry {
            time: "2026-11-26T08:00:00.0015Z".parse().unwrap(),
            backend: Some("b"),
            method: "GET",
            host: "b.plane.test",
            path,
            protocol: "HTTP/1.1",
            status: Some(200),
            outcome: Outcome::Passed,
            bytes_in: 0,
            bytes_out: 66,
            duration: Duration::from_nanos(1_234_567),
            client: [192, 0, 2, 7].into(),
        }
    }

    #[test]
    fn a_line_has_all_that_there_is() {
        let line = String::from_utf8(entry("/a?b=c").line()).unwrap();
        assert_eq!(
            line,
            "{\"time\":\"2026-11-26T08:00:00.001Z\",\"backend\":\"b\",\"method\":\"GET\",\"host\":\"b.plane.test\",\
             \"path\":\"/a?b=c\",\"protocol\":\"HTTP/1.1\",\"status\":200,\"outcome\":\"passed\",\"bytes_in\":0,\
             \"bytes_out\":66,\"duration_ms\":1.234,\"client\":\"192.0.2.7\"}\n"
        );
        let bare = Entry { backend: None, status: None, outcome: Outcome::Refused(Refusal::Ended), ..entry("/") };
        let line: Value = serde_json::from_slice(&bare.line()).unwrap();
        assert_eq!(
            (&line["backend"], &line["status"], &line["outcome"]),
            (&Value::Null, &Value::Null, &"ended".into())
        );
    }

    #[test]
    fn tokens_are_in_no_line() {
        for (path, told) in [
            ("/_plane_auth?token=s3cret&redirect=/", "/_plane_auth"),
            ("/_plane_backend=b/_plane_auth?token=s3cret", "/_plane_backend=b/_plane_auth"),
            ("/_plane_auth/?token=s3cret", "/_plane_auth/"),
            ("/a?token=x", "/a?token=x"),
            ("/a?x=_plane_auth?", "/a?x=_plane_auth?"),
            ("", ""),
        ] {
            let line: Value = serde_json::from_slice(&entry(path).line()).unwrap();
            assert_eq!(line["path"], told, "{path}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_is_one_line_of_json(path in "\\PC{0,3000}|[\"\\\\\u{0}-\u{1f}]{0,40}") {
            let line = entry(&path).line();
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let line: Value = serde_json::from_slice(&line).unwrap();
            let told = line["path"].as_str().unwrap();
            prop_assert!(path.starts_with(told) && told.len() <= TEXT_BYTES);
        }
    }
}
