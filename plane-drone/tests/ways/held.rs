//! Requests that are held for a backend that starts, and the page that is shown meanwhile.

use super::{
    client::{Asked, Asking},
    setting::{PATIENCE, Setting, WAYS, backend, counts},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use plane_core::{chance::Chance, id::BearerToken};
use plane_drone::config::proxy::{LimitsConfig, ProxyConfig};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// What tells programs why.
const JSON: &str = "application/json";
/// What browsers say of what they want.
const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";
/// Who is held is not answered for so long.
const HELD: Duration = Duration::from_millis(500);

/// The status and the code of a refusal.
async fn refusal(mut asked: Asked) -> (Option<u16>, String) {
    let status = asked.status().await;
    (status, asked.rest().await.0)
}

/// Answers one request.
async fn serve(setting: &Setting) {
    let mut inner = setting.accept().await;
    inner.head().await;
    inner.say(OK).await;
}

fn asking<'a>() -> Asking<'a> {
    Asking::of("GET", "/").field("accept", JSON)
}

#[tokio::test]
async fn the_token_is_looked_at_before_a_request_is_held() {
    for way in WAYS {
        let limits = LimitsConfig { held_per_backend: 1, ..LimitsConfig::default() };
        let setting = Setting::limited(way, limits).await;
        let (token, other) = (BearerToken::drawn(&Chance::system()), BearerToken::drawn(&Chance::system()));
        setting.routes.wait_for(&backend(), Some(token.clone()), None);
        let mut held = setting.ask(asking().field("authorization", format!("Bearer {}", token.expose()))).await;
        // Who has no token is not told either that others wait.
        for _ in 0..3 {
            assert_eq!(refusal(setting.ask(asking()).await).await.0, Some(401), "{way:?}");
            let wrong = asking().field("authorization", format!("Bearer {}", other.expose()));
            assert_eq!(refusal(setting.ask(wrong).await).await.0, Some(403), "{way:?}");
        }
        setting.open_as(Some(token), None);
        let (status, ()) = tokio::join!(held.status(), serve(&setting));
        assert_eq!(status, Some(200), "{way:?}");
    }
}

#[tokio::test]
async fn a_place_is_free_again_when_who_waited_leaves() {
    for way in WAYS {
        let limits = LimitsConfig { held_per_backend: 1, ..LimitsConfig::default() };
        let setting = Setting::limited(way, limits).await;
        setting.routes.wait_for(&backend(), None, None);
        let first = setting.ask(asking()).await;
        let began = Instant::now();
        let mut taken = false;
        // While the first one has the place, there is none for another; then there is.
        let mut first = Some(first);
        let mut second = loop {
            assert!(
                began.elapsed() < PATIENCE,
                "{way:?}: the place is {}",
                if taken { "not free" } else { "not taken" }
            );
            let mut asked = setting.ask(asking()).await;
            match timeout(HELD, asked.head()).await {
                Ok(head) => {
                    assert_eq!(head.map(|head| head.status), Some(503));
                    assert!(asked.rest().await.0.contains("overloaded"));
                    taken = true;
                    first = None;
                }
                // The first one may have been slower than this one.
                Err(_) if !taken => drop(first.take()),
                Err(_) => break asked,
            }
        };
        let activity = setting.open();
        let (status, ()) = tokio::join!(second.status(), serve(&setting));
        assert_eq!(status, Some(200), "{way:?}");
        counts(&activity, 0).await;
    }
}

#[tokio::test]
async fn a_hundred_are_held_and_no_more() {
    for way in WAYS {
        let setting = Setting::start(way, ProxyConfig { start_wait_secs: 60, ..ProxyConfig::default() }).await;
        setting.routes.wait_for(&backend(), None, None);
        let mut waiting = FuturesUnordered::new();
        for _ in 0..101 {
            waiting.push(refusal(setting.ask(asking()).await));
        }
        let (status, text) = timeout(PATIENCE, waiting.next()).await.expect("one is refused").unwrap();
        assert!(status == Some(503) && text.contains("overloaded"), "{way:?}: {status:?} {text}");
        assert!(timeout(HELD, waiting.next()).await.is_err(), "{way:?}: fewer are held");
        let activity = setting.open();
        let serving = async {
            for _ in 0..100 {
                serve(&setting).await;
            }
        };
        let all = async {
            let mut served = 0;
            while let Some((status, text)) = waiting.next().await {
                assert_eq!((status, text.as_str()), (Some(200), "ok"), "{way:?}");
                served += 1;
            }
            served
        };
        let ((), served) = tokio::join!(serving, all);
        assert_eq!(served, 100);
        counts(&activity, 0).await;
    }
}

#[tokio::test]
async fn who_waits_when_the_drone_stops_is_told_so() {
    for way in WAYS {
        let setting = Setting::start(way, ProxyConfig { start_wait_secs: 60, ..ProxyConfig::default() }).await;
        setting.routes.wait_for(&backend(), None, None);
        let mut held = setting.ask(asking()).await;
        assert!(timeout(HELD, held.head()).await.is_err(), "{way:?}: it is not held");
        let began = Instant::now();
        let (stopped, (status, text)) = tokio::join!(setting.tasks.shut_down(PATIENCE), refusal(held));
        assert!(status == Some(503) && text.contains("draining"), "{way:?}: {status:?} {text}");
        assert!(stopped && began.elapsed() < Duration::from_secs(4), "{way:?}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn the_time_in_which_a_request_was_held_is_not_its_backends() {
    for way in WAYS {
        let setting = Setting::patient(way, 1).await;
        setting.routes.wait_for(&backend(), None, None);
        let mut asked = setting.ask(asking()).await;
        sleep(Duration::from_millis(2500)).await;
        setting.open();
        let serving = async {
            let mut inner = setting.accept().await;
            inner.head().await;
            sleep(Duration::from_millis(600)).await;
            inner.say(OK).await;
        };
        let (status, ()) = tokio::join!(asked.status(), serving);
        assert_eq!(status, Some(200), "{way:?}");
    }
}

#[tokio::test]
async fn who_looks_at_the_page_that_waits_learns_that_the_backend_has_failed() {
    for way in WAYS {
        let own = ProxyConfig { waiting_page: true, start_wait_secs: 60, ..ProxyConfig::default() };
        let setting = Setting::start(way, own).await;
        setting.routes.wait_for(&backend(), None, None);
        let page = || Asking::of("GET", "/").field("accept", HTML);
        let (status, text) = refusal(setting.ask(page()).await).await;
        assert!(status == Some(503) && text.contains("fetch(location.href"), "{way:?}: {status:?} {text}");
        // What the page asks, and is answered once there is something to say.
        let mut asks = setting.ask(Asking::of("HEAD", "/")).await;
        assert!(timeout(HELD, asks.head()).await.is_err(), "{way:?}: it is not held");
        setting.routes.close(&backend());
        assert_eq!(asks.status().await, Some(502), "{way:?}");
        // Then the page is loaded anew.
        let (status, text) = refusal(setting.ask(page()).await).await;
        assert!(status == Some(410) && text.contains("<h1>This backend has ended.</h1>"), "{way:?}: {status:?} {text}");
    }
}
