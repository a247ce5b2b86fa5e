//! Interim answers (RFC 9110, section 15.2): they are no answer, but say that one is on its way.

use super::setting::{Setting, WAYS, Way, counts};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// More than one request may have.
const TOO_MANY: usize = 1001;

#[tokio::test]
async fn hundreds_of_interim_answers_come_before_the_answer() {
    for way in WAYS {
        let setting = Setting::patient(way, 30).await;
        setting.open();
        let mut asked = setting.get("/").await;
        let mut inner = setting.accept().await;
        inner.head().await;
        inner.say(&(HINT.repeat(300) + OK)).await;
        let head = asked.head().await.unwrap();
        assert_eq!(head.status, 200, "{way:?}");
        // hyper has no way for them to a client with HTTP/1.1.
        let told = if way == Way::Hyper { 0 } else { 300 };
        assert_eq!(head.interim, vec![103; told], "{way:?}");
        assert_eq!(asked.rest().await, ("ok".to_owned(), true));
    }
}

#[tokio::test]
async fn interim_answers_without_end_end_the_request() {
    for way in WAYS {
        let setting = Setting::patient(way, 30).await;
        let activity = setting.open();
        let long = HINT.replace("/x", &"x".repeat(8000));
        for hints in [HINT.repeat(TOO_MANY), long.repeat(50)] {
            let mut asked = setting.get("/").await;
            let mut inner = setting.accept().await;
            inner.head().await;
            inner.say(&(hints + OK)).await;
            assert_eq!(asked.status().await, Some(502), "{way:?}");
        }
        counts(&activity, 0).await;
    }
}

async fn hints_for(inner: &mut super::setting::Inner, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        inner.say(HINT).await;
        sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn a_backend_that_says_that_it_is_at_work_may_take_longer() {
    for way in WAYS {
        let setting = Setting::patient(way, 1).await;
        setting.open();
        let mut asked = setting.get("/").await;
        let mut inner = setting.accept().await;
        inner.head().await;
        hints_for(&mut inner, Duration::from_secs(3)).await;
        inner.say(OK).await;
        assert_eq!(asked.status().await, Some(200), "{way:?}");
        assert_eq!(asked.rest().await, ("ok".to_owned(), true));
    }
}

#[tokio::test]
async fn it_may_not_take_for_ever() {
    let each = WAYS.map(|way| async move {
        let setting = Setting::patient(way, 1).await;
        let activity = setting.open();
        let (mut asked, began) = (setting.get("/").await, Instant::now());
        let mut inner = setting.accept().await;
        inner.head().await;
        tokio::select! {
            () = hints_for(&mut inner, super::setting::PATIENCE) => panic!("{way:?}: it is waited for still"),
            status = asked.status() => assert_eq!(status, Some(504), "{way:?}"),
        }
        assert!(began.elapsed() >= Duration::from_secs(9), "{way:?}: it ended after {:?}", began.elapsed());
        counts(&activity, 0).await;
    });
    futures_util::future::join_all(each).await;
}
