//! Answering requests: exactly one reply each, whatever the request holds and whatever the handler does.

use super::{Incoming, Nats, NatsError};
use crate::{
    message::{Answer, Fault, FaultCode, Request, encode_answer},
    task::Tasks,
};
use futures_util::{FutureExt, StreamExt};
use std::{future::Future, panic::AssertUnwindSafe, sync::Arc};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Requests of one subject that are worked on at once; more wait in the subscription.
const CONCURRENT_REQUESTS: usize = 1024;

/// A subject that is being answered; dropping it ends that. Requests already taken are still answered.
#[derive(Debug)]
pub struct Serving {
    _stop: DropGuard,
}

impl Nats {
    /// Answers the requests on a subject. The subscription stands when this returns. With a `group`, one member of it
    /// gets each request.
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
        let mut requests = self.transport().subscribe(subject, group).await?;
        let stop = CancellationToken::new();
        let (ended, all_stop) = (stop.clone(), tasks.stop_token());
        let (nats, workers) = (self.clone(), tasks.clone());
        let name: Arc<str> = format!("answer {subject}").into();
        let places = Arc::new(Semaphore::new(CONCURRENT_REQUESTS));
        tasks.spawn(format!("serve {subject}"), async move {
            loop {
                let message = tokio::select! {
                    biased;
                    () = ended.cancelled() => break,
                    () = all_stop.cancelled() => break,
                    message = requests.next() => match message { Some(message) => message, None => break },
                };
                let Ok(place) = places.clone().acquire_owned().await else { break };
                let (nats, handler) = (nats.clone(), handler.clone());
                workers.spawn(name.clone(), async move {
                    let answer = answer::<M, _, _>(&message, handler).await;
                    reply(&nats, message, &answer).await;
                    drop(place);
                });
            }
        });
        Ok(Serving { _stop: stop.drop_guard() })
    }
}

async fn answer<M, F, Fut>(message: &Incoming, handler: F) -> Answer<M::Reply>
where
    M: Request,
    F: Fn(M) -> Fut,
    Fut: Future<Output = Answer<M::Reply>>,
{
    let request: M = serde_json::from_slice(&message.payload)
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
