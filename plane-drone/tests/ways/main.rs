//! What users get however their requests come in: by HTTP/1.1, with either engine, and by HTTP/2. Backends are sockets of the
//! tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod fence;
mod heads;
mod held;
mod interims;
mod repeat;
mod setting;
mod stop;
mod trailers;
mod uploads;
