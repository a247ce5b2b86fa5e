//! Clients that are slow or silent, by want of means or of good will: each has its time, then its connection ends, and
//! others are served all the while.

use super::{
    backend::{After, Event, HOSTILE, Script},
    case::NEXT,
    client::{Client, Pace},
    grammar::Fault,
    run::get,
    setting::{Http1, IMPLEMENTATIONS, Open, Setting},
};
use serde_json::{Value, json};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// What the limits are set to where one matters.
const LIMIT: Duration = Duration::from_secs(1);
/// Time is kept by a coarse clock, and the machine may be busy: an end may come so much later.
const LATE: Duration = Duration::from_secs(4);
/// How long others may wait.
const OTHERS: Duration = Duration::from_secs(1);
/// How much a client sends or takes now and then that is slow, but alive.
const NOW_AND_THEN: Duration = Duration::from_millis(300);

/// Runs a client with each implementation, with others beside it.
async fn each<F: Future<Output = ()>>(
    limits: Value,
    script: Option<Script>,
    client: impl Fn(Client, Open, Http1) -> F,
) {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1, json!({ "limits": limits })).await;
        let open = setting.backend("b", script.clone()).await;
        let others = async {
            loop {
                let began = Instant::now();
                let mut other = Client::connect(setting.proxy).await;
                other.send(&get(NEXT, &open.host), Pace::Whole).await;
                assert_eq!(other.reply("GET").await.unwrap().status, 200, "another is not served");
                assert!(began.elapsed() < OTHERS, "another waited {:?}", began.elapsed());
                sleep(Duration::from_millis(50)).await;
            }
        };
        let slow = client(Client::connect(setting.proxy).await, open.clone(), http1);
        tokio::select! {
            () = slow => {}
            () = others => {}
        }
        open.calm().await.unwrap();
    }
}

fn only_others(open: &Open) -> bool {
    open.backend.events().iter().all(|event| event.is_for(NEXT))
}

/// The connection ends in its time, with 408 or without a word; gives which.
async fn ends(client: &mut Client, began: Instant) -> Option<u16> {
    let reply = timeout(LIMIT + LATE, client.reply("GET")).await.expect("it is waited for longer");
    assert!(began.elapsed() >= LIMIT, "it ended after {:?}", began.elapsed());
    let status = match reply {
        Ok(reply) => Some(reply.status),
        Err(Fault::Ended) => return None,
        Err(fault) => panic!("{fault:?}"),
    };
    assert_eq!(client.closed_within(LATE).await, Ok(Vec::new()));
    status
}

/// As [`ends`], within a head. hyper may close without a word, as RFC 9110, section 15.5.9, allows.
async fn head_ends(client: &mut Client, began: Instant, http1: Http1) {
    let status = ends(client, began).await;
    assert!(status == Some(408) || (http1 == Http1::Hyper && status.is_none()), "{status:?}");
}

#[tokio::test]
async fn a_head_byte_by_byte() {
    each(json!({ "header_secs": 1 }), None, |mut client, open, http1| async move {
        let began = Instant::now();
        let head = format!("GET / HTTP/1.1\r\nHost: {}\r\nX: {}\r\n\r\n", open.host, "y".repeat(100));
        assert!(!client.trickle(head.as_bytes(), NOW_AND_THEN).await, "it was let have its time");
        head_ends(&mut client, began, http1).await;
        assert!(only_others(&open));
    })
    .await;
}

#[tokio::test]
async fn a_head_that_does_not_go_on() {
    each(json!({ "header_secs": 1 }), None, |mut client, open, http1| async move {
        let began = Instant::now();
        client.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n", open.host).as_bytes(), Pace::Whole).await;
        head_ends(&mut client, began, http1).await;
        assert!(only_others(&open));
    })
    .await;
}

#[tokio::test]
async fn a_second_head_that_does_not_go_on() {
    each(json!({ "header_secs": 1 }), None, |mut client, open, http1| async move {
        client.send(&get(NEXT, &open.host), Pace::Whole).await;
        assert_eq!(client.reply("GET").await.unwrap().status, 200);
        let began = Instant::now();
        client.send(b"GET / HTT", Pace::Whole).await;
        head_ends(&mut client, began, http1).await;
        assert!(only_others(&open));
    })
    .await;
}

#[tokio::test]
async fn silence_from_the_beginning() {
    each(json!({ "header_secs": 1, "idle_secs": 1 }), None, |mut client, open, _| async move {
        let began = Instant::now();
        assert_eq!(ends(&mut client, began).await, None);
        assert!(only_others(&open));
    })
    .await;
}

#[tokio::test]
async fn silence_behind_an_answer() {
    each(json!({ "idle_secs": 1 }), None, |mut client, open, _| async move {
        client.send(&get(NEXT, &open.host), Pace::Whole).await;
        assert_eq!(client.reply("GET").await.unwrap().status, 200);
        let began = Instant::now();
        assert_eq!(ends(&mut client, began).await, None);
    })
    .await;
}

#[tokio::test]
async fn empty_lines_keep_no_connection() {
    each(json!({ "header_secs": 1, "idle_secs": 1 }), None, |mut client, open, _| async move {
        for begins in [false, true] {
            if begins {
                client = Client::connect(open.proxy).await;
                client.send(&get(NEXT, &open.host), Pace::Whole).await;
                assert_eq!(client.reply("GET").await.unwrap().status, 200);
            }
            let began = Instant::now();
            while client.trickle(b"\r\n", NOW_AND_THEN / 4).await {
                assert!(began.elapsed() < LIMIT + LATE, "empty lines keep it");
            }
            ends(&mut client, began).await;
        }
        assert!(only_others(&open));
    })
    .await;
}

#[tokio::test]
async fn requests_in_time_keep_a_connection() {
    each(json!({ "idle_secs": 2, "header_secs": 2 }), None, |mut client, open, _| async move {
        for _ in 0..5 {
            client.send(&get(NEXT, &open.host), Pace::Whole).await;
            assert_eq!(client.reply("GET").await.unwrap().status, 200);
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_does_not_go_on() {
    for (fields, piece) in [("Content-Length: 100\r\n", "hello"), ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n")]
    {
        each(json!({ "body_secs": 1 }), None, |mut client, open, _| async move {
            let began = Instant::now();
            let head = format!("POST /slow HTTP/1.1\r\nHost: {}\r\n{fields}\r\n{piece}", open.host);
            client.send(head.as_bytes(), Pace::Whole).await;
            assert_eq!(ends(&mut client, began).await, Some(408));
            assert!(!open.backend.events().iter().any(|event| event.is_for("/slow")), "the backend saw its end");
        })
        .await;
    }
}

#[tokio::test]
async fn a_body_that_goes_on_slowly() {
    each(json!({ "body_secs": 1 }), None, |mut client, open, _| async move {
        let head = format!("POST /slow HTTP/1.1\r\nHost: {}\r\nContent-Length: 10\r\n\r\n", open.host);
        client.send(head.as_bytes(), Pace::Whole).await;
        assert!(client.trickle(b"012345678", NOW_AND_THEN).await, "it was cut");
        client.send(b"9", Pace::Whole).await;
        assert_eq!(client.reply("POST").await.unwrap().answers().unwrap(), "POST /slow 10");
    })
    .await;
}

/// What is taken now and then: more than the kernel holds back before it lets more come, in bytes.
const PORTION: usize = 6 << 20;

/// An answer that no buffer on the way has room for.
fn large() -> Script {
    let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n".to_vec();
    bytes.resize(100_000_000, b'x');
    Script { bytes, times: 1, after: After::Close }
}

#[tokio::test]
async fn an_answer_that_is_not_taken() {
    each(json!({ "send_secs": 1 }), Some(large()), |mut client, open, _| async move {
        client.send(&get(HOSTILE, &open.host), Pace::Whole).await;
        while !open.backend.events().iter().any(|event| event.is_for(HOSTILE)) {
            sleep(Duration::from_millis(10)).await;
        }
        // Others come and go beside it.
        let over = timeout(LIMIT + LATE, async { while stays(&open).await {} });
        over.await.expect("it still counts as connected");
        let cut = client.reply("GET").await;
        assert!(cut.as_ref().is_ok_and(|reply| !reply.whole), "it came whole");
    })
    .await;
}

/// Whether somebody is connected for a while without a break.
async fn stays(open: &Open) -> bool {
    for _ in 0..100 {
        if open.connected() == 0 {
            return false;
        }
        sleep(Duration::from_millis(5)).await;
    }
    true
}

#[tokio::test]
async fn an_answer_that_is_taken_slowly() {
    each(json!({ "send_secs": 1 }), Some(large()), |mut client, open, _| async move {
        client.send(&get(HOSTILE, &open.host), Pace::Whole).await;
        let began = Instant::now();
        while began.elapsed() < LIMIT * 4 {
            let mut taken = 0;
            while taken < PORTION {
                taken += client.take_some().await.expect("it was cut");
            }
            sleep(NOW_AND_THEN).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgraded_connection_may_be_silent() {
    let bytes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec();
    let script = Script { bytes, times: 1, after: After::Stay };
    let limits = json!({ "idle_secs": 1, "header_secs": 1, "body_secs": 1, "send_secs": 1 });
    each(limits, Some(script), |mut client, open, _| async move {
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        let head = format!("GET {HOSTILE} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", open.host);
        client.send(head.as_bytes(), Pace::Whole).await;
        assert_eq!(client.reply("GET").await.unwrap().status, 101);
        assert!(!client.stirs_within(LIMIT * 4).await, "it was cut");
        assert!(open.connected() >= 1);
    })
    .await;
}

#[tokio::test]
async fn handshakes_that_do_not_go_on() {
    let setting = Setting::start_for_handshakes(json!({ "limits": { "handshake_secs": 1 } }));
    let began = Instant::now();
    let mut silent = Client::connect(setting.https.unwrap()).await;
    let mut slow = Client::connect(setting.https.unwrap()).await;
    // The head of a record that announces more than comes.
    assert!(!slow.trickle(&[[0x16, 3, 1, 2, 0, 1, 0, 1].as_slice(), &[0; 100]].concat(), NOW_AND_THEN).await);
    for client in [&mut silent, &mut slow] {
        client.closed_within(LIMIT + LATE).await.unwrap();
    }
    assert!((LIMIT..LIMIT + LATE).contains(&began.elapsed()), "they ended after {:?}", began.elapsed());
}

#[tokio::test]
async fn thousands_that_are_silent() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1, json!({})).await;
        let open = setting.backend("b", None).await;
        let mut silent = Vec::new();
        for number in 0..2000 {
            silent.push(Client::connect(setting.proxy).await);
            if number % 100 == 0 {
                let mut other = Client::connect(setting.proxy).await;
                other.send(&get(NEXT, &open.host), Pace::Whole).await;
                let reply = timeout(OTHERS, other.reply("GET")).await.expect("another waits");
                assert_eq!(reply.unwrap().status, 200);
            }
        }
    }
}

#[tokio::test]
async fn the_places_of_silent_ones_come_free() {
    for http1 in IMPLEMENTATIONS {
        let limits = json!({ "connections": 20, "idle_secs": 1, "header_secs": 1 });
        let setting = Setting::start(http1, json!({ "limits": limits })).await;
        let open = setting.backend("b", None).await;
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(Client::connect(setting.proxy).await);
        }
        let began = Instant::now();
        loop {
            let mut client = Client::connect(setting.proxy).await;
            client.send(&get(NEXT, &open.host), Pace::Whole).await;
            if client.reply("GET").await.is_ok_and(|reply| reply.status == 200) {
                break;
            }
            assert!(began.elapsed() < LATE * 5, "nobody is served any more");
        }
    }
}

#[tokio::test]
async fn one_address_has_its_share_alone() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1, json!({ "limits": { "connections_per_address": 3 } })).await;
        let open = setting.backend("b", None).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Client::connect(setting.proxy).await;
            client.send(&get(NEXT, &open.host), Pace::Whole).await;
            assert_eq!(client.reply("GET").await.unwrap().status, 200);
            clients.push(client);
        }
        let mut beyond = Client::connect(setting.proxy).await;
        beyond.send(&get("/beyond", &open.host), Pace::Whole).await;
        let refused = beyond.reply("GET").await;
        assert!(refused.as_ref().is_err() || refused.is_ok_and(|reply| reply.status == 503), "it was served");
        clients.pop();
        let began = Instant::now();
        loop {
            let mut client = Client::connect(setting.proxy).await;
            client.send(&get(NEXT, &open.host), Pace::Whole).await;
            if client.reply("GET").await.is_ok_and(|reply| reply.status == 200) {
                break;
            }
            assert!(began.elapsed() < LATE, "a place that came free is not given away");
        }
        assert!(!open.backend.events().iter().any(|event| event.is_for("/beyond")));
    }
}

#[tokio::test]
async fn bodies_that_are_too_large() {
    let chunked =
        |size: usize| format!("Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
    let sized = |size: usize| format!("Content-Length: {size}\r\n\r\n{}", "x".repeat(size));
    let table = [
        (sized(1000), 200),
        (chunked(1000), 200),
        (sized(1001), 413),
        (chunked(1001), 413),
        ("Content-Length: 1000000000000\r\n\r\n".to_owned(), 413),
        ("Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n".to_owned(), 413),
    ];
    for (number, (rest, status)) in table.iter().enumerate() {
        each(json!({ "body_bytes": 1000 }), None, |mut client, open, _| async move {
            let path = format!("/{number}");
            client.send(format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{rest}", open.host).as_bytes(), Pace::Whole).await;
            let reply = client.reply("POST").await.unwrap();
            assert_eq!(reply.status, *status, "{number}: {reply:?}");
            assert!(reply.interim.is_empty(), "{number}: it was told to go on");
            let whole = open.backend.events().iter().any(|event| event.is_for(&path));
            assert_eq!(whole, *status == 200, "{number}");
            let broken = open.backend.events().iter().any(|event| matches!(event, Event::Violation(_)));
            assert!(!broken, "{number}");
        })
        .await;
    }
}
