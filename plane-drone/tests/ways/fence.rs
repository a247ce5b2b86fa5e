//! A backend that holds a lock, whose drone had no contact for too long: somebody else may hold the lock by now, so nothing of
//! it goes on, in neither direction.

use super::{
    client::{Asked, Asking, changes},
    setting::{Gate, Inner, Setting, WAYS, Way, counts},
};
use plane_drone::route::Activity;
use std::sync::Arc;

struct Fenced {
    setting: Setting,
    gate: Gate,
    activity: Arc<Activity>,
}

async fn fenced(way: Way) -> Fenced {
    let (setting, gate) = (Setting::patient(way, 30).await, Gate::open());
    let activity = setting.open_as(None, Some(gate.fence.clone()));
    Fenced { setting, gate, activity }
}

async fn tunnel(setting: &Setting) -> (Asked, Inner) {
    let mut asked = setting.ask(Asking::websocket("/ws")).await;
    let mut inner = setting.accept().await;
    let head = inner.head().await;
    inner.say(&changes(setting.way, &head)).await;
    let status = asked.status().await;
    assert!(matches!(status, Some(101 | 200)), "{status:?}");
    (asked, inner)
}

#[tokio::test]
async fn no_more_of_an_answer_comes_and_it_does_not_look_whole() {
    for way in WAYS {
        for length in ["Content-Length: 10\r\n", "Connection: close\r\n"] {
            let Fenced { setting, gate, activity } = fenced(way).await;
            let mut asked = setting.get("/").await;
            let mut inner = setting.accept().await;
            inner.head().await;
            inner.say(&format!("HTTP/1.1 200 OK\r\n{length}\r\nhello")).await;
            assert_eq!(asked.status().await, Some(200));
            asked.hear("hello").await;
            gate.close();
            inner.say("world").await;
            drop(inner);
            let (heard, is_whole) = asked.rest().await;
            assert!(!heard.contains("world"), "{way:?}: {heard}");
            assert!(!is_whole, "{way:?}: it looks complete");
            counts(&activity, 0).await;
        }
    }
}

#[tokio::test]
async fn an_answer_that_has_not_begun_is_not_given() {
    for way in WAYS {
        let Fenced { setting, gate, activity } = fenced(way).await;
        let mut asked = setting.get("/").await;
        let mut inner = setting.accept().await;
        inner.head().await;
        gate.close();
        inner.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!(asked.status().await, Some(503), "{way:?}");
        // And what comes next does not reach it.
        assert_eq!(setting.get("/").await.status().await, Some(503), "{way:?}");
        setting.accepts_nothing().await;
        counts(&activity, 0).await;
    }
}

#[tokio::test]
async fn a_client_of_a_websocket_hears_no_more_of_it() {
    for way in WAYS {
        let Fenced { setting, gate, activity } = fenced(way).await;
        let (mut asked, mut inner) = tunnel(&setting).await;
        inner.say("before").await;
        asked.hear("before").await;
        counts(&activity, 1).await;
        gate.close();
        inner.say("after").await;
        let (heard, _) = asked.rest().await;
        assert_eq!(heard, "", "{way:?}");
        assert_eq!(inner.rest().await, b"");
        counts(&activity, 0).await;
    }
}

#[tokio::test]
async fn a_backend_of_a_websocket_hears_no_more_of_its_client() {
    for way in WAYS {
        let Fenced { setting, gate, activity } = fenced(way).await;
        let (mut asked, mut inner) = tunnel(&setting).await;
        asked.say(b"before").await;
        inner.hear(b"before").await;
        gate.close();
        asked.say(b"after").await;
        assert_eq!(inner.rest().await, b"", "{way:?}");
        let (heard, _) = asked.rest().await;
        assert_eq!(heard, "", "{way:?}");
        counts(&activity, 0).await;
    }
}

#[tokio::test]
async fn an_upload_stops_and_its_client_is_told_to_try_again() {
    for way in WAYS {
        let Fenced { setting, gate, activity } = fenced(way).await;
        let mut asked = setting.ask(Asking::with_body("POST", "/up", 10)).await;
        asked.say(b"hello").await;
        let mut inner = setting.accept().await;
        inner.head().await;
        inner.hear(b"hello").await;
        gate.close();
        asked.say(b"world").await;
        let head = asked.head().await.unwrap();
        assert_eq!((head.status, head.field("retry-after")), (503, Some("1")), "{way:?}");
        assert_eq!(inner.rest().await, b"", "{way:?}");
        counts(&activity, 0).await;
    }
}
