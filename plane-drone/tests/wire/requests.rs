//! Requests: what is passed on, what is refused, and that proxy and backend never disagree about where one ends.

mod chunks;
mod coding;
mod head;
mod host;
mod length;
mod line;
mod pipeline;
mod target;

use super::run::run;

/// A request that nobody is to see: it stands where a reader that was misled would look for the next one.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: {h}\r\n\r\n";

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {{h}}\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /post HTTP/1.1\r\nHost: {{h}}\r\n{fields}\r\n{body}")
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[tokio::test]
async fn content_length() {
    run(length::cases()).await;
}

#[tokio::test]
async fn transfer_encoding() {
    run(coding::cases()).await;
}

#[tokio::test]
async fn chunked_bodies() {
    run(chunks::cases()).await;
}

#[tokio::test]
async fn fields() {
    run(head::cases()).await;
}

#[tokio::test]
async fn request_lines() {
    run(line::cases()).await;
}

#[tokio::test]
async fn targets() {
    run(target::cases()).await;
}

#[tokio::test]
async fn hosts() {
    run(host::cases()).await;
}

#[tokio::test]
async fn several_on_one_connection() {
    run(pipeline::cases()).await;
}
