//! Connections that change to another protocol.

use super::*;

#[tokio::test]
async fn protocols_are_offered_and_chosen_from_as_the_client_says() {
    let (setting, _) = Setting::open().await;
    let asks = "Connection: Upgrade\r\nUpgrade: a/1, h2c\r\nUpgrade: b\r\n";
    for (chosen, is_taken) in [("B", true), ("a/1, b", true), ("c", false), ("b, c", false), ("h2c", false)] {
        let mut client = setting.client().await;
        client.say(&request("GET /ws", asks)).await;
        let mut backend = setting.accept().await;
        backend.hear(&passed("GET /ws", "", "connection: upgrade\r\nupgrade: a/1, b\r\n")).await;
        backend.say(&format!("HTTP/1.1 101 S\r\nUpgrade: {chosen}\r\nConnection: upgrade\r\n\r\nhello")).await;
        let head = client.hear_until("\r\n\r\n").await;
        if is_taken {
            assert!(
                head.starts_with("HTTP/1.1 101 ") && head.contains(&format!("\r\nupgrade: {chosen}\r\n")),
                "{head}"
            );
            client.hear("hello").await;
        } else {
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        }
    }
}

#[tokio::test]
async fn upgraded_connections_carry_anything_and_count_until_they_end() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    let asks = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
    client.say(&(request("GET /ws", asks) + "early")).await;
    let mut backend = setting.accept().await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    backend.hear(&passed("GET /ws", "Sec-WebSocket-Key: k\r\n", upgrade)).await;
    let switching = "HTTP/1.1 101 Switching Protocols\r\nDate: x\r\n";
    backend.say(&format!("{switching}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")).await;
    client.hear(&format!("{switching}x-plane-backend-id: b\r\n{upgrade}\r\nhello")).await;
    backend.hear("early").await;
    client.say("\x01\0ping").await;
    backend.hear("\x01\0ping").await;
    assert_eq!(activity.in_flight(), 1);
    client.0.shutdown().await.unwrap();
    assert_eq!(backend.rest().await, "");
    backend.say("bye").await;
    drop(backend);
    assert_eq!(client.rest().await, "bye");
    nobody_is_connected(&activity).await;
    // A backend that declines answers as to any request, and one that changes unasked is not believed.
    let mut client = setting.client().await;
    client.say(&request("GET /ws", asks)).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    client.say(&request("GET /", "")).await;
    backend.hear_until("\r\n\r\n").await;
    backend.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n").await;
    assert!(client.hear_until("\r\n\r\n").await.starts_with("HTTP/1.1 502 "));
}
