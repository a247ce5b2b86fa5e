//! Answering requests: exactly one reply each, whatever the request holds and whatever the handler does.

use super::{Incoming, Nats, NatsError};
use crate::{
    message::{Answer, Fault, FaultCode, Request, decode_request, encode_answer},
    task::Tasks,
};
use futures_util::{FutureExt, StreamExt};
use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Requests of one subject that are worked on at once; more wait for a place.
const CONCURRENT_REQUESTS: usize = 1024;
/// Requests of one subject that are worked on or wait; more are told at once that there is no place.
const WAITING_REQUESTS: usize = 8 * CONCURRENT_REQUESTS;
/// How long a request may wait for a place: what is left then of the 8 s within which it is to be answered is enough to
/// decide something.
const PLACE_PATIENCE: Duration = Duration::from_secs(5);

/// How long the server may take to hear that it is to send no more requests.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// A subject that is being answered; dropping it ends that. Requests already taken are still answered.
#[derive(Debug)]
pub struct Serving {
    end: CancellationToken,
    finished: oneshot::Receiver<()>,
    _stop: DropGuard,
}

impl Serving {
    /// Takes no more requests, and resolves once all that had come are answered.
    pub async fn finish(self) {
        self.end.cancel();
        // Nothing is ever sent: what it waits for is that nobody is left to send.
        let _ = self.finished.await;
    }
}

impl Nats {
    /// Answers the requests on a subject, until the tasks are told to stop. The subscription stands when this returns.
    /// With a `group`, one member of it gets each request.
    ///
    /// # Errors
    /// Where the connection does not take the subscription.
    pub async fn serve<M, F, Fut>(
        &self,
        tasks: &Tasks,
        subject: &str,
        group: Option<&str>,
        handler: F,
    ) -> Result<Serving, NatsError>
    where
        M: Request,
        F: Fn(M) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<M::Reply>> + Send + 'static,
    {
        let stop = tasks.stop_token().child_token();
        self.serve_until(stop, tasks, subject, group, move |request, _| handler(request)).await
    }

    /// The same for handlers that have to answer within a time from when the request arrived: it may have waited. It goes
    /// on when the tasks are told to stop, until the result is dropped or finished.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub async fn serve_arrived<M, F, Fut>(
        &self,
        tasks: &Tasks,
        subject: &str,
        group: Option<&str>,
        handler: F,
    ) -> Result<Serving, NatsError>
    where
        M: Request,
        F: Fn(M, Instant) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<M::Reply>> + Send + 'static,
    {
        self.serve_until(CancellationToken::new(), tasks, subject, group, handler).await
    }

    async fn serve_until<M, F, Fut>(
        &self,
        stop: CancellationToken,
        tasks: &Tasks,
        subject: &str,
        group: Option<&str>,
        handler: F,
    ) -> Result<Serving, NatsError>
    where
        M: Request,
        F: Fn(M, Instant) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<M::Reply>> + Send + 'static,
    {
        let end = CancellationToken::new();
        let mut requests = self.transport().subscribe(subject, group, end.clone()).await?;
        let (stopped, ending) = (stop.clone(), end.clone());
        let (unfinished, finished) = oneshot::channel::<()>();
        let (nats, workers) = (self.clone(), tasks.clone());
        let name: Arc<str> = format!("answer {subject}").into();
        let places = Places::new(CONCURRENT_REQUESTS, WAITING_REQUESTS);
        tasks.spawn(format!("serve {subject}"), async move {
            let mut connection = nats.connection();
            let late = async {
                ending.cancelled().await;
                // Without a connection nothing more comes.
                let _ = tokio::time::timeout(END_PATIENCE, connection.wait_for(|connection| !connection.up)).await;
            };
            tokio::pin!(late);
            loop {
                let message = tokio::select! {
                    biased;
                    () = stopped.cancelled() => break,
                    () = &mut late => break,
                    message = requests.next() => match message { Some(message) => message, None => break },
                };
                let arrived = Instant::now();
                let Some(waiting) = places.wait() else {
                    reply::<M::Reply>(&nats, message, &Err(no_place())).await;
                    continue;
                };
                let (nats, handler) = (nats.clone(), handler.clone());
                workers.spawn(name.clone(), async move {
                    let place = waiting.place(arrived + PLACE_PATIENCE).await;
                    let answer = match &place {
                        Some(_) => answer::<M, _, _>(&message, |request| handler(request, arrived)).await,
                        None => Err(no_place()),
                    };
                    reply(&nats, message, &answer).await;
                    drop(place);
                });
            }
            places.all_free(WAITING_REQUESTS).await;
            drop(unfinished);
        });
        Ok(Serving { end, finished, _stop: stop.drop_guard() })
    }
}

fn no_place() -> Fault {
    Fault::new(FaultCode::Unavailable, "too many requests are being answered; ask again")
}

/// How many requests are worked on, and how many wait for that.
#[derive(Debug, Clone)]
struct Places {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// A request that may wait for a place; the right to that goes with it.
struct Waits {
    working: Arc<Semaphore>,
    room: OwnedSemaphorePermit,
}

impl Places {
    fn new(working: usize, waiting: usize) -> Self {
        Self { working: Arc::new(Semaphore::new(working)), waiting: Arc::new(Semaphore::new(waiting)) }
    }

    /// Nothing where too many wait already.
    fn wait(&self) -> Option<Waits> {
        let room = self.waiting.clone().try_acquire_owned().ok()?;
        Some(Waits { working: self.working.clone(), room })
    }

    /// Resolves once nobody waits or is worked on.
    async fn all_free(&self, all: usize) {
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        let _ = self.waiting.acquire_many(all).await;
    }
}

impl Waits {
    /// A place, where one falls free by then.
    async fn place(self, deadline: Instant) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let place = tokio::time::timeout_at(deadline, self.working.acquire_owned()).await;
        Some((place.ok()?.ok()?, self.room))
    }
}

async fn answer<M, F, Fut>(message: &Incoming, handler: F) -> Answer<M::Reply>
where
    M: Request,
    F: Fn(M) -> Fut,
    Fut: Future<Output = Answer<M::Reply>>,
{
    let request: M = decode_request(&message.payload)
        .map_err(|e| Fault::bad_request(format!("the request on {} is not readable: {e}", message.subject)))?;
    request.check()?;
    let belongs = request.subject();
    if belongs != message.subject {
        return Err(Fault::bad_request(format!(
            "the request was sent on {}, but its fields say {belongs}",
            message.subject
        )));
    }
    match AssertUnwindSafe(async { handler(request).await }).catch_unwind().await {
        Ok(answer) => answer,
        Err(_) => {
            tracing::error!(subject = %message.subject, "answering a request panicked");
            Err(Fault::new(FaultCode::Internal, "a defect in Plane; its log says more"))
        }
    }
}

async fn reply<T: serde::Serialize>(nats: &Nats, message: Incoming, answer: &Answer<T>) {
    if let Err(fault) = answer {
        tracing::info!(subject = %message.subject, %fault, "refused a request");
    }
    let Some(inbox) = message.reply else { return };
    match encode_answer(answer) {
        Ok(bytes) => {
            if let Err(error) = nats.transport().publish(inbox, bytes.into()).await {
                tracing::warn!(subject = %message.subject, %error, "a reply could not be sent");
            }
        }
        Err(error) => {
            tracing::error!(subject = %message.subject, %error, "a reply could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_gets_no_place_learns_it_at_once_or_in_time() {
        let places = Places::new(1, 2);
        let began = Instant::now();
        let place = places.wait().unwrap().place(began + PLACE_PATIENCE).await;
        assert!(place.is_some());
        let waits = places.wait().unwrap();
        assert!(places.wait().is_none());
        assert!(waits.place(began + PLACE_PATIENCE).await.is_none());
        assert_eq!(began.elapsed(), PLACE_PATIENCE);
        drop(place);
        assert!(places.wait().unwrap().place(Instant::now() + PLACE_PATIENCE).await.is_some());
    }
}
