//! The server's half of a WebSocket handshake (RFC 6455, section 4.2), over hyper's upgrade.

use std::future::Future;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::routes::{Body, empty, text};

/// An open WebSocket, the server's side.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Accepts the handshake and runs `talk` on the socket; takes the first subprotocol that is offered.
/// A request that is no handshake is told so (426).
pub(crate) fn upgrade<F, Talk>(mut request: Request<Incoming>, talk: F) -> Response<Body>
where
    F: FnOnce(Socket) -> Talk + Send + 'static,
    Talk: Future<Output = ()> + Send,
{
    let asks = request.headers().get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let accept = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let (true, Some(Ok(accept))) = (asks, accept.map(HeaderValue::try_from)) else {
        let mut answer = text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket\n");
        answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return answer;
    };
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let protocol = offered.and_then(|all| all.split(',').next()).and_then(|one| HeaderValue::try_from(one.trim()).ok());

    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            talk(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await).await;
        }
    });

    let mut answer = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    answer
}

/// Sends every text and binary message back; pings are answered below us.
pub(crate) async fn echo(mut socket: Socket) {
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}
