//! What goes over the wire at both ends of the proxy, byte by byte: requests and answers that are malformed, ambiguous or
//! hostile, and clients that are slow. Clients and backends are sockets of these tests, the proxy is the real one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "a test may tell what it saw")]

mod backend;
mod case;
mod client;
mod grammar;
mod requests;
mod responses;
mod run;
mod setting;
mod slow;
