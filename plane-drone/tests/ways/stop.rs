//! A drone that stops: what is under way comes to its end, and whoever comes next is led elsewhere.

use super::{
    client::{Asking, changes},
    setting::{PATIENCE, Setting, WAYS, Way, counts},
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn an_answer_under_way_comes_whole_and_its_connection_ends() {
    for way in WAYS {
        for has_begun in [true, false] {
            let setting = Setting::patient(way, 30).await;
            let activity = setting.open();
            let mut asked = setting.get("/").await;
            let mut inner = setting.accept().await;
            inner.head().await;
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
            if has_begun {
                inner.say(head).await;
                assert_eq!(asked.status().await, Some(200));
                asked.hear("hello").await;
            }
            let playing = async {
                sleep(Duration::from_millis(1000)).await;
                if has_begun {
                    inner.say("world").await;
                } else {
                    inner.say(&format!("{head}world")).await;
                    let head = asked.head().await.unwrap();
                    assert_eq!(head.status, 200);
                    // With HTTP/2 there is GOAWAY for that.
                    let told = if way == Way::Http2 { None } else { Some("close") };
                    assert_eq!(head.field("connection"), told, "{way:?}");
                }
                let (text, is_whole) = asked.rest().await;
                assert!(text.ends_with("world") && is_whole, "{way:?}: {text}");
                if way == Way::Http2 {
                    assert!(!asked.ask_again("/again").await || asked.status().await.is_none(), "it is served on");
                }
                assert!(asked.is_ended().await, "{way:?}: more comes");
            };
            let (stopped, ()) = tokio::join!(setting.tasks.shut_down(PATIENCE), playing);
            assert!(stopped, "{way:?}: it does not stop");
            counts(&activity, 0).await;
        }
    }
}

#[tokio::test]
async fn a_websocket_goes_on_until_the_deadline() {
    let each = WAYS.map(|way| async move {
        let setting = Setting::patient(way, 30).await;
        let activity = setting.open();
        let mut asked = setting.ask(Asking::websocket("/ws")).await;
        let mut inner = setting.accept().await;
        let head = inner.head().await;
        inner.say(&changes(way, &head)).await;
        assert!(matches!(asked.status().await, Some(101 | 200)));
        let began = Instant::now();
        let talking = async {
            for _ in 0..6 {
                sleep(Duration::from_millis(500)).await;
                asked.say(b"ping").await;
                inner.hear(b"ping").await;
                inner.say("pong").await;
                asked.hear("pong").await;
            }
            asked.rest().await;
            assert!(began.elapsed() >= Duration::from_secs(4), "{way:?}: it ended after {:?}", began.elapsed());
            inner.rest().await;
        };
        let (stopped, ()) = tokio::join!(setting.tasks.shut_down(PATIENCE), talking);
        assert!(stopped, "{way:?}: it does not stop");
        counts(&activity, 0).await;
    });
    futures_util::future::join_all(each).await;
}
