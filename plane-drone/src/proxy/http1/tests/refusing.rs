//! What is malformed or hostile, from either side.

use super::*;

#[tokio::test]
async fn what_is_malformed_is_refused_and_reaches_nobody() {
    let (setting, activity) = Setting::open().await;
    let table = [
        ("GET / HTTP/1.1\r\nHost: b.plane.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: b.plane.test\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: b.plane.test\r\nHost: b.plane.test\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: b.plane.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("GET / HTTP/2.0\r\nHost: b.plane.test\r\n\r\n", 505),
        ("CONNECT b.plane.test:80 HTTP/1.1\r\nHost: b.plane.test\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: b.plane.test\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: other.test\r\nContent-Length: 9\r\n\r\n", 421),
    ];
    for (said, status) in table {
        let mut client = setting.client().await;
        client.say(said).await;
        let answer = client.rest().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{said:?} got {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    // A refusal that needs no body to be skipped leaves the connection open.
    let mut client = setting.client().await;
    client.say("GET / HTTP/1.1\r\nHost: other.test\r\nAccept: application/json\r\n\r\n").await;
    assert!(client.hear_until("}").await.contains("wrong_host"));
    client.say(&request("GET /after", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /after", "", "")).await;
    assert_eq!(activity.in_flight(), 1);
}

#[tokio::test]
async fn chunks_that_go_bad_on_their_way_end_the_request() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Transfer-Encoding: chunked\r\n") + "1\r\nx\r\n")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("1\r\nx\r\n").await;
    client.say("zz\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 400 "));
    assert_eq!(backend.rest().await, "");
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn hostile_answers_are_replaced_or_visibly_cut() {
    let (setting, activity) = Setting::open().await;
    let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(100);
    let wide = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(70_000));
    let replaced = [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b",
        "",
        &wide,
        &flood,
    ];
    for answer in replaced {
        let mut client = setting.client().await;
        client.say(&request("GET /", "")).await;
        let mut backend = setting.accept().await;
        backend.hear_until("\r\n\r\n").await;
        // It may be hung up on.
        let _ = backend.0.write_all(answer.as_bytes()).await;
        drop(backend);
        let heard = client.hear_until("broke off.\n").await;
        assert!(heard.starts_with("HTTP/1.1 502 ") || answer == flood, "{answer:?} got {heard}");
        assert_eq!(heard.matches("HTTP/1.1 502 ").count(), 1, "{heard}");
    }
    for (fields, body, seen) in [
        ("Content-Length: 5\r\n", "abc", "abc"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n", "3\r\nabc\r\n"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\nzz\r\n", ""),
    ] {
        let mut client = setting.client().await;
        client.say(&request("GET /", "")).await;
        let mut backend = setting.accept().await;
        backend.hear_until("\r\n\r\n").await;
        backend.say(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).await;
        client.hear_until("\r\n\r\n").await;
        backend.say(body).await;
        drop(backend);
        assert_eq!(client.rest().await, seen);
    }
    // What a backend says beyond its answer is nobody's answer.
    let mut client = setting.client().await;
    client.say(&request("GET /1", "")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say(&format!("{OK}HTTP/1.1 200 Smuggled\r\nContent-Length: 0\r\n\r\n")).await;
    client.hear(PASSED_OK).await;
    client.say(&request("GET /2", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /2", "", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
}
