//! How requests and connections end before their time: who leaves, what takes too long, and a drone that stops.

use super::*;

#[tokio::test]
async fn who_leaves_is_noticed_while_the_backend_is_silent() {
    let (setting, activity) = Setting::open().await;
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"] {
        let mut client = setting.client().await;
        client.say(&(request("GET /events", "") + &request("GET /next", ""))).await;
        let mut backend = setting.accept().await;
        backend.hear_until("\r\n\r\n").await;
        backend.say(answer).await;
        if !answer.is_empty() {
            client.hear_until("data: 1\n\n\r\n").await;
        }
        assert_eq!(activity.in_flight(), 1);
        drop(client);
        nobody_is_connected(&activity).await;
        assert_eq!(backend.rest().await, "");
    }
}

#[tokio::test]
async fn who_leaves_is_noticed_behind_more_requests_than_are_read() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("GET /events", "")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    let most = LimitsConfig::default().header_bytes as usize;
    client.say(&request("GET /next", "").repeat(most * 5 / 4 / request("GET /next", "").len())).await;
    assert_eq!(activity.in_flight(), 1);
    drop(client);
    nobody_is_connected(&activity).await;
    assert_eq!(backend.rest().await, "");
    // Who stays gets all answers.
    let mut client = setting.client().await;
    client.say(&request("GET /first", "")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    let count = most * 5 / 4 / request("GET /next", "").len();
    client.say(&request("GET /next", "").repeat(count)).await;
    for _ in 0..count {
        backend.say(OK).await;
        client.hear(PASSED_OK).await;
        backend.hear(&passed("GET /next", "", "")).await;
    }
}

#[tokio::test]
async fn a_closed_connection_is_replaced_if_the_request_may_be_sent_again() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("GET /1", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /1", "", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    // It takes the next request and goes away without a word.
    client.say(&request("GET /2", "")).await;
    backend.hear(&passed("GET /2", "", "")).await;
    drop(backend);
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /2", "", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    client.say(&(request("POST /3", "Content-Length: 1\r\n") + "x")).await;
    backend.hear_until("\r\n\r\nx").await;
    drop(backend);
    assert!(client.hear_until("\r\n\r\n").await.starts_with("HTTP/1.1 502 "));
    // One that is fresh is not tried twice.
    let mut client = setting.client().await;
    client.say(&request("GET /4", "")).await;
    drop(setting.accept().await);
    assert!(client.hear_until("\r\n\r\n").await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn what_takes_too_long_is_given_up() {
    let limits = LimitsConfig { body_secs: 1, header_secs: 1, idle_secs: 1, body_bytes: 10, ..LimitsConfig::default() };
    let setting =
        Setting::with(ProxyConfig { answer_secs: 1, start_wait_secs: 1, limits, ..ProxyConfig::default() }).await;
    let activity = setting.open_route();
    for (said, status) in [
        (request("GET /", ""), "504"),
        (request("POST /", "Content-Length: 5\r\n") + "x", "408"),
        (request("POST /", "Content-Length: 11\r\n"), "413"),
        (request("POST /", "Transfer-Encoding: chunked\r\n") + "c\r\n0123456789ab\r\n", "413"),
    ] {
        let mut client = setting.client().await;
        client.say(&said).await;
        let heard = client.hear_until("\r\n\r\n").await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{said:?} got {heard}");
        nobody_is_connected(&activity).await;
    }
    for said in ["", "GET / HT"] {
        let mut client = setting.client().await;
        client.say(said).await;
        client.rest().await;
    }
    setting.routes.wait_for(&"b".parse().unwrap(), None, None);
    let mut client = setting.client().await;
    client.say(&request("GET /", "")).await;
    assert!(client.hear_until("\r\n\r\n").await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn what_stalls_behind_a_request_or_its_answer_is_ended() {
    let limits = LimitsConfig { body_secs: 1, header_secs: 1, idle_secs: 1, ..LimitsConfig::default() };
    let setting = Setting::with(ProxyConfig { limits, ..ProxyConfig::default() }).await;
    let activity = setting.open_route();
    // What came behind a request is the next head's beginning, and an empty line is none.
    for (left, end) in [("GET / HT", "HTTP/1.1 408 "), ("\r\n", "")] {
        let mut client = setting.client().await;
        client.say(&(request("GET /", "") + left)).await;
        let mut backend = setting.accept().await;
        backend.hear_until("\r\n\r\n").await;
        backend.say(OK).await;
        client.hear(PASSED_OK).await;
        drop(backend);
        let rest = client.rest().await;
        assert!(rest.starts_with(end) && rest.is_empty() == end.is_empty(), "{left:?} got {rest}");
    }
    // An upload that stalls once its answer has begun.
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Content-Length: 5\r\n") + "x")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\nx").await;
    backend.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    client.hear_until("1\r\na\r\n").await;
    client.rest().await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_says_so() {
    let (setting, _) = Setting::open().await;
    let (mut client, mut idle) = (setting.client().await, setting.client().await);
    idle.say(&request("GET /", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /", "", "")).await;
    backend.say(OK).await;
    idle.hear(PASSED_OK).await;
    client.say(&request("GET /", "")).await;
    backend.hear(&passed("GET /", "", "")).await;
    let tasks = setting.tasks.clone();
    let stopping = tokio::spawn(async move { tasks.shut_down(PATIENCE).await });
    assert_eq!(idle.rest().await, "");
    backend.say(OK).await;
    assert_eq!(client.rest().await, PASSED_OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
    assert!(within(stopping).await.unwrap());
}

#[tokio::test]
async fn a_stop_does_not_wait_long_for_the_rest_of_a_head() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("GET /", "")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    client.say("GET / HTTP/1.1\r\nHost: b.pl").await;
    let tasks = setting.tasks.clone();
    let stopping = tokio::spawn(async move { tasks.shut_down(PATIENCE).await });
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(within(stopping).await.unwrap());
}
