//! The shared page's room: who is here, where their cursors are, and one counter for all.
//!
//! Clients send `{"x":0.5,"y":0.5}` (fractions of their window) and `{"click":true}`. They get
//! `{"you":ID,"count":N,"here":[{"id","x","y"}…]}` once, then `{"id","x","y"}`, `{"count":N}` and `{"left":ID}`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::socket::Socket;

/// Messages that a slow client may lag behind before it is given the whole room anew.
const BACKLOG: usize = 256;

/// One room, shared by all its sockets.
pub(crate) struct Room {
    inside: Mutex<Inside>,
    news: broadcast::Sender<Utf8Bytes>,
}

#[derive(Default)]
struct Inside {
    last_id: u64,
    count: u64,
    cursors: BTreeMap<u64, (f64, f64)>,
}

impl Room {
    pub(crate) fn new() -> Room {
        Room { inside: Mutex::default(), news: broadcast::Sender::new(BACKLOG) }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, news: &Value) {
        // Nobody listening is fine.
        let _ = self.news.send(news.to_string().into());
    }

    fn enter(&self) -> u64 {
        let mut inside = self.inside();
        inside.last_id += 1;
        inside.last_id
    }

    fn snapshot(&self, you: u64) -> Value {
        let inside = self.inside();
        let here: Vec<Value> = inside.cursors.iter().map(|(id, (x, y))| json!({"id": id, "x": x, "y": y})).collect();
        json!({"you": you, "count": inside.count, "here": here})
    }

    /// Takes one message; what makes no sense is ignored.
    fn hear(&self, id: u64, said: &str) {
        let Ok(said) = serde_json::from_str::<Value>(said) else {
            return;
        };
        if said["click"] == true {
            let count = {
                let mut inside = self.inside();
                inside.count += 1;
                inside.count
            };
            self.tell(&json!({"count": count}));
        } else if let (Some(x), Some(y)) = (said["x"].as_f64(), said["y"].as_f64()) {
            let (x, y) = (x.clamp(0.0, 1.0), y.clamp(0.0, 1.0));
            self.inside().cursors.insert(id, (x, y));
            self.tell(&json!({"id": id, "x": x, "y": y}));
        }
    }

    fn leave(&self, id: u64) {
        self.inside().cursors.remove(&id);
        self.tell(&json!({"left": id}));
    }
}

/// Lets one socket into the room until it closes.
pub(crate) async fn join(room: Arc<Room>, mut socket: Socket) {
    // Listening before the snapshot is taken, so that nothing falls between the two.
    let mut news = room.news.subscribe();
    let id = room.enter();
    let mut next = Some(room.snapshot(id).to_string().into());
    loop {
        if let Some(text) = next.take()
            && socket.send(Message::Text(text)).await.is_err()
        {
            break;
        }
        tokio::select! {
            said = socket.next() => match said {
                Some(Ok(Message::Text(said))) => room.hear(id, &said),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            },
            told = news.recv() => next = match told {
                Ok(text) => Some(text),
                Err(broadcast::error::RecvError::Lagged(_)) => Some(room.snapshot(id).to_string().into()),
                Err(broadcast::error::RecvError::Closed) => break,
            },
        }
    }
    room.leave(id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clicks_count_and_cursors_stay_in_the_window() {
        let room = Room::new();
        let mut news = room.news.subscribe();
        let id = room.enter();
        room.hear(id, r#"{"click":true}"#);
        room.hear(id, r#"{"x":2,"y":-1}"#);
        room.hear(id, "nonsense");
        assert_eq!(news.try_recv().unwrap(), r#"{"count":1}"#);
        assert_eq!(room.snapshot(id), json!({"you": 1, "count": 1, "here": [{"id": 1, "x": 1.0, "y": 0.0}]}));
        room.leave(id);
        assert_eq!(room.snapshot(id)["here"], json!([]));
    }
}
