//! What passes, and in which form: requests, bodies, answers.

use super::*;

#[tokio::test]
async fn requests_follow_each_other_on_both_connections() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    // The second comes before the first is answered, the third byte by byte.
    client.say(&(request("GET /1", "") + &request("GET /2", "A: b\r\n"))).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /1", "", "")).await;
    assert_eq!(activity.in_flight(), 1);
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    backend.hear(&passed("GET /2", "A: b\r\n", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
    for byte in request("GET /3", "").chars() {
        client.say(&byte.to_string()).await;
    }
    backend.hear(&passed("GET /3", "", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn bodies_and_trailers_go_both_ways() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Content-Length: 5\r\n") + "he")).await;
    let mut backend = setting.accept().await;
    backend.hear(&(passed("POST /", "", "content-length: 5\r\n") + "he")).await;
    client.say("lloGET").await;
    backend.hear("llo").await;
    backend.say("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n").await;
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\nx-plane-backend-id: b\r\ntransfer-encoding: chunked\r\n\r\n";
    client.hear(&(head.to_owned() + "3\r\nabc\r\n")).await;
    backend.say("02\r\nde\r\n0\r\nSum: 1\r\nContent-Length: 5\r\n\r\n").await;
    client.hear("2\r\nde\r\n0\r\nSum: 1\r\n\r\n").await;
    client
        .say(" / HTTP/1.1\r\nHost: b.plane.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nT: u\r\n\r\n")
        .await;
    backend.hear(&(passed("GET /", "", "transfer-encoding: chunked\r\n") + "1\r\nx\r\n0\r\nT: u\r\n\r\n")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn old_clients_get_what_they_can_read() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say("GET / HTTP/1.0\r\nHost: b.plane.test\r\nConnection: keep-alive\r\n\r\n").await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /", "", "")).await;
    backend.say(OK).await;
    client.hear(&PASSED_OK.replace("\r\n\r\n", "\r\nconnection: keep-alive\r\n\r\n")).await;
    client.say("GET / HTTP/1.0\r\nHost: b.plane.test\r\nConnection: keep-alive\r\n\r\n").await;
    backend.hear(&passed("GET /", "", "")).await;
    backend.say("HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    backend.say("3\r\nabc\r\n0\r\n\r\n").await;
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\nx-plane-backend-id: b\r\nconnection: close\r\n\r\n";
    assert_eq!(client.rest().await, format!("{head}abc"));
}

#[tokio::test]
async fn an_old_client_does_not_take_a_part_for_the_whole() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say("GET / HTTP/1.0\r\nHost: b.plane.test\r\n\r\n").await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhal\r\n").await;
    client.hear_until("hal").await;
    drop(backend);
    let end = within(client.0.read(&mut [0])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn interim_responses_pass_and_bodies_are_asked_for() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("PUT /", "Content-Length: 2\r\nExpect: 100-continue\r\n")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("PUT /", "", "content-length: 2\r\n")).await;
    client.hear("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.say("hi").await;
    backend.hear("hi").await;
    backend.say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    client.hear("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
}

#[tokio::test]
async fn an_answer_may_come_before_its_request_is_complete() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Content-Length: 100\r\n") + "some")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("some").await;
    backend.say(OK).await;
    client.say("more").await;
    assert_eq!(client.rest().await, PASSED_OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
    nobody_is_connected(&activity).await;
    // And so may a stream that lasts as long as its request.
    let mut client = setting.client().await;
    client.say(&request("POST /", "Transfer-Encoding: chunked\r\n")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.hear_until("\r\n\r\n").await;
    for _ in 0..3 {
        client.say("4\r\nping\r\n").await;
        backend.hear("4\r\nping\r\n").await;
        backend.say("4\r\npong\r\n").await;
        client.hear("4\r\npong\r\n").await;
    }
    client.say("0\r\n\r\n").await;
    backend.hear("0\r\n\r\n").await;
    backend.say("0\r\n\r\n").await;
    client.hear("0\r\n\r\n").await;
    client.say(&request("GET /", "")).await;
    backend.hear(&passed("GET /", "", "")).await;
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("HEAD /", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("HEAD /", "", "")).await;
    backend.say("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\n").await;
    client.hear(PASSED_OK.strip_suffix("ok").unwrap()).await;
    for status in ["204 No Content", "304 Not Modified"] {
        client.say(&request("GET /", "")).await;
        backend.hear(&passed("GET /", "", "")).await;
        backend.say(&format!("HTTP/1.1 {status}\r\nDate: x\r\n\r\n")).await;
        client.hear(&format!("HTTP/1.1 {status}\r\nDate: x\r\nx-plane-backend-id: b\r\n\r\n")).await;
    }
    // Without a length, an answer ends with its connection.
    client.say(&request("GET /", "")).await;
    backend.hear(&passed("GET /", "", "")).await;
    backend.say("HTTP/1.1 200 OK\r\nDate: x\r\n\r\nall").await;
    drop(backend);
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\nx-plane-backend-id: b\r\ntransfer-encoding: chunked\r\n\r\n";
    client.hear(&format!("{head}3\r\nall\r\n0\r\n\r\n")).await;
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let (setting, activity) = Setting::open().await;
    let body: Vec<u8> = (0..5_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut client = setting.client().await;
    let (mut reading, mut writing) = client.0.split();
    let backend = setting.accept();
    let asking = async {
        let head = request("POST /", &format!("Content-Length: {}\r\n", body.len()));
        writing.write_all(head.as_bytes()).await.unwrap();
        writing.write_all(&body).await.unwrap();
    };
    let answering = async {
        let mut backend = backend.await;
        backend.hear_until("\r\n\r\n").await;
        let (mut from, mut to) = backend.0.split();
        to.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await.unwrap();
        tokio::io::copy(&mut (&mut from).take(body.len() as u64), &mut to).await.unwrap();
    };
    let hearing = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(reading.read_u8().await.unwrap());
        }
        let mut heard = vec![0; body.len()];
        reading.read_exact(&mut heard).await.unwrap();
        assert!(heard == body, "the body is another");
    };
    within(async { tokio::join!(asking, answering, hearing) }).await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn a_request_waits_for_its_backend_with_all_that_it_brought() {
    let setting = Setting::new().await;
    setting.routes.wait_for(&"b".parse().unwrap(), None, None);
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Content-Length: 4\r\n") + "bo")).await;
    client.say("dy").await;
    let activity = setting.open_route();
    let mut backend = setting.accept().await;
    backend.hear(&(passed("POST /", "", "content-length: 4\r\n") + "body")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
}
