//! Connections to a backend that are kept, and turn out to be closed or worse at the next request.

use super::{
    client::{Asking, changes},
    setting::{Inner, Setting, WAYS, Way, counts},
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A connection that was used once, and is kept.
async fn kept(setting: &Setting) -> Inner {
    let mut asked = setting.get("/first").await;
    let mut inner = setting.accept().await;
    inner.head().await;
    inner.say(OK).await;
    assert_eq!(asked.status().await, Some(200));
    assert_eq!(asked.rest().await, ("ok".to_owned(), true));
    inner
}

#[tokio::test]
async fn what_was_answered_with_garbage_is_not_asked_again() {
    for way in WAYS {
        let setting = Setting::patient(way, 30).await;
        let activity = setting.open();
        for garbage in ["garbage\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 2"] {
            let mut inner = kept(&setting).await;
            let mut asked = setting.get("/second").await;
            assert!(inner.head().await.starts_with("GET /second "));
            inner.say(garbage).await;
            drop(inner);
            assert_eq!(asked.status().await, Some(502), "{way:?}: {garbage:?}");
            setting.accepts_nothing().await;
        }
        counts(&activity, 0).await;
    }
}

#[tokio::test]
async fn nobody_hears_of_a_kept_connection_that_ended_and_nothing_is_posted_twice() {
    for way in WAYS {
        let setting = Setting::patient(way, 30).await;
        let activity = setting.open();
        for is_reset in [false, true] {
            for (method, may_repeat) in
                [("GET", true), ("HEAD", true), ("DELETE", true), ("POST", false), ("PATCH", false)]
            {
                let mut inner = kept(&setting).await;
                let mut asked = setting.ask(Asking::of(method, "/second")).await;
                assert!(inner.head().await.starts_with(&format!("{method} /second ")));
                if is_reset {
                    inner.0.set_zero_linger().unwrap();
                }
                drop(inner);
                if may_repeat {
                    let mut inner = setting.accept().await;
                    assert!(inner.head().await.starts_with(&format!("{method} /second ")));
                    inner.say(OK.replace("200", "203").as_str()).await;
                    assert_eq!(asked.status().await, Some(203), "{way:?}: {method}");
                } else {
                    assert_eq!(asked.status().await, Some(502), "{way:?}: {method}");
                    setting.accepts_nothing().await;
                }
            }
        }
        counts(&activity, 0).await;
    }
}

#[tokio::test]
async fn a_websocket_does_not_notice_a_kept_connection_that_ended() {
    for way in WAYS {
        let setting = Setting::patient(way, 30).await;
        let activity = setting.open();
        for is_reset in [false, true] {
            let mut inner = kept(&setting).await;
            let mut asked = setting.ask(Asking::websocket("/second")).await;
            assert!(inner.head().await.starts_with("GET /second "));
            if is_reset {
                inner.0.set_zero_linger().unwrap();
            }
            drop(inner);
            let mut inner = setting.accept().await;
            let head = inner.head().await;
            assert!(head.starts_with("GET /second "), "{way:?}: {head}");
            inner.say(&changes(way, &head)).await;
            let status = if way == Way::Http2 { 200 } else { 101 };
            assert_eq!(asked.status().await, Some(status), "{way:?}");
            asked.say(b"hello").await;
            inner.hear(b"hello").await;
        }
        counts(&activity, 0).await;
    }
}
