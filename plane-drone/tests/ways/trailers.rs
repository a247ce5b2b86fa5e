//! Trailers (RFC 9110, section 6.5) on their way to a backend.

use super::{
    client::Asking,
    setting::{Setting, WAYS, Way},
};

#[tokio::test]
async fn trailers_of_a_request_reach_its_backend() {
    for way in WAYS {
        for is_named in [true, false] {
            let setting = Setting::patient(way, 30).await;
            setting.open();
            let asking = Asking::chunked("POST", "/");
            let asking = if is_named { asking.field("trailer", "x-sum") } else { asking };
            let mut asked = setting.ask(asking).await;
            asked.say_all("hello", ("x-sum", "1")).await;
            let mut inner = setting.accept().await;
            let head = inner.head().await.to_ascii_lowercase();
            assert_eq!(head.contains("\r\ntrailer: x-sum\r\n"), is_named, "{way:?}: {head}");
            inner.hear(b"5\r\nhello\r\n0\r\n").await;
            // The hyper library sends only those that it was told of.
            if is_named || way != Way::Hyper {
                inner.hear(b"x-sum: 1\r\n").await;
            }
            inner.hear(b"\r\n").await;
            inner.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            assert_eq!(asked.status().await, Some(200), "{way:?}");
        }
    }
}
