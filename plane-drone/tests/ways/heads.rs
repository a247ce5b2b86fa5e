//! Heads that are refused whichever way they come.

use super::{
    client::Asking,
    setting::{Setting, WAYS},
};

#[tokio::test]
async fn what_is_expected_beyond_what_http_has_is_refused() {
    for way in WAYS {
        let setting = Setting::patient(way, 30).await;
        setting.open();
        let mut asked = setting.ask(Asking::of("GET", "/").field("expect", "a-miracle")).await;
        assert_eq!(asked.status().await, Some(417), "{way:?}");
        setting.accepts_nothing().await;
    }
}

#[tokio::test]
async fn a_second_host_that_is_none_is_refused() {
    for way in WAYS {
        let setting = Setting::patient(way, 30).await;
        setting.open();
        let mut asked = setting.ask(Asking::of("GET", "/").field("host", "a b/evil?x")).await;
        assert_eq!(asked.status().await, Some(400), "{way:?}");
        setting.accepts_nothing().await;
    }
}
