//! What a person's browser does with a backend behind the proxy, through TLS and HTTP/2: pages, sockets, files, events,
//! the token's cookie, the page that waits, and pages inside of pages of other sites.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::id::BearerToken;
use plane_dev::harness::{Browser, Cluster, PATIENCE, Settings, self_signed};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Instant;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// How long a file is that goes up or down, in bytes.
const FILE: usize = 20_000_000;
/// Less than a browser's window for one stream (6 MiB in Chromium).
const PART: usize = 4_000_000;
/// More events at once than a browser opens connections of HTTP/1.1 to a host.
const STREAMS: usize = 20;

/// The status of the page that is open. What refuses a request does not let scripts ask for more.
const ANSWERED: &str = "performance.getEntriesByType('navigation')[0].responseStatus";

async fn start(proxy: &str) -> (Cluster, Browser) {
    let settings = Settings { https: true, proxy: proxy.to_owned(), ..Settings::default() };
    let (cluster, browser) = tokio::try_join!(Cluster::start_as(settings), Browser::start()).unwrap();
    cluster.drones[0].install(&self_signed(&cluster.name).unwrap()).unwrap();
    (cluster, browser)
}

/// A backend's origin, and its token where it wants one.
async fn backend(cluster: &Cluster, with_token: bool) -> (String, Option<BearerToken>) {
    let mut request = cluster.request(300, &[]);
    request.require_bearer_token = with_token;
    let (backend, token) = cluster.ready_once_taken(&request).await.unwrap();
    (format!("https://{backend}.{}:{}", cluster.name, cluster.drones[0].https().unwrap().port()), token)
}

/// A file whose bytes are those of the demo's `/bytes`.
fn file(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the page does with bytes: an array buffer, or a promise of one, to their digest in hex.
const DIGEST: &str = "(async bytes => Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', await bytes)))\
                      .map(byte => byte.toString(16).padStart(2, '0')).join(''))";

#[tokio::test]
async fn a_page_comes_by_http2_and_so_does_what_it_loads() {
    let (cluster, mut browser) = start("").await;
    let (origin, _) = backend(&cluster, false).await;
    browser.go(&format!("{origin}/")).await.unwrap();
    let page = browser.page();
    let protocol = "performance.getEntriesByType('navigation')[0].nextHopProtocol";
    assert_eq!(browser.ask(&page, protocol).await.unwrap(), "h2");
    let loads = "fetch('/headers').then(answer => answer.json()).then(fields => \
                 [fields['x-forwarded-proto'], performance.getEntriesByName(location.origin + '/headers')[0].nextHopProtocol])";
    assert_eq!(browser.ask(&page, loads).await.unwrap(), json!(["https", "h2"]));
    // The page's own socket has brought its number.
    browser.until(&page, "/[0-9]/.test(document.body.innerText)").await.unwrap();
    for status in [204, 304, 404, 418, 500] {
        let asks = format!("fetch('/status?code={status}', {{ cache: 'no-store' }}).then(answer => answer.status)");
        assert_eq!(browser.ask(&page, &asks).await.unwrap(), status);
    }
    let cut = "fetch('/cut?n=1000&of=5000').then(answer => answer.text()).then(() => 'whole', () => 'cut')";
    assert_eq!(browser.ask(&page, cut).await.unwrap(), "cut");
}

#[tokio::test]
async fn websockets_carry_texts_and_bytes_of_any_size() {
    let (cluster, mut browser) = start("").await;
    let (origin, _) = backend(&cluster, false).await;
    browser.go(&format!("{origin}/status")).await.unwrap();
    let page = browser.page();
    let talks = "new Promise((done, fail) => { \
        const socket = new WebSocket(location.origin.replace('https', 'wss') + '/ws', ['chat', 'other']); \
        socket.binaryType = 'arraybuffer'; \
        const sizes = [0, 1, 125, 126, 65535, 65536, 4000000], heard = []; \
        socket.onopen = () => { socket.send('κόσμε'); sizes.forEach(size => socket.send(new Uint8Array(size).fill(7))); }; \
        socket.onmessage = event => { \
            const data = event.data; \
            heard.push(typeof data === 'string' ? data : new Uint8Array(data).every(byte => byte === 7) && data.byteLength); \
            if (heard.length === sizes.length + 1) socket.close(4321, 'enough'); }; \
        socket.onerror = () => fail('broken after ' + heard); \
        socket.onclose = event => done([heard, socket.protocol, event.code, event.wasClean]); })";
    let told = browser.ask(&page, talks).await.unwrap();
    assert_eq!(told, json!([["κόσμε", 0, 1, 125, 126, 65535, 65536, 4_000_000], "chat", 4321, true]));
    let many = "Promise.all(Array.from({ length: 50 }, (_, number) => new Promise((done, fail) => { \
        const socket = new WebSocket(location.origin.replace('https', 'wss') + '/ws'); \
        socket.onopen = () => socket.send('number ' + number); \
        socket.onmessage = event => { socket.close(); done(event.data === 'number ' + number); }; \
        socket.onerror = () => fail('broken'); }))).then(all => all.filter(Boolean).length)";
    assert_eq!(browser.ask(&page, many).await.unwrap(), 50);
    let shaken = browser.events("Network.webSocketHandshakeResponseReceived");
    let statuses: Vec<&Value> = shaken.iter().map(|shaken| &shaken["response"]["status"]).collect();
    println!("the sockets' handshakes were answered with {statuses:?}");
    assert_eq!(statuses.len(), 51);
}

#[tokio::test]
async fn a_socket_is_told_when_its_backend_ends() {
    let (cluster, mut browser) = start("").await;
    let (origin, _) = backend(&cluster, false).await;
    browser.go(&format!("{origin}/status")).await.unwrap();
    let page = browser.page();
    let opens = "new Promise((done, fail) => { \
        window.socket = new WebSocket(location.origin.replace('https', 'wss') + '/ws'); window.ended = false; \
        socket.onclose = () => { window.ended = true; }; socket.onopen = done; socket.onerror = fail; }).then(() => true)";
    assert_eq!(browser.ask(&page, opens).await.unwrap(), true);
    let _ = browser.ask(&page, "fetch('/exit?code=3').catch(() => 0)").await.unwrap();
    browser.until(&page, "window.ended").await.unwrap();
    let after = "fetch('/status').then(answer => answer.status)";
    browser.until(&page, &format!("{after}.then(status => status === 410)")).await.unwrap();
}

#[tokio::test]
async fn files_go_up_and_down_whole() {
    let (cluster, mut browser) = start("").await;
    let (origin, _) = backend(&cluster, false).await;
    let bytes = file(FILE);
    let (sent, kept) = (browser.folder().join("sent.bin"), browser.folder().join("kept"));
    std::fs::write(&sent, &bytes).unwrap();
    std::fs::create_dir(&kept).unwrap();
    browser.go(&format!("{origin}/")).await.unwrap();
    let page = browser.page();
    browser
        .ask(&page, "document.body.innerHTML = '<input type=file><a download href=\"/bytes?n=20000000\">it</a>'")
        .await
        .unwrap();
    browser.choose_file("input", &sent).await.unwrap();
    // A browser reads no answer while it still sends, so an echo comes in parts that its stream's window holds.
    let parts = format!(
        "(async file => {{ const parts = [];\
         for (let at = 0; at < file.size; at += {PART})\
         parts.push(await (await fetch('/echo', {{ method: 'POST', body: file.slice(at, at + {PART}) }})).blob());\
         return {DIGEST}(new Blob(parts).arrayBuffer()); }})(document.querySelector('input').files[0])"
    );
    assert_eq!(browser.ask(&page, &parts).await.unwrap(), digest(&bytes));
    let whole = "fetch('/sink', { method: 'POST', body: document.querySelector('input').files[0] })\
                 .then(answer => answer.json())";
    assert_eq!(browser.ask(&page, whole).await.unwrap(), FILE);
    let form = "(() => { const form = new FormData(); form.append('file', document.querySelector('input').files[0]); \
                return fetch('/sink', { method: 'POST', body: form }).then(answer => answer.json()); })()";
    assert!(browser.ask(&page, form).await.unwrap().as_u64().unwrap() > FILE as u64);
    let down = format!("fetch('/bytes?n={FILE}').then(answer => {DIGEST}(answer.arrayBuffer()))");
    assert_eq!(browser.ask(&page, &down).await.unwrap(), digest(&bytes));

    browser.download_to(&kept).await.unwrap();
    browser.ask(&page, "document.querySelector('a').click()").await.unwrap();
    let began = Instant::now();
    loop {
        let file =
            std::fs::read_dir(&kept).unwrap().filter_map(|entry| std::fs::read(entry.unwrap().path()).ok()).next();
        if let Some(file) = file.filter(|file| file.len() >= FILE) {
            assert_eq!(digest(&file), digest(&bytes));
            break;
        }
        assert!(began.elapsed() < PATIENCE, "no download");
        browser.until(&page, "true").await.unwrap();
    }
}

#[tokio::test]
async fn a_link_with_a_token_lets_a_person_in_and_nobody_else() {
    let (cluster, mut browser) = start("").await;
    let (origin, token) = backend(&cluster, true).await;
    let token = token.unwrap();
    let page = browser.page();
    let status = "fetch('/request').then(answer => answer.status)";
    for (path, answer) in [("", 401), ("_plane_auth?token=wrong&redirect=/headers", 403), ("request", 401)] {
        browser.go(&format!("{origin}/{path}")).await.unwrap();
        assert_eq!(browser.ask(&page, ANSWERED).await.unwrap(), answer, "{path}");
    }

    browser.go(&format!("{origin}/_plane_auth?token={}&redirect=/headers%3Fa=b", token.expose())).await.unwrap();
    assert_eq!(browser.ask(&page, "location.pathname + location.search").await.unwrap(), "/headers?a=b");
    assert_eq!(browser.ask(&page, status).await.unwrap(), 200);
    // Neither scripts nor the backend get to see it.
    assert_eq!(browser.ask(&page, "document.cookie").await.unwrap(), "");
    let seen = "document.cookie = 'own=1', fetch('/headers').then(answer => answer.text())";
    let seen = browser.ask(&page, seen).await.unwrap();
    let fields: Value = serde_json::from_str(seen.as_str().unwrap()).unwrap();
    assert_eq!(fields["cookie"], "own=1");
    assert!(!seen.as_str().unwrap().contains(token.expose()), "the backend is told its own token: {seen}");
    let socket = "new Promise((done, fail) => { \
        const socket = new WebSocket(location.origin.replace('https', 'wss') + '/ws'); \
        socket.onopen = () => socket.send('in'); socket.onerror = fail; \
        socket.onmessage = event => { done(event.data); socket.close(); }; })";
    assert_eq!(browser.ask(&page, socket).await.unwrap(), "in");
    // Another backend's origin is not let in by it.
    let (other, _) = backend(&cluster, true).await;
    browser.go(&format!("{other}/")).await.unwrap();
    assert_eq!(browser.ask(&page, ANSWERED).await.unwrap(), 401);
}

#[tokio::test]
async fn events_come_one_by_one_and_many_streams_share_a_connection() {
    let (cluster, mut browser) = start("").await;
    let (origin, _) = backend(&cluster, false).await;
    browser.go(&format!("{origin}/status")).await.unwrap();
    let page = browser.page();
    let hears = "new Promise((done, fail) => { \
        const began = performance.now(), events = new EventSource('/events?n=4&ms=700'), heard = [], when = []; \
        events.onmessage = event => { heard.push(event.data); when.push(performance.now() - began); \
            if (heard.length === 4) { events.close(); done([heard, when[3] - when[0] > 1500]); } }; \
        events.onerror = () => fail('broken after ' + heard); })";
    assert_eq!(browser.ask(&page, hears).await.unwrap(), json!([["1", "2", "3", "4"], true]));
    let many = format!(
        "Promise.all(Array.from({{ length: {STREAMS} }}, () => new Promise((done, fail) => {{ \
            const events = new EventSource('/events?n=1000&ms=100'); window.open_events = (window.open_events || []); \
            open_events.push(events); events.onmessage = () => done(1); events.onerror = fail; }})))\
         .then(() => fetch('/request')).then(answer => answer.json()).then(seen => [open_events.length, seen.method])"
    );
    assert_eq!(browser.ask(&page, &many).await.unwrap(), json!([STREAMS, "GET"]));
    browser.ask(&page, "open_events.forEach(events => events.close())").await.unwrap();
}

#[tokio::test]
async fn a_person_waits_on_a_page_until_the_backend_is_there() {
    let (cluster, mut browser) = start("waiting_page = true\n").await;
    // So that there is a certificate, and the drone takes backends.
    backend(&cluster, false).await;
    let late = [("DEMO_MODE", "late"), ("DEMO_AFTER_MS", "4000")];
    let (backend, _) = cluster.schedule(&cluster.request(300, &late)).await.unwrap();
    let url = format!("https://{backend}.{}:{}/", cluster.name, cluster.drones[0].https().unwrap().port());
    let began = Instant::now();
    browser.go(&url).await.unwrap();
    let page = browser.page();
    let shown = browser.ask(&page, "document.documentElement.outerHTML").await.unwrap();
    println!("after {:?}: {}", began.elapsed(), shown.as_str().unwrap_or_default());
    let own = "document.title === 'A room of its own'";
    assert_eq!(browser.ask(&page, own).await.unwrap(), false, "it is held, not shown a page");
    browser.until(&page, own).await.unwrap();
    assert_eq!(browser.ask(&page, "location.href").await.unwrap(), url);
}

/// Serves a page of another site, which has a frame in it.
async fn embedding(listener: TcpListener, page: String) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let page = page.clone();
        tokio::spawn(async move {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut asked).await.unwrap_or_default() == 0 {
                    return;
                }
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                page.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), page.as_bytes()].concat()).await;
        });
    }
}

async fn framed(same_site: &str) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let passthrough = listener.local_addr().unwrap();
    let (cluster, mut browser) =
        start(&format!("cookie_same_site = \"{same_site}\"\npassthrough = \"{passthrough}\"\n")).await;
    let (origin, token) = backend(&cluster, true).await;
    let link = format!("{origin}/_plane_auth?token={}&redirect=/request", token.unwrap().expose());
    let serving = tokio::spawn(embedding(listener, format!("<iframe src=\"{link}\"></iframe>")));
    browser.go(&format!("https://elsewhere.test:{}/", cluster.drones[0].https().unwrap().port())).await.unwrap();
    let frame = browser.frame(&origin).await.unwrap();
    browser.until(&frame, "document.readyState === 'complete' && location.pathname === '/request'").await.unwrap();
    let status = browser.ask(&frame, ANSWERED).await.unwrap();
    serving.abort();
    status
}

#[tokio::test]
async fn a_page_of_another_site_can_have_a_backend_in_a_frame_where_that_is_configured() {
    assert_eq!(framed("None").await, 200);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_use_a_persons_cookie_by_default() {
    assert_eq!(framed("Lax").await, 401);
}
