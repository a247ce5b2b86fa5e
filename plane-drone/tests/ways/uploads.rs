//! Requests whose bodies are still on the way once the answer has begun.

use super::{
    client::Asking,
    setting::{PATIENCE, Setting, WAYS},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::timeout,
};

/// More than the buffers and windows on the way to a backend hold.
const UPLOAD: usize = 3 << 20;
/// More than a client takes over HTTP/2 that reads nothing.
const PROGRESS: usize = 200_000;

#[tokio::test]
async fn an_upload_goes_on_while_its_answer_is_not_taken() {
    for way in WAYS {
        let setting = Setting::patient(way, 30).await;
        setting.open();
        let mut asked = setting.ask(Asking::with_body("POST", "/", UPLOAD)).await;
        let mut inner = setting.accept().await;
        inner.head().await;
        let (mut from, mut to) = inner.0.split();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {PROGRESS}\r\n\r\n");
        let (progress, last) = (".".repeat(PROGRESS - 1), ".");
        let (has_read, reads) = oneshot::channel();
        let telling = async {
            to.write_all(head.as_bytes()).await.unwrap();
            to.write_all(progress.as_bytes()).await.unwrap();
            // An answer that is complete would end the upload.
            reads.await.unwrap();
            to.write_all(last.as_bytes()).await.unwrap();
        };
        let (sent, mut read) = (vec![b'x'; UPLOAD], vec![0; UPLOAD]);
        let talking = async {
            assert_eq!(asked.status().await, Some(200), "{way:?}");
            let reading = timeout(PATIENCE, from.read_exact(&mut read));
            let ((), read) = tokio::join!(asked.say(&sent), reading);
            read.unwrap_or_else(|_| panic!("{way:?}: the upload does not come")).unwrap();
            has_read.send(()).unwrap();
            // Only now the client reads.
            asked.rest().await
        };
        let ((), (rest, is_whole)) = tokio::join!(telling, talking);
        assert_eq!((rest.len(), is_whole), (PROGRESS, true), "{way:?}");
        assert!(sent == read, "{way:?}");
    }
}
